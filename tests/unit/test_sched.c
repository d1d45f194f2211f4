/* test_sched.c - the scheduler's promises, one by one, on loads small enough to follow by hand. */
#include "engine/sched.h"

#include <criterion/criterion.h>
#include <string.h>

/* A scheduler with its pool; the "model" samples token 1 unless told otherwise. */
struct rig {
    struct kv_pool *pool;
    struct sched sched;
    struct plan plan;
    int32_t sampled[32];
    int32_t next_token;
};

static const struct sched_options usual = {.max_num_seqs = 4, .max_num_batched_tokens = 16, .max_logits_rows = 8,
                                           .max_model_len = 64, .chunked_prefill = true};

static struct rig rig_open(int n_blocks, struct sched_options options) { /* P = 4 */
    struct rig rig = {.next_token = 1};
    struct kv_pool_options pool = {.n_granules = n_blocks, .n_models = 1, .prefix_cache = true,
                                   .models = {{.P = 4, .block_granules = 1}}};
    char err[ERR_BYTES] = "";
    cr_assert_eq(kv_pool_open(&rig.pool, &pool, err, sizeof err), STATUS_OK, "%s", err);
    cr_assert_eq(sched_init(&rig.sched, &options, rig.pool, 0, err, sizeof err), STATUS_OK, "%s", err);
    cr_assert_eq(plan_init(&rig.plan, options.max_num_seqs), STATUS_OK);
    return rig;
}

static void rig_close(struct rig *rig) {
    for (struct sequence *q; (q = rig->sched.running.head ? rig->sched.running.head : rig->sched.waiting.head);) {
        cr_assert(sched_cancel(&rig->sched, q, FINISH_CANCELLED));
        sequence_close(q);
    }
    kv_pool_check(rig->pool);
    cr_assert_eq(kv_pool_stats(rig->pool, 0).n_used, 0);
    plan_deinit(&rig->plan);
    kv_pool_close(rig->pool);
}

/* A sequence whose prompt is first, first + 1, ... */
static struct sequence *make(const struct rig *rig, int32_t first, struct sequence_params params) {
    int32_t prompt[64];
    for (int i = 0; i < params.n_prompt; i++) prompt[i] = first + i;
    params.prompt = prompt;
    params.max_model_len = rig->sched.options.max_model_len;
    params.P = 4;
    struct sequence *q;
    cr_assert_eq(sequence_open(&q, &params), STATUS_OK);
    return q;
}
static struct sequence *submit(struct rig *rig, int32_t first, struct sequence_params params) {
    struct sequence *q = make(rig, first, params);
    cr_assert_eq(sched_add(&rig->sched, q), STATUS_OK);
    return q;
}

static void plan(struct rig *rig) {
    sched_plan(&rig->sched, &rig->plan);
    kv_pool_check(rig->pool);
}
static void commit(struct rig *rig) {
    for (int i = 0; i < rig->plan.n_sampled; i++) rig->sampled[i] = rig->next_token;
    sched_commit(&rig->sched, &rig->plan, rig->sampled);
    kv_pool_check(rig->pool);
}
static void step(struct rig *rig) {
    plan(rig);
    commit(rig);
}
/* Steps until q has ended; returns how many it took. */
static int finish(struct rig *rig, const struct sequence *q) {
    int n = 0;
    for (; q->state != SEQUENCE_FINISHED; n++) step(rig);
    return n;
}
static void expect_item(const struct rig *rig, int i, const struct sequence *q, int first, int n_tokens, int n_rows,
                        bool sample) {
    cr_assert_lt(i, rig->plan.n_items);
    const struct plan_item *item = &rig->plan.items[i];
    cr_assert_eq(item->seq, q);
    cr_assert(item->first == first && item->n_tokens == n_tokens && item->n_rows == n_rows && item->sample == sample,
              "item %d: %d + %d, %d rows, sample %d", i, item->first, item->n_tokens, item->n_rows, item->sample);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

Test(sched, decodes_ride_along_with_chunks) {
    struct rig rig = rig_open(64, usual);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 5, .max_tokens = 8});
    plan(&rig);
    expect_item(&rig, 0, a, 0, 5, 1, true);
    cr_assert(rig.plan.n_items == 1 && rig.plan.n_tokens == 5);
    commit(&rig);
    cr_assert(a->n_tokens == 6 && a->n_computed == 5 && a->tokens[5] == 1);

    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 40, .max_tokens = 8});
    struct sequence *c = submit(&rig, 300, (struct sequence_params){.n_prompt = 6, .max_tokens = 8});
    plan(&rig); /* 16 tokens: one decode, 15 of b */
    expect_item(&rig, 0, a, 5, 1, 1, true);
    expect_item(&rig, 1, b, 0, 15, 0, false);
    cr_assert(rig.plan.n_items == 2 && rig.plan.n_tokens == 16 && rig.plan.n_rows == 1);
    commit(&rig);
    plan(&rig);
    expect_item(&rig, 1, b, 15, 15, 0, false);
    commit(&rig);
    plan(&rig); /* b's last 10 leave 5 for c */
    expect_item(&rig, 0, a, 7, 1, 1, true);
    expect_item(&rig, 1, b, 30, 10, 1, true);
    expect_item(&rig, 2, c, 0, 5, 0, false);
    commit(&rig);
    plan(&rig); /* c's last prompt token is one token to go, as a decode is */
    expect_item(&rig, 0, a, 8, 1, 1, true);
    expect_item(&rig, 1, b, 40, 1, 1, true);
    expect_item(&rig, 2, c, 5, 1, 1, true);
    cr_assert_eq(rig.plan.n_tokens, 3);
    commit(&rig);
    rig_close(&rig);
}

