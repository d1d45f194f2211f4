/* test_draft.c - shadows, one promise at a time: catching up, drafting, going first. For random loads see
 * test_sched_random.c. */
#include "engine/draft.h"

#include <criterion/criterion.h>
#include <string.h>

/* A target (model 0, two granules a block) with its draft model (1, one granule), P = 4 both; slabs of 8 granules. Each
 * token that is sampled is 1. */
struct rig {
    struct kv_pool *pool;
    struct sched sched;
    struct plan plan;
};

static const struct sched_options usual = {.max_num_seqs = 4, .max_num_batched_tokens = 64, .max_logits_rows = 32,
                                           .max_model_len = 128, .chunked_prefill = true};
enum { VOCAB = 1000, DRAFT_TOKENS = 12, DRAFT_LEN = 100 };

static struct rig rig_open(int n_granules) {
    struct rig rig = {0};
    struct kv_pool_options pool = {.n_granules = n_granules, .n_models = 2, .prefix_cache = true, .slab_granules = 8,
                                   .models = {{.P = 4, .block_granules = 2}, {.P = 4, .block_granules = 1}}};
    char err[ERR_BYTES] = "";
    cr_assert_eq(kv_pool_open(&rig.pool, &pool, err, sizeof err), STATUS_OK, "%s", err);
    cr_assert_eq(sched_init(&rig.sched, &usual, rig.pool, 0, err, sizeof err), STATUS_OK, "%s", err);
    draft_attach(&rig.sched, 1, VOCAB, DRAFT_TOKENS, DRAFT_LEN);
    cr_assert_eq(plan_init(&rig.plan, usual.max_num_seqs), STATUS_OK);
    return rig;
}

static void rig_close(struct rig *rig) {
    for (struct sequence *q; (q = rig->sched.running.head ? rig->sched.running.head : rig->sched.waiting.head);) {
        cr_assert(sched_cancel(&rig->sched, q, FINISH_CANCELLED));
        sequence_close(q);
    }
    kv_pool_check(rig->pool);
    for (int m = 0; m < 2; m++) cr_assert_eq(kv_pool_stats(rig->pool, m).n_used, 0);
    plan_deinit(&rig->plan);
    kv_pool_close(rig->pool);
}

/* A sequence whose prompt is first, first + 1, ..., and whose shadow is wanted. */
static struct sequence *submit(struct rig *rig, int32_t first, struct sequence_params params) {
    int32_t prompt[128];
    for (int i = 0; i < params.n_prompt; i++) prompt[i] = first + i;
    params.prompt = prompt;
    params.max_model_len = usual.max_model_len;
    params.P = params.draft_P = 4;
    struct sequence *q;
    cr_assert_eq(sequence_open(&q, &params), STATUS_OK);
    cr_assert_eq(sched_add(&rig->sched, q), STATUS_OK);
    q->shadow.wanted = true;
    return q;
}

/* Plans, lets the model make n drafts for each item that is ready, and the others catch up. */
static void plan(struct rig *rig, int n) {
    int n_behind;
    sched_plan(&rig->sched, &rig->plan);
    for (int i = 0; i < rig->plan.n_items; i++)
        if (n && draft_ready(&rig->sched, &rig->plan, i, &n_behind)) draft_by_model(&rig->sched, &rig->plan, i, n);
    draft_catch_up(&rig->sched, &rig->plan);
    kv_pool_check(rig->pool);
}
/* Commits; of each item's drafts so many are right. */
static void commit(struct rig *rig, int n_right) {
    int32_t sampled[128];
    for (int i = 0; i < rig->plan.n_sampled; i++) sampled[i] = 1;
    for (int i = 0; i < rig->plan.n_items; i++)
        for (int d = 0; d < rig->plan.items[i].n_drafts; d++) rig->plan.items[i].drafts[d] = d < n_right ? 1 : 2;
    sched_commit(&rig->sched, &rig->plan, sampled);
    kv_pool_check(rig->pool);
}
static void step(struct rig *rig) {
    plan(rig, 0);
    commit(rig, 0);
}
static void expect_draft(const struct rig *rig, int i, int first, int n, int n_drafts) {
    const struct plan_item *item = &rig->plan.items[i];
    cr_assert(item->draft_first == first && item->n_draft_tokens == n && item->n_drafts == n_drafts &&
                  item->by_model == (n_drafts > 0),
              "%d + %d, %d drafts", item->draft_first, item->n_draft_tokens, item->n_drafts);
}

