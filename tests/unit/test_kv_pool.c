/* test_kv_pool.c - the pool and the prefix cache by themselves: exact counts, exact order, exact content. */
#include "engine/kv_pool.h"
#include "engine/prefix_cache.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state = 1;
static int below(int n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (int)((random_state >> 33) % (uint64_t)n);
}

static struct kv_pool *open_pool(struct kv_pool_options options) {
    char err[ERR_BYTES] = "";
    struct kv_pool *p = NULL;
    int status = kv_pool_open(&p, &options, err, sizeof err);
    cr_assert_eq(status, STATUS_OK, "%s", err);
    kv_pool_check(p);
    return p;
}

static struct kv_pool *open_one(int n_blocks, int P, int n_buckets) {
    return open_pool((struct kv_pool_options){.n_granules = n_blocks * 3, .n_models = 1, .n_buckets = n_buckets,
                                              .models = {{.P = P, .block_granules = 3}}, .prefix_cache = true});
}

/* What a sequence does: finds what it can, computes and publishes the rest. Returns how many blocks were found. */
struct held {
    int32_t blocks[64];
    int n;
};
static int hold(struct kv_pool *p, int model, uint64_t salt, const int32_t *tokens, int n_tokens, struct held *held) {
    int P = p->models[model].P;
    struct prefix_match match = prefix_find(p, model, salt, tokens, n_tokens, held->blocks);
    prefix_take(p, model, &match, held->blocks, n_tokens);
    uint64_t serial = match.serial;
    for (held->n = match.n_blocks; held->n < n_tokens / P; held->n++) {
        int32_t block = kv_pool_alloc(p, model);
        cr_assert_neq(block, KV_NONE);
        held->blocks[held->n] = block;
        serial = prefix_publish(p, block, salt, serial, tokens + held->n * P);
    }
    return match.n_blocks;
}
static void drop(struct kv_pool *p, struct held *held) {
    while (held->n) kv_pool_unref(p, held->blocks[--held->n]);
}

static int n_found(const struct kv_pool *p, int model, uint64_t salt, const int32_t *tokens, int n_tokens) {
    int32_t blocks[64];
    return prefix_find(p, model, salt, tokens, n_tokens, blocks).n_blocks;
}

Test(kv_pool, one_model_has_every_block) {
    for (int spare = 0; spare < 3; spare++) { /* granules that make no block */
        struct kv_pool *p = open_pool((struct kv_pool_options){
            .n_granules = 10 * 3 + spare, .n_models = 1, .models = {{.P = 4, .block_granules = 3}}});
        int32_t blocks[10];
        cr_assert_eq(kv_pool_capacity(p, 0), 10);
        for (int i = 0; i < 10; i++) {
            cr_assert_eq(kv_pool_available(p, 0), 10 - i);
            blocks[i] = kv_pool_alloc(p, 0);
            cr_assert(blocks[i] % 3 == 0 && blocks[i] <= 27);
            for (int j = 0; j < i; j++) cr_assert_neq(blocks[i], blocks[j]);
            kv_pool_check(p);
        }
        cr_assert_eq(kv_pool_alloc(p, 0), KV_NONE);
        kv_pool_ref(p, blocks[4]);
        for (int i = 0; i < 10; i++) kv_pool_unref(p, blocks[i]);
        kv_pool_check(p);
        cr_assert_eq(kv_pool_stats(p, 0).n_used, 1); /* two held it */
        kv_pool_unref(p, blocks[4]);
        cr_assert_eq(kv_pool_stats(p, 0).n_free, 10);
        kv_pool_check(p);
        kv_pool_close(p);
    }
}

