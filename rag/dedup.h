/* dedup.h - is this text here already, exactly or nearly?
 *
 * Exactly: the 128 bits of xxHash3 over the normalised text. Nearly: MinHash (Broder 1997) over runs of five words: the
 * share of equal entries of two signatures estimates the Jaccard similarity of their sets of runs, with a standard
 * deviation of sqrt(J (1 - J) / 128), at most 0.045. Bands find candidates without comparing all: two documents of
 * similarity J share a band with the probability 1 - (1 - J^8)^16 (J = 0.8: 0.95, J = 0.5: 0.06). */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define MINHASH_ENTRIES 128
#define MINHASH_BANDS   16
#define MINHASH_WORDS   5 /* per run */

struct text_hash {
    uint64_t low, high;
};
struct text_hash text_hash(const char *text, size_t bytes);

struct minhash {
    uint32_t entries[MINHASH_ENTRIES];
};
/* Words are letters and digits, ASCII in lower case; a text of fewer than five is one run. An empty text has all
 * entries at UINT32_MAX, and is similar to nothing. */
void minhash_make(struct minhash *m, const char *text, size_t bytes);
/* Estimated Jaccard similarity, 0..1. */
double minhash_similarity(const struct minhash *a, const struct minhash *b);
/* One key per band, to be looked up: equal keys (of the same band) are candidates. */
void minhash_bands(const struct minhash *m, uint64_t keys[MINHASH_BANDS]);
