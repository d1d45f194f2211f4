/* test_sched_random.c - scheduler and KV pool under random load, with a fake model that shows every fault.
 *
 * The fake KV memory has a value per granule and token slot. Computing token t of a sequence writes
 *
 *     kv[t] = mix(kv[t - 1], token t)           kv[-1] = mix(salt, model)
 *
 * into every granule of the block that the table gives for t, and sampling hashes all of kv[0 .. t], read back through
 * the table. kv[t - 1] is read back too, so a block that was lost, shared wrongly, written twice, published too early
 * or found under a wrong key changes the tokens. The tokens must be those of the same request run alone, which need no
 * pool to compute. Steps are committed at once, or one step late: then a step is planned (and run, as a device would,
 * in order) before the one ahead of it is committed, and takes tokens that only the device knows. Some of the loads
 * speculate: decodes get drafts, of which some are right and some are not. A draft model, where there is one, writes
 * values of its own into the shadows' blocks, and each time it computes, all that it has of the sequence is held
 * against the sequence's tokens. After each call the plan is held against the promises of sched.h and draft.h, and
 * every few steps the whole pool is walked. */
#include "engine/draft.h"
#include "engine/prefix_cache.h"
#include "engine/sched.h"

#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LEN = 160, MAX_P = 16, VOCAB = 61, EOS = 7, MAX_LIVE = 40, N_PAST = 16, STOP_A = 11, STOP_B = 12 };

/* ---- the fake model ---------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t x = (a ^ (b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2))) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 29)) * 0x94d049bb133111ebu;
    return x ^ (x >> 32);
}

static uint64_t random_state;
static int below(int n) { /* 0 .. n-1 */
    random_state = mix(random_state, 1);
    return (int)((random_state >> 16) % (uint64_t)n);
}
static bool one_in(int n) { return below(n) == 0; }

static uint64_t kv_start(uint64_t salt, int model) { return mix(salt, (uint64_t)model); }
static uint64_t kv_of(uint64_t before, int32_t token) { return mix(before, (uint64_t)token); }

/* ---- a request and what must become of it ------------------------------------------------------------------------ */

struct request {
    struct sequence *seq;
    struct sim *sim;
    int32_t expected[MAX_LEN]; /* prompt and output */
    int n_expected;
    enum finish_reason reason;
    int32_t stop_token;
    enum finish_reason cancelled; /* FINISH_NONE: not */
    uint64_t deadline;            /* step by which it must have ended (FCFS) */
    uint8_t rows[MAX_LEN];        /* times that the logits of a prompt position were delivered */
    bool computed_once;
    int32_t device_token; /* sampled last, perhaps not yet committed */
};

struct config {
    const char *name;
    int n_models, n_granules, slab_granules, n_buckets;
    int P[2], block_granules[2], floor_granules[2];
    bool prefix_cache;
    int draft_vocab, draft_tokens; /* above 0: model 1 drafts for model 0, with so many tokens a step */
    struct sched_options sched;
};

struct sim { /* one model */
    int model;
    struct sched sched;
    struct plan plans[SCHED_MAX_FLIGHTS];
    int32_t sampled[SCHED_MAX_FLIGHTS][MAX_LIVE * (1 + SPECULATION_MAX_DRAFTS)];
    bool fault[SCHED_MAX_FLIGHTS];
    int first, n_flights; /* plans in flight: first, first + 1, ... */
    int n_live;
    struct request *live[MAX_LIVE];
    uint64_t n_steps, n_finished, n_cancelled, n_cached, n_drafts, n_accepted, n_by_model;
};

struct world {
    const struct config *config;
    bool ahead;  /* a step is planned before the one ahead of it is committed */
    bool drafts; /* decodes get drafts */
    struct kv_pool *pool;
    uint64_t *kv; /* [n_granules, MAX_P] */
    struct sim sims[2];
    int32_t past[N_PAST][MAX_LEN]; /* earlier conversations, to be continued */
    int n_past[N_PAST];
};

/* The request alone: the fake model and the stop rules, without pool or scheduler. */
static void expect(struct request *r, const struct sequence_params *params, int model) {
    uint64_t kv = kv_start(params->salt, model), all = 0;
    int n = params->n_prompt, computed = 0;
    memcpy(r->expected, params->prompt, (size_t)n * sizeof *r->expected);
    r->reason = FINISH_LENGTH;
    r->stop_token = -1;
    while (!params->prompt_only) {
        for (; computed < n; computed++) all = mix(all, kv = kv_of(kv, r->expected[computed]));
        int32_t id = (int32_t)(all % VOCAB);
        r->expected[n++] = id;
        int n_output = n - params->n_prompt;
        if (n_output >= params->min_tokens) {
            if (id == EOS && !params->ignore_eos) r->reason = FINISH_STOP;
            else if (params->n_stop_token_ids && (id == STOP_A || id == STOP_B))
                r->reason = FINISH_STOP, r->stop_token = id;
        }
        if (r->reason == FINISH_STOP || n_output == params->max_tokens || n == params->max_model_len) break;
    }
    r->n_expected = n;
}