Test(kv_pool, refuses_what_cannot_work) {
    char err[ERR_BYTES] = "";
    struct kv_pool *p;
    struct kv_pool_options small = {.n_granules = 2, .n_models = 1, .models = {{.P = 4, .block_granules = 3}}};
    cr_assert_eq(kv_pool_open(&p, &small, err, sizeof err), STATUS_INVALID);
    cr_assert(strstr(err, "2 granules") && !p, "%s", err);
    struct kv_pool_options floors = {.n_granules = 80, .n_models = 2, .slab_granules = 8,
                                     .models = {{.P = 4, .block_granules = 1, .floor_granules = 41},
                                                {.P = 4, .block_granules = 2, .floor_granules = 40}}};
    cr_assert_eq(kv_pool_open(&p, &floors, err, sizeof err), STATUS_INVALID);
    cr_assert(strstr(err, "floors take 11 slabs"), "%s", err);
    kv_pool_close(NULL);
}

Test(kv_pool, little_is_wasted_between_models) {
    static const int sizes[][2] = {{1, 1}, {1, 40}, {7, 40}, {13, 31}, {5, 9}, {28, 36}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int n_granules = 50000; n_granules < 50010; n_granules++) {
            struct kv_pool *p = open_pool((struct kv_pool_options){
                .n_granules = n_granules, .n_models = 2,
                .models = {{.P = 16, .block_granules = sizes[i][0]}, {.P = 16, .block_granules = sizes[i][1]}}});
            for (int m = 0; m < 2; m++) {
                double share = (double)kv_pool_capacity(p, m) * sizes[i][m] / n_granules;
                cr_assert_gt(share, 0.96, "model %d of %d and %d granules uses %f", m, sizes[i][0], sizes[i][1], share);
                cr_assert_geq(p->models[m].blocks_per_slab, 16);
            }
            kv_pool_close(p);
        }
}

Test(prefix_cache, hits_are_exact) {
    struct kv_pool *p = open_one(32, 4, 0);
    int32_t tokens[40], other[40];
    for (int i = 0; i < 40; i++) tokens[i] = other[i] = i;
    struct held a, b;
    cr_assert_eq(hold(p, 0, 7, tokens, 18, &a), 0); /* 4 full blocks and 2 tokens over */
    for (int n = 0; n <= 40; n++) cr_assert_eq(n_found(p, 0, 7, tokens, n), n < 16 ? n / 4 : 4);
    for (int changed = 0; changed < 16; changed++) {
        other[changed] = 99;
        cr_assert_eq(n_found(p, 0, 7, other, 40), changed / 4);
        other[changed] = changed;
    }
    cr_assert_eq(n_found(p, 0, 7, tokens + 4, 12), 0); /* the same ids at another place */
    cr_assert_eq(hold(p, 0, 7, tokens, 24, &b), 4);
    for (int i = 0; i < 4; i++) cr_assert_eq(a.blocks[i], b.blocks[i]);
    kv_pool_check(p);
    struct kv_pool_stats stats = kv_pool_stats(p, 0);
    cr_assert_eq(stats.n_used, 6);
    cr_assert_eq(stats.n_query_tokens, 18 + 24);
    cr_assert_eq(stats.n_hit_tokens, 16);

    int32_t blocks[16];
    drop(p, &b); /* blocks 4 and 5 are held by nobody now, 0 to 3 still by a */
    struct prefix_match match = prefix_find(p, 0, 7, tokens, 40, blocks);
    cr_assert(match.n_blocks == 6 && match.n_cached == 2);
    prefix_take(p, 0, &match, blocks, 0);
    cr_assert_eq(kv_pool_stats(p, 0).n_query_tokens, 18 + 24); /* not counted */
    b = (struct held){.n = 6};
    memcpy(b.blocks, blocks, sizeof blocks);
    drop(p, &a);
    drop(p, &b);
    kv_pool_check(p);
    stats = kv_pool_stats(p, 0);
    cr_assert(stats.n_used == 0 && stats.n_cached == 6 && stats.n_free == 26);
    kv_pool_close(p);
}

