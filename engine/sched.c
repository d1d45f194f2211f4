/* sched.c - plan a step, commit a step. See sched.h for the order and the rules of memory.
 *
 * Two lists, both in order, hold every sequence: waiting and running. Planning walks `running` from the first to the
 * last; whom it preempts is the last, so a sequence that is already in the plan is never taken out of it again. */
#include "engine/sched.h"

#include "engine/draft.h"
#include "engine/prefix_cache.h"

#include <stdlib.h>
#include <string.h>

static int min_int(int a, int b) { return a < b ? a : b; }
static int max_int(int a, int b) { return a > b ? a : b; }

/* ---- lists in order ---------------------------------------------------------------------------------------------- */

static bool is_before(const struct sched *s, const struct sequence *a, const struct sequence *b) {
    if (s->options.policy == POLICY_PRIORITY && a->priority != b->priority) return a->priority < b->priority;
    return a->arrival < b->arrival;
}

static void list_insert_after(struct sequence_list *list, struct sequence *prev, struct sequence *q) {
    q->prev = prev;
    q->next = prev ? prev->next : list->head;
    *(q->prev ? &q->prev->next : &list->head) = q;
    *(q->next ? &q->next->prev : &list->tail) = q;
    list->n++;
}

static void list_remove(struct sequence_list *list, struct sequence *q) {
    *(q->prev ? &q->prev->next : &list->head) = q->next;
    *(q->next ? &q->next->prev : &list->tail) = q->prev;
    q->prev = q->next = NULL;
    list->n--;
}

/* Two searches for one place: whoever comes anew belongs near the tail, whoever was preempted near the head. */
static void list_insert_from_tail(const struct sched *s, struct sequence_list *list, struct sequence *q) {
    struct sequence *prev = list->tail;
    while (prev && is_before(s, q, prev)) prev = prev->prev;
    list_insert_after(list, prev, q);
}
static void list_insert_from_head(const struct sched *s, struct sequence_list *list, struct sequence *q) {
    struct sequence *prev = NULL;
    for (struct sequence *next = list->head; next && is_before(s, next, q); next = next->next) prev = next;
    list_insert_after(list, prev, q);
}

/* ---- memory of a sequence ---------------------------------------------------------------------------------------- */

static int n_blocks_for(const struct sched *s, int n_tokens) { return (n_tokens + s->P - 1) / s->P; }

/* Gives q blocks for its first n_tokens tokens; false, and nothing changes, when there are too few. */
static bool grow(struct sched *s, struct sequence *q, int n_tokens) {
    int n_blocks = n_blocks_for(s, n_tokens);
    CHECK_LE(n_blocks, q->max_blocks);
    if (n_blocks - q->n_blocks > kv_pool_available(s->pool, s->model)) return false;
    while (q->n_blocks < n_blocks) {
        int32_t granule = kv_pool_alloc(s->pool, s->model);
        CHECK(granule != KV_NONE);
        q->blocks[q->n_blocks++] = granule;
    }
    return true;
}

/* Last to first: see kv_pool_unref. */
static void release(struct sched *s, struct sequence *q) {
    while (q->n_blocks) kv_pool_unref(s->pool, q->blocks[--q->n_blocks]);
    q->n_computed = q->n_scheduled = q->n_published = 0;
    q->serial = 0;
    draft__drop(s, q);
}

static void publish(struct sched *s, struct sequence *q) {
    for (; q->n_published < q->n_computed / s->P; q->n_published++)
        q->serial = prefix_publish(s->pool, q->blocks[q->n_published], q->salt, q->serial,
                                   q->tokens + (size_t)q->n_published * s->P);
}

static void preempt(struct sched *s, struct sequence *q) {
    release(s, q);
    list_remove(&s->running, q);
    list_insert_from_head(s, &s->waiting, q);
    q->state = SEQUENCE_WAITING;
    q->n_preemptions++;
    s->n_preemptions++;
}

/* Gives back the blocks beyond those of known tokens. */
static void trim(struct sched *s, struct sequence *q) {
    while (q->n_blocks > n_blocks_for(s, q->n_tokens)) kv_pool_unref(s->pool, q->blocks[--q->n_blocks]);
}

static void finish(struct sched *s, struct sequence *q) {
    release(s, q);
    list_remove(q->state == SEQUENCE_RUNNING ? &s->running : &s->waiting, q);
    q->state = SEQUENCE_FINISHED;
}

/* ---- plan -------------------------------------------------------------------------------------------------------- */