static void submit(struct world *w, struct sim *sim) {
    if (sim->n_live == MAX_LIVE) return;
    int max_len = w->config->sched.max_model_len, n = 0;
    int32_t prompt[MAX_LEN];
    /* A shared document, an earlier conversation or nothing, then something of its own (or not: the same once more). */
    int room = max_len - 1, kind = below(4), own = one_in(4) ? 0 : 1 + below(one_in(3) ? room : 8);
    if (kind == 0) {
        int document = below(3);
        for (int n_shared = below(room); n < n_shared; n++) prompt[n] = (document * 5 + n * n) % VOCAB;
    } else if (kind == 1) {
        int past = below(N_PAST);
        n = w->n_past[past] < room ? w->n_past[past] : below(room);
        memcpy(prompt, w->past[past], (size_t)n * sizeof *prompt);
    }
    for (int i = 0; (i < own || n == 0) && n < room; i++) prompt[n++] = below(VOCAB);

    static const int32_t eos[] = {EOS}, stops[] = {STOP_A, STOP_B};
    struct request *r = calloc(1, sizeof *r);
    CHECK(r);
    struct sequence_params params = {
        .prompt = prompt,
        .n_prompt = n,
        .max_tokens = one_in(3) ? 0 : 1 + below(max_len),
        .min_tokens = one_in(3) ? below(20) : 0,
        .ignore_eos = one_in(3),
        .prompt_only = one_in(8),
        .prompt_logits = one_in(6),
        .eos_ids = eos,
        .n_eos_ids = 1,
        .stop_token_ids = stops,
        .n_stop_token_ids = one_in(3) ? 2 : 0,
        .priority = below(3),
        .salt = (uint64_t)below(2) << 40, /* tenants */
        .user = r,
        .max_model_len = max_len,
        .P = w->config->P[sim->model],
        .draft_P = w->config->draft_vocab ? w->config->P[1] : 0,
    };
    expect(r, &params, sim->model);
    CHECK_EQ(sequence_open(&r->seq, &params), STATUS_OK);
    CHECK_EQ(sched_add(&sim->sched, r->seq), STATUS_OK);
    r->sim = sim;
    sim->live[sim->n_live++] = r;
    /* Under FCFS the first one in the order advances by at least a token a step and is never preempted. */
    r->deadline = sim->n_steps + 1;
    for (int i = 0; i < sim->n_live; i++) r->deadline += (uint64_t)sim->live[i]->seq->max_len * (w->ahead ? 3 : 1);
}

/* Holds an ended request against what it should have become, and forgets it. */
static void reap(struct world *w, struct sequence *q) {
    struct request *r = q->user;
    struct sim *sim = r->sim;
    CHECK_EQ(q->state, SEQUENCE_FINISHED);
    CHECK_EQ(q->n_blocks, 0);
    CHECK_LE(q->n_tokens, r->n_expected);
    for (int i = 0; i < q->n_tokens; i++) CHECK_EQ(q->tokens[i], r->expected[i]);
    if (r->cancelled != FINISH_NONE) {
        CHECK_EQ(q->reason, r->cancelled);
        sim->n_cancelled++;
    } else {
        CHECK_EQ(q->n_tokens, r->n_expected);
        CHECK_EQ(q->reason, r->reason);
        CHECK_EQ(q->stop_token, r->stop_token);
        if (q->prompt_logits)
            for (int i = 0; i < q->n_prompt; i++) CHECK_EQ(r->rows[i], 1);
        sim->n_finished++;
        sim->n_cached += (uint64_t)q->n_cached;
        int past = below(N_PAST);
        w->n_past[past] = q->n_tokens;
        memcpy(w->past[past], q->tokens, (size_t)q->n_tokens * sizeof *q->tokens);
    }
    for (int i = 0; i < sim->n_live; i++)
        if (sim->live[i] == r) sim->live[i] = sim->live[--sim->n_live];
    sequence_close(q);
    free(r);
}

static void cancel(struct world *w, struct sim *sim, struct request *r, enum finish_reason reason) {
    bool in_flight = r->seq->n_flights > 0;
    if (r->seq->reason == FINISH_NONE) r->cancelled = reason; /* else it has ended, and waits for a step in flight */
    bool ended = sched_cancel(&sim->sched, r->seq, reason);
    CHECK_EQ(ended, !in_flight);
    if (ended) reap(w, r->seq);
}

/* ---- what a plan promises ---------------------------------------------------------------------------------------- */

static bool is_before(const struct sched *s, const struct sequence *a, const struct sequence *b) {
    if (s->options.policy == POLICY_PRIORITY && a->priority != b->priority) return a->priority < b->priority;
    return a->arrival < b->arrival;
}