Test(prefix_cache, tenants_and_models_share_nothing) {
    struct kv_pool *p = open_pool((struct kv_pool_options){
        .n_granules = 64, .n_models = 2, .slab_granules = 8, .n_buckets = 1, .prefix_cache = true,
        .models = {{.P = 4, .block_granules = 1}, {.P = 4, .block_granules = 1}}});
    int32_t tokens[16] = {0};
    struct held a, b, c, d;
    cr_assert_eq(hold(p, 0, 0, tokens, 16, &a), 0); /* zeros everywhere: as alike as can be */
    cr_assert_eq(hold(p, 0, 1, tokens, 16, &b), 0);
    cr_assert_eq(hold(p, 1, 0, tokens, 16, &c), 0);
    cr_assert_eq(hold(p, 1, UINT64_MAX, tokens, 16, &d), 0);
    kv_pool_check(p);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            cr_assert(a.blocks[i] != b.blocks[j] && a.blocks[i] != c.blocks[j] && a.blocks[i] != d.blocks[j]);
            cr_assert(b.blocks[i] != c.blocks[j] && b.blocks[i] != d.blocks[j] && c.blocks[i] != d.blocks[j]);
        }
    drop(p, &a), drop(p, &b), drop(p, &c), drop(p, &d);
    cr_assert_eq(n_found(p, 0, 0, tokens, 16), 4);
    cr_assert_eq(n_found(p, 0, 2, tokens, 16), 0);
    kv_pool_close(p);
}

Test(prefix_cache, a_serial_is_no_salt) {
    /* A tenant whose salt equals another chain's serial must not continue that chain, nor the other way round. */
    struct kv_pool *p = open_one(32, 4, 1);
    int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct held a, b;
    hold(p, 0, 0, tokens, 8, &a);
    for (uint64_t salt = 1; salt < 5; salt++) {
        cr_assert_eq(n_found(p, 0, salt, tokens, 8), 0);
        cr_assert_eq(n_found(p, 0, salt, tokens + 4, 4), 0);
    }
    cr_assert_eq(hold(p, 0, 1, tokens + 4, 4, &b), 0);
    kv_pool_check(p);
    kv_pool_close(p);
}

Test(prefix_cache, a_twin_stays_private) {
    struct kv_pool *p = open_one(16, 2, 0);
    int32_t tokens[6] = {1, 2, 3, 4, 5, 6};
    /* Two sequences compute the same prompt in the same step. */
    int32_t a[3], b[3];
    uint64_t serial_a = 0, serial_b = 0;
    for (int i = 0; i < 3; i++) a[i] = kv_pool_alloc(p, 0), b[i] = kv_pool_alloc(p, 0);
    for (int i = 0; i < 2; i++) {
        serial_a = prefix_publish(p, a[i], 0, serial_a, tokens + 2 * i);
        serial_b = prefix_publish(p, b[i], 0, serial_b, tokens + 2 * i);
        cr_assert(serial_a && serial_a == serial_b);
    }
    /* The second one goes on first: its block hangs below the first one's. */
    serial_b = prefix_publish(p, b[2], 0, serial_b, tokens + 4);
    int32_t found[3];
    cr_assert_eq(prefix_find(p, 0, 0, tokens, 6, found).n_blocks, 3);
    cr_assert(found[0] == a[0] && found[1] == a[1] && found[2] == b[2]);
    for (int i = 2; i >= 0; i--) kv_pool_unref(p, b[i]);
    kv_pool_check(p);
    cr_assert_eq(kv_pool_stats(p, 0).n_cached, 1);
    for (int i = 2; i >= 0; i--) kv_pool_unref(p, a[i]);
    cr_assert_eq(kv_pool_stats(p, 0).n_cached, 3);
    kv_pool_check(p);
    kv_pool_close(p);
}

Test(prefix_cache, collisions_never_mix) {
    /* One bucket, a tiny alphabet, P = 1 and 2: every lookup meets blocks that differ in one thing only. The answer
     * must be the longest prefix that was published, known from a list of all of them. */
    for (int P = 1; P <= 2; P++) {
        struct kv_pool *p = open_one(600, P, 1);
        enum { N = 60, LEN = 8 };
        static int32_t tokens[N][LEN];
        static uint64_t salts[N];
        static struct held held[N];
        for (int i = 0; i < N; i++) {
            for (int t = 0; t < LEN; t++) tokens[i][t] = below(2);
            salts[i] = (uint64_t)below(3);
            int longest = 0;
            for (int j = 0; j < i; j++) {
                int n = 0;
                while (salts[j] == salts[i] && n < LEN && tokens[j][n] == tokens[i][n]) n++;
                if (n / P > longest) longest = n / P;
            }
            cr_assert_eq(n_found(p, 0, salts[i], tokens[i], LEN), longest);
            cr_assert_eq(hold(p, 0, salts[i], tokens[i], LEN, &held[i]), longest);
            kv_pool_check(p);
        }
        for (int i = 0; i < N; i++) drop(p, &held[i]);
        kv_pool_check(p);
        kv_pool_close(p);
    }
}