Test(sched, a_younger_decode_keeps_its_token) {
    struct sched_options options = usual;
    options.max_num_batched_tokens = 8;
    options.long_prefill_token_threshold = 7;
    struct rig rig = rig_open(64, options);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 30});
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 1});
    plan(&rig);
    expect_item(&rig, 0, a, 0, 7, 0, false);
    expect_item(&rig, 1, b, 0, 1, 1, true);
    commit(&rig);
    options.long_prefill_token_threshold = 0;
    rig.sched.options = options;
    plan(&rig); /* without the threshold a would take all 8 */
    expect_item(&rig, 0, a, 7, 7, 0, false);
    expect_item(&rig, 1, b, 1, 1, 1, true);
    commit(&rig);
    rig_close(&rig);
}

Test(sched, the_threshold_lets_short_prompts_in) {
    struct sched_options options = usual;
    options.long_prefill_token_threshold = 6;
    struct rig rig = rig_open(64, options);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 30});
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 6});
    struct sequence *c = submit(&rig, 300, (struct sequence_params){.n_prompt = 9});
    plan(&rig);
    expect_item(&rig, 0, a, 0, 6, 0, false);
    expect_item(&rig, 1, b, 0, 6, 1, true);
    expect_item(&rig, 2, c, 0, 4, 0, false);
    commit(&rig);
    rig_close(&rig);
}

Test(sched, whole_prompts_without_chunking) {
    struct sched_options options = usual;
    options.chunked_prefill = false;
    char err[ERR_BYTES];
    struct rig rig = rig_open(64, usual);
    struct sched unused;
    cr_assert_eq(sched_init(&unused, &options, rig.pool, 0, err, sizeof err), STATUS_INVALID);
    cr_assert(strstr(err, "(16)") && strstr(err, "(64)"), "%s", err);
    rig_close(&rig);

    options.max_num_batched_tokens = 64;
    options.long_prefill_token_threshold = 3; /* means nothing here */
    rig = rig_open(64, options);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 40});
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 30});
    struct sequence *c = submit(&rig, 300, (struct sequence_params){.n_prompt = 2});
    plan(&rig); /* c would fit, but does not overtake b */
    expect_item(&rig, 0, a, 0, 40, 1, true);
    cr_assert_eq(rig.plan.n_items, 1);
    commit(&rig);
    plan(&rig);
    expect_item(&rig, 1, b, 0, 30, 1, true);
    expect_item(&rig, 2, c, 0, 2, 1, true);
    commit(&rig);
    rig_close(&rig);
}

Test(sched, max_num_seqs_bounds_what_runs) {
    struct sched_options options = usual;
    options.max_num_seqs = 2;
    struct rig rig = rig_open(64, options);
    struct sequence *q[3];
    for (int i = 0; i < 3; i++)
        q[i] = submit(&rig, 100 * i, (struct sequence_params){.n_prompt = 2, .max_tokens = 2 + i});
    step(&rig);
    cr_assert(rig.sched.running.n == 2 && rig.sched.waiting.n == 1);
    step(&rig);
    cr_assert(rig.plan.n_finished == 1 && rig.plan.finished[0] == q[0]);
    step(&rig);
    cr_assert_eq(q[2]->state, SEQUENCE_RUNNING);
    sequence_close(q[0]);
    cr_assert(rig.plan.n_finished == 1 && rig.plan.finished[0] == q[1]);
    sequence_close(q[1]);
    rig_close(&rig);
}

