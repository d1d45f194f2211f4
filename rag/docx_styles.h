/* docx_styles.h - what word/styles.xml and word/numbering.xml say about paragraphs: headings, code, lists, hidden text.
 *
 * Filled by the elements as they come (XML without namespaces, see docx_xml.h), then resolved: a style inherits what it
 * does not say from the one that it is based on. */
#pragma once

#include "rag/docx_xml.h"

#include <stdbool.h>
#include <stdint.h>

#define DOCX_MAX_STYLES  4096
#define DOCX_MAX_LISTS   4096
#define DOCX_LIST_LEVELS 9
#define DOCX_LABEL_BYTES 64

struct docx_style {
    uint64_t id, based_on; /* hashes; 0: none */
    int heading;           /* 1..6; 0: none; -1: not said */
    int list, list_level;  /* numId; -1: not said */
    bool code, hidden;
};

struct docx_list { /* a w:num */
    int id, abstract;
    uint32_t counter[DOCX_LIST_LEVELS];
};

struct docx_abstract { /* a w:abstractNum */
    int id;
    bool ordered[DOCX_LIST_LEVELS];
    char label[DOCX_LIST_LEVELS][24]; /* "%1.%2." */
};

struct docx_styles {           /* zero-initialise, end with docx_styles_deinit */
    struct docx_style *styles; /* owned, as are the others */
    struct docx_list *lists;
    struct docx_abstract *abstracts;
    int n_styles, n_lists, n_abstracts;
    int level; /* of the abstract list at hand */
};
void docx_styles_deinit(struct docx_styles *s);

uint64_t docx_style_id(const char *id);
/* The begin of an element of styles.xml, of numbering.xml. */
void docx_styles_element(struct docx_styles *s, const char *name, const char **attributes);
void docx_numbering_element(struct docx_styles *s, const char *name, const char **attributes);
void docx_styles_resolve(struct docx_styles *s);
const struct docx_style *docx_style_find(const struct docx_styles *s, uint64_t id); /* NULL: unknown */
/* Counts one more item of a list at a level: its number, 0 for a bullet or an unknown list. With `label`, that gets
 * what stands before the item, with a space: "2.1. ". */
uint32_t docx_list_next(struct docx_styles *s, int list, int level, char label[DOCX_LABEL_BYTES]);