static void check_lists(const struct sched *s) {
    int n = 0;
    for (const struct sequence *q = s->waiting.head; q; q = q->next, n++) {
        CHECK_EQ(q->state, SEQUENCE_WAITING);
        CHECK(!q->n_blocks && !q->n_computed && !q->n_scheduled && !q->n_published && !q->serial);
        CHECK(!q->shadow.n_blocks && !q->shadow.n_computed && !q->shadow.n_scheduled && !q->shadow.n_published);
        if (q->next) CHECK(is_before(s, q, q->next) && q->next->prev == q);
        else CHECK(s->waiting.tail == q);
    }
    CHECK_EQ(n, s->waiting.n);
    n = 0;
    for (const struct sequence *q = s->running.head; q; q = q->next, n++) {
        CHECK_EQ(q->state, SEQUENCE_RUNNING);
        CHECK(q->n_computed <= q->n_scheduled && q->n_scheduled <= q->n_tokens + q->n_pending);
        CHECK_LE(q->n_scheduled, q->n_blocks * s->P);
        const struct shadow *shadow = &q->shadow;
        CHECK(shadow->n_computed <= shadow->n_scheduled && shadow->n_scheduled <= q->n_tokens);
        if (shadow->n_blocks) CHECK_LE(shadow->n_scheduled, shadow->n_blocks * s->draft.P);
        else CHECK(!shadow->n_scheduled && !shadow->n_published);
        if (q->next) CHECK(is_before(s, q, q->next) && q->next->prev == q);
        else CHECK(s->running.tail == q);
    }
    CHECK_EQ(n, s->running.n);
    CHECK_LE(n, s->options.max_num_seqs);
}

/* Without a floor a busy neighbour may hold all memory for a while. */
static bool has_guarantee(const struct config *config, int model) {
    return config->n_models == 1 || config->floor_granules[model];
}

/* The tokens that q is to compute in steps that are planned, those that the device alone knows among them; in a step
 * that samples, one less than q will know afterwards. */
static int n_known(const struct sequence *q) { return q->n_tokens + q->n_pending; }

/* Whether q has nothing to do but wait for a step in flight. */
static bool must_wait(const struct sequence *q) {
    return q->reason != FINISH_NONE || q->n_drafts || (q->n_pending && n_known(q) == q->max_len);
}

static void check_plan(const struct world *w, const struct sim *sim, const struct plan *plan,
                       const struct sequence *const *was_running, int n_was_running) {
    const struct sched *s = &sim->sched;
    const struct sched_options *o = &s->options;
    int n_tokens = 0, n_rows = 0;
    CHECK_LE(plan->n_items, o->max_num_seqs);
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        const struct sequence *q = item->seq;
        int end = item->first + item->n_tokens;
        n_tokens += item->n_tokens;
        n_rows += item->n_rows;
        CHECK_EQ(q->state, SEQUENCE_RUNNING);
        const int known = n_known(q) - item->sample; /* before this step */
        if (q->n_flights == 1) CHECK_EQ(item->first, q->n_computed);
        CHECK_EQ(end, q->n_scheduled);
        CHECK(item->n_tokens >= 1 && end <= known && known < q->max_len + q->prompt_only);
        CHECK_LE(end, q->n_blocks * s->P);
        CHECK_EQ(item->sample, end == known && !q->prompt_only);
        if (o->chunked_prefill && o->long_prefill_token_threshold)
            CHECK_LE(item->n_tokens, o->long_prefill_token_threshold);
        if (!o->chunked_prefill && !q->prompt_logits) CHECK_EQ(end, known);
        if (!q->prompt_logits) CHECK_EQ(item->n_rows, item->sample);
        CHECK_LE(item->n_rows, item->n_tokens);
        for (int j = 0; j < i; j++) CHECK(plan->items[j].seq != q);
        /* What it writes is its own and not yet findable. */
        for (int b = item->first / s->P; b * s->P < end; b++) {
            const struct kv_block *block = &w->pool->blocks[kv__block_of(w->pool, q->blocks[b])];
            CHECK(block->refs == 1 && !block->serial);
        }
    }
    CHECK_EQ(n_tokens, plan->n_tokens);
    CHECK_EQ(n_rows, plan->n_rows);
    CHECK_LE(n_tokens, o->max_num_batched_tokens);
    CHECK_LE(n_rows, o->max_logits_rows);
    if (has_guarantee(w->config, sim->model) && !sim->n_flights) CHECK(plan->n_items || !s->waiting.n);

    /* Every decode that still runs is in the plan, and so is the first in the order. */
    for (const struct sequence *q = s->running.head; q; q = q->next)
        if (q->n_tokens - q->n_computed == 1 || q == s->running.head)
            CHECK(q->n_computed < q->n_scheduled || must_wait(q));
    /* No token of the budget is wasted while a running prompt could use it. */
    if (o->chunked_prefill && !plan->n_preempted && n_tokens < o->max_num_batched_tokens)
        for (int i = 0; i < plan->n_items; i++) {
            const struct sequence *q = plan->items[i].seq;
            if (plan->items[i].n_tokens != o->long_prefill_token_threshold && !q->prompt_logits)
                CHECK_EQ(q->n_scheduled, n_known(q) - plan->items[i].sample);
        }
    /* Nobody overtakes: who was admitted comes before everyone who waits, who was preempted after all that ran. */
    int n_preempted = 0;
    for (int i = 0; i < n_was_running; i++) n_preempted += was_running[i]->state == SEQUENCE_WAITING;
    CHECK_EQ(n_preempted, plan->n_preempted);
    if (n_preempted) CHECK_EQ(s->running.n, n_was_running - n_preempted);
    for (int i = 0; i < n_was_running; i++)
        if (was_running[i]->state == SEQUENCE_WAITING && s->running.tail)
            CHECK(is_before(s, s->running.tail, was_running[i]));
    for (const struct sequence *q = s->running.head; q && s->waiting.n; q = q->next) {
        bool ran = false;
        for (int i = 0; i < n_was_running; i++) ran |= was_running[i] == q;
        if (!ran) CHECK(is_before(s, q, s->waiting.head));
    }
}

