/* normalise_internal.h - private to normalise*.c. */
#pragma once

#include "rag/normalise.h"

enum chars_mode {
    CHARS_LINES,  /* line ends stay */
    CHARS_TYPED,  /* line ends stay, divided words are joined */
    CHARS_LAYOUT, /* line ends are spaces, divided words are joined */
    CHARS_CELL,   /* line ends are spaces; '|' is escaped in tables */
    CHARS_CODE,   /* white space stays as it is */
};

struct point { /* a character under work */
    int32_t c;
    uint32_t from, bytes; /* where it stands in the document's text; 0 bytes: it was made */
};

struct normaliser {
    struct text *t;
    const struct document *d;
    size_t text_capacity, blocks_capacity, rows_capacity, runs_capacity;
    size_t filler;        /* bytes that may still be repeated or padded */
    uint32_t widest;      /* columns of the row at hand */
    struct point *points; /* owned: the span at hand */
    size_t n_points, points_capacity;
    uint8_t *utf8; /* owned: a segment for NFC */
    size_t utf8_capacity;
    size_t origin;     /* in document.origins: the search goes on from here */
    uint64_t *hyphens; /* [hyphens_capacity] owned: hashes of words that are written with a hyphen; 0 is free */
    size_t hyphens_capacity;
};

void *normalise__grow(void *items, size_t *capacity, size_t n, size_t item_bytes);
void normalise__put(struct normaliser *z, const char *p, size_t n, uint64_t source);
/* Appends p[0..n), which stands at `from` in the document's text. */
void normalise__chars(struct normaliser *z, const char *p, size_t n, uint32_t from, enum chars_mode mode);
void normalise__collect_hyphens(struct normaliser *z);