int plan_init(struct plan *plan, int max_num_seqs) {
    *plan = (struct plan){
        .items = calloc((size_t)max_num_seqs, sizeof *plan->items),
        .finished = calloc((size_t)max_num_seqs, sizeof *plan->finished),
        .drafts = calloc((size_t)max_num_seqs * SPECULATION_MAX_DRAFTS, sizeof *plan->drafts),
    };
    if (plan->items && plan->finished && plan->drafts) return STATUS_OK;
    plan_deinit(plan);
    return STATUS_NO_MEMORY;
}

void plan_deinit(struct plan *plan) {
    free(plan->items);
    free(plan->finished);
    free(plan->drafts);
    *plan = (struct plan){0};
}

/* What the step has left while it is planned. */
struct room {
    int tokens;
    int rows;    /* beyond the one that every running sequence has by right */
    int decodes; /* running sequences still to be planned that need exactly one token */
};

/* Tokens that q has or will have when the steps in flight have landed. */
static int n_known(const struct sequence *q) { return q->n_tokens + q->n_pending; }
/* Whether a step in flight must land before q can go on: it ends, or has ended, with that step, or has drafts in it. */
static bool must_wait(const struct sequence *q) {
    return q->reason != FINISH_NONE || q->n_drafts || (q->n_pending && n_known(q) == q->max_len);
}
static bool is_decode(const struct sequence *q) { return n_known(q) - q->n_scheduled == 1 && !must_wait(q); }
static bool wants_prompt_rows(const struct sequence *q) { return q->prompt_logits && q->n_logits_rows < q->n_prompt; }

/* The next chunk of q from token `first`, within so many tokens and rows (at least one). n_tokens 0: no room. */
static struct plan_item next_chunk(const struct sched *s, struct sequence *q, int first, int tokens, int rows) {
    struct plan_item item = {
        .seq = q, .first = first, .n_tokens = n_known(q) - first, .n_preemptions = q->n_preemptions};
    int threshold = s->options.long_prefill_token_threshold;
    if (s->options.chunked_prefill && threshold) item.n_tokens = min_int(item.n_tokens, threshold);
    if (wants_prompt_rows(q)) {
        /* Prompt tokens from n_logits_rows on want a row each, and such a sequence has no output yet. */
        item.n_tokens = min_int(min_int(item.n_tokens, tokens), q->n_logits_rows + rows - first);
        item.n_rows = max_int(0, first + item.n_tokens - q->n_logits_rows);
    } else if (item.n_tokens > tokens) {
        item.n_tokens = s->options.chunked_prefill ? tokens : 0;
    }
    item.sample = !q->prompt_only && item.n_tokens && first + item.n_tokens == n_known(q);
    if (item.sample) item.n_rows = max_int(item.n_rows, 1);
    return item;
}

static void add_item(struct plan *plan, const struct plan_item *item, struct room *room) {
    plan->items[plan->n_items++] = *item;
    plan->n_tokens += item->n_tokens;
    plan->n_rows += item->n_rows;
    plan->n_sampled += item->sample;
    struct sequence *q = item->seq;
    q->n_scheduled = item->first + item->n_tokens;
    q->n_logits_rows = max_int(q->n_logits_rows, min_int(q->n_scheduled, q->n_prompt));
    q->n_pending += item->sample;
    q->n_flights++;
    room->tokens -= item->n_tokens;
}

/* Blocks for an item of a running sequence; where the pool has none, they are taken from shadows, then from the last
 * sequences in the order. False: it was itself the last and had to go. */
static bool make_room(struct sched *s, const struct plan_item *item, struct plan *plan, struct room *room) {
    while (!grow(s, item->seq, item->first + item->n_tokens)) {
        if (draft__shed(s)) continue;
        struct sequence *victim = s->running.tail;
        bool self = victim == item->seq;
        if (!self && is_decode(victim)) room->decodes--;
        preempt(s, victim);
        plan->n_preempted++;
        if (self) return false;
    }
    return true;
}

static void plan_running(struct sched *s, struct plan *plan, struct room *room) {
    for (struct sequence *q = s->running.head; q; q = q->next) room->decodes += is_decode(q);
    room->rows -= s->running.n;
    for (struct sequence *q = s->running.head; q; q = q->next) {
        if (must_wait(q)) continue;
        room->decodes -= is_decode(q);
        struct plan_item item = next_chunk(s, q, q->n_scheduled, room->tokens - room->decodes, room->rows + 1);
        if (!item.n_tokens) continue;
        if (!make_room(s, &item, plan, room)) break;
        add_item(plan, &item, room);
        room->rows += 1 - item.n_rows;
    }
}