static void check_pool(const struct world *w) {
    const struct kv_pool *p = w->pool;
    kv_pool_check(p);
    int32_t *holders = calloc((size_t)p->n_granules, sizeof *holders);
    CHECK(holders);
    for (int m = 0; m < w->config->n_models; m++) {
        for (const struct sequence *q = w->sims[m].sched.running.head; q; q = q->next)
            for (int i = 0; i < q->n_blocks; i++) {
                CHECK_EQ(p->slabs[q->blocks[i] / p->slab_granules].model, m);
                holders[q->blocks[i]]++;
            }
        for (const struct sequence *q = w->sims[m].sched.running.head; q; q = q->next)
            for (int i = 0; i < q->shadow.n_blocks; i++) {
                CHECK_EQ(p->slabs[q->shadow.blocks[i] / p->slab_granules].model, 1);
                holders[q->shadow.blocks[i]]++;
            }
    }
    for (int m = 0; m < w->config->n_models; m++) {
        int n_used = 0;
        for (int32_t g = 0; g < p->n_slabs * p->slab_granules; g++) {
            if (!holders[g] || p->slabs[g / p->slab_granules].model != m) continue;
            CHECK_EQ(holders[g], p->blocks[kv__block_of(p, g)].refs);
            n_used++;
        }
        CHECK_EQ(n_used, kv_pool_stats(p, m).n_used);
    }
    free(holders);
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

static uint64_t *kv_at(const struct world *w, const struct sequence *q, int model, int position, int granule) {
    int P = w->config->P[model];
    const int32_t *blocks = w->config->draft_vocab && model == 1 ? q->shadow.blocks : q->blocks;
    return &w->kv[((size_t)blocks[position / P] + (size_t)granule) * MAX_P + (size_t)(position % P)];
}
static void kv_write(struct world *w, const struct sequence *q, int model, int position, uint64_t value) {
    for (int g = 0; g < w->config->block_granules[model]; g++) *kv_at(w, q, model, position, g) = value;
}

static uint64_t kv_read(const struct world *w, const struct sequence *q, int model, int position) {
    uint64_t value = *kv_at(w, q, model, position, 0);
    for (int g = 1; g < w->config->block_granules[model]; g++) CHECK(*kv_at(w, q, model, position, g) == value);
    return value;
}

/* What the executor reads at position t. */
static int32_t token_at(const struct plan_item *item, int t) {
    const struct sequence *q = item->seq;
    if (t < q->n_tokens) return q->tokens[t];
    if (item->n_drafts) return item->drafts[t - q->n_tokens];
    CHECK_EQ(t, q->n_tokens);
    return ((const struct request *)q->user)->device_token;
}

/* Runs an item as the executor would; `fault` leaves rubbish behind instead. Returns how many ids it samples. */
static int run(struct world *w, int model, const struct plan_item *item, bool fault, int32_t *ids) {
    const struct sequence *q = item->seq;
    struct request *r = q->user;
    const int end = item->first + item->n_tokens, n_sampled = item->sample ? 1 + item->n_drafts : 0;
    uint64_t kv = item->first ? kv_read(w, q, model, item->first - 1) : kv_start(q->salt, model), all = 0;
    for (int t = item->first; t < end; t++) {
        kv = kv_of(kv, token_at(item, t));
        kv_write(w, q, model, t, fault ? 99 : kv);
    }
    if (fault) return n_sampled;
    for (int t = end - item->n_rows; t < end; t++) {
        bool only_sampled = item->sample && t == end - 1 && r->rows[t]; /* after a preemption */
        if (t < q->n_prompt && q->prompt_logits && r->cancelled == FINISH_NONE && !only_sampled) r->rows[t]++;
    }
    for (int t = 0; t < end; t++) {
        all = mix(all, kv_read(w, q, model, t));
        if (t >= end - n_sampled) ids[t - (end - n_sampled)] = r->device_token = (int32_t)(all % VOCAB);
    }
    return n_sampled;
}

/* Runs what the draft model has to do for an item: what it catches up with, and all but the last of its drafts. Behind
 * a step that failed and is not yet committed, rubbish is right. */
static void run_draft(struct world *w, const struct plan_item *item, bool fault, bool rubbish_before) {
    const struct sequence *q = item->seq;
    const int known = item->draft_first + item->n_draft_tokens, end = known + (item->by_model ? item->n_drafts - 1 : 0);
    const int P = w->config->P[1];
    uint64_t kv = kv_start(q->salt, 1);
    if (!item->n_draft_tokens) return;
    CHECK(known <= q->n_tokens && (!item->by_model || known == q->n_tokens));
    CHECK_LE(end, q->shadow.n_blocks * P);
    for (int b = item->draft_first / P; b * P < end; b++) { /* what it writes is its own and not yet findable */
        const struct kv_block *block = &w->pool->blocks[kv__block_of(w->pool, q->shadow.blocks[b])];
        CHECK(block->refs == 1 && !block->serial);
    }
    for (int t = 0; t < end; t++) {
        const int32_t token = t < known ? q->tokens[t] : item->drafts[t - known];
        CHECK_LT(token, w->config->draft_vocab);
        kv = kv_of(kv, token);
        if (t < item->draft_first) CHECK(rubbish_before || kv_read(w, q, 1, t) == kv);
        else kv_write(w, q, 1, t, fault ? 99 : kv);
    }
}

static void some_cancels(struct world *w, struct sim *sim) {
    while (sim->n_live && one_in(60)) cancel(w, sim, sim->live[below(sim->n_live)], 1 + (enum finish_reason)below(3));
}

static void commit(struct world *w, struct sim *sim) {
    const int slot = sim->first;
    struct plan *plan = &sim->plans[slot];
    sim->first = (sim->first + 1) % SCHED_MAX_FLIGHTS;
    sim->n_flights--;
    for (int i = 0; i < plan->n_items && sim->fault[slot]; i++) {
        struct sequence *q = plan->items[i].seq;
        if (q->reason == FINISH_NONE) cancel(w, sim, q->user, FINISH_ERROR);
    }
    sched_commit(&sim->sched, plan, sim->fault[slot] ? NULL : sim->sampled[slot]);
    sim->n_steps++;
    for (int i = 0; i < plan->n_items; i++) sim->n_accepted += (uint64_t)plan->items[i].n_accepted;
    for (int i = 0; i < plan->n_finished; i++) reap(w, plan->finished[i]);
    check_lists(&sim->sched);
    if (sim->sched.options.policy == POLICY_FCFS && has_guarantee(w->config, sim->model))
        for (int i = 0; i < sim->n_live; i++) CHECK_LT(sim->n_steps, sim->live[i]->deadline);
}

/* Blocks beyond those of running sequences' tokens and one spare block for each. */
static int n_spare(const struct sched *s) {
    int n = kv_pool_available(s->pool, s->model) - s->running.n;
    for (const struct sequence *q = s->running.head; q; q = q->next)
        if (!must_wait(q)) n -= (n_known(q) + s->P - 1) / s->P - q->n_blocks;
    return n;
}

/* Gives drafts to some of a plan's items: the right ones up to a random place, then random ones. */
static void give_drafts(struct world *w, struct sim *sim, struct plan *plan) {
    struct sched *s = &sim->sched;
    const int first = below(plan->n_items), kind = below(4);
    for (int j = 0; j < plan->n_items; j++) {
        const int i = (first + j) % plan->n_items; /* in any order */
        struct plan_item *item = &plan->items[i];
        const struct plan_item before = *item;
        struct sequence *q = item->seq;
        const struct request *r = q->user;
        int32_t drafts[SPECULATION_MAX_DRAFTS + 4];
        if (kind == 0 || one_in(5)) continue;
        const int most = sched_may_draft(s, plan, i), n = kind == 1 ? SPECULATION_MAX_DRAFTS + 4 : 1 + below(6);
        const int right = kind == 2 ? n : below(n + 1), n_blocks = q->n_blocks;
        const int vocab = w->config->draft_vocab ? w->config->draft_vocab : VOCAB;
        for (int d = 0; d < n; d++) {
            const int at = q->n_tokens + d;
            drafts[d] = d < right && at < r->n_expected ? r->expected[at] : below(vocab);
            if (drafts[d] >= vocab) drafts[d] = 0;
        }
        int n_behind;
        const bool by_model = draft_ready(s, plan, i, &n_behind) && !one_in(5);
        const bool late = by_model || one_in(2); /* the device alone knows them */
        const int taken = by_model ? draft_by_model(s, plan, i, n) : sched_draft(s, plan, i, late ? NULL : drafts, n);
        CHECK_EQ(item->by_model, by_model && taken);
        if (item->by_model) {
            CHECK(item->n_draft_tokens == n_behind && taken <= plan->draft_depth);
            sim->n_by_model++;
        }
        for (int d = 0; late && d < taken; d++) item->drafts[d] = drafts[d];
        sim->n_drafts += (uint64_t)taken;
        CHECK(taken >= 0 && taken <= n && taken <= most && taken == item->n_drafts && taken == q->n_drafts);
        CHECK(item->n_tokens == before.n_tokens + taken && item->n_rows == before.n_rows + taken);
        CHECK(item->first == before.first && item->sample == before.sample);
        if (!taken) continue;
        const int end = item->first + item->n_tokens;
        CHECK(q->n_flights == 1 && before.n_tokens == 1 && before.sample && item->first == q->n_tokens - 1);
        CHECK_LT(end, q->max_len);
        CHECK_LE(end, q->n_blocks * s->P);
        if (q->n_blocks > n_blocks) CHECK_LE(0, n_spare(s));
        for (int b = item->first / s->P; b * s->P < end; b++) {
            const struct kv_block *block = &w->pool->blocks[kv__block_of(w->pool, q->blocks[b])];
            CHECK(block->refs == 1 && !block->serial);
        }
    }
    CHECK_LE(plan->n_tokens, s->options.max_num_batched_tokens);
    CHECK_LE(plan->n_rows, s->options.max_logits_rows);
}

/* Lets shadows catch up; some sequences have no wish for one, for a while. */
static void catch_up(struct world *w, struct sim *sim, struct plan *plan) {
    struct sched *s = &sim->sched;
    const int n_before = kv_pool_available(w->pool, 0);
    int n_tokens = 0;
    for (int i = 0; i < plan->n_items; i++)
        if (one_in(8)) plan->items[i].seq->shadow.wanted = !one_in(4);
    draft_catch_up(s, plan);
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        n_tokens += item->n_draft_tokens;
        if (item->by_model || !item->n_draft_tokens) continue;
        CHECK(item->seq->shadow.wanted && item->draft_first + item->n_draft_tokens < item->seq->n_tokens);
    }
    CHECK_EQ(n_tokens, plan->n_draft_tokens);
    CHECK_LE(n_tokens, w->config->draft_tokens);
    if (kv_pool_available(w->pool, 0) < n_before) CHECK_LE(s->running.n, n_spare(s));
}

