/* chunk_internal.h - private to chunk*.c: the smallest pieces that a chunk is made of. */
#pragma once

#include "rag/chunk.h"

struct atom {          /* a sentence, a row, a line, a heading; or a part of one, if it is long */
    size_t start, end; /* text[start, end), no white space around it but the indentation of code */
    size_t tokens;     /* at most half of the cap */
    uint32_t block;
};

struct atoms {
    struct atom *items; /* owned */
    size_t n, capacity;
};

/* All of a text, in order. */
void chunk__atoms(struct atoms *atoms, const struct text *t, const struct chunk_options *options);
/* The place at or before `at` that lies between two characters, but behind `start`. */
size_t chunk__character(const char *text, size_t start, size_t at);
