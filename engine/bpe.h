/* bpe.h - byte-level byte-pair encoding: a vocabulary of byte strings and ranked merges.
 *
 * Owned by the tokenizer; knows nothing of Unicode, regexes or added tokens. Immutable once built: any number of
 * threads may encode at once, each with its own scratch. */
#pragma once

#include "engine/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BPE_MAX_IDS         (1 << 22)    /* ids are below this */
#define BPE_MAX_TOKEN_BYTES (64 << 10)   /* of one token */
#define BPE_MAX_ARENA       (256u << 20) /* bytes of all tokens together */
#define BPE_NO_RANK         0xFFFFFu     /* ranks are below this: 20 bits */

struct bpe_token {
    uint32_t start, bytes; /* in the arena; bytes == 0: no token has this id */
};

struct bpe_slot { /* of the table from bytes to id */
    uint32_t hash;
    int32_t id; /* -1: empty */
};

struct bpe {
    char *arena; /* owned: the tokens' bytes */
    size_t arena_bytes, arena_capacity;
    struct bpe_token *tokens; /* owned [n_ids] by id */
    int n_ids, ids_capacity;
    uint8_t *whole; /* owned [n_ids] 1 where encoding the token's own bytes gives just this token */
    size_t longest; /* bytes of the longest token */

    struct bpe_slot *slots; /* owned [slot_mask + 1], a power of two */
    size_t slot_mask, n_slots;
    uint64_t *merges; /* owned [merge_mask + 1], a power of two: left id << 42 | right id << 20 | rank */
    size_t merge_mask, n_merges;
    uint64_t *filter; /* owned [4 * (merge_mask + 1) bits]: set where some pair's hash falls */
    int32_t *merged;  /* owned [n_merges] by rank: the id of left and right together */
    size_t merged_capacity;

    int32_t byte_id[256]; /* the token of each single byte */
    uint32_t *byte_rank;  /* owned [256 * 256] rank of the merge of two single bytes, or BPE_NO_RANK */
    bool ignore_merges;   /* a piece that is a token becomes that token, whatever the merges say */
};

/* ---- building: add tokens, add merges, finish -------------------------------------------------------------------- */

/* Room for about so many tokens and merges. */
int bpe_init(struct bpe *b, size_t n_tokens, size_t n_merges);
void bpe_deinit(struct bpe *b); /* of a zeroed or half-built one, too */

/* STATUS_INVALID if the id or the bytes are there already, STATUS_TOO_LARGE beyond the limits above. */
int bpe_add_token(struct bpe *b, int32_t id, const void *bytes, size_t n);

/* The next merge in order of rank. STATUS_TOO_LARGE after BPE_NO_RANK of them; STATUS_NOT_FOUND if left, right or both
 * together are no token. A pair that comes twice keeps the later rank, as in Hugging Face. */
int bpe_add_merge(struct bpe *b, const void *left, size_t n_left, const void *right, size_t n_right);

/* Checks that every byte has a token (STATUS_INVALID, *missing says which) and prepares the tables for encoding. */
int bpe_finish(struct bpe *b, int *missing);

/* ---- using ------------------------------------------------------------------------------------------------------- */

/* The id of exactly these bytes, -1 if none. */
int32_t bpe_find(const struct bpe *b, const void *bytes, size_t n);
/* The rank of merging two tokens, BPE_NO_RANK if they do not merge. */
uint32_t bpe_rank(const struct bpe *b, int32_t left, int32_t right);
/* Whether merging can produce this token: a merge does, or it is a single byte. Linear in the number of merges. */
bool bpe_reaches(const struct bpe *b, int32_t id);

/* Memory for one thread's merging, grown as needed: zero-initialise, bpe_scratch_deinit. */
struct bpe_scratch {
    void *data; /* owned */
    size_t bytes;
};
void bpe_scratch_deinit(struct bpe_scratch *s);

/* Appends the ids of one piece of text (n > 0), O(n log n). */
void bpe_encode(const struct bpe *b, const uint8_t *bytes, size_t n, struct bpe_scratch *scratch, struct ids *out);
