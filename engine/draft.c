/* draft.c - shadows: growing, catching up, going first. See draft.h for the rules. */
#include "engine/draft.h"

#include "engine/prefix_cache.h"

static int min_int(int a, int b) { return a < b ? a : b; }
static int max_int(int a, int b) { return a > b ? a : b; }

void draft_attach(struct sched *s, int model, int vocab, int max_tokens, int max_len) {
    CHECK(model != s->model && model >= 0 && model < s->pool->n_models && vocab > 0 && max_tokens > 0);
    CHECK_LT(0, max_len);
    s->draft.model = model;
    s->draft.P = s->pool->models[model].P;
    s->draft.vocab = vocab;
    s->draft.max_tokens = max_tokens;
    s->draft.max_len = max_len;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

void draft__drop(struct sched *s, struct sequence *q) {
    struct shadow *w = &q->shadow;
    if (w->n_scheduled) w->n_drops++;
    while (w->n_blocks) kv_pool_unref(s->pool, w->blocks[--w->n_blocks]);
    w->n_computed = w->n_scheduled = w->n_published = 0;
    w->serial = 0;
}

bool draft__shed(struct sched *s) {
    s->draft.is_short = true;
    if (s->draft.model == KV_NONE) return false;
    for (struct sequence *q = s->running.tail; q; q = q->prev) {
        if (!q->shadow.n_blocks) continue;
        draft__drop(s, q);
        s->draft.n_drops++;
        return true;
    }
    return false;
}

/* Whether n_new blocks and n_cached ones of shadows leave the target what it will need. What they cost it are slabs:
 * new ones, and those that hold nothing used now, which it could have. */
static bool is_affordable(const struct sched *s, int n_new, int n_cached) {
    const struct kv_model *draft = &s->pool->models[s->draft.model], *target = &s->pool->models[s->model];
    if (s->draft.is_short || n_new + n_cached > kv_pool_available(s->pool, s->draft.model)) return false;
    const int n_free = draft->n_slabs * draft->blocks_per_slab - draft->n_used - draft->lru.n;
    const int n_slabs = (max_int(0, n_new - n_free) + draft->blocks_per_slab - 1) / draft->blocks_per_slab +
                        min_int(draft->idle.n, n_new + n_cached);
    return !n_slabs || sched__n_spare(s) - n_slabs * target->blocks_per_slab >= s->running.n;
}

/* Blocks for the shadow's first n_tokens tokens; false, and nothing changes, where they are not to be had. */
static bool grow(struct sched *s, struct shadow *w, int n_tokens) {
    const int n_blocks = (n_tokens + s->draft.P - 1) / s->draft.P;
    CHECK_LE(n_blocks, w->max_blocks);
    if (n_blocks > w->n_blocks && !is_affordable(s, n_blocks - w->n_blocks, 0)) return false;
    while (w->n_blocks < n_blocks) {
        const int32_t granule = kv_pool_alloc(s->pool, s->draft.model);
        CHECK(granule != KV_NONE);
        w->blocks[w->n_blocks++] = granule;
    }
    return true;
}

/* A shadow begins with what the prefix cache has. */
static void begin(struct sched *s, struct sequence *q) {
    struct shadow *w = &q->shadow;
    /* The last known token is left to be computed: its logits make the first draft. */
    const struct prefix_match match =
        prefix_find(s->pool, s->draft.model, q->salt, q->tokens, q->n_tokens - 1, w->blocks);
    if (!match.n_blocks || !is_affordable(s, 0, match.n_cached)) return;
    prefix_take(s->pool, s->draft.model, &match, w->blocks, w->n_drops ? 0 : q->n_tokens);
    w->n_blocks = w->n_published = match.n_blocks;
    w->n_computed = w->n_scheduled = match.n_blocks * s->draft.P;
    w->serial = match.serial;
}

/* ---- plan -------------------------------------------------------------------------------------------------------- */

static void give_up(struct sched *s, struct sequence *q) {
    draft__drop(s, q);
    q->shadow.impossible = true;
}

/* Whether the draft model knows the tokens; if not, there is no shadow any more. */
static bool knows(struct sched *s, struct sequence *q, int first, int n) {
    for (int t = first; t < first + n; t++) {
        if (q->tokens[t] < s->draft.vocab) continue;
        give_up(s, q);
        return false;
    }
    return true;
}

static void compute(struct plan *plan, struct plan_item *item, int n) {
    struct shadow *w = &item->seq->shadow;
    item->draft_first = w->n_scheduled;
    item->n_draft_tokens = n;
    item->n_drops = w->n_drops;
    w->n_scheduled += n;
    plan->n_draft_tokens += n;
}

int draft_ready(const struct sched *s, const struct plan *plan, int i, int *n_behind) {
    const struct sequence *q = plan->items[i].seq;
    const struct shadow *w = &q->shadow;
    *n_behind = q->n_tokens - w->n_scheduled;
    if (s->draft.model == KV_NONE || !w->n_scheduled) return 0;
    if (*n_behind > s->draft.max_tokens - plan->n_draft_tokens) return 0;
    /* The last draft is sampled, not computed. */
    return max_int(0, min_int(sched_may_draft(s, plan, i), s->draft.max_len - q->n_tokens + 1));
}

int draft_by_model(struct sched *s, struct plan *plan, int i, int n) {
    struct plan_item *item = &plan->items[i];
    struct sequence *q = item->seq;
    struct shadow *w = &q->shadow;
    int n_behind;
    n = min_int(n, draft_ready(s, plan, i, &n_behind));
    if (n <= 0 || !knows(s, q, w->n_scheduled, n_behind)) return 0;
    CHECK(w->n_scheduled == w->n_computed && !item->n_draft_tokens);
    /* The last draft is sampled, not computed. */
    if (!grow(s, w, q->n_tokens + n - 1)) n = min_int(n, w->n_blocks * s->draft.P - q->n_tokens + 1);
    n = sched_draft(s, plan, i, NULL, n);
    if (!n) return 0;
    compute(plan, item, n_behind);
    item->by_model = true;
    plan->draft_depth = max_int(plan->draft_depth, n);
    return n;
}

void draft_catch_up(struct sched *s, struct plan *plan) {
    if (s->draft.model == KV_NONE) return;
    for (int i = 0; i < plan->n_items && plan->n_draft_tokens < s->draft.max_tokens; i++) {
        struct plan_item *item = &plan->items[i];
        struct sequence *q = item->seq;
        struct shadow *w = &q->shadow;
        if (!w->wanted || w->impossible || !w->max_blocks || item->n_draft_tokens) continue;
        if (q->n_tokens > s->draft.max_len) {
            give_up(s, q);
            continue;
        }
        if (!w->n_scheduled) begin(s, q);
        const int n = min_int(q->n_tokens - 1 - w->n_scheduled, s->draft.max_tokens - plan->n_draft_tokens);
        if (n > 0 && knows(s, q, w->n_scheduled, n) && grow(s, w, w->n_scheduled + n)) compute(plan, item, n);
    }
}

/* ---- commit ------------------------------------------------------------------------------------------------------ */

void draft__commit(struct sched *s, struct plan_item *item) {
    struct sequence *q = item->seq;
    struct shadow *w = &q->shadow;
    if (!item->n_draft_tokens || item->n_drops != w->n_drops) return;
    w->n_computed = item->draft_first + item->n_draft_tokens;
    if (item->by_model) {
        w->n_computed = min_int(w->n_computed + min_int(item->n_accepted, item->n_drafts - 1), q->n_tokens);
        w->n_scheduled = w->n_computed;
    }
    for (; w->n_published < w->n_computed / s->draft.P; w->n_published++)
        w->serial = prefix_publish(s->pool, w->blocks[w->n_published], q->salt, w->serial,
                                   q->tokens + (size_t)w->n_published * s->draft.P);
}
