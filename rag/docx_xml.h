/* docx_xml.h - one XML part of a Word file, element by element, by expat.
 *
 * Element names come as "w:p", "a:t", "m:t", "mc:Fallback" whatever prefixes the file uses; those of other namespaces
 * as
 * "?:name". Attributes come without prefix, in pairs name, value, ending with NULL. Refused are a DOCTYPE (Word writes
 * none, and entities are declared there) and nesting beyond the limit. */
#pragma once

#include "rag/zip.h"

#include <stdbool.h>

struct docx_handler {
    void (*begin)(void *arg, const char *name, const char **attributes);
    void (*end)(void *arg, const char *name);
    void (*text)(void *arg, const char *p, int n);
    bool (*stopped)(void *arg); /* nothing more is wanted */
    void *arg;
};

/* Reads the part `name` of the archive. STATUS_NOT_FOUND if it is not there. */
int docx_xml_read(struct zip *z, const char *name, const struct docx_handler *handler, char *err, size_t err_bytes);
/* The value of an attribute, or NULL. */
const char *docx_attribute(const char **attributes, const char *name);