Test(draft, catches_up_then_drafts) {
    struct rig rig = rig_open(160);
    struct sequence *q = submit(&rig, 100, (struct sequence_params){.n_prompt = 20, .max_tokens = 100});
    plan(&rig, 3); /* 12 tokens a step; the prompt is computed by the target meanwhile */
    expect_draft(&rig, 0, 0, 12, 0);
    cr_assert(rig.plan.n_draft_tokens == 12 && rig.plan.draft_depth == 0 && q->shadow.n_blocks == 3);
    commit(&rig, 0);
    cr_assert(q->n_tokens == 21 && q->shadow.n_computed == 12);
    plan(&rig, 3); /* tokens 12 .. 20 fit into the step that drafts */
    expect_draft(&rig, 0, 12, 9, 3);
    cr_assert(rig.plan.draft_depth == 3 && rig.plan.n_tokens == 4 && rig.plan.n_sampled == 4);
    cr_assert_eq(q->shadow.n_blocks, 6); /* 21 tokens and two of three drafts */
    commit(&rig, 1);
    cr_assert(q->n_tokens == 23 && q->n_computed == 22);
    cr_assert(q->shadow.n_computed == 22 && q->shadow.n_scheduled == 22 && q->shadow.n_published == 5);
    plan(&rig, 3); /* one behind: the token that was sampled instead of the wrong draft */
    expect_draft(&rig, 0, 22, 1, 3);
    commit(&rig, 3);
    cr_assert(q->n_tokens == 27 && q->shadow.n_computed == 25);
    plan(&rig, 2); /* two behind: the last draft was right, and was never computed */
    expect_draft(&rig, 0, 25, 2, 2);
    commit(&rig, 0);
    step(&rig); /* a step without drafts: it keeps up, but for the token that is to draft */
    cr_assert(q->n_tokens == 29 && q->shadow.n_computed == 27);
    int n_behind;
    plan(&rig, 0);
    cr_assert(draft_ready(&rig.sched, &rig.plan, 0, &n_behind) > 0 && n_behind == 1);
    commit(&rig, 0);
    rig_close(&rig);
}

Test(draft, drafts_come_before_catching_up) {
    struct rig rig = rig_open(160);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 4});
    step(&rig);
    step(&rig);
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 40});
    plan(&rig, 5);
    expect_draft(&rig, 0, 4, 2, 5);
    expect_draft(&rig, 1, 0, 10, 0);
    cr_assert_eq(rig.plan.n_draft_tokens, DRAFT_TOKENS);
    commit(&rig, 5);
    cr_assert(a->n_tokens == 12 && b->shadow.n_computed == 10);
    b->shadow.wanted = false; /* it stays as it is */
    plan(&rig, 5);
    cr_assert(rig.plan.items[1].n_draft_tokens == 0 && b->shadow.n_blocks == 3);
    commit(&rig, 0);
    rig_close(&rig);
}

Test(draft, a_step_in_flight_does_not_stop_catching_up) {
    struct rig rig = rig_open(160);
    struct sequence *q = submit(&rig, 100, (struct sequence_params){.n_prompt = 40});
    struct plan next;
    cr_assert_eq(plan_init(&next, usual.max_num_seqs), STATUS_OK);
    plan(&rig, 0);
    sched_plan(&rig.sched, &next);
    draft_catch_up(&rig.sched, &next);
    cr_assert(next.items[0].draft_first == 12 && next.items[0].n_draft_tokens == 12 && q->shadow.n_computed == 0);
    commit(&rig, 0);
    cr_assert(q->shadow.n_computed == 12 && q->shadow.n_scheduled == 24);
    int32_t sampled[] = {1};
    sched_commit(&rig.sched, &next, sampled);
    cr_assert(q->shadow.n_computed == 24 && q->n_tokens == 42);
    plan_deinit(&next);
    rig_close(&rig);
}