Test(sched, fewer_tokens_than_seqs) {
    struct sched_options options = usual;
    options.max_num_batched_tokens = 2;
    struct rig rig = rig_open(64, options);
    for (int i = 0; i < 4; i++) submit(&rig, 100 * i, (struct sequence_params){.n_prompt = 1});
    step(&rig);
    step(&rig);
    cr_assert_eq(rig.sched.running.n, 2); /* a third one could not get its token in every step */
    rig_close(&rig);
}

/* ---- order and memory -------------------------------------------------------------------------------------------- */

Test(sched, priority_orders_the_queue) {
    struct sched_options options = usual;
    options.policy = POLICY_PRIORITY;
    options.max_num_seqs = 1;
    struct rig rig = rig_open(64, options);
    static const int priorities[] = {2, 0, 1, 0, -1}, order[] = {4, 1, 3, 2, 0};
    struct sequence *q[5];
    for (int i = 0; i < 5; i++)
        q[i] = submit(&rig, 0, (struct sequence_params){.n_prompt = 2, .max_tokens = 1, .priority = priorities[i]});
    for (int i = 0; i < 5; i++) {
        step(&rig);
        cr_assert(rig.plan.n_finished == 1 && rig.plan.finished[0] == q[order[i]]);
        sequence_close(q[order[i]]);
    }
    options.policy = POLICY_FCFS; /* the same priorities mean nothing */
    rig.sched.options = options;
    for (int i = 0; i < 5; i++)
        q[i] = submit(&rig, 0, (struct sequence_params){.n_prompt = 2, .max_tokens = 1, .priority = priorities[i]});
    for (int i = 0; i < 5; i++) {
        step(&rig);
        cr_assert_eq(rig.plan.finished[0], q[i]);
        sequence_close(q[i]);
    }
    rig_close(&rig);
}

Test(sched, the_last_in_order_is_preempted) {
    for (int policy = POLICY_FCFS; policy <= POLICY_PRIORITY; policy++) {
        struct sched_options options = usual;
        options.policy = (enum sched_policy)policy;
        struct rig rig = rig_open(9, options);
        /* Three blocks each after the first step; the third decode needs a fourth one. */
        struct sequence *q[3];
        static const int priorities[] = {0, 5, 1};
        for (int i = 0; i < 3; i++)
            q[i] = submit(&rig, 100 * i,
                          (struct sequence_params){.n_prompt = 5, .max_tokens = 12, .priority = priorities[i]});
        struct sequence *victim = policy == POLICY_FCFS ? q[2] : q[1];
        while (!rig.sched.n_preemptions) step(&rig);
        cr_assert_eq(victim->state, SEQUENCE_WAITING);
        cr_assert(victim->n_blocks == 0 && victim->n_computed == 0 && victim->n_preemptions == 1);
        cr_assert_eq(rig.sched.waiting.head, victim);
        cr_assert_eq(rig.plan.n_preempted, 1);
        int n_before = victim->n_tokens;
        cr_assert(n_before > 5);
        struct sequence *late = /* does not overtake it */
            submit(&rig, 900, (struct sequence_params){.n_prompt = 1, .max_tokens = 2, .priority = 7});
        while (victim->state == SEQUENCE_WAITING) {
            cr_assert_eq(rig.sched.waiting.head, victim);
            step(&rig);
        }
        cr_assert(victim->n_cached == 0 && victim->n_tokens > n_before); /* usage tells of the first admission only */
        for (int i = 0; i < 3; i++) finish(&rig, q[i]);
        finish(&rig, late);
        for (int i = 0; i < 3; i++) {
            cr_assert_eq(q[i]->n_tokens, 17);
            sequence_close(q[i]);
        }
        sequence_close(late);
        rig_close(&rig);
    }
}

Test(sched, a_victims_token_goes_to_the_others) {
    struct sched_options options = usual;
    options.max_num_batched_tokens = 6;
    options.long_prefill_token_threshold = 2;
    struct rig rig = rig_open(64, options);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 2});
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 60});
    struct sequence *c = submit(&rig, 300, (struct sequence_params){.n_prompt = 16});
    while (c->n_tokens == 16 || a->n_computed < 4 * a->n_blocks) step(&rig); /* until a needs a block */
    int32_t taken[64];
    int n_taken = 0, at = b->n_computed;
    while ((taken[n_taken] = kv_pool_alloc(rig.pool, 0)) != KV_NONE) n_taken++;
    rig.sched.options.long_prefill_token_threshold = 0;
    plan(&rig);
    cr_assert(rig.plan.n_preempted == 1 && c->n_preemptions == 1);
    expect_item(&rig, 0, a, a->n_computed, 1, 1, true);
    expect_item(&rig, 1, b, at, 5, 0, false); /* not 4: nothing is kept for c any more */
    commit(&rig);
    while (n_taken) kv_pool_unref(rig.pool, taken[--n_taken]);
    rig_close(&rig);
}

