/* kv_pool.c - slabs, blocks, references, eviction. See kv_pool.h for the picture.
 *
 * Where a slab stands follows from its counts alone:
 *
 *     used + cached + free = blocks_per_slab
 *     free == all                    on `nobody`; belongs to no model
 *     free > 0                       on models[m].partial
 *     used == 0, cached > 0          on models[m].idle
 *
 * slab_settle() puts a slab where its counts say after any change, so no operation reasons about lists.
 *
 * Floors: a slab is taken from nobody only while the rest of nobody's covers what the other models lack to their
 * floors, and from another model only above that model's floor. Hence always sum(max(0, floor - owned)) <= nobody.n,
 * and a model below its floor finds a slab. */
#include "engine/kv_pool.h"

#include "engine/prefix_cache.h"

#include <stdlib.h>

static int min_int(int a, int b) { return a < b ? a : b; }
static int max_int(int a, int b) { return a > b ? a : b; }

/* ---- intrusive lists --------------------------------------------------------------------------------------------- */

static struct kv_list list_over(struct kv_link *links) {
    return (struct kv_list){.links = links, .head = KV_NONE, .tail = KV_NONE};
}

static void list_insert(struct kv_list *list, int32_t i, int32_t prev, int32_t next) {
    list->links[i] = (struct kv_link){.prev = prev, .next = next};
    *(prev == KV_NONE ? &list->head : &list->links[prev].next) = i;
    *(next == KV_NONE ? &list->tail : &list->links[next].prev) = i;
    list->n++;
}
static void list_push_head(struct kv_list *list, int32_t i) { list_insert(list, i, KV_NONE, list->head); }
static void list_push_tail(struct kv_list *list, int32_t i) { list_insert(list, i, list->tail, KV_NONE); }

