/* normalise.h - the second stage: a document's blocks as one clean text, and where each byte of it came from.
 *
 * This text is what is stored, cut into chunks, searched, cited. It reads like Markdown: headings "## Title", list
 * items
 * "- " or "1. " with two spaces per level, tables as rows "| a | b |", code as it is, an empty line between blocks.
 *
 * Characters: NFC; typographic ligatures (U+FB00..FB06) as letters; gone are control, zero-width, bidirectional, tag
 * and variation characters, which carry no meaning for a reader and much for who hides instructions; at most 30
 * combining marks in a row. White space is one space or one line end outside of code. Words that a line end divides are
 * joined, unless the text writes them with a hyphen elsewhere. Cells that span rows or columns are repeated, so that a
 * row can be read alone. */
#pragma once

#include "rag/document.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text_block {
    size_t start, end;           /* text[start, end), with its marker ("## ", "- ") */
    uint32_t first_row, n_rows;  /* tables: in rows */
    uint32_t page;               /* 0: the format has no pages */
    uint8_t kind, level, header; /* enum block_kind, but no page breaks; header: 1 if a table's first row is one */
};

struct text_row { /* a line of a table, without its line end */
    size_t start, end;
};

struct text_run { /* text[at, at + bytes) stands for the file's bytes from `source` on, one for one */
    size_t at, bytes;
    uint64_t source;
};

struct text {   /* zero-initialise, end with text_deinit */
    char *text; /* owned, [bytes + 1]: zero-terminated, valid UTF-8 */
    size_t bytes;
    struct text_block *blocks; /* owned, ascending, disjoint */
    size_t n_blocks;
    struct text_row *rows; /* owned */
    size_t n_rows;
    struct text_run *runs; /* owned, ascending in text */
    size_t n_runs;
    uint32_t n_pages;
    char title[DOC_TITLE_BYTES];
};

/* Fills *t (zeroed). Cannot fail on a document that document_check accepts; without memory it aborts. */
void normalise(struct text *t, const struct document *d);
void text_deinit(struct text *t);

/* The bytes of the file that text[start, end) came from: from the first to the last that is known. False where none is
 * (docx, pdf, decoded text). */
bool text_source(const struct text *t, size_t start, size_t end, uint64_t *source_start, uint64_t *source_end);