/* Whether drafts in flight hold a block that their sequence would not have without them. */
static bool drafts_hold_blocks(const struct sched *s) {
    for (const struct sequence *q = s->running.head; q; q = q->next)
        if (q->n_drafts && q->n_blocks > (q->n_tokens + s->P - 1) / s->P) return true;
    return false;
}

static void plan_and_run(struct world *w, struct sim *sim) {
    const struct sequence *was_running[MAX_LIVE];
    const int slot = (sim->first + sim->n_flights) % SCHED_MAX_FLIGHTS;
    struct plan *plan = &sim->plans[slot];
    int n = 0;
    for (const struct sequence *q = sim->sched.running.head; q; q = q->next) was_running[n++] = q;
    const bool held = drafts_hold_blocks(&sim->sched);
    sched_plan(&sim->sched, plan);
    check_lists(&sim->sched);
    check_plan(w, sim, plan, was_running, n);
    if (held && w->config->n_models == 1) CHECK_EQ(plan->n_preempted, 0);
    for (const struct sequence *q = sim->sched.running.head; q && plan->n_preempted; q = q->next)
        CHECK(!q->shadow.n_blocks); /* they went first */
    if (!plan->n_items) { /* nothing to do before the step in flight has landed */
        if (sim->n_flights) commit(w, sim);
        return;
    }
    if (w->drafts) give_drafts(w, sim, plan);
    if (w->drafts && w->config->draft_vocab) catch_up(w, sim, plan);
    sim->fault[slot] = one_in(500);
    int32_t *ids = sim->sampled[slot];
    const bool rubbish = sim->n_flights && sim->fault[sim->first];
    for (int i = 0; i < plan->n_items; i++) run_draft(w, &plan->items[i], sim->fault[slot], rubbish);
    for (int i = 0; i < plan->n_items; i++) ids += run(w, sim->model, &plan->items[i], sim->fault[slot], ids);
    CHECK_EQ(ids - sim->sampled[slot], plan->n_sampled);
    sim->n_flights++;
}