static void list_remove(struct kv_list *list, int32_t i) {
    struct kv_link link = list->links[i];
    *(link.prev == KV_NONE ? &list->head : &list->links[link.prev].next) = link.next;
    *(link.next == KV_NONE ? &list->tail : &list->links[link.next].prev) = link.prev;
    list->n--;
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

int32_t kv__block_of(const struct kv_pool *p, int32_t granule) {
    CHECK(granule >= 0 && granule < p->n_slabs * p->slab_granules);
    int slab = granule / p->slab_granules, offset = granule % p->slab_granules;
    CHECK(p->slabs[slab].model != KV_NONE);
    const struct kv_model *model = &p->models[p->slabs[slab].model];
    CHECK_EQ(offset % model->block_granules, 0);
    CHECK_LT(offset / model->block_granules, model->blocks_per_slab);
    return slab * p->blocks_stride + offset / model->block_granules;
}

int32_t kv__granule_of(const struct kv_pool *p, int32_t block) {
    int slab = block / p->blocks_stride, i = block % p->blocks_stride;
    return slab * p->slab_granules + i * p->models[p->slabs[slab].model].block_granules;
}

/* ---- slabs ------------------------------------------------------------------------------------------------------- */

static int slab_n_free(const struct kv_slab *slab) { return slab->free.n + slab->n_fresh; }

/* Moves a slab between the lists after its counts changed. */
static void slab_settle(struct kv_pool *p, int32_t s) {
    struct kv_slab *slab = &p->slabs[s];
    struct kv_model *model = &p->models[slab->model];
    bool partial = slab_n_free(slab) > 0, idle = !slab->n_used && slab->n_cached;

    /* What just became partial is filled again first, so that other slabs may become empty. */
    if (partial && !slab->is_partial) list_push_head(&model->partial, s);
    if (!partial && slab->is_partial) list_remove(&model->partial, s);
    slab->is_partial = partial;
    if (idle && !slab->is_idle) {
        list_push_tail(&model->idle, s);
        slab->idle_since = p->clock;
    }
    if (!idle && slab->is_idle) list_remove(&model->idle, s);
    slab->is_idle = idle;

    if (!slab->n_used && !slab->n_cached) {
        list_remove(&model->partial, s);
        model->n_slabs--;
        list_push_tail(&p->nobody, s);
        *slab = (struct kv_slab){.model = KV_NONE, .free = list_over(p->block_place)};
    }
}

static void slab_take(struct kv_pool *p, int32_t s, int m) {
    struct kv_model *model = &p->models[m];
    list_remove(&p->nobody, s);
    model->n_slabs++;
    p->slabs[s].model = m;
    p->slabs[s].n_fresh = model->blocks_per_slab;
    p->slabs[s].is_partial = true;
    list_push_tail(&model->partial, s);
}

/* Slabs of nobody that m may take: all but what the others lack to their floors. */
static int n_nobodys(const struct kv_pool *p, int m) {
    int n = p->nobody.n;
    for (int o = 0; o < p->n_models; o++)
        if (o != m) n -= max_int(0, p->models[o].floor_slabs - p->models[o].n_slabs);
    return n;
}

/* Idle slabs of `o` that another model may take. */
static int n_lendable(const struct kv_model *o) { return max_int(0, min_int(o->idle.n, o->n_slabs - o->floor_slabs)); }

/* ---- eviction ---------------------------------------------------------------------------------------------------- */

static void evict(struct kv_pool *p, int32_t b) {
    int32_t s = b / p->blocks_stride;
    struct kv_slab *slab = &p->slabs[s];
    struct kv_model *model = &p->models[slab->model];
    prefix__forget(p, b);
    list_remove(&model->lru, b);
    model->n_evictions++;
    slab->n_cached--;
    list_push_head(&slab->free, b);
    slab_settle(p, s);
}

/* Evicts every cached block of an idle slab, which thereby becomes nobody's. */
static void evict_slab(struct kv_pool *p, int32_t s) {
    int32_t first = s * p->blocks_stride, n = p->models[p->slabs[s].model].blocks_per_slab;
    for (int32_t b = first; b < first + n; b++)
        if (p->blocks[b].serial) evict(p, b);
}

/* Evicts m's oldest cached block or the longest idle slab of another model, whichever is older. False: neither. */
static bool evict_for(struct kv_pool *p, int m) {
    struct kv_model *model = &p->models[m];
    int32_t own = model->lru.head, slab = KV_NONE;
    if (model->n_slabs < model->ceiling_slabs)
        for (int o = 0; o < p->n_models; o++) {
            int32_t s = o != m && n_lendable(&p->models[o]) ? p->models[o].idle.head : KV_NONE;
            if (s != KV_NONE && (slab == KV_NONE || p->slabs[s].idle_since < p->slabs[slab].idle_since)) slab = s;
        }
    if (own != KV_NONE && (slab == KV_NONE || p->blocks[own].cached_at < p->slabs[slab].idle_since)) evict(p, own);
    else if (slab != KV_NONE) evict_slab(p, slab);
    else return false;
    return true;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

int32_t kv_pool_alloc(struct kv_pool *p, int m) {
    struct kv_model *model = &p->models[m];
    while (!model->partial.n) { /* an eviction may free a slab of nobody instead of a block: once more then */
        if (model->n_slabs < model->ceiling_slabs && n_nobodys(p, m) > 0) slab_take(p, p->nobody.head, m);
        else if (!evict_for(p, m)) return KV_NONE;
    }
    int32_t s = model->partial.head, b;
    struct kv_slab *slab = &p->slabs[s];
    if (slab->free.n) {
        b = slab->free.head;
        list_remove(&slab->free, b);
    } else {
        b = s * p->blocks_stride + model->blocks_per_slab - slab->n_fresh--;
    }
    p->blocks[b] = (struct kv_block){.refs = 1, .hash_next = KV_NONE};
    slab->n_used++;
    model->n_used++;
    slab_settle(p, s);
    return kv__granule_of(p, b);
}

void kv_pool_ref(struct kv_pool *p, int32_t granule) {
    int32_t b = kv__block_of(p, granule), s = b / p->blocks_stride;
    CHECK(p->blocks[b].refs > 0 || p->blocks[b].serial);
    if (p->blocks[b].refs++ > 0) return;
    struct kv_model *model = &p->models[p->slabs[s].model];
    list_remove(&model->lru, b);
    p->slabs[s].n_cached--;
    p->slabs[s].n_used++;
    model->n_used++;
    slab_settle(p, s);
}

void kv_pool_unref(struct kv_pool *p, int32_t granule) {
    int32_t b = kv__block_of(p, granule), s = b / p->blocks_stride;
    struct kv_block *block = &p->blocks[b];
    CHECK_LT(0, block->refs);
    if (--block->refs > 0) return;
    struct kv_slab *slab = &p->slabs[s];
    struct kv_model *model = &p->models[slab->model];
    p->clock++;
    slab->n_used--;
    model->n_used--;
    if (block->serial) {
        block->cached_at = p->clock;
        list_push_tail(&model->lru, b);
        slab->n_cached++;
    } else {
        list_push_head(&slab->free, b);
    }
    slab_settle(p, s);
}

int kv_pool_available(const struct kv_pool *p, int m) {
    const struct kv_model *model = &p->models[m];
    int n_slabs = n_nobodys(p, m);
    for (int o = 0; o < p->n_models; o++)
        if (o != m) n_slabs += n_lendable(&p->models[o]);
    n_slabs = min_int(n_slabs, model->ceiling_slabs - model->n_slabs);
    return (model->n_slabs + n_slabs) * model->blocks_per_slab - model->n_used;
}

int kv_pool_capacity(const struct kv_pool *p, int m) {
    int n_slabs = p->n_slabs;
    for (int o = 0; o < p->n_models; o++)
        if (o != m) n_slabs -= p->models[o].floor_slabs;
    return min_int(n_slabs, p->models[m].ceiling_slabs) * p->models[m].blocks_per_slab;
}

struct kv_pool_stats kv_pool_stats(const struct kv_pool *p, int m) {
    const struct kv_model *model = &p->models[m];
    int n_new_slabs = min_int(n_nobodys(p, m), model->ceiling_slabs - model->n_slabs);
    return (struct kv_pool_stats){
        .n_blocks = kv_pool_capacity(p, m),
        .n_used = model->n_used,
        .n_cached = model->lru.n,
        .n_free = (model->n_slabs + n_new_slabs) * model->blocks_per_slab - model->n_used - model->lru.n,
        .n_query_tokens = model->n_query_tokens,
        .n_hit_tokens = model->n_hit_tokens,
        .n_evictions = model->n_evictions,
    };
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* One model: one slab. Several: between n and 2n blocks of the largest (n = 16, less where that would leave fewer than
 * 16 slabs per model), whatever wastes least, inside slabs and behind the last one. */
static int choose_slab_granules(const struct kv_pool_options *o) {
    if (o->n_models == 1) return o->n_granules;
    int largest = 0, best = 0;
    for (int m = 0; m < o->n_models; m++) largest = max_int(largest, o->models[m].block_granules);
    int n = max_int(1, min_int(16, o->n_granules / largest / (16 * o->n_models)));
    double least = 2;
    for (int size = n * largest; size <= 2 * n * largest; size++) {
        double waste = 0;
        for (int m = 0; m < o->n_models; m++) {
            double inside = (double)(size % o->models[m].block_granules) / size;
            if (inside > waste) waste = inside;
        }
        waste += (double)(o->n_granules % size) / o->n_granules;
        if (waste < least) least = waste, best = size;
    }
    return best;
}

static int open_models(struct kv_pool *p, const struct kv_pool_options *o, char *err, size_t err_bytes) {
    int floors = 0;
    for (int m = 0; m < p->n_models; m++) {
        const struct kv_pool_model_options *from = &o->models[m];
        struct kv_model *model = &p->models[m];
        *model = (struct kv_model){
            .P = from->P,
            .block_granules = from->block_granules,
            .blocks_per_slab = p->slab_granules / from->block_granules,
            .ceiling_slabs = p->n_slabs,
            .prefix_cache = p->prefix_cache && !from->no_prefix_cache,
        };
        if (p->n_models > 1) {
            model->floor_slabs = (int)(((int64_t)from->floor_granules + p->slab_granules - 1) / p->slab_granules);
            if (from->ceiling_granules)
                model->ceiling_slabs = max_int(1, min_int(p->n_slabs, from->ceiling_granules / p->slab_granules));
        }
        if (!model->blocks_per_slab || !p->n_slabs)
            return fail(err, err_bytes, STATUS_INVALID,
                        "the KV pool has %d granules, one block of model %d takes %d: give the KV cache more memory",
                        p->n_granules, m, from->block_granules);
        if (model->floor_slabs > model->ceiling_slabs)
            return fail(err, err_bytes, STATUS_INVALID, "KV pool: model %d has a floor of %d slabs, more than its %d",
                        m, model->floor_slabs, model->ceiling_slabs);
        floors += model->floor_slabs;
        p->blocks_stride = max_int(p->blocks_stride, model->blocks_per_slab);
        p->max_P = max_int(p->max_P, model->P);
    }
    if (floors > p->n_slabs)
        return fail(err, err_bytes, STATUS_INVALID, "KV pool: the models' floors take %d slabs, there are only %d",
                    floors, p->n_slabs);
    return STATUS_OK;
}

int kv_pool_open(struct kv_pool **out, const struct kv_pool_options *o, char *err, size_t err_bytes) {
    CHECK(o->n_models >= 1 && o->n_models <= KV_POOL_MAX_MODELS);
    for (int m = 0; m < o->n_models; m++) CHECK(o->models[m].P > 0 && o->models[m].block_granules > 0);
    *out = NULL;
    struct kv_pool *p = calloc(1, sizeof *p);
    if (!p) return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for the KV pool's tables");
    p->n_models = o->n_models;
    p->n_granules = o->n_granules;
    p->slab_granules = max_int(1, o->slab_granules ? o->slab_granules : choose_slab_granules(o));
    p->n_slabs = o->n_granules / p->slab_granules;
    p->prefix_cache = o->prefix_cache;
    int status = open_models(p, o, err, err_bytes);
    if (status) goto fail;

    size_t n_slabs = (size_t)p->n_slabs, n_blocks = n_slabs * (size_t)p->blocks_stride;
    for (p->n_buckets = 1; p->n_buckets < (o->n_buckets ? (uint64_t)o->n_buckets : n_blocks);) p->n_buckets *= 2;
    p->slabs = calloc(n_slabs, sizeof *p->slabs);
    p->slab_place = calloc(n_slabs, sizeof *p->slab_place);
    p->slab_idle = calloc(n_slabs, sizeof *p->slab_idle);
    p->blocks = calloc(n_blocks, sizeof *p->blocks);
    p->block_place = calloc(n_blocks, sizeof *p->block_place);
    p->ids = calloc(p->prefix_cache ? n_blocks * (size_t)p->max_P : 1, sizeof *p->ids);
    p->buckets = calloc(p->n_buckets, sizeof *p->buckets);
    if (!p->slabs || !p->slab_place || !p->slab_idle || !p->blocks || !p->block_place || !p->ids || !p->buckets) {
        status = fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for the tables of %zu KV blocks", n_blocks);
        goto fail;
    }
    for (uint64_t i = 0; i < p->n_buckets; i++) p->buckets[i] = KV_NONE;
    for (int m = 0; m < p->n_models; m++) {
        p->models[m].partial = list_over(p->slab_place);
        p->models[m].idle = list_over(p->slab_idle);
        p->models[m].lru = list_over(p->block_place);
    }
    p->nobody = list_over(p->slab_place);
    for (int s = 0; s < p->n_slabs; s++) {
        p->slabs[s] = (struct kv_slab){.model = KV_NONE, .free = list_over(p->block_place)};
        list_push_tail(&p->nobody, s);
    }
    *out = p;
    return STATUS_OK;
fail:
    kv_pool_close(p);
    return status;
}

void kv_pool_close(struct kv_pool *p) {
    if (!p) return;
    free(p->slabs);
    free(p->slab_place);
    free(p->slab_idle);
    free(p->blocks);
    free(p->block_place);
    free(p->ids);
    free(p->buckets);
    free(p);
}

/* ---- invariants -------------------------------------------------------------------------------------------------- */

/* Walks a list, CHECKs its links and its count; true in on[i] for its members. */
static void check_list(const struct kv_list *list, bool *on) {
    int32_t prev = KV_NONE;
    int n = 0;
    for (int32_t i = list->head; i != KV_NONE; prev = i, i = list->links[i].next, n++) {
        CHECK_EQ(list->links[i].prev, prev);
        CHECK(!on[i]); /* on one such list only, once */
        on[i] = true;
    }
    CHECK_EQ(list->tail, prev);
    CHECK_EQ(list->n, n);
}

static void check_slab(const struct kv_pool *p, int32_t s, const bool *is_free, const bool *is_cached) {
    const struct kv_slab *slab = &p->slabs[s];
    int n_blocks = p->models[slab->model].blocks_per_slab, n_used = 0, n_cached = 0, n_free = 0;
    for (int i = 0; i < n_blocks; i++) {
        int32_t b = s * p->blocks_stride + i;
        const struct kv_block *block = &p->blocks[b];
        CHECK_LE(0, block->refs);
        if (i >= n_blocks - slab->n_fresh) {
            CHECK(!is_free[b] && !is_cached[b]);
            continue;
        }
        bool used = block->refs > 0, cached = !used && block->serial;
        CHECK_EQ(is_cached[b], cached);
        CHECK_EQ(is_free[b], !used && !cached);
        n_used += used, n_cached += cached, n_free += is_free[b];
        CHECK_EQ(kv__block_of(p, kv__granule_of(p, b)), b);
    }
    CHECK_EQ(n_used, slab->n_used);
    CHECK_EQ(n_cached, slab->n_cached);
    CHECK_EQ(n_free, slab->free.n);
    CHECK_EQ(n_used + n_cached + n_free + slab->n_fresh, n_blocks);
}

void kv_pool_check(const struct kv_pool *p) {
    size_t n_blocks = (size_t)p->n_slabs * (size_t)p->blocks_stride;
    bool *is_free = calloc(n_blocks, 1), *is_cached = calloc(n_blocks, 1);
    bool *has_place = calloc((size_t)p->n_slabs, 1), *is_idle = calloc((size_t)p->n_slabs, 1);
    CHECK(is_free && is_cached && has_place && is_idle);
    int lacking = 0, n_slabs = p->nobody.n;
    for (int s = 0; s < p->n_slabs; s++)
        if (p->slabs[s].model != KV_NONE) check_list(&p->slabs[s].free, is_free);
    check_list(&p->nobody, has_place);
    for (int m = 0; m < p->n_models; m++) {
        const struct kv_model *model = &p->models[m];
        int n_used = 0, n_cached = 0, n_owned = 0;
        check_list(&model->lru, is_cached);
        check_list(&model->partial, has_place);
        check_list(&model->idle, is_idle);
        for (int32_t i = model->lru.head, next; i != KV_NONE && (next = model->lru.links[i].next) != KV_NONE; i = next)
            CHECK_LT(p->blocks[i].cached_at, p->blocks[next].cached_at);
        for (int s = 0; s < p->n_slabs; s++) {
            const struct kv_slab *slab = &p->slabs[s];
            if (slab->model != m) continue;
            check_slab(p, s, is_free, is_cached);
            CHECK(slab->n_used || slab->n_cached);
            CHECK_EQ(has_place[s], slab_n_free(slab) > 0);
            CHECK_EQ(slab->is_partial, slab_n_free(slab) > 0);
            CHECK_EQ(is_idle[s], !slab->n_used);
            CHECK_EQ(slab->is_idle, !slab->n_used);
            n_used += slab->n_used, n_cached += slab->n_cached, n_owned++;
        }
        CHECK_EQ(n_used, model->n_used);
        CHECK_EQ(n_cached, model->lru.n);
        CHECK_EQ(n_owned, model->n_slabs);
        CHECK_LE(model->n_slabs, model->ceiling_slabs);
        lacking += max_int(0, model->floor_slabs - model->n_slabs);
        n_slabs += n_owned;
    }
    CHECK_EQ(n_slabs, p->n_slabs);
    CHECK_LE(lacking, p->nobody.n);
    prefix__check(p);
    free(is_free);
    free(is_cached);
    free(has_place);
    free(is_idle);
}