Test(sched, admission_leaves_room_to_grow) {
    struct rig rig = rig_open(6, usual);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 9, .max_tokens = 4}); /* 3 blocks */
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 9, .max_tokens = 4}); /* and no spare */
    step(&rig);
    cr_assert(a->state == SEQUENCE_RUNNING && b->state == SEQUENCE_WAITING);
    finish(&rig, a);
    finish(&rig, b);
    cr_assert_eq(rig.sched.n_preemptions, 0);
    sequence_close(a);
    sequence_close(b);
    rig_close(&rig);

    /* A long prefill that is on its way counts with all its blocks, not only with those of its chunks so far. */
    struct sched_options options = usual;
    options.max_num_batched_tokens = 8;
    options.long_prefill_token_threshold = 4;
    rig = rig_open(10, options);
    a = submit(&rig, 100, (struct sequence_params){.n_prompt = 32, .max_tokens = 2}); /* 8 to begin with blocks */
    b = submit(&rig, 200, (struct sequence_params){.n_prompt = 8, .max_tokens = 2});  /* 2 */
    step(&rig);
    cr_assert(a->n_blocks == 1 && b->state == SEQUENCE_WAITING);
    rig_close(&rig);
}

Test(sched, what_can_never_fit_is_refused) {
    struct rig rig = rig_open(5, usual); /* 20 tokens; the last one sampled needs no place */
    struct sequence *fits = make(&rig, 0, (struct sequence_params){.n_prompt = 5, .max_tokens = 16});
    struct sequence *large = make(&rig, 0, (struct sequence_params){.n_prompt = 5, .max_tokens = 17});
    cr_assert_eq(sched_add(&rig.sched, fits), STATUS_OK);
    cr_assert_eq(sched_add(&rig.sched, large), STATUS_TOO_LARGE);
    cr_assert_eq(large->state, SEQUENCE_NEW);
    sequence_close(large);
    finish(&rig, fits);
    cr_assert(fits->n_tokens == 21 && fits->n_preemptions == 0);
    sequence_close(fits);

    int32_t prompt[65] = {0};
    struct sequence *q;
    struct sequence_params params = {.prompt = prompt, .n_prompt = 64, .max_model_len = 64, .P = 4};
    cr_assert_eq(sequence_open(&q, &params), STATUS_TOO_LARGE); /* no token could be generated */
    params.prompt_only = true;
    cr_assert_eq(sequence_open(&q, &params), STATUS_OK);
    cr_assert_eq(q->max_blocks, 16);
    sequence_close(q);
    params.n_prompt = 65;
    cr_assert_eq(sequence_open(&q, &params), STATUS_TOO_LARGE);
    rig_close(&rig);
}

/* ---- prefix cache ------------------------------------------------------------------------------------------------ */

Test(sched, a_known_prompt_computes_its_last_block) {
    struct rig rig = rig_open(64, usual);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 12, .max_tokens = 6});
    finish(&rig, a);
    cr_assert_eq(a->n_cached, 0);
    cr_assert_eq(kv_pool_stats(rig.pool, 0).n_cached, 4); /* 17 of 18 tokens were computed */

    struct sequence *same = submit(&rig, 100, (struct sequence_params){.n_prompt = 12, .max_tokens = 1});
    plan(&rig);
    expect_item(&rig, 0, same, 8, 4, 1, true); /* at least the last token must be computed, and blocks are whole */
    commit(&rig);
    cr_assert_eq(same->n_cached, 8);
    struct sequence *longer = submit(&rig, 100, (struct sequence_params){.n_prompt = 13, .max_tokens = 1});
    plan(&rig);
    expect_item(&rig, 0, longer, 12, 1, 1, true);
    commit(&rig);
    cr_assert_eq(longer->n_cached, 12);
    struct sequence *stranger = submit(&rig, 100, (struct sequence_params){.n_prompt = 13, .max_tokens = 1, .salt = 1});
    step(&rig);
    cr_assert_eq(stranger->n_cached, 0);
    cr_assert_eq(kv_pool_stats(rig.pool, 0).n_query_tokens, 12 + 12 + 13 + 13);
    cr_assert_eq(kv_pool_stats(rig.pool, 0).n_hit_tokens, 8 + 12);
    sequence_close(a), sequence_close(same), sequence_close(longer), sequence_close(stranger);
    rig_close(&rig);
}