Test(prefix_cache, off_means_off) {
    struct kv_pool *p = open_pool((struct kv_pool_options){
        .n_granules = 8, .n_models = 1, .models = {{.P = 2, .block_granules = 1}}, .prefix_cache = false});
    int32_t tokens[4] = {0};
    struct held a;
    hold(p, 0, 0, tokens, 4, &a);
    cr_assert_eq(n_found(p, 0, 0, tokens, 4), 0);
    drop(p, &a);
    cr_assert_eq(kv_pool_stats(p, 0).n_cached, 0);
    kv_pool_close(p);
}

Test(prefix_cache, oldest_leaf_goes_first) {
    struct kv_pool *p = open_one(6, 2, 0);
    int32_t x[6] = {1, 1, 2, 2, 3, 3}, y[6] = {9, 9, 8, 8, 7, 7};
    struct held a, b;
    hold(p, 0, 0, x, 6, &a);
    hold(p, 0, 0, y, 6, &b);
    drop(p, &a);
    drop(p, &b);
    /* x was released before y, and leaves before parents. */
    for (int i = 0; i < 6; i++) {
        cr_assert_eq(n_found(p, 0, 0, x, 6), i < 3 ? 3 - i : 0);
        cr_assert_eq(n_found(p, 0, 0, y, 6), i < 3 ? 3 : 6 - i);
        cr_assert_eq(kv_pool_stats(p, 0).n_evictions, i);
        cr_assert_neq(kv_pool_alloc(p, 0), KV_NONE);
        kv_pool_check(p);
    }
    cr_assert_eq(kv_pool_alloc(p, 0), KV_NONE);
    kv_pool_close(p);

    /* A hit makes the found blocks young again; what hangs below them stays as old as it was. */
    p = open_one(6, 2, 0);
    hold(p, 0, 0, x, 6, &a);
    hold(p, 0, 0, y, 6, &b);
    drop(p, &a);
    drop(p, &b);
    cr_assert_eq(hold(p, 0, 0, x, 4, &a), 2);
    drop(p, &a);
    static const int left_x[] = {2, 2, 2, 2, 1, 0}, left_y[] = {3, 2, 1, 0, 0, 0};
    for (int i = 0; i < 6; i++) {
        cr_assert_neq(kv_pool_alloc(p, 0), KV_NONE);
        cr_assert_eq(n_found(p, 0, 0, x, 6), left_x[i]);
        cr_assert_eq(n_found(p, 0, 0, y, 6), left_y[i]);
    }
    kv_pool_close(p);
}

/* ---- several models ---------------------------------------------------------------------------------------------- */

