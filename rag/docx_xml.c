/* docx_xml.c - see docx_xml.h. */
#include "rag/docx_xml.h"

#include "kernels/status.h"

#include <expat.h>
#include <stdio.h>
#include <string.h>

#define SEPARATOR      '|'
#define MAX_ATTRIBUTES 16
#define NAME_BYTES     64

struct reader {
    XML_Parser parser;
    const struct docx_handler *handler;
    int depth, max_depth;
    int status;
    char *err;
    size_t err_bytes;
    const char *part;
};

/* "http://.../wordprocessingml/2006/main|p" to "w:p". Transitional and strict files have different addresses. */
static void shorten(const char *full, char to[NAME_BYTES]) {
    static const char *const spaces[][2] = {
        {"wordprocessingml/", "w"}, {"/math", "m"}, {"drawingml/", "a"}, {"markup-compatibility/", "mc"}};
    const char *bar = strrchr(full, SEPARATOR), *prefix = "?", *name = bar ? bar + 1 : full;
    for (size_t i = 0; bar && i < sizeof spaces / sizeof *spaces; i++) {
        const char *found = strstr(full, spaces[i][0]);
        if (found && found < bar) {
            prefix = spaces[i][1];
            break;
        }
    }
    snprintf(to, NAME_BYTES, "%s:%s", prefix, name);
}

static void stop(struct reader *r, int status, const char *reason) {
    if (!r->status) r->status = fail(r->err, r->err_bytes, status, "\"%s\": %s", r->part, reason);
    XML_StopParser(r->parser, XML_FALSE);
}

static void XMLCALL on_begin(void *arg, const XML_Char *full, const XML_Char **attributes) {
    struct reader *r = arg;
    char name[NAME_BYTES];
    const char *plain[2 * MAX_ATTRIBUTES + 1];
    int n = 0;
    if (++r->depth > r->max_depth) {
        stop(r, STATUS_TOO_LARGE, "its elements nest too deep");
        return;
    }
    shorten(full, name);
    for (; attributes[n] && n < 2 * MAX_ATTRIBUTES; n += 2) {
        const char *bar = strrchr(attributes[n], SEPARATOR);
        plain[n] = bar ? bar + 1 : attributes[n];
        plain[n + 1] = attributes[n + 1];
    }
    plain[n] = NULL;
    r->handler->begin(r->handler->arg, name, plain);
    if (r->handler->stopped(r->handler->arg)) XML_StopParser(r->parser, XML_FALSE);
}

static void XMLCALL on_end(void *arg, const XML_Char *full) {
    struct reader *r = arg;
    char name[NAME_BYTES];
    r->depth--;
    shorten(full, name);
    if (r->handler->end) r->handler->end(r->handler->arg, name);
    if (r->handler->stopped(r->handler->arg)) XML_StopParser(r->parser, XML_FALSE);
}

static void XMLCALL on_text(void *arg, const XML_Char *p, int n) {
    struct reader *r = arg;
    if (r->handler->text) r->handler->text(r->handler->arg, p, n);
}

static void XMLCALL on_doctype(void *arg, const XML_Char *name, const XML_Char *system, const XML_Char *public,
                               int subset) {
    (void)name, (void)system, (void)public, (void)subset;
    stop(arg, STATUS_INVALID, "it has a DOCTYPE, which could declare entities and which Word never writes");
}

static bool feed(void *arg, const char *p, size_t n, bool last) {
    struct reader *r = arg;
    for (size_t done = 0; done < n || last;) { /* expat counts in int */
        size_t part = n - done < 1 << 20 ? n - done : 1 << 20;
        bool end = last && done + part == n;
        if (XML_Parse(r->parser, p + done, (int)part, end) == XML_STATUS_ERROR) {
            enum XML_Error code = XML_GetErrorCode(r->parser);
            if (code != XML_ERROR_ABORTED && !r->status)
                r->status = fail(r->err, r->err_bytes, STATUS_INVALID, "\"%s\" in line %lu: %s", r->part,
                                 (unsigned long)XML_GetCurrentLineNumber(r->parser), XML_ErrorString(code));
            return false;
        }
        done += part;
        if (end) return true;
    }
    return true;
}

int docx_xml_read(struct zip *z, const char *name, const struct docx_handler *handler, char *err, size_t err_bytes) {
    struct zip_entry entry;
    int status = zip_find(z, &entry, name, err, err_bytes);
    if (status) return status;
    struct reader r = {
        .handler = handler, .max_depth = z->limits->depth, .err = err, .err_bytes = err_bytes, .part = name};
    r.parser = XML_ParserCreateNS(NULL, SEPARATOR);
    CHECK(r.parser);
    XML_SetUserData(r.parser, &r);
    XML_SetElementHandler(r.parser, on_begin, on_end);
    XML_SetCharacterDataHandler(r.parser, on_text);
    XML_SetStartDoctypeDeclHandler(r.parser, on_doctype);
    status = zip_read(z, &entry, feed, &r, err, err_bytes);
    XML_ParserFree(r.parser);
    return r.status ? r.status : status;
}

const char *docx_attribute(const char **attributes, const char *name) {
    for (; *attributes; attributes += 2)
        if (!strcmp(attributes[0], name)) return attributes[1];
    return NULL;
}