Test(sched, a_conversation_finds_its_answers_again) {
    struct rig rig = rig_open(64, usual);
    rig.next_token = 107;
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 7, .max_tokens = 1});
    finish(&rig, a); /* 100 .. 106, then 107 */
    struct sequence *b = submit(&rig, 100, (struct sequence_params){.n_prompt = 8, .max_tokens = 5});
    finish(&rig, b); /* 100 .. 107, then 107 five times; 12 of 13 computed: three full blocks */
    int32_t next[16];
    memcpy(next, b->tokens, 13 * sizeof *next);
    next[13] = next[14] = next[15] = 5;
    struct sequence_params params = {.prompt = next, .n_prompt = 16, .max_tokens = 1, .max_model_len = 64, .P = 4};
    struct sequence *c;
    cr_assert_eq(sequence_open(&c, &params), STATUS_OK);
    cr_assert_eq(sched_add(&rig.sched, c), STATUS_OK);
    step(&rig);
    cr_assert_eq(c->n_cached, 12);
    sequence_close(a), sequence_close(b), sequence_close(c);
    rig_close(&rig);
}

Test(sched, a_preempted_sequence_finds_its_blocks_again) {
    struct rig rig = rig_open(8, usual);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 7, .max_tokens = 9});
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 12, .max_tokens = 19});
    while (!b->n_preemptions) step(&rig);
    finish(&rig, a);
    while (b->state != SEQUENCE_RUNNING) plan(&rig), commit(&rig);
    uint64_t queries = kv_pool_stats(rig.pool, 0).n_query_tokens;
    cr_assert_eq(queries, 7 + 12); /* finding oneself again is no reuse */
    finish(&rig, b);
    cr_assert_eq(b->n_tokens, 31);
    sequence_close(a), sequence_close(b);
    rig_close(&rig);
}

/* ---- how it ends ------------------------------------------------------------------------------------------------- */