static void simulate(const struct config *config, bool ahead, bool drafts, uint64_t seed, int n_steps) {
    random_state = seed;
    struct world *w = calloc(1, sizeof *w);
    CHECK(w);
    w->config = config;
    w->ahead = ahead;
    w->drafts = drafts;
    w->kv = calloc((size_t)config->n_granules * MAX_P, sizeof *w->kv);
    CHECK(w->kv);
    struct kv_pool_options options = {
        .n_granules = config->n_granules,
        .n_models = config->n_models,
        .prefix_cache = config->prefix_cache,
        .slab_granules = config->slab_granules,
        .n_buckets = config->n_buckets,
    };
    for (int m = 0; m < config->n_models; m++)
        options.models[m] = (struct kv_pool_model_options){
            .P = config->P[m],
            .block_granules = config->block_granules[m],
            .floor_granules = config->floor_granules[m],
        };
    char err[ERR_BYTES] = "";
    CHECK_EQ(kv_pool_open(&w->pool, &options, err, sizeof err), STATUS_OK);
    const int n_sims = config->draft_vocab ? 1 : config->n_models;
    for (int m = 0; m < n_sims; m++) {
        w->sims[m].model = m;
        CHECK_EQ(sched_init(&w->sims[m].sched, &config->sched, w->pool, m, err, sizeof err), STATUS_OK);
        for (int i = 0; i < SCHED_MAX_FLIGHTS; i++)
            CHECK_EQ(plan_init(&w->sims[m].plans[i], config->sched.max_num_seqs), STATUS_OK);
    }

    if (config->draft_vocab) /* some sequences outgrow it */
        draft_attach(&w->sims[0].sched, 1, config->draft_vocab, config->draft_tokens,
                     config->sched.max_model_len * 3 / 4);

    bool live = true;
    for (int step = 0; step < n_steps || live; step++) {
        live = false;
        for (int m = 0; m < n_sims; m++) {
            struct sim *sim = &w->sims[m];
            /* Load comes in waves, in opposite phase for two models; in the end everything drains. */
            int rate = ((step / 300 + m) % 2) ? 40 : 4;
            if (step < n_steps)
                while (one_in(rate)) submit(w, sim);
            some_cancels(w, sim);
            plan_and_run(w, sim);
            if (one_in(20)) submit(w, sim); /* also while the step is in flight */
            some_cancels(w, sim);
        }
        if (step % 16 == 0) check_pool(w);
        for (int m = 0; m < n_sims; m++) {
            struct sim *sim = &w->sims[m];
            /* One step late, but for now and then: the host may catch up with the device at any time. */
            if (sim->n_flights > ahead) commit(w, sim);
            if (sim->n_flights && (one_in(10) || sim->n_flights > ahead)) commit(w, sim);
            live |= w->sims[m].n_live > 0;
        }
        if (step % 16 == 0) check_pool(w);
    }

    check_pool(w);
    for (int m = 0; m < config->n_models; m++) {
        struct sim *sim = &w->sims[m];
        struct kv_pool_stats stats = kv_pool_stats(w->pool, m);
        CHECK_EQ(stats.n_used, 0);
        if (config->n_models == 1) CHECK_EQ(stats.n_cached + stats.n_free, stats.n_blocks);
        if (!config->prefix_cache) CHECK_EQ(stats.n_cached, 0);
        if (m >= n_sims) {
            if (w->drafts) CHECK(w->sims[0].n_by_model > 0);
            cr_log_info("%-22s drafts: %llu times, %llu shadows shed, %llu tokens cached\n", config->name,
                        (unsigned long long)w->sims[0].n_by_model, (unsigned long long)w->sims[0].sched.draft.n_drops,
                        (unsigned long long)stats.n_hit_tokens);
            continue;
        }
        CHECK(sched_idle(&sim->sched) && !sim->n_live);
        cr_log_info("%-22s model %d: %llu steps, %llu finished, %llu cancelled, %llu tokens cached, %llu preempted, "
                    "%llu blocks evicted, %llu of %llu drafts accepted\n",
                    config->name, m, (unsigned long long)sim->n_steps, (unsigned long long)sim->n_finished,
                    (unsigned long long)sim->n_cancelled, (unsigned long long)sim->n_cached,
                    (unsigned long long)sim->sched.n_preemptions, (unsigned long long)stats.n_evictions,
                    (unsigned long long)sim->n_accepted, (unsigned long long)sim->n_drafts);
        for (int i = 0; i < SCHED_MAX_FLIGHTS; i++) plan_deinit(&sim->plans[i]);
    }
    kv_pool_close(w->pool);
    free(w->kv);
    free(w);
}