/* Blocks that running sequences need for tokens they already know. */
static int n_promised(const struct sched *s) {
    int n = 0;
    for (const struct sequence *q = s->running.head; q; q = q->next)
        if (!must_wait(q)) n += n_blocks_for(s, n_known(q)) - q->n_blocks;
    return n;
}

int sched__n_spare(const struct sched *s) {
    return kv_pool_available(s->pool, s->model) - n_promised(s) - s->running.n;
}

static void plan_waiting(struct sched *s, struct plan *plan, struct room *room) {
    int promised = n_promised(s);
    while (s->waiting.n && s->running.n < s->max_running && room->tokens > 0 && room->rows > 0) {
        struct sequence *q = s->waiting.head;
        if (q->n_flights) return; /* preempted in flight: what it sampled must be known first */
        /* At least one token must be computed, and every one whose logits are wanted. */
        int n_findable = wants_prompt_rows(q) ? min_int(q->n_logits_rows, q->n_tokens - 1) : q->n_tokens - 1;
        struct prefix_match match = prefix_find(s->pool, s->model, q->salt, q->tokens, n_findable, q->blocks);
        struct plan_item item = next_chunk(s, q, match.n_blocks * s->P, room->tokens, room->rows);
        if (!item.n_tokens) return;
        int n_new = n_blocks_for(s, q->n_tokens) - match.n_blocks;
        int n_needed = match.n_cached + n_new + promised + s->running.n;
        while (n_needed > kv_pool_available(s->pool, s->model))
            if (!draft__shed(s)) return;

        prefix_take(s->pool, s->model, &match, q->blocks, q->n_preemptions ? 0 : q->n_tokens);
        if (!q->n_preemptions) q->n_cached = item.first;
        q->n_computed = q->n_scheduled = item.first;
        q->n_blocks = q->n_published = match.n_blocks;
        q->serial = match.serial;
        CHECK(grow(s, q, item.first + item.n_tokens));
        promised += n_blocks_for(s, q->n_tokens) - q->n_blocks;
        list_remove(&s->waiting, q);
        list_insert_from_tail(s, &s->running, q);
        q->state = SEQUENCE_RUNNING;
        add_item(plan, &item, room);
        room->rows -= max_int(1, item.n_rows);
    }
}

void sched_plan(struct sched *s, struct plan *plan) {
    CHECK_LT(s->n_flights, SCHED_MAX_FLIGHTS);
    *plan = (struct plan){.items = plan->items, .finished = plan->finished, .drafts = plan->drafts};
    s->draft.is_short = false;
    struct room room = {.tokens = s->options.max_num_batched_tokens, .rows = s->options.max_logits_rows};
    plan_running(s, plan, &room);
    /* Memory that was taken from running sequences is not for new ones. */
    if (!plan->n_preempted) plan_waiting(s, plan, &room);
    s->n_flights += plan->n_items > 0;
}

/* ---- drafts ------------------------------------------------------------------------------------------------------ */

int sched_may_draft(const struct sched *s, const struct plan *plan, int i) {
    const struct plan_item *item = &plan->items[i];
    const struct sequence *q = item->seq;
    if (!item->sample || item->n_tokens != 1 || item->n_rows != 1 || q->n_flights > 1) return 0;
    int n = min_int(SPECULATION_MAX_DRAFTS, q->max_len - q->n_tokens - 1); /* one more than drafts may be sampled */
    n = min_int(n, s->options.max_num_batched_tokens - plan->n_tokens);
    return min_int(n, s->options.max_logits_rows - plan->n_rows);
}

int sched_draft(struct sched *s, struct plan *plan, int i, const int32_t *drafts, int n) {
    struct plan_item *item = &plan->items[i];
    struct sequence *q = item->seq;
    CHECK_EQ(item->n_drafts, 0);
    n = min_int(n, sched_may_draft(s, plan, i));
    int n_new = n_blocks_for(s, q->n_tokens + n) - q->n_blocks;
    if (n_new > 0 && n_new > sched__n_spare(s)) n = min_int(n, q->n_blocks * s->P - q->n_tokens);
    if (n <= 0) return 0;
    CHECK(grow(s, q, q->n_tokens + n));
    item->n_drafts = q->n_drafts = n;
    item->drafts = plan->drafts + (size_t)i * SPECULATION_MAX_DRAFTS;
    if (drafts) memcpy(item->drafts, drafts, (size_t)n * sizeof *drafts);
    item->n_tokens += n;
    item->n_rows += n;
    plan->n_tokens += n;
    plan->n_rows += n;
    plan->n_sampled += n;
    return n;
}

/* ---- commit ------------------------------------------------------------------------------------------------------ */