Test(sched, stop_rules) {
    static const int32_t eos[] = {8, 9}, stops[] = {5, 9};
    static const struct {
        int32_t token;
        int min_tokens, max_tokens;
        bool ignore_eos;
        int n_output;
        enum finish_reason reason;
        int32_t stop_token;
    } cases[] = {
        {1, 0, 5, false, 5, FINISH_LENGTH, -1},   {8, 0, 5, false, 1, FINISH_STOP, -1},
        {9, 0, 5, false, 1, FINISH_STOP, -1},     {9, 0, 5, true, 1, FINISH_STOP, 9},
        {8, 0, 5, true, 5, FINISH_LENGTH, -1},    {5, 0, 5, false, 1, FINISH_STOP, 5},
        {5, 3, 5, false, 3, FINISH_STOP, 5},      {8, 3, 5, false, 3, FINISH_STOP, -1},
        {8, 5, 5, false, 5, FINISH_STOP, -1},     {8, 9, 5, false, 5, FINISH_LENGTH, -1},
        {1, 0, 0, false, 61, FINISH_LENGTH, -1},  {1, 0, 1000, false, 61, FINISH_LENGTH, -1},
        {1, 0, 61, false, 61, FINISH_LENGTH, -1}, {1, 0, 60, false, 60, FINISH_LENGTH, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rig rig = rig_open(64, usual);
        rig.next_token = cases[i].token;
        struct sequence *q = submit(&rig, 100, (struct sequence_params){
            .n_prompt = 3, .min_tokens = cases[i].min_tokens, .max_tokens = cases[i].max_tokens,
            .ignore_eos = cases[i].ignore_eos, .eos_ids = eos, .n_eos_ids = 2, .stop_token_ids = stops,
            .n_stop_token_ids = 2});
        finish(&rig, q);
        cr_assert_eq(q->n_tokens - 3, cases[i].n_output, "case %zu: %d tokens", i, q->n_tokens - 3);
        cr_assert_eq(q->reason, cases[i].reason, "case %zu", i);
        cr_assert_eq(q->stop_token, cases[i].stop_token, "case %zu", i);
        sequence_close(q);
        rig_close(&rig);
    }
}

Test(sched, prompt_only_samples_nothing) {
    struct rig rig = rig_open(64, usual);
    struct sequence *q = submit(&rig, 100, (struct sequence_params){.n_prompt = 20, .prompt_only = true});
    plan(&rig);
    expect_item(&rig, 0, q, 0, 16, 0, false);
    commit(&rig);
    plan(&rig);
    expect_item(&rig, 0, q, 16, 4, 0, false);
    commit(&rig);
    cr_assert(q->state == SEQUENCE_FINISHED && q->reason == FINISH_LENGTH && q->n_tokens == 20);
    sequence_close(q);
    rig_close(&rig);
}

Test(sched, prompt_logits_are_bounded_by_rows) {
    struct rig rig = rig_open(64, usual); /* 8 rows */
    struct sequence *warm = submit(&rig, 100, (struct sequence_params){.n_prompt = 16, .max_tokens = 1});
    finish(&rig, warm);
    sequence_close(warm);
    struct sequence *decode = submit(&rig, 200, (struct sequence_params){.n_prompt = 1});
    step(&rig);
    struct sequence *q =
        submit(&rig, 100, (struct sequence_params){.n_prompt = 16, .max_tokens = 2, .prompt_logits = true});
    plan(&rig); /* the cache is not read: what it holds has no logits */
    expect_item(&rig, 1, q, 0, 7, 7, false);
    cr_assert_eq(rig.plan.n_rows, 8);
    commit(&rig);
    plan(&rig);
    expect_item(&rig, 1, q, 7, 7, 7, false);
    commit(&rig);
    plan(&rig);
    expect_item(&rig, 1, q, 14, 2, 2, true);
    commit(&rig);
    cr_assert(q->n_cached == 0 && q->n_logits_rows == 16);
    plan(&rig);
    expect_item(&rig, 0, decode, 4, 1, 1, true);
    expect_item(&rig, 1, q, 16, 1, 1, true);
    commit(&rig);
    cr_assert_eq(q->state, SEQUENCE_FINISHED);
    sequence_close(q);
    rig_close(&rig);
}

Test(sched, cancelling) {
    struct rig rig = rig_open(64, usual);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 8});
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 20});
    struct sequence *c = submit(&rig, 300, (struct sequence_params){.n_prompt = 20});
    plan(&rig);
    cr_assert(sched_cancel(&rig.sched, c, FINISH_CANCELLED)); /* waiting: at once, also in flight */
    cr_assert_eq(c->state, SEQUENCE_FINISHED);
    cr_assert_not(sched_cancel(&rig.sched, a, FINISH_STOP)); /* in flight: with the commit */
    cr_assert_not(sched_cancel(&rig.sched, a, FINISH_CANCELLED));
    cr_assert(a->state == SEQUENCE_RUNNING && a->n_blocks == 2);
    commit(&rig);
    cr_assert(rig.plan.n_finished == 1 && rig.plan.finished[0] == a && a->state == SEQUENCE_FINISHED);
    cr_assert(a->reason == FINISH_STOP && a->n_tokens == 8); /* the first reason counts; no token was added */
    cr_assert(sched_cancel(&rig.sched, b, FINISH_CANCELLED)); /* between steps: at once */
    cr_assert(sched_idle(&rig.sched));
    cr_assert_eq(kv_pool_stats(rig.pool, 0).n_used, 0);
    cr_assert_eq(kv_pool_stats(rig.pool, 0).n_cached, 2); /* b's 8 computed tokens; nothing of a's discarded step */
    sequence_close(a), sequence_close(b), sequence_close(c);
    rig_close(&rig);
}

Test(sched, a_failed_step_leaves_nothing_behind) {
    struct rig rig = rig_open(64, usual);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 8});
    plan(&rig);
    for (int i = 0; i < rig.plan.n_items; i++) sched_cancel(&rig.sched, rig.plan.items[i].seq, FINISH_ERROR);
    sched_commit(&rig.sched, &rig.plan, NULL);
    cr_assert(rig.plan.n_finished == 1 && a->reason == FINISH_ERROR);
    cr_assert_eq(kv_pool_stats(rig.pool, 0).n_free, 64);
    sequence_close(a);
    rig_close(&rig);
}

/* ---- drafts ------------------------------------------------------------------------------------------------------ */

/* Commits a step of one item that samples 1, 2, 3, ... */
static void commit_counting(struct rig *rig) {
    for (int i = 0; i < rig->plan.n_sampled; i++) rig->sampled[i] = i + 1;
    sched_commit(&rig->sched, &rig->plan, rig->sampled);
    kv_pool_check(rig->pool);
}
static const int32_t right[] = {1, 2, 3, 4, 5, 6, 7, 8}, wrong_third[] = {1, 2, 9, 4, 5, 6, 7, 8};

