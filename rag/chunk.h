/* chunk.h - the fourth stage: a text in pieces for an embedder, cut where the document is divided.
 *
 * The body of a chunk IS text[start, end): nothing is rewritten, so a citation can show exactly what was found. What
 * a reader of the chunk alone would miss goes before it, as its context: the headings above, and the header row of a
 * table that began in an earlier chunk. What is embedded is context + body.
 *
 * Blocks stay whole where they fit. A chunk ends before a heading once it has a quarter of its size (or at once where
 * the heading leads out of the section that the chunk began in), before a block that would fit into the next chunk and
 * not into this one, and never behind a heading. What does not fit is divided: paragraphs between sentences, tables
 * between rows, code between lines, and what is still too long between words or, at last, characters. Within a
 * paragraph or list that is divided, a chunk repeats the end of the one before it (overlap). */
#pragma once

#include "rag/section.h"

#include <stddef.h>

/* Counts the tokens of a text, without what the tokenizer sets around it. More text must not make fewer tokens; beyond
 * that nothing is expected of it. */
typedef size_t chunk_count(void *arg, const char *text, size_t bytes);

#define CHUNK_MIN_TOKENS      32
#define CHUNK_BYTES_PER_TOKEN 32 /* a chunk has no more bytes than this times its tokens, whatever the counter says */

struct chunk_options {
    int max_tokens;     /* of context and body together, never exceeded: CHUNK_MIN_TOKENS.. */
    int overlap_tokens; /* 0..max_tokens / 4 */
    chunk_count *count;
    void *arg;
};

struct chunk {
    size_t start, end; /* the body is text[start, end), never empty */
    char *context;     /* owned, zero-terminated; with the line ends before the body; may be "" */
    size_t context_bytes;
    size_t n_tokens;                /* of context + body */
    uint32_t first_page, last_page; /* 0: the format has no pages */
    uint32_t section;               /* of its first block, in the outline */
    uint32_t first_block, last_block;
};

struct chunks {          /* zero-initialise, end with chunks_deinit */
    struct chunk *items; /* owned; starts and ends ascend */
    size_t n;
};
/* Cuts the text; every visible byte of it lies in at least one chunk. */
void chunks_make(struct chunks *c, const struct text *t, const struct outline *o, const struct chunk_options *options);
void chunks_deinit(struct chunks *c);