static int n_agreeing(const int32_t *ids, const int32_t *drafts, int n) {
    int i = 0;
    while (i < n && ids[i] == drafts[i]) i++;
    return i;
}

/* Takes over what an item computed, and what it sampled: ids [1 + n_drafts]. (A shadow that went with a preemption
 * knows that itself.) */
static void commit_item(struct sched *s, struct plan_item *item, const int32_t *ids) {
    struct sequence *q = item->seq;
    int n_computed = item->first + item->n_tokens - item->n_drafts;
    if (item->sample) {
        item->n_accepted = n_agreeing(ids, item->drafts, item->n_drafts);
        for (int j = 0; j <= item->n_accepted && q->reason == FINISH_NONE; j++) sequence__append(q, ids[j]);
        n_computed = min_int(n_computed + item->n_accepted, q->n_tokens);
    } else if (n_computed == q->max_len) {
        q->reason = FINISH_LENGTH; /* prompt_only */
    }
    draft__commit(s, item);
    if (item->n_preemptions != q->n_preemptions) return;
    q->n_computed = n_computed;
    if (item->n_drafts) {
        q->n_scheduled = n_computed;
        trim(s, q);
    }
    CHECK_LE(q->n_computed, q->n_scheduled);
    publish(s, q);
}

void sched_commit(struct sched *s, struct plan *plan, const int32_t *sampled) {
    CHECK_LT(0, s->n_flights);
    s->n_flights--;
    plan->n_finished = 0;
    for (int i = 0; i < plan->n_items; i++) {
        struct plan_item *item = &plan->items[i];
        struct sequence *q = item->seq;
        q->n_flights--;
        q->n_pending -= item->sample;
        if (item->n_drafts) q->n_drafts = 0;
        /* Who ended meanwhile takes nothing: what the step wrote is not to be trusted. */
        if (q->reason == FINISH_NONE) commit_item(s, item, sampled);
        if (item->sample && sampled) sampled += 1 + item->n_drafts;
    }
    for (int i = 0; i < plan->n_items; i++) {
        struct sequence *q = plan->items[i].seq;
        if (q->reason == FINISH_NONE || q->n_flights) continue;
        finish(s, q);
        plan->finished[plan->n_finished++] = q;
    }
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

int sched_init(struct sched *s, const struct sched_options *options, struct kv_pool *pool, int model, char *err,
               size_t err_bytes) {
    *s = (struct sched){.options = *options, .pool = pool, .model = model, .P = pool->models[model].P};
    s->draft.model = KV_NONE;
    const struct sched_options *o = &s->options;
    if (o->max_num_seqs < 1 || o->max_num_batched_tokens < 1 || o->max_logits_rows < 1 || o->max_model_len < 1)
        return fail(err, err_bytes, STATUS_INVALID,
                    "max-num-seqs (%d), max-num-batched-tokens (%d), logits rows (%d) and max-model-len (%d) must be "
                    "at least 1",
                    o->max_num_seqs, o->max_num_batched_tokens, o->max_logits_rows, o->max_model_len);
    if (!o->chunked_prefill && o->max_num_batched_tokens < o->max_model_len)
        return fail(err, err_bytes, STATUS_INVALID,
                    "without chunked prefill a prompt is computed in one step, but max-num-batched-tokens (%d) is less "
                    "than max-model-len (%d): raise the first, lower the second, or enable chunked prefill",
                    o->max_num_batched_tokens, o->max_model_len);
    s->max_running = min_int(o->max_num_seqs, min_int(o->max_num_batched_tokens, o->max_logits_rows));
    return STATUS_OK;
}

int sched_add(struct sched *s, struct sequence *q) {
    CHECK(q->state == SEQUENCE_NEW);
    CHECK_LE(q->max_len, s->options.max_model_len);
    if (q->max_blocks > kv_pool_capacity(s->pool, s->model)) return STATUS_TOO_LARGE;
    q->arrival = ++s->n_arrivals;
    q->state = SEQUENCE_WAITING;
    list_insert_from_tail(s, &s->waiting, q);
    return STATUS_OK;
}

bool sched_cancel(struct sched *s, struct sequence *q, enum finish_reason reason) {
    CHECK(q->state == SEQUENCE_WAITING || q->state == SEQUENCE_RUNNING);
    CHECK(reason != FINISH_NONE);
    if (q->reason == FINISH_NONE) q->reason = reason;
    if (q->n_flights) return false;
    finish(s, q);
    return true;
}

struct sched_stats sched_stats(const struct sched *s) {
    return (struct sched_stats){
        .n_waiting = s->waiting.n,
        .n_running = s->running.n,
        .n_preemptions = s->n_preemptions,
    };
}