Test(sched_drafts, are_verified_in_one_step) {
    struct rig rig = rig_open(64, usual);
    struct sequence *q = submit(&rig, 100, (struct sequence_params){.n_prompt = 7});
    plan(&rig);
    cr_assert_eq(sched_may_draft(&rig.sched, &rig.plan, 0), 0); /* a chunk */
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, right, 3), 0);
    commit(&rig);
    plan(&rig); /* token 7 of 8, then five drafts: 13 tokens in 4 blocks */
    cr_assert_eq(sched_may_draft(&rig.sched, &rig.plan, 0), 7); /* 8 rows */
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, wrong_third, 5), 5);
    expect_item(&rig, 0, q, 7, 6, 6, true);
    cr_assert(rig.plan.n_tokens == 6 && rig.plan.n_rows == 6 && rig.plan.n_sampled == 6);
    cr_assert(q->n_blocks == 4 && q->n_drafts == 5);
    cr_assert_arr_eq(rig.plan.items[0].drafts, wrong_third, 5 * sizeof *right);
    commit_counting(&rig);
    cr_assert_eq(rig.plan.items[0].n_accepted, 2);
    cr_assert(q->n_tokens == 11 && q->tokens[8] == 1 && q->tokens[9] == 2 && q->tokens[10] == 3);
    cr_assert(q->n_computed == 10 && q->n_scheduled == 10 && q->n_drafts == 0 && q->n_flights == 0);
    cr_assert(q->n_blocks == 3 && q->n_published == 2); /* the fourth block, of drafts alone, is given back */
    plan(&rig);
    expect_item(&rig, 0, q, 10, 1, 1, true);
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, NULL, 2), 2); /* ids that come later */
    memcpy(rig.plan.items[0].drafts, right, 2 * sizeof *right);
    commit_counting(&rig);
    cr_assert(rig.plan.items[0].n_accepted == 2 && q->n_tokens == 14 && q->n_computed == 13 && q->n_published == 3);
    rig_close(&rig);
}

Test(sched_drafts, what_was_published_is_what_was_accepted) {
    struct rig rig = rig_open(64, usual);
    struct sequence *q = submit(&rig, 100, (struct sequence_params){.n_prompt = 7, .max_tokens = 9});
    step(&rig);
    plan(&rig);
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, wrong_third, 7), 7); /* positions 8 .. 14 */
    commit_counting(&rig);
    sched_cancel(&rig.sched, q, FINISH_CANCELLED);
    cr_assert_eq(kv_pool_stats(rig.pool, 0).n_cached, 2); /* 10 tokens were right */
    cr_assert_eq(kv_pool_stats(rig.pool, 0).n_used, 0);
    sequence_close(q);
    rig_close(&rig);
}

Test(sched_drafts, an_end_among_them_drops_the_rest) {
    static const int32_t eos[] = {3};
    for (int min_tokens = 0; min_tokens < 10; min_tokens++) {
        struct rig rig = rig_open(64, usual);
        struct sequence *q = submit(&rig, 100, (struct sequence_params){
            .n_prompt = 7, .max_tokens = 30, .min_tokens = min_tokens, .eos_ids = eos, .n_eos_ids = 1});
        step(&rig);
        plan(&rig);
        cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, right, 6), 6);
        commit_counting(&rig);
        if (min_tokens <= 4) { /* it is the fourth token: one came with the prompt */
            cr_assert(q->reason == FINISH_STOP && q->n_tokens == 11 && rig.plan.n_finished == 1);
            cr_assert_eq(kv_pool_stats(rig.pool, 0).n_cached, 2); /* of 11 tokens */
            sequence_close(q);
        } else {
            cr_assert(q->reason == FINISH_NONE && q->n_tokens == 15 && q->n_computed == 14);
        }
        rig_close(&rig);
    }
}

Test(sched_drafts, end_with_the_sequence) {
    struct rig rig = rig_open(64, usual);
    struct sequence *q = submit(&rig, 100, (struct sequence_params){.n_prompt = 7, .max_tokens = 5});
    step(&rig);
    plan(&rig);
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, right, 8), 3); /* and the one behind them is the last */
    commit_counting(&rig);
    cr_assert(q->reason == FINISH_LENGTH && q->n_tokens == 12 && q->state == SEQUENCE_FINISHED);
    sequence_close(q);

    q = submit(&rig, 200, (struct sequence_params){.n_prompt = 7, .max_tokens = 2});
    step(&rig);
    plan(&rig);
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, right, 8), 0);
    commit(&rig);
    sequence_close(q);
    rig_close(&rig);
}