Test(kv_pool, floors_and_ceilings_hold) {
    struct kv_pool *p = open_pool((struct kv_pool_options){
        .n_granules = 100, .n_models = 2, .slab_granules = 10, .prefix_cache = true,
        .models = {{.P = 1, .block_granules = 1, .floor_granules = 25},           /* 3 slabs */
                   {.P = 1, .block_granules = 2, .ceiling_granules = 69}}});      /* 6 slabs of 5 blocks */
    cr_assert_eq(kv_pool_capacity(p, 0), 100);
    cr_assert_eq(kv_pool_capacity(p, 1), 30);
    for (int i = 0; i < 30; i++) cr_assert_neq(kv_pool_alloc(p, 1), KV_NONE);
    cr_assert_eq(kv_pool_alloc(p, 1), KV_NONE);
    cr_assert_eq(kv_pool_available(p, 0), 40);
    kv_pool_check(p);
    kv_pool_close(p);

    p = open_pool((struct kv_pool_options){
        .n_granules = 100, .n_models = 2, .slab_granules = 10, .prefix_cache = true,
        .models = {{.P = 1, .block_granules = 1, .floor_granules = 25}, {.P = 1, .block_granules = 2}}});
    for (int i = 0; i < 35; i++) cr_assert_neq(kv_pool_alloc(p, 1), KV_NONE); /* 7 slabs: 3 are kept */
    cr_assert_eq(kv_pool_alloc(p, 1), KV_NONE);
    cr_assert_eq(kv_pool_available(p, 0), 30);
    /* Blocks cached in the floor's slabs are safe from the neighbour, too. */
    for (int32_t t = 0; t < 30; t++) {
        struct held held;
        hold(p, 0, 0, &t, 1, &held);
        drop(p, &held);
    }
    cr_assert_eq(kv_pool_available(p, 1), 0);
    cr_assert_eq(kv_pool_alloc(p, 1), KV_NONE);
    cr_assert_eq(kv_pool_stats(p, 0).n_cached, 30);
    kv_pool_check(p);
    kv_pool_close(p);
}

Test(kv_pool, the_longest_idle_slab_moves) {
    struct kv_pool *p = open_pool((struct kv_pool_options){
        .n_granules = 16, .n_models = 2, .slab_granules = 4, .prefix_cache = true,
        .models = {{.P = 1, .block_granules = 1}, {.P = 1, .block_granules = 2}}});
    /* Model 0 fills the pool with 16 cached blocks, released in the order 4..7, 0..3, 12..15; 8 stays in use. */
    int32_t blocks[16];
    for (int32_t t = 0; t < 16; t++) {
        blocks[t] = kv_pool_alloc(p, 0);
        prefix_publish(p, blocks[t], 0, 0, &t);
    }
    static const int order[] = {4, 5, 6, 7, 0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) kv_pool_unref(p, blocks[order[i]]);
    cr_assert_eq(kv_pool_available(p, 1), 6); /* three slabs are idle */
    static const int taken[] = {4, 0, 12};
    int32_t mine[6];
    for (int i = 0; i < 6; i++) {
        mine[i] = kv_pool_alloc(p, 1);
        cr_assert_eq(mine[i], blocks[taken[i / 2]] + 2 * (i % 2));
        cr_assert_eq(kv_pool_stats(p, 0).n_evictions, 4 * (i / 2 + 1));
        kv_pool_check(p);
    }
    cr_assert_eq(kv_pool_alloc(p, 1), KV_NONE); /* 8 holds the last one */
    for (int32_t t = 0; t < 16; t++) cr_assert_eq(n_found(p, 0, 0, &t, 1), t >= 8 && t < 12);

    /* Across models the older goes first: model 1's slabs idle now are younger than 9, older than 9 found again. */
    for (int32_t t = 0; t < 6; t++) prefix_publish(p, mine[t], 0, 0, &t);
    for (int i = 0; i < 6; i++) kv_pool_unref(p, mine[i]);
    cr_assert_eq(kv_pool_available(p, 0), 3 + 12);
    cr_assert_eq(kv_pool_alloc(p, 0), blocks[9]);
    kv_pool_ref(p, blocks[10]), kv_pool_unref(p, blocks[10]);
    kv_pool_ref(p, blocks[11]), kv_pool_unref(p, blocks[11]);
    cr_assert_eq(kv_pool_alloc(p, 0), mine[0]);
    cr_assert_eq(kv_pool_stats(p, 1).n_evictions, 2);
    kv_pool_check(p);
    kv_pool_close(p);
}