Test(draft, finds_what_it_computed_before) {
    struct rig rig = rig_open(160);
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 12, .max_tokens = 3});
    while (a->state != SEQUENCE_FINISHED) step(&rig);
    cr_assert_eq(kv_pool_stats(rig.pool, 1).n_cached, 3);
    cr_assert_eq(kv_pool_stats(rig.pool, 1).n_used, 0);
    struct sequence *b = submit(&rig, 100, (struct sequence_params){.n_prompt = 15});
    struct sequence *c = submit(&rig, 100, (struct sequence_params){.n_prompt = 15, .salt = 1});
    plan(&rig, 0);
    expect_draft(&rig, 0, 12, 2, 0); /* all but the last known token */
    expect_draft(&rig, 1, 0, 10, 0); /* another tenant */
    cr_assert_eq(kv_pool_stats(rig.pool, 1).n_hit_tokens, 12);
    commit(&rig, 0);
    sequence_close(a);
    cr_assert(b->shadow.n_blocks == 4 && c->shadow.n_blocks == 3);
    submit(&rig, 100, (struct sequence_params){.n_prompt = 12});
    plan(&rig, 0);
    expect_draft(&rig, 2, 8, 3, 0); /* the block of the last token is known as well, but the token must be computed */
    commit(&rig, 0);
    rig_close(&rig);
}

Test(draft, shadows_go_before_sequences) {
    struct rig rig = rig_open(96); /* 12 slabs: 4 blocks of the target or 8 of the draft model */
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 30, .max_tokens = 98});
    struct sequence *b = submit(&rig, 200, (struct sequence_params){.n_prompt = 30, .max_tokens = 98});
    for (int i = 0; i < 10; i++) step(&rig);
    cr_assert(a->shadow.n_computed == 38 && b->shadow.n_computed == 38);
    cr_assert(draft__shed(&rig.sched) && a->shadow.n_blocks && !b->shadow.n_blocks); /* the last one's first */
    for (int i = 0; i < 10; i++) step(&rig);
    cr_assert(b->shadow.n_computed == 48); /* it has found its blocks again */
    while (!rig.sched.n_preemptions) { /* both grow until the pool is full */
        const uint64_t n_drops = rig.sched.draft.n_drops;
        plan(&rig, 0);
        if (rig.plan.n_preempted) cr_assert(!a->shadow.n_blocks && !b->shadow.n_blocks);
        if (rig.sched.draft.n_drops > n_drops) cr_assert_eq(rig.plan.n_draft_tokens, 0);
        commit(&rig, 0);
    }
    cr_assert_eq(rig.sched.draft.n_drops, 3);
    cr_assert(!draft__shed(&rig.sched));
    rig_close(&rig);
}

Test(draft, who_waits_for_blocks_comes_before_shadows) {
    struct rig rig = rig_open(64); /* 8 slabs, 32 blocks of the target */
    struct sequence *a = submit(&rig, 100, (struct sequence_params){.n_prompt = 40});
    for (int i = 0; i < 6; i++) step(&rig);
    cr_assert(a->shadow.n_blocks > 0 && a->n_blocks == 12);
    struct sequence *b = submit(&rig, 300, (struct sequence_params){.n_prompt = 64}); /* 16 blocks: with a's, 28 */
    step(&rig);
    cr_assert(b->state == SEQUENCE_RUNNING && a->shadow.n_blocks == 0 && rig.sched.draft.n_drops == 1);
    for (int i = 0; i < 3; i++) { /* and none comes back while it would leave no room */
        step(&rig);
        cr_assert(a->shadow.n_blocks == 0 && b->shadow.n_blocks == 0);
    }
    cr_assert_eq(rig.sched.n_preemptions, 0);
    rig_close(&rig);
}

