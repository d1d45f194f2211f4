/* ngram.c - a hash table per n from n-grams to the position behind their latest occurrence. See ngram.h for what is
 * guessed, and why. */
#include "engine/ngram.h"

#include "kernels/status.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

int ngram_open(struct ngram **out, int min, int max, int max_len) {
    CHECK(1 <= min && min <= max && max <= NGRAM_MAX && max_len >= 1);
    uint32_t n_slots = 1;
    while (n_slots < 2u * (uint32_t)max_len) n_slots *= 2; /* at most half full */
    const size_t n_tables = (size_t)(max - min + 1);
    struct ngram *g = calloc(1, sizeof *g + n_tables * n_slots * sizeof *g->slots);
    *out = g;
    if (!g) return STATUS_NO_MEMORY;
    g->min = min;
    g->max = max;
    g->mask = n_slots - 1;
    if (getrandom(&g->key, sizeof g->key, GRND_NONBLOCK) < 0) g->key = 1; /* early in boot: then anybody may know it */
    return STATUS_OK;
}

void ngram_close(struct ngram *g) { free(g); }

/* The slot of the n-gram that ends before position e, by its hash: the one that has it, or the free one for it. */
static int32_t *slot_of(struct ngram *g, const int32_t *tokens, int e, int n, uint64_t hash) {
    int32_t *table = g->slots + (size_t)(n - g->min) * (g->mask + 1);
    uint32_t at = (uint32_t)(hash >> 32) & g->mask;
    while (table[at] && memcmp(tokens + table[at] - n, tokens + e - n, (size_t)n * sizeof *tokens))
        at = (at + 1) & g->mask;
    return &table[at];
}

/* Hashes of the n-grams that end before e, by n. Returns the largest n there is. */
static int hash_back(uint64_t *hashes, const struct ngram *g, const int32_t *tokens, int e) {
    const int longest = e < g->max ? e : g->max;
    uint64_t h = g->key;
    for (int n = 1; n <= longest; n++) {
        h = (h ^ (uint32_t)tokens[e - n]) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
        h *= 0xbf58476d1ce4e5b9u;
        hashes[n] = h;
    }
    return longest;
}

void ngram_extend(struct ngram *g, const int32_t *tokens, int n_tokens, int most) {
    CHECK_LE(g->n_seen, n_tokens);
    for (; g->n_seen < n_tokens; g->n_seen++) {
        const bool goes_on = g->run && tokens[g->source] == tokens[g->n_seen];
        g->run = goes_on ? g->run + 1 : 0;
        g->source++;
    }
    uint64_t hashes[NGRAM_MAX + 1];
    /* What ends with the last token has no continuation yet. */
    for (; g->n_indexed < n_tokens - 1 && most > 0; most--) {
        const int e = ++g->n_indexed, longest = hash_back(hashes, g, tokens, e);
        for (int n = g->min; n <= longest; n++) *slot_of(g, tokens, e, n, hashes[n]) = e;
    }
}

int ngram_find(struct ngram *g, const int32_t *tokens, int n_tokens, int32_t *drafts, int max_drafts) {
    CHECK_EQ(g->n_seen, n_tokens);
    if (g->run < g->max) {
        uint64_t hashes[NGRAM_MAX + 1];
        g->run = hash_back(hashes, g, tokens, n_tokens);
        g->source = 0;
        for (; g->run >= g->min; g->run--)
            if ((g->source = *slot_of(g, tokens, n_tokens, g->run, hashes[g->run]))) break;
        if (!g->source) {
            g->run = 0;
            return 0;
        }
    }
    for (int i = 0; i < max_drafts; i++) {
        const int at = g->source + i;
        drafts[i] = at < n_tokens ? tokens[at] : drafts[at - n_tokens];
    }
    return max_drafts;
}