/* ---- the loads --------------------------------------------------------------------------------------------------- */

#define SCHED(seqs, tokens, rows, len, chunked, threshold, order)                                                      \
    .sched = {.max_num_seqs = seqs, .max_num_batched_tokens = tokens, .max_logits_rows = rows, .max_model_len = len,   \
              .chunked_prefill = chunked, .long_prefill_token_threshold = threshold, .policy = order}

static const struct config one_model[] = {
    {"roomy", 1, 400, .P = {16}, .block_granules = {1}, .prefix_cache = true,
     SCHED(16, 512, 64, 160, true, 0, POLICY_FCFS)},
    {"tiny pool", 1, 42, .P = {4}, .block_granules = {1}, .prefix_cache = true,
     SCHED(8, 64, 16, 160, true, 0, POLICY_FCFS)},
    {"tiny pool, priority", 1, 42, .P = {4}, .block_granules = {1}, .prefix_cache = true,
     SCHED(8, 64, 16, 160, true, 0, POLICY_PRIORITY)},
    {"no prefix cache", 1, 60, .P = {4}, .block_granules = {1}, SCHED(8, 64, 16, 160, true, 0, POLICY_FCFS)},
    {"one bucket", 1, 50, .n_buckets = 1, .P = {4}, .block_granules = {1}, .prefix_cache = true,
     SCHED(8, 64, 16, 160, true, 0, POLICY_FCFS)},
    {"chunks of 7, P = 1", 1, 200, .P = {1}, .block_granules = {1}, .prefix_cache = true,
     SCHED(8, 32, 8, 100, true, 7, POLICY_FCFS)},
    {"chunks of 1", 1, 100, .P = {3}, .block_granules = {1}, .prefix_cache = true,
     SCHED(8, 32, 9, 100, true, 1, POLICY_PRIORITY)},
    {"budget of 1", 1, 30, .P = {4}, .block_granules = {1}, .prefix_cache = true,
     SCHED(8, 1, 8, 40, true, 0, POLICY_FCFS)},
    {"budget of 3", 1, 30, .P = {4}, .block_granules = {1}, .prefix_cache = true,
     SCHED(8, 3, 8, 60, true, 0, POLICY_FCFS)},
    {"one row", 1, 60, .P = {4}, .block_granules = {1}, .prefix_cache = true,
     SCHED(8, 64, 1, 100, true, 0, POLICY_FCFS)},
    {"few rows", 1, 90, .P = {4}, .block_granules = {1}, .prefix_cache = true,
     SCHED(8, 64, 2, 100, true, 9, POLICY_FCFS)},
    {"whole prompts", 1, 60, .P = {4}, .block_granules = {1}, .prefix_cache = true,
     SCHED(8, 160, 12, 160, false, 0, POLICY_FCFS)},
    {"whole, priority", 1, 90, .P = {4}, .block_granules = {1}, .prefix_cache = true,
     SCHED(8, 200, 40, 160, false, 0, POLICY_PRIORITY)},
    {"small slabs", 1, 150, .slab_granules = 9, .P = {4}, .block_granules = {3}, .prefix_cache = true,
     SCHED(8, 64, 16, 80, true, 0, POLICY_FCFS)},
};

