/* kv_pool.h - who holds which piece of the KV memory. Bookkeeping only: it never touches the memory itself.
 *
 *     region   [ granule | granule | granule | ... ]             one piece of device memory, n_granules long
 *     slab     a run of slab_granules granules; belongs to no model or to one
 *     block    block_granules[model] granules inside a slab of that model; holds P tokens of all its layers
 *
 * A block is named by its first granule, which is exactly what struct batch.block_table holds. Every block of a slab
 * is in one of three states:
 *
 *     free --alloc--> used --unref, never published--> free
 *                     used --unref, published--------> cached --evict--> free
 *                     used <--ref by a prefix hit----- cached
 *
 * Used blocks are counted by reference. Cached blocks hold no reference but can still be found by their content
 * (prefix_cache.h); they are evicted oldest first when memory is short. A slab all of whose blocks are free goes back
 * to nobody, so memory follows the load from one model to another.
 *
 * A model that needs a block gets, in this order: a free block of its own slabs; a slab of nobody; the older of its
 * own oldest cached block and the longest idle slab (nothing used, something cached) of another model, whose cached
 * blocks then all go. So eviction is one LRU across models. With one model the pool is one slab and none of this shows.
 *
 * All operations are O(1) in the number of blocks, but for taking another model's slab (the blocks of one slab) and
 * kv_pool_check. Nothing allocates after kv_pool_open. No locks: a pool belongs to one thread, the engine's. */
#pragma once

#include "kernels/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KV_POOL_MAX_MODELS = 8, KV_NONE = -1 };

struct kv_pool_model_options {
    int P;                /* tokens per block */
    int block_granules;   /* kv_layout.block_granules */
    int floor_granules;   /* kept for this model whatever the others do; 0: none. Rounded up to slabs. A floor of one
                             sequence of max_model_len guarantees progress beside busy neighbours */
    int ceiling_granules; /* never more than this; 0: none. Rounded down to slabs, at least one */
    bool no_prefix_cache; /* nothing of this model is ever published or found */
};

struct kv_pool_options {
    int n_granules;
    int n_models; /* with one model, floors and ceilings mean nothing */
    struct kv_pool_model_options models[KV_POOL_MAX_MODELS];
    bool prefix_cache; /* false: nothing is ever published or found, of any model */
    int slab_granules; /* 0: chosen so that little is wasted; else exactly this (tests) */
    int n_buckets;     /* of the prefix table; 0: chosen; 1 makes every hash collide (tests) */
};

/* ---- inside; readable by anyone, written only by kv_pool.c and prefix_cache.c ------------------------------------ */

struct kv_link { /* of an intrusive list over indices; KV_NONE ends it */
    int32_t prev, next;
};
struct kv_list {
    struct kv_link *links; /* borrowed: of the array of blocks or slabs that the list runs over */
    int32_t head, tail;
    int n;
};

struct kv_block {
    int32_t refs;      /* sequences that hold it; 0: free or cached */
    int32_t hash_next; /* next published block in its bucket */
    uint64_t serial;   /* unique number given when it was published; 0: not published */
    uint64_t parent;   /* serial of the block before it, 0: it is the first. With salt, model and ids: the key */
    uint64_t salt;
    uint64_t bucket;
    uint64_t cached_at; /* pool clock when it became cached */
};

struct kv_slab {
    int model;            /* KV_NONE: nobody's */
    int n_used, n_cached; /* the rest of its blocks is free */
    int n_fresh;          /* blocks never handed out since the slab was taken: the last n_fresh; also free */
    struct kv_list free;  /* free blocks that were in use before */
    bool is_partial;      /* on its model's list of that name */
    bool is_idle;
    uint64_t idle_since;  /* pool clock when it became idle */
};

struct kv_model {
    int P, block_granules;
    int blocks_per_slab;
    int floor_slabs, ceiling_slabs;
    bool prefix_cache;
    int n_slabs; /* that it owns */
    int n_used;
    struct kv_list partial; /* slabs with a free block */
    struct kv_list idle;    /* slabs with nothing used and something cached, longest idle first */
    struct kv_list lru;     /* cached blocks, oldest first */
    uint64_t n_query_tokens, n_hit_tokens, n_evictions;
};

struct kv_pool {
    int n_models, n_granules, slab_granules, n_slabs;
    int blocks_stride; /* block i of slab s has index s * blocks_stride + i */
    struct kv_model models[KV_POOL_MAX_MODELS];
    struct kv_slab *slabs;        /* owned [n_slabs] */
    struct kv_link *slab_place;   /* owned [n_slabs] links of `nobody` and of models[].partial */
    struct kv_link *slab_idle;    /* owned [n_slabs] links of models[].idle */
    struct kv_block *blocks;      /* owned [n_slabs * blocks_stride] */
    struct kv_link *block_place;  /* owned [n_slabs * blocks_stride] links of slabs[].free and of models[].lru */
    struct kv_list nobody;        /* slabs of nobody */
    uint64_t clock;               /* counts releases: orders what was cached when */
    /* prefix_cache.c */
    bool prefix_cache;
    int max_P;
    int32_t *ids;                 /* owned [n_slabs * blocks_stride, max_P] the tokens of published blocks */
    int32_t *buckets;             /* owned [n_buckets] first block index, or KV_NONE */
    uint64_t n_buckets;           /* a power of two */
    uint64_t last_serial;
};

/* ---- for the scheduler ------------------------------------------------------------------------------------------- */

/* STATUS_INVALID when no model can have a block or the floors exceed the pool, STATUS_NO_MEMORY. */
int kv_pool_open(struct kv_pool **out, const struct kv_pool_options *options, char *err, size_t err_bytes);
void kv_pool_close(struct kv_pool *p); /* NULL is fine */

/* A block with one reference: its first granule. KV_NONE when even eviction finds none; then nothing was evicted. */
int32_t kv_pool_alloc(struct kv_pool *p, int model);
/* One more holder of a used or cached block. */
void kv_pool_ref(struct kv_pool *p, int32_t granule);
/* One holder less; the last one leaves the block cached if it was published, free otherwise. A sequence releases its
 * blocks last to first, so that leaves of the prefix tree are evicted before their parents. */
void kv_pool_unref(struct kv_pool *p, int32_t granule);

/* Exactly how many times in a row kv_pool_alloc(p, model) would succeed from here. */
int kv_pool_available(const struct kv_pool *p, int model);
/* How many blocks the model can hold at most, when the others hold no more than their floors. Never changes, so any
 * thread may ask. */
int kv_pool_capacity(const struct kv_pool *p, int model);

struct kv_pool_stats {
    int n_blocks; /* capacity */
    int n_used;   /* held by sequences */
    int n_cached; /* held by nobody, findable by content */
    int n_free;   /* to be had without evicting; one model: n_blocks = n_used + n_cached + n_free */
    uint64_t n_query_tokens, n_hit_tokens; /* of the prefix cache */
    uint64_t n_evictions;                  /* blocks */
};
struct kv_pool_stats kv_pool_stats(const struct kv_pool *p, int model);

/* Walks everything and CHECKs every invariant. For tests: slow. */
void kv_pool_check(const struct kv_pool *p);

/* ---- shared with prefix_cache.c ---------------------------------------------------------------------------------- */

int32_t kv__block_of(const struct kv_pool *p, int32_t granule); /* index in blocks; CHECKs that one begins there */
int32_t kv__granule_of(const struct kv_pool *p, int32_t block);