/* Three models under random load, against a shadow map of who owns each granule. */
Test(kv_pool, random_load_of_three_models) {
    enum { GRANULES = 600, MAX_HELD = 400 };
    static const int granules[3] = {1, 3, 7};
    for (int round = 0; round < 4; round++) {
        struct kv_pool *p = open_pool((struct kv_pool_options){
            .n_granules = GRANULES, .n_models = 3, .slab_granules = round == 3 ? 21 : 0, .prefix_cache = round > 0,
            .models = {{.P = 2, .block_granules = granules[0], .floor_granules = round == 1 ? 40 : 0},
                       {.P = 1, .block_granules = granules[1], .ceiling_granules = round >= 1 ? 300 : 0},
                       {.P = 3, .block_granules = granules[2], .floor_granules = round >= 2 ? 100 : 0}}});
        static int owner[GRANULES]; /* model + 1 of whoever uses it */
        static int32_t held[3][MAX_HELD];
        int n_held[3] = {0};
        int64_t moved[3] = {0};
        memset(owner, 0, sizeof owner);
        for (int step = 0; step < 20000; step++) {
            int busy = (step / 2000) % 3, m = below(3);
            bool allocate = below(10) < (m == busy ? 7 : 3);
            if (allocate && n_held[m] < MAX_HELD) {
                int available = kv_pool_available(p, m), slabs = p->models[m].n_slabs;
                int32_t block = kv_pool_alloc(p, m);
                cr_assert_eq(block != KV_NONE, available > 0);
                if (block == KV_NONE) continue;
                moved[m] += p->models[m].n_slabs > slabs;
                for (int g = 0; g < granules[m]; g++) {
                    cr_assert_eq(owner[block + g], 0);
                    owner[block + g] = m + 1;
                }
                int32_t ids[3] = {below(40), 0, 0};
                if (below(3)) prefix_publish(p, block, 0, 0, ids);
                held[m][n_held[m]++] = block;
            } else if (!allocate && n_held[m]) {
                int i = below(n_held[m]);
                int32_t block = held[m][i];
                held[m][i] = held[m][--n_held[m]];
                for (int g = 0; g < granules[m]; g++) owner[block + g] = 0;
                kv_pool_unref(p, block);
            }
            if (step % 50 == 0) kv_pool_check(p);
            if (step % 1000 == 0) { /* available is exact to the end, and failing evicts nothing */
                int32_t all[GRANULES];
                int n = 0, available = kv_pool_available(p, m);
                while ((all[n] = kv_pool_alloc(p, m)) != KV_NONE) n++;
                cr_assert_eq(n, available);
                cr_assert_eq(kv_pool_available(p, m), 0);
                kv_pool_check(p);
                while (n) kv_pool_unref(p, all[--n]);
            }
        }
        for (int m = 0; m < 3; m++) {
            cr_assert_gt(moved[m], 10);
            while (n_held[m]) kv_pool_unref(p, held[m][--n_held[m]]);
        }
        kv_pool_check(p);
        for (int m = 0; m < 3; m++) cr_assert_eq(kv_pool_stats(p, m).n_used, 0);
        kv_pool_close(p);
    }
}

/* Memory follows the load: two models in opposite waves, each of which fills the whole pool in its turn. */
Test(kv_pool, slabs_follow_opposite_waves) {
    struct kv_pool *p = open_pool((struct kv_pool_options){
        .n_granules = 960, .n_models = 2, .prefix_cache = true,
        .models = {{.P = 1, .block_granules = 2}, {.P = 1, .block_granules = 5}}});
    static int32_t held[480];
    for (int wave = 0; wave < 20; wave++) {
        int m = wave % 2, n = 0, capacity = kv_pool_capacity(p, m);
        cr_assert_eq(kv_pool_available(p, m), capacity); /* whatever the other left is cached at most */
        for (; n < capacity; n++) {
            held[n] = kv_pool_alloc(p, m);
            cr_assert_neq(held[n], KV_NONE);
            int32_t id = n * 100 + wave;
            prefix_publish(p, held[n], 0, 0, &id);
        }
        cr_assert_eq(p->models[m].n_slabs, p->n_slabs);
        cr_assert_eq(p->models[1 - m].n_slabs, 0);
        cr_assert_eq(kv_pool_available(p, 1 - m), 0);
        kv_pool_check(p);
        while (n) kv_pool_unref(p, held[--n]);
        cr_assert_eq(kv_pool_stats(p, m).n_cached, capacity);
        kv_pool_check(p);
    }
    kv_pool_close(p);
}