Test(draft, a_token_that_it_lacks_ends_the_shadow) {
    struct rig rig = rig_open(160);
    struct sequence *q = submit(&rig, VOCAB - 20, (struct sequence_params){.n_prompt = 22}); /* .. VOCAB + 1 */
    plan(&rig, 2);
    expect_draft(&rig, 0, 0, 12, 0);
    commit(&rig, 0);
    for (int i = 0; i < 3; i++) {
        plan(&rig, 2);
        expect_draft(&rig, 0, 0, 0, 0);
        cr_assert(q->shadow.impossible && q->shadow.n_blocks == 0);
        commit(&rig, 0);
    }
    rig_close(&rig);
}

Test(draft, a_preempted_or_cancelled_sequence_takes_its_shadow_along) {
    struct rig rig = rig_open(160);
    struct sequence *q = submit(&rig, 100, (struct sequence_params){.n_prompt = 9});
    step(&rig);
    plan(&rig, 4);
    cr_assert_eq(rig.plan.items[0].n_drafts, 4);
    cr_assert_not(sched_cancel(&rig.sched, q, FINISH_CANCELLED));
    cr_assert(kv_pool_stats(rig.pool, 1).n_used > 0);
    commit(&rig, 4);
    cr_assert(rig.plan.n_finished == 1 && q->n_tokens == 10);
    for (int m = 0; m < 2; m++) cr_assert_eq(kv_pool_stats(rig.pool, m).n_used, 0);
    sequence_close(q);
    rig_close(&rig);
}

Test(draft, an_end_among_drafts_is_the_end) {
    static const int32_t eos[] = {1};
    struct rig rig = rig_open(160);
    struct sequence *q = submit(&rig, 100, (struct sequence_params){
        .n_prompt = 9, .min_tokens = 3, .eos_ids = eos, .n_eos_ids = 1});
    step(&rig);
    plan(&rig, 6); /* all right, but its third token ends it */
    cr_assert_eq(rig.plan.items[0].n_drafts, 6);
    commit(&rig, 6);
    cr_assert(q->state == SEQUENCE_FINISHED && q->n_tokens == 12 && q->reason == FINISH_STOP);
    cr_assert_eq(kv_pool_stats(rig.pool, 1).n_cached, 3);
    sequence_close(q);
    rig_close(&rig);
}

/* What the draft model cannot compute is neither drafted nor caught up with, and what it had goes back. */
Test(draft, a_sequence_outgrows_the_model) {
    struct rig rig = rig_open(400);
    submit(&rig, 10, (struct sequence_params){.n_prompt = 60, .max_tokens = 60});
    struct sequence *longer = submit(&rig, 300, (struct sequence_params){.n_prompt = DRAFT_LEN + 1, .max_tokens = 4});
    struct sequence *q = rig.sched.running.head ? rig.sched.running.head : rig.sched.waiting.head;
    int most = 0, last = 0;
    while (q->state != SEQUENCE_FINISHED && q->n_tokens < DRAFT_LEN + 10) {
        plan(&rig, 4);
        for (int i = 0; i < rig.plan.n_items; i++) {
            const struct plan_item *item = &rig.plan.items[i];
            const int n_steps = item->by_model ? item->n_drafts - 1 : 0;
            cr_assert_leq(item->draft_first + item->n_draft_tokens + n_steps, DRAFT_LEN);
            cr_assert(item->seq != longer || !item->n_draft_tokens);
            if (item->seq != q || !item->by_model) continue;
            if (item->n_drafts > most) most = item->n_drafts;
            last = item->draft_first + item->n_draft_tokens + n_steps;
        }
        commit(&rig, 1);
        for (int i = 0; i < rig.plan.n_finished; i++)
            if (rig.plan.finished[i] != q) sequence_close(rig.plan.finished[i]);
    }
    cr_assert_eq(most, 4);
    cr_assert_eq(last, DRAFT_LEN, "drafted up to %d", last);
    cr_assert(q->shadow.impossible && !q->shadow.n_blocks);
    rig_close(&rig);
}
