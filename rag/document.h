/* document.h - what extraction leaves of a file: blocks in reading order, their text, and where each piece came from.
 *
 * A block is a heading, a paragraph, a list item, a table (rows x cells), code, or a page break. All text lies in one
 * buffer, valid UTF-8, in reading order; blocks and cells are spans of it. The arrays are plain data, so that a
 * document crosses a pipe as it is: document_write on the side that reads hostile files, document_read on the side that
 * trusts nothing (every field is checked before it is used).
 *
 * An extractor fills a document through doc_begin .. doc_end. The first failure (a bound, no memory) is latched: later
 * calls do nothing, and doc_finish reports it once. Bounds are counted here, so no extractor can forget them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum block_kind {
    BLOCK_HEADING,
    BLOCK_PARAGRAPH,
    BLOCK_LIST_ITEM,
    BLOCK_TABLE,
    BLOCK_CODE,
    BLOCK_PAGE_BREAK, /* no text */
    BLOCK_KINDS,
};
const char *block_kind_name(int kind); /* "heading", "paragraph", ... */

/* What the line ends within a block's text are. */
enum doc_lines {
    LINES_MEANT,  /* they were written to be there */
    LINES_TYPED,  /* somebody's editor may have wrapped them, and divided words */
    LINES_LAYOUT, /* they come from a page's layout and mean nothing (pdf) */
};

#define DOC_MAX_LEVEL  32      /* of lists; headings go from 1 to 6 */
#define DOC_MAX_BLOCKS 1000000 /* also of cells */
#define DOC_MAX_COLUMN 4096
#define DOC_NO_SOURCE  UINT64_MAX

struct doc_block {
    uint32_t start, end;          /* document.text[start, end); a table's: from its first cell to its last */
    uint32_t first_cell, n_cells; /* tables: in document.cells, row by row */
    uint32_t page;                /* 1, 2, ...; 0: the format has no pages */
    uint32_t number;              /* list items of an ordered list: 1, 2, ...; 0: a bullet */
    uint8_t kind;                 /* enum block_kind */
    uint8_t level;                /* headings: 1..6; list items: depth from 0; tables: 1 if the first row is a header */
    uint8_t lines;                /* enum doc_lines */
    uint8_t unused;
};

struct doc_cell {
    uint32_t start, end;
    uint32_t row, column;           /* from 0; rows ascend, and columns within a row */
    uint16_t row_span, column_span; /* 1 for most; what lies under a span has no cell of its own */
};

/* text[text, text + bytes) stands for the file's bytes [source, source + bytes), one for one (white space may have been
 * replaced by other white space). Text without an origin was decoded or made: entities, docx, pdf. Ascending in text.
 */
struct doc_origin {
    uint32_t text, bytes;
    uint64_t source;
};

#define DOC_TITLE_BYTES 256

struct document { /* zero-initialise, end with document_deinit */
    char *text;   /* owned, [text_bytes + 1]: zero-terminated */
    size_t text_bytes, text_capacity;
    struct doc_block *blocks; /* owned */
    size_t n_blocks, blocks_capacity;
    struct doc_cell *cells; /* owned */
    size_t n_cells, cells_capacity;
    struct doc_origin *origins; /* owned */
    size_t n_origins, origins_capacity;
    char title[DOC_TITLE_BYTES]; /* of an HTML page, the subject of a mail; "" if the format names none */
    uint32_t n_pages;            /* 0: the format has no pages */

    /* The builder's. */
    uint32_t page;        /* of the blocks that follow */
    size_t max_text;      /* bytes of text at most */
    bool open, cell_open; /* within doc_begin .. doc_end, and within a cell of a table */
    int status;           /* the first failure */
    char err[256];
};
void document_init(struct document *d, size_t max_text_bytes);
void document_deinit(struct document *d); /* frees and zeroes it */

/* ---- building ---------------------------------------------------------------------------------------------------- */

/* Opens a block of this kind; the one that is open ends. Levels beyond the kind's range are clamped. */
void doc_begin(struct document *d, enum block_kind kind, int level);
/* Appends text to the open block (a paragraph is opened where none is). Invalid UTF-8 becomes U+FFFD, zero bytes
 * spaces. source is the offset of p[0] in the file where the bytes stand there one for one, else DOC_NO_SOURCE. */
void doc_text(struct document *d, const char *p, size_t n, uint64_t source);
/* Begins the next cell of the open table, at `row` and `column` or the next free column after it. */
void doc_cell(struct document *d, uint32_t row, uint32_t column, uint32_t row_span, uint32_t column_span);
/* Ends the open block. One without any visible text is dropped, as is a table without cells. */
void doc_end(struct document *d);
/* The open block, or NULL: to set `number` or `lines`. */
struct doc_block *doc_current(struct document *d);
void doc_page_break(struct document *d, uint32_t next_page); /* 0: the next page's number is not known */
/* Takes the title, white space collapsed, cut to what fits; the first one that is not empty counts. */
void doc_title(struct document *d, const char *p, size_t n);
/* Latches a failure with its reason, and returns its status. */
int doc_fail(struct document *d, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Ends what is open. The latched status, with its sentence in err. */
int doc_finish(struct document *d, char *err, size_t err_bytes);

/* ---- across a pipe ----------------------------------------------------------------------------------------------- */

/* Writes the document, or (where status is not 0) only the status and the reason, to fd. False if the other side is
 * gone. */
bool document_write(const struct document *d, int status, const char *reason, int fd);
/* Takes what document_write wrote, as bytes from a sender that may lie. *d must be zeroed; it is left zeroed on
 * failure. *sent becomes 1 when the bytes are a whole message: what is returned is then the sender's status and err its
 * reason. Otherwise STATUS_INVALID and what is wrong with the message. */
int document_read(struct document *d, const uint8_t *bytes, size_t n, size_t max_text_bytes, int *sent, char *err,
                  size_t err_bytes);
/* All that a document promises: spans in order and within bounds, kinds, levels, UTF-8. NULL, or what is wrong. */
const char *document_check(const struct document *d);
