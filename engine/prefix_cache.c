/* prefix_cache.c - the table of published blocks: chained buckets of block indices. See prefix_cache.h for why serials
 * make a hit exact. */
#include "engine/prefix_cache.h"

#include <string.h>
#include <xxhash.h>

struct key {
    int model;
    uint64_t salt, parent;
    const int32_t *ids; /* [P] */
};

static size_t ids_bytes(const struct kv_pool *p, int model) { return (size_t)p->models[model].P * sizeof *p->ids; }

static uint64_t key_bucket(const struct kv_pool *p, const struct key *key) {
    uint64_t context[3] = {(uint64_t)key->model, key->salt, key->parent};
    uint64_t seed = XXH3_64bits(context, sizeof context);
    return XXH3_64bits_withSeed(key->ids, ids_bytes(p, key->model), seed) & (p->n_buckets - 1);
}

static int32_t *ids_of(const struct kv_pool *p, int32_t b) { return p->ids + (size_t)b * (size_t)p->max_P; }
static int model_of(const struct kv_pool *p, int32_t b) { return p->slabs[b / p->blocks_stride].model; }

/* The published block of a key, or KV_NONE. Everything is compared, nothing is believed of a hash. */
static int32_t table_find(const struct kv_pool *p, const struct key *key, uint64_t bucket) {
    for (int32_t b = p->buckets[bucket]; b != KV_NONE; b = p->blocks[b].hash_next) {
        const struct kv_block *block = &p->blocks[b];
        if (block->parent == key->parent && block->salt == key->salt && model_of(p, b) == key->model &&
            !memcmp(ids_of(p, b), key->ids, ids_bytes(p, key->model)))
            return b;
    }
    return KV_NONE;
}

struct prefix_match prefix_find(const struct kv_pool *p, int model, uint64_t salt, const int32_t *tokens, int n_tokens,
                                int32_t *blocks) {
    struct prefix_match match = {0};
    if (!p->models[model].prefix_cache) return match;
    int P = p->models[model].P;
    for (int i = 0; i < n_tokens / P; i++) {
        struct key key = {.model = model, .salt = salt, .parent = match.serial, .ids = tokens + (size_t)i * P};
        int32_t b = table_find(p, &key, key_bucket(p, &key));
        if (b == KV_NONE) break;
        blocks[match.n_blocks++] = kv__granule_of(p, b);
        match.n_cached += p->blocks[b].refs == 0;
        match.serial = p->blocks[b].serial;
    }
    return match;
}

void prefix_take(struct kv_pool *p, int model, const struct prefix_match *match, const int32_t *blocks,
                 int n_query_tokens) {
    for (int i = 0; i < match->n_blocks; i++) kv_pool_ref(p, blocks[i]);
    if (!n_query_tokens) return;
    p->models[model].n_query_tokens += (uint64_t)n_query_tokens;
    p->models[model].n_hit_tokens += (uint64_t)match->n_blocks * (uint64_t)p->models[model].P;
}

uint64_t prefix_publish(struct kv_pool *p, int32_t granule, uint64_t salt, uint64_t parent, const int32_t *ids) {
    int32_t b = kv__block_of(p, granule);
    if (!p->models[model_of(p, b)].prefix_cache) return 0;
    struct kv_block *block = &p->blocks[b];
    CHECK(block->refs > 0 && !block->serial);
    struct key key = {.model = model_of(p, b), .salt = salt, .parent = parent, .ids = ids};
    uint64_t bucket = key_bucket(p, &key);
    int32_t twin = table_find(p, &key, bucket);
    if (twin != KV_NONE) return p->blocks[twin].serial;

    memcpy(ids_of(p, b), ids, ids_bytes(p, key.model));
    block->serial = ++p->last_serial;
    block->parent = parent;
    block->salt = salt;
    block->bucket = bucket;
    block->hash_next = p->buckets[bucket];
    p->buckets[bucket] = b;
    return block->serial;
}

void prefix__forget(struct kv_pool *p, int32_t b) {
    int32_t *at = &p->buckets[p->blocks[b].bucket];
    while (*at != b) {
        CHECK(*at != KV_NONE);
        at = &p->blocks[*at].hash_next;
    }
    *at = p->blocks[b].hash_next;
    p->blocks[b] = (struct kv_block){.hash_next = KV_NONE};
}

void prefix__check(const struct kv_pool *p) {
    int n_published = 0, n_found = 0;
    for (int32_t b = 0; b < p->n_slabs * p->blocks_stride; b++) n_published += p->blocks[b].serial != 0;
    for (uint64_t i = 0; i < p->n_buckets; i++)
        for (int32_t b = p->buckets[i]; b != KV_NONE; b = p->blocks[b].hash_next) {
            const struct kv_block *block = &p->blocks[b];
            struct key key = {model_of(p, b), block->salt, block->parent, ids_of(p, b)};
            CHECK(block->serial && block->serial <= p->last_serial && block->parent < block->serial);
            CHECK(block->bucket == i && key_bucket(p, &key) == i);
            CHECK_EQ(table_find(p, &key, i), b); /* no two of the same key */
            CHECK_LE(++n_found, n_published);
        }
    CHECK_EQ(n_found, n_published);
}
