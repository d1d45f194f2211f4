/* bpe.c - the merge loop and its two tables.
 *
 * A piece of text starts as one symbol per byte. Of all neighbouring pairs that are in the merge table the one with the
 * lowest rank is replaced by its merged symbol, the leftmost first among equals, until none is left (Sennrich et al.,
 * 2016, arXiv:1508.07909, over bytes as in GPT-2). Three ways lead to the same ids:
 *   - the whole piece is one token, and is known (bpe_finish tried each) to encode to just that token: one look-up,
 *     which covers most words of most texts;
 *   - up to BPE_SHORT bytes: ranks of all pairs in one small array, the minimum found by a linear scan;
 *   - longer: a linked list of symbols and a heap of (rank, position), O(n log n). An entry whose pair has changed
 *     since is recognised by its rank, which no longer is that position's, and dropped.
 *
 * Both tables use open addressing with linear probing at a load of at most 1/2. Ranks of pairs of single bytes, more
 * than half of all look-ups, have a plain 256 x 256 table. */
#include "engine/bpe.h"

#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define BPE_SHORT 96 /* bytes; scan and heap cost the same at about 150 on letters of one script */

/* ---- tables ------------------------------------------------------------------------------------------------------ */

static size_t table_size(size_t n) {
    size_t size = 64;
    while (size < 2 * n) size *= 2;
    return size;
}

static size_t merge_start(const struct bpe *b, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key *= 0x9E3779B97F4A7C15u; /* Fibonacci hashing: the high bits of a product with 2^64 / phi */
    return (size_t)(key >> 32) & b->merge_mask;
}

static const struct bpe_merge *merge_find(const struct bpe *b, int32_t left, int32_t right) {
    for (size_t i = merge_start(b, left, right);; i = (i + 1) & b->merge_mask) {
        const struct bpe_merge *m = &b->merges[i];
        if (m->left == left && m->right == right) return m;
        if (m->left < 0) return NULL;
    }
}

static void merge_insert(struct bpe *b, struct bpe_merge merge) {
    size_t i = merge_start(b, merge.left, merge.right);
    while (b->merges[i].left >= 0) i = (i + 1) & b->merge_mask;
    b->merges[i] = merge;
}

static int merges_resize(struct bpe *b, size_t size) {
    struct bpe_merge *old = b->merges;
    size_t old_size = old ? b->merge_mask + 1 : 0;
    struct bpe_merge *merges = malloc(size * sizeof *merges);
    if (!merges) return STATUS_NO_MEMORY;
    for (size_t i = 0; i < size; i++) merges[i].left = -1;
    b->merges = merges;
    b->merge_mask = size - 1;
    for (size_t i = 0; i < old_size; i++)
        if (old[i].left >= 0) merge_insert(b, old[i]);
    free(old);
    return 0;
}

static int slots_resize(struct bpe *b, size_t size) {
    struct bpe_slot *slots = malloc(size * sizeof *slots);
    if (!slots) return STATUS_NO_MEMORY;
    for (size_t i = 0; i < size; i++) slots[i].id = -1;
    free(b->slots);
    b->slots = slots;
    b->slot_mask = size - 1;
    for (int32_t id = 0; id < b->n_ids; id++) {
        struct bpe_token token = b->tokens[id];
        if (!token.bytes) continue;
        uint64_t hash = XXH3_64bits(b->arena + token.start, token.bytes);
        size_t at = (size_t)hash & b->slot_mask;
        while (slots[at].id >= 0) at = (at + 1) & b->slot_mask;
        slots[at] = (struct bpe_slot){.hash = (uint32_t)(hash >> 32), .id = id};
    }
    return 0;
}

int32_t bpe_find(const struct bpe *b, const void *bytes, size_t n) {
    if (n > b->longest) return -1;
    uint64_t hash = XXH3_64bits(bytes, n);
    for (size_t i = (size_t)hash & b->slot_mask;; i = (i + 1) & b->slot_mask) {
        struct bpe_slot slot = b->slots[i];
        if (slot.id < 0) return -1;
        if (slot.hash != (uint32_t)(hash >> 32)) continue;
        struct bpe_token token = b->tokens[slot.id];
        if (token.bytes == n && !memcmp(b->arena + token.start, bytes, n)) return slot.id;
    }
}

bool bpe_reaches(const struct bpe *b, int32_t id) {
    if (b->tokens[id].bytes == 1) return true;
    for (size_t i = 0; i <= b->merge_mask; i++)
        if (b->merges[i].left >= 0 && b->merges[i].merged == id) return true;
    return false;
}

/* ---- building ---------------------------------------------------------------------------------------------------- */

int bpe_init(struct bpe *b, size_t n_tokens, size_t n_merges) {
    *b = (struct bpe){0};
    int status = slots_resize(b, table_size(n_tokens));
    return status ? status : merges_resize(b, table_size(n_merges));
}

void bpe_deinit(struct bpe *b) {
    free(b->arena);
    free(b->tokens);
    free(b->whole);
    free(b->slots);
    free(b->merges);
    free(b->byte_rank);
    *b = (struct bpe){0};
}

