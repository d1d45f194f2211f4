/* dedup.c - see dedup.h. */
#include "rag/dedup.h"

#include <stdbool.h>
#include <string.h>
#include <xxhash.h>

struct text_hash text_hash(const char *text, size_t bytes) {
    XXH128_hash_t h = XXH3_128bits(text, bytes);
    return (struct text_hash){h.low64, h.high64};
}

static bool is_word(unsigned char c) {
    return c >= 0x80 || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

/* The hash of one word, in lower case. */
static uint64_t word_hash(const char *p, size_t n) {
    char lower[64];
    if (n > sizeof lower) return XXH3_64bits(p, n);
    for (size_t i = 0; i < n; i++) lower[i] = p[i] >= 'A' && p[i] <= 'Z' ? (char)(p[i] | 32) : p[i];
    return XXH3_64bits(lower, n);
}

/* The k-th permutation: a product with the k-th odd number of a sequence, which is one to one on 64 bits; of it the
 * upper half, which depends on all of them. */
static void add_run(struct minhash *m, uint64_t h) {
    uint64_t multiplier = 0x9E3779B97F4A7C15u, step = 0xBF58476D1CE4E5B9u;
    for (int k = 0; k < MINHASH_ENTRIES; k++) {
        uint64_t x = (h ^ (step * (uint64_t)(k + 1))) * multiplier;
        uint32_t v = (uint32_t)(x >> 32);
        multiplier += 2 * step;
        if (v < m->entries[k]) m->entries[k] = v;
    }
}

void minhash_make(struct minhash *m, const char *text, size_t bytes) {
    uint64_t words[MINHASH_WORDS] = {0};
    size_t n = 0;
    memset(m, 0xFF, sizeof *m);
    for (size_t at = 0; at < bytes;) {
        while (at < bytes && !is_word((unsigned char)text[at])) at++;
        size_t start = at;
        while (at < bytes && is_word((unsigned char)text[at])) at++;
        if (at == start) break;
        memmove(words, words + 1, sizeof words - sizeof *words);
        words[MINHASH_WORDS - 1] = word_hash(text + start, at - start);
        if (++n >= MINHASH_WORDS) add_run(m, XXH3_64bits(words, sizeof words));
    }
    if (n && n < MINHASH_WORDS) add_run(m, XXH3_64bits(words, sizeof words));
}

double minhash_similarity(const struct minhash *a, const struct minhash *b) {
    int same = 0;
    for (int k = 0; k < MINHASH_ENTRIES; k++) same += a->entries[k] == b->entries[k] && a->entries[k] != UINT32_MAX;
    return (double)same / MINHASH_ENTRIES;
}

void minhash_bands(const struct minhash *m, uint64_t keys[MINHASH_BANDS]) {
    enum { ROWS = MINHASH_ENTRIES / MINHASH_BANDS };
    for (int b = 0; b < MINHASH_BANDS; b++)
        keys[b] = XXH3_64bits_withSeed(m->entries + b * ROWS, ROWS * sizeof *m->entries, (uint64_t)b);
}