static const struct config two_models[] = {
    {"two, 1 and 5 granules", 2, 400, .P = {4, 4}, .block_granules = {1, 5}, .floor_granules = {40, 200},
     .prefix_cache = true, SCHED(8, 64, 16, 160, true, 0, POLICY_FCFS)},
    {"two, 2 and 3 granules", 2, 300, .slab_granules = 12, .P = {8, 5}, .block_granules = {2, 3},
     .floor_granules = {48, 96}, .prefix_cache = true, SCHED(8, 40, 16, 160, true, 33, POLICY_FCFS)},
    {"two, no prefix cache", 2, 300, .slab_granules = 7, .P = {8, 8}, .block_granules = {1, 3},
     .floor_granules = {28, 70}, SCHED(8, 40, 16, 160, true, 0, POLICY_PRIORITY)},
    {"two, one bucket", 2, 160, .slab_granules = 4, .n_buckets = 1, .P = {4, 4}, .block_granules = {1, 2},
     .floor_granules = {25, 50}, .prefix_cache = true, SCHED(8, 40, 16, 100, true, 0, POLICY_FCFS)},
    {"two, no floors", 2, 130, .slab_granules = 8, .P = {4, 4}, .block_granules = {1, 2}, .prefix_cache = true,
     SCHED(8, 40, 16, 160, true, 0, POLICY_FCFS)},
};

static const struct config with_draft_model[] = {
    {"draft, roomy", 2, 900, .P = {8, 8}, .block_granules = {3, 1}, .floor_granules = {300}, .prefix_cache = true,
     .draft_vocab = VOCAB, .draft_tokens = 64, SCHED(16, 256, 64, 160, true, 0, POLICY_FCFS)},
    {"draft, tiny pool", 2, 220, .slab_granules = 8, .P = {4, 4}, .block_granules = {2, 1}, .floor_granules = {90},
     .prefix_cache = true, .draft_vocab = VOCAB, .draft_tokens = 24, SCHED(8, 64, 32, 160, true, 0, POLICY_FCFS)},
    {"draft, other P", 2, 300, .slab_granules = 12, .P = {4, 5}, .block_granules = {2, 3}, .floor_granules = {90},
     .prefix_cache = true, .draft_vocab = VOCAB, .draft_tokens = 40, SCHED(8, 64, 32, 160, true, 33, POLICY_PRIORITY)},
    {"draft, no prefix cache", 2, 300, .slab_granules = 8, .P = {4, 8}, .block_granules = {2, 1},
     .floor_granules = {90}, .draft_vocab = VOCAB, .draft_tokens = 17, SCHED(8, 64, 16, 160, true, 0, POLICY_FCFS)},
    {"draft, less vocabulary", 2, 400, .slab_granules = 10, .P = {4, 4}, .block_granules = {2, 1},
     .floor_granules = {90}, .prefix_cache = true, .draft_vocab = VOCAB - 1, .draft_tokens = 32,
     SCHED(8, 64, 40, 160, true, 0, POLICY_FCFS)},
};

enum { STEPS = 10000 };

static void simulate_all(const struct config *configs, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++)
        for (int kind = 0; kind < 4; kind++) simulate(&configs[i], kind % 2, kind / 2, seed + i, STEPS);
}

Test(sched_random, one_model_seed_1) { simulate_all(one_model, sizeof one_model / sizeof *one_model, 1000); }
Test(sched_random, one_model_seed_2) { simulate_all(one_model, sizeof one_model / sizeof *one_model, 2000); }
Test(sched_random, two_models_seed_1) { simulate_all(two_models, sizeof two_models / sizeof *two_models, 3000); }
Test(sched_random, two_models_seed_2) { simulate_all(two_models, sizeof two_models / sizeof *two_models, 4000); }
Test(sched_random, draft_model_seed_1) {
    simulate_all(with_draft_model, sizeof with_draft_model / sizeof *with_draft_model, 5000);
}
Test(sched_random, draft_model_seed_2) {
    simulate_all(with_draft_model, sizeof with_draft_model / sizeof *with_draft_model, 6000);
}
