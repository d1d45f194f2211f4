/* terms.h - text to the terms that BM25 counts, for documents and questions alike.
 *
 * The tokenizer is SQLite's own of FTS5, `porter unicode61`: letters and digits of any script, folded to lower case and
 * stripped of accents, English suffixes cut by Porter's algorithm. What FTS5 lacks: runs of Chinese, Japanese and
 * Korean characters, which it takes for one word, become overlapping pairs (a single character stays itself), as in
 * Lucene's CJKAnalyzer; a term is cut at TERM_MAX_BYTES. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum { TERM_MAX_BYTES = 96 };

struct analyser; /* owned: belongs to one thread at a time */

int analyser_open(struct analyser **out, char *err, size_t err_bytes);
void analyser_close(struct analyser *a); /* NULL is fine */

/* Calls emit for each term in the order of the text. `stop` says that it is one of the words that questions are full of
 * and that tell nothing ("the", "what", "does"): English only. The term is not terminated and gone after the call. */
typedef void term_function(void *arg, const char *term, size_t n, bool stop);
void analyse(struct analyser *a, const char *text, size_t n, term_function *emit, void *arg);