Test(sched_drafts, come_after_all_that_is_certain) {
    struct rig rig = rig_open(64, usual); /* 16 tokens, 8 rows, 4 sequences */
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 4});
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 4});
    step(&rig);
    struct sequence *c = submit(&rig, 300, (struct sequence_params){.n_prompt = 25});
    plan(&rig); /* the chunk takes all there is */
    expect_item(&rig, 2, c, 0, 14, 0, false);
    cr_assert(sched_draft(&rig.sched, &rig.plan, 0, right, 3) == 0 && a->n_drafts == 0);
    commit(&rig);
    plan(&rig); /* 11 to go: three tokens are left */
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 1, right, 2), 2);
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, right, 2), 1);
    cr_assert_eq(sched_may_draft(&rig.sched, &rig.plan, 2), 0);
    cr_assert(rig.plan.n_tokens == 16 && rig.plan.n_rows == 6 && rig.plan.n_sampled == 6);
    commit(&rig); /* 1 everywhere: one draft of each is right */
    cr_assert(a->n_tokens == 8 && b->n_tokens == 8 && c->n_tokens == 26);
    plan(&rig); /* three decodes: five rows are left of eight */
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, right, 4), 4);
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 2, right, 4), 1);
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 1, right, 4), 0);
    commit(&rig);
    rig_close(&rig);
}

Test(sched_drafts, take_no_block_that_is_needed) {
    struct rig rig = rig_open(5, usual);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 5, .max_tokens = 12});
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 3, .max_tokens = 5});
    step(&rig);
    plan(&rig); /* a: token 5, two blocks, of which two places are free; b: token 3, one block */
    cr_assert(a->n_blocks == 2 && b->n_blocks == 1 && kv_pool_available(rig.pool, 0) == 2);
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, right, 4), 2); /* two spare blocks: none for a guess */
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 1, right, 4), 0);
    cr_assert(a->n_blocks == 2 && rig.plan.n_preempted == 0);
    commit(&rig);
    sched_cancel(&rig.sched, b, FINISH_CANCELLED);
    sequence_close(b);
    plan(&rig); /* a: token 7 in a full second block; one spare block is to stay */
    cr_assert(a->n_computed == 7 && kv_pool_available(rig.pool, 0) == 3);
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, right, 4), 4);
    cr_assert_eq(a->n_blocks, 3);
    commit(&rig);
    rig_close(&rig);
}

Test(sched_drafts, hold_their_sequence_until_they_land) {
    struct rig rig = rig_open(64, usual);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 5});
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 5});
    step(&rig);
    plan(&rig);
    struct plan next;
    cr_assert_eq(plan_init(&next, usual.max_num_seqs), STATUS_OK);
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, right, 2), 2);
    sched_plan(&rig.sched, &next); /* ahead: b alone, whose next token the device has */
    cr_assert(next.n_items == 1 && next.items[0].seq == b && next.items[0].first == 6);
    cr_assert_eq(sched_may_draft(&rig.sched, &next, 0), 0); /* drafts continue known tokens */
    commit(&rig);
    cr_assert(a->n_tokens == 8 && b->n_tokens == 7); /* 1 1 against 1 2 */
    plan(&rig);
    expect_item(&rig, 0, a, 7, 1, 1, true);
    expect_item(&rig, 1, b, 7, 1, 1, true);
    cr_assert_eq(sched_may_draft(&rig.sched, &rig.plan, 0), 6);
    cr_assert_eq(sched_may_draft(&rig.sched, &rig.plan, 1), 0);
    int32_t one[] = {1};
    sched_commit(&rig.sched, &next, one);
    commit(&rig);
    plan_deinit(&next);
    rig_close(&rig);
}

Test(sched_drafts, of_a_cancelled_sequence_are_dropped) {
    struct rig rig = rig_open(64, usual);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 5});
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 5});
    step(&rig);
    plan(&rig);
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 0, right, 3), 3);
    cr_assert_eq(sched_draft(&rig.sched, &rig.plan, 1, right, 1), 1);
    cr_assert_not(sched_cancel(&rig.sched, a, FINISH_CANCELLED));
    commit_counting(&rig); /* a: 1 2 3 4; b: 5 6 */
    cr_assert(rig.plan.n_finished == 1 && rig.plan.finished[0] == a && a->n_tokens == 6);
    cr_assert(b->n_tokens == 7 && b->tokens[6] == 5 && rig.plan.items[1].n_accepted == 0);
    sequence_close(a);
    rig_close(&rig);
}