int bpe_add_token(struct bpe *b, int32_t id, const void *bytes, size_t n) {
    if (id < 0 || n == 0) return STATUS_INVALID;
    if (id >= BPE_MAX_IDS || n > BPE_MAX_TOKEN_BYTES || b->arena_bytes + n > BPE_MAX_ARENA) return STATUS_TOO_LARGE;
    if (id < b->n_ids && b->tokens[id].bytes) return STATUS_INVALID;
    if (bpe_find(b, bytes, n) >= 0) return STATUS_INVALID;
    if (id >= b->ids_capacity) {
        int capacity = id + id / 2 + 512;
        struct bpe_token *tokens = realloc(b->tokens, (size_t)capacity * sizeof *tokens);
        if (!tokens) return STATUS_NO_MEMORY;
        memset(tokens + b->ids_capacity, 0, (size_t)(capacity - b->ids_capacity) * sizeof *tokens);
        b->tokens = tokens;
        b->ids_capacity = capacity;
    }
    if (b->arena_capacity - b->arena_bytes < n) {
        size_t capacity = 2 * b->arena_capacity + n + 4096;
        char *arena = realloc(b->arena, capacity);
        if (!arena) return STATUS_NO_MEMORY;
        b->arena = arena;
        b->arena_capacity = capacity;
    }
    memcpy(b->arena + b->arena_bytes, bytes, n);
    b->tokens[id] = (struct bpe_token){.start = (uint32_t)b->arena_bytes, .bytes = (uint32_t)n};
    b->arena_bytes += n;
    if (id >= b->n_ids) b->n_ids = id + 1;
    if (n > b->longest) b->longest = n;

    if (2 * ++b->n_slots > b->slot_mask + 1) return slots_resize(b, 2 * (b->slot_mask + 1));
    uint64_t hash = XXH3_64bits(bytes, n);
    size_t at = (size_t)hash & b->slot_mask;
    while (b->slots[at].id >= 0) at = (at + 1) & b->slot_mask;
    b->slots[at] = (struct bpe_slot){.hash = (uint32_t)(hash >> 32), .id = id};
    return 0;
}

int bpe_add_merge(struct bpe *b, const void *left, size_t n_left, const void *right, size_t n_right) {
    int32_t left_id = bpe_find(b, left, n_left), right_id = bpe_find(b, right, n_right);
    if (left_id < 0 || right_id < 0 || n_left + n_right > b->longest) return STATUS_NOT_FOUND;
    uint8_t both[BPE_MAX_TOKEN_BYTES];
    memcpy(both, left, n_left);
    memcpy(both + n_left, right, n_right);
    int32_t merged = bpe_find(b, both, n_left + n_right);
    if (merged < 0) return STATUS_NOT_FOUND;

    uint32_t rank = (uint32_t)b->n_merges++;
    struct bpe_merge *there = (struct bpe_merge *)merge_find(b, left_id, right_id);
    if (there) {
        there->rank = rank;
        return 0;
    }
    if (2 * b->n_merges > b->merge_mask + 1) {
        int status = merges_resize(b, 2 * (b->merge_mask + 1));
        if (status) return status;
    }
    merge_insert(b, (struct bpe_merge){.left = left_id, .right = right_id, .rank = rank, .merged = merged});
    return 0;
}

int bpe_finish(struct bpe *b, int *missing) {
    for (int byte = 0; byte < 256; byte++) {
        uint8_t one = (uint8_t)byte;
        b->byte_id[byte] = bpe_find(b, &one, 1);
        if (b->byte_id[byte] < 0) {
            *missing = byte;
            return STATUS_INVALID;
        }
    }
    b->byte_rank = malloc(256 * 256 * sizeof *b->byte_rank);
    b->whole = calloc((size_t)b->n_ids, 1);
    if (!b->byte_rank || !b->whole) return STATUS_NO_MEMORY;
    for (int left = 0; left < 256; left++)
        for (int right = 0; right < 256; right++) {
            const struct bpe_merge *m = merge_find(b, b->byte_id[left], b->byte_id[right]);
            b->byte_rank[left << 8 | right] = m ? m->rank : BPE_NO_RANK;
        }

    if (b->ignore_merges) {
        memset(b->whole, 1, (size_t)b->n_ids);
        return 0;
    }
    struct bpe_scratch scratch = {0};
    struct ids ids = {0};
    for (int32_t id = 0; id < b->n_ids; id++) {
        struct bpe_token token = b->tokens[id];
        if (!token.bytes) continue;
        ids.n = 0;
        bpe_encode(b, (const uint8_t *)b->arena + token.start, token.bytes, &scratch, &ids);
        b->whole[id] = ids.n == 1 && ids.data[0] == id;
    }
    ids_deinit(&ids);
    bpe_scratch_deinit(&scratch);
    return 0;
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

static void encode_short(const struct bpe *b, const uint8_t *bytes, size_t n, struct ids *out) {
    int32_t id[BPE_SHORT];
    uint32_t rank[BPE_SHORT]; /* rank[i]: of the pair id[i], id[i + 1]; the last one stays without */
    for (size_t i = 0; i < n; i++) {
        id[i] = b->byte_id[bytes[i]];
        rank[i] = i + 1 < n ? b->byte_rank[bytes[i] << 8 | bytes[i + 1]] : BPE_NO_RANK;
    }
    for (;;) {
        uint32_t lowest = BPE_NO_RANK;
        size_t at = 0;
        for (size_t i = 0; i < n; i++)
            if (rank[i] < lowest) lowest = rank[i], at = i;
        if (lowest == BPE_NO_RANK) break;
        id[at] = merge_find(b, id[at], id[at + 1])->merged;
        n--;
        memmove(&id[at + 1], &id[at + 2], (n - at - 1) * sizeof *id);
        memmove(&rank[at], &rank[at + 1], (n - at) * sizeof *rank);
        const struct bpe_merge *m = at + 1 < n ? merge_find(b, id[at], id[at + 1]) : NULL;
        rank[at] = m ? m->rank : BPE_NO_RANK;
        if (at > 0) {
            m = merge_find(b, id[at - 1], id[at]);
            rank[at - 1] = m ? m->rank : BPE_NO_RANK;
        }
    }
    for (size_t i = 0; i < n; i++) ids_push(out, id[i]);
}

struct symbol {
    int32_t id;         /* -1: merged into the one on its left */
    uint32_t rank;      /* of the pair with the next symbol, or BPE_NO_RANK */
    int32_t prev, next; /* -1: none */
};

/* A binary min-heap of rank << 32 | position. */
struct heap {
    uint64_t *data; /* borrowed from the scratch */
    size_t n;
};

static void heap_push(struct heap *h, uint64_t key) {
    size_t i = h->n++;
    for (; i > 0 && h->data[(i - 1) / 2] > key; i = (i - 1) / 2) h->data[i] = h->data[(i - 1) / 2];
    h->data[i] = key;
}

static uint64_t heap_pop(struct heap *h) {
    uint64_t top = h->data[0], key = h->data[--h->n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && h->data[child + 1] < h->data[child]) child++;
        if (h->data[child] >= key) break;
        h->data[i] = h->data[child];
    }
    h->data[i] = key;
    return top;
}

/* Looks up the pair that begins at symbol i and queues it. */
static void heap_pair(const struct bpe *b, struct heap *h, struct symbol *symbols, int32_t i) {
    const struct bpe_merge *m = NULL;
    if (symbols[i].next >= 0) m = merge_find(b, symbols[i].id, symbols[symbols[i].next].id);
    symbols[i].rank = m ? m->rank : BPE_NO_RANK;
    if (m) heap_push(h, (uint64_t)m->rank << 32 | (uint32_t)i);
}

static void encode_long(const struct bpe *b, const uint8_t *bytes, size_t n, struct bpe_scratch *scratch,
                        struct ids *out) {
    CHECK_LE(n, INT32_MAX);
    /* Each merge removes a symbol and queues at most two pairs, so fewer than 3n entries are ever pushed. */
    size_t need = n * (3 * sizeof(uint64_t) + sizeof(struct symbol));
    if (scratch->bytes < need) {
        free(scratch->data);
        scratch->data = malloc(need);
        CHECK(scratch->data);
        scratch->bytes = need;
    }
    struct heap heap = {.data = scratch->data};
    struct symbol *symbols = (struct symbol *)(heap.data + 3 * n);
    for (size_t i = 0; i < n; i++) {
        uint32_t rank = i + 1 < n ? b->byte_rank[bytes[i] << 8 | bytes[i + 1]] : BPE_NO_RANK;
        symbols[i] = (struct symbol){
            .id = b->byte_id[bytes[i]], .rank = rank, .prev = (int32_t)i - 1, .next = i + 1 < n ? (int32_t)i + 1 : -1};
        if (rank != BPE_NO_RANK) heap_push(&heap, (uint64_t)rank << 32 | (uint32_t)i);
    }
    while (heap.n) {
        uint64_t top = heap_pop(&heap);
        struct symbol *left = &symbols[(uint32_t)top];
        if (left->id < 0 || left->rank != (uint32_t)(top >> 32)) continue;
        struct symbol *right = &symbols[left->next];
        left->id = merge_find(b, left->id, right->id)->merged;
        left->next = right->next;
        if (right->next >= 0) symbols[right->next].prev = (int32_t)(uint32_t)top;
        right->id = -1;
        heap_pair(b, &heap, symbols, (int32_t)(uint32_t)top);
        if (left->prev >= 0) heap_pair(b, &heap, symbols, left->prev);
    }
    for (int32_t i = 0; i >= 0; i = symbols[i].next) ids_push(out, symbols[i].id);
}

void bpe_scratch_deinit(struct bpe_scratch *s) {
    free(s->data);
    *s = (struct bpe_scratch){0};
}

void bpe_encode(const struct bpe *b, const uint8_t *bytes, size_t n, struct bpe_scratch *scratch, struct ids *out) {
    int32_t id = bpe_find(b, bytes, n);
    if (id >= 0 && b->whole[id])
        ids_push(out, id);
    else if (n <= BPE_SHORT)
        encode_short(b, bytes, n, out);
    else
        encode_long(b, bytes, n, scratch, out);
}
