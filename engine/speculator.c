/* speculator.c - see speculator.h. */
#include "engine/speculator.h"

#include "engine/draft.h"
#include "kernels/noise.h"

#include <stdlib.h>

/* Tokens of a prompt that are indexed in one step: a few microseconds. */
enum { INDEX_AT_ONCE = 4096 };

int speculator_open(struct speculator *s, const struct speculative_config *config, struct sched *sched,
                    struct runner *runner, char *err, size_t err_bytes) {
    const int max_seqs = runner->options.max_seqs;
    *s = (struct speculator){.config = config, .sched = sched, .runner = runner};
    if (!config->max_drafts) return 0;
    s->candidates = calloc((size_t)max_seqs, sizeof *s->candidates);
    s->items = calloc((size_t)max_seqs, sizeof *s->items);
    if (s->candidates && s->items && !speculation_open(&s->policy, max_seqs, config->max_drafts)) return 0;
    return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for speculative decoding");
}

int speculator_attach(struct speculator *s, struct runner *draft, int kv_model, char *err, size_t err_bytes) {
    const int n = s->runner->options.max_seqs;
    s->draft_items = calloc((size_t)n, sizeof *s->draft_items);
    if (!s->draft_items) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for speculative decoding");
    draft_attach(s->sched, kv_model, draft->model.config.vocab, draft->options.max_tokens,
                 draft->options.max_model_len);
    return drafter_open(&s->drafter, draft, s->runner, s->config->max_drafts, err, err_bytes);
}

void speculator_close(struct speculator *s) {
    speculation_close(&s->policy);
    if (s->drafter.draft) drafter_close(&s->drafter);
    free(s->draft_items);
    free(s->candidates);
    free(s->items);
    *s = (struct speculator){0};
}

static struct request *request_of(const struct plan_item *item) { return item->seq->user; }

/* How many drafts each candidate gets, of a step that has T tokens without them; returns how many in all. */
static int choose(struct speculator *s, int T) {
    int n_drafts = 0;
    if (!s->config->fixed) return speculation_choose(&s->policy, s->candidates, s->n_candidates, T);
    for (int i = 0; i < s->n_candidates; i++) {
        struct speculation_candidate *c = &s->candidates[i];
        c->source = c->n_lookup ? DRAFT_BY_LOOKUP : DRAFT_BY_MODEL;
        c->n_drafts = c->n_lookup ? c->n_lookup : c->n_model;
        n_drafts += c->n_drafts;
    }
    return n_drafts;
}

bool speculator_may_plan_ahead(struct speculator *s) {
    if (!s->config->max_drafts) return true;
    if (s->n_in_flight) return false;
    s->n_candidates = 0;
    for (const struct sequence *q = s->sched->running.head; q; q = q->next) {
        struct request *r = q->user;
        if (q->n_tokens <= q->n_prompt) continue;
        s->candidates[s->n_candidates++] = (struct speculation_candidate){
            .record = &r->speculation,
            .n_lookup = r->ngram ? s->config->max_drafts : 0,
            .chance = r->speculation.chance,
            .n_model = q->shadow.n_scheduled ? s->config->max_drafts : 0,
            .n_behind = 1,
        };
    }
    return !s->n_candidates || !choose(s, s->n_candidates);
}

/* What look-up knows of an item's sequence; request->drafts gets the ids. */
static int look_up(struct speculator *s, const struct plan_item *item, int most) {
    struct request *r = request_of(item);
    const struct sequence *q = item->seq;
    if (!r->ngram) return 0;
    ngram_extend(r->ngram, q->tokens, q->n_tokens, INDEX_AT_ONCE);
    if (!most) return 0;
    const int n = ngram_find(r->ngram, q->tokens, q->n_tokens, r->drafts, most);
    speculation_guess(&s->policy, &r->speculation, r->drafts, n, q->n_tokens);
    return n;
}

/* Says which sequences the draft model is to be kept ready for: the first in the order, as many as the policy wants. */
static void want_shadows(struct speculator *s) {
    const int n = s->sched->running.n;
    int n_wanted = s->config->fixed ? n : speculation_shadows(&s->policy, n);
    for (struct sequence *q = s->sched->running.head; q; q = q->next) q->shadow.wanted = n_wanted-- > 0;
}

/* The draft model's share of the plan, as its drafter wants it. */
static void launch_drafter(struct speculator *s, const struct plan *plan) {
    int n = 0;
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        if (!item->n_draft_tokens) continue;
        s->draft_items[n++] = (struct draft_item){
            .request = request_of(item),
            .tokens = item->seq->tokens,
            .blocks = item->seq->shadow.blocks,
            .n_blocks = item->seq->shadow.n_blocks,
            .first = item->draft_first,
            .n_tokens = item->n_draft_tokens,
            .n_drafts = item->by_model ? item->n_drafts : 0,
        };
    }
    if (n) drafter_launch(&s->drafter, s->draft_items, n);
}

static void find_candidates(struct speculator *s, const struct plan *plan) {
    s->n_candidates = 0;
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        int most = sched_may_draft(s->sched, plan, i), n_behind = 0;
        if (most > s->config->max_drafts) most = s->config->max_drafts;
        const int n_lookup = look_up(s, item, most);
        if (!most) continue;
        int n_model = draft_ready(s->sched, plan, i, &n_behind);
        if (n_model > most) n_model = most;
        s->items[s->n_candidates] = i;
        s->candidates[s->n_candidates++] = (struct speculation_candidate){
            .record = &request_of(item)->speculation,
            .n_lookup = n_lookup,
            .chance = 1,
            .n_model = n_model,
            .n_behind = n_behind,
        };
    }
}

void speculator_propose(struct speculator *s, struct plan *plan) {
    s->n_in_flight = 0;
    if (!s->config->max_drafts) return;
    for (int i = 0; i < plan->n_items; i++) request_of(&plan->items[i])->drafts_at = -1;
    find_candidates(s, plan);
    if (s->n_candidates && choose(s, plan->n_tokens))
        for (int i = 0; i < s->n_candidates; i++) {
            const struct speculation_candidate *c = &s->candidates[i];
            struct request *r = request_of(&plan->items[s->items[i]]);
            if (!c->n_drafts) continue;
            r->draft_source = c->source;
            s->n_in_flight += c->source == DRAFT_BY_MODEL
                                  ? draft_by_model(s->sched, plan, s->items[i], c->n_drafts)
                                  : sched_draft(s->sched, plan, s->items[i], r->drafts, c->n_drafts);
        }
    if (!s->drafter.draft) return;
    want_shadows(s);
    draft_catch_up(s->sched, plan);
    s->n_in_flight += plan->n_draft_tokens;
    launch_drafter(s, plan);
}

void speculator_impose(const struct speculator *s, const struct plan *plan, int32_t *sampled) {
    if (s->config->acceptance <= 0) return;
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        if (!item->sample) continue;
        for (int j = 0; j < item->n_drafts; j++) {
            const bool right =
                noise_uniform(noise_bits(request_of(item)->sample.seed, item->first + j, 0)) < s->config->acceptance;
            if (right)
                sampled[j] = item->drafts[j];
            else if (sampled[j] == item->drafts[j])
                sampled[j] = !sampled[j]; /* any other id */
            if (!right) break;
        }
        sampled += 1 + item->n_drafts;
    }
}

void speculator_learn(struct speculator *s, const struct plan *plan, double device_seconds, double wall_seconds,
                      struct engine_stats *figures) {
    struct step_cost cost = {.T = plan->n_tokens, .target_seconds = device_seconds, .wall_seconds = wall_seconds};
    if (!s->config->max_drafts) return;
    if (plan->n_draft_tokens) {
        cost.draft_seconds = drafter_seconds(&s->drafter);
        cost.draft_T = plan->n_draft_tokens;
        cost.draft_depth = plan->draft_depth;
    }
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        const struct sequence *q = item->seq;
        struct request *r = request_of(item);
        if (!item->sample) continue;
        if (item->n_drafts) {
            cost.drafts = true;
            cost.draft_seqs += item->by_model;
            r->n_drafted += item->n_drafts;
            r->n_accepted += item->n_accepted;
            for (int j = 0; j < item->n_accepted; j++) figures->n_accepted_at[j]++;
            speculation_verified(&s->policy, &r->speculation, r->draft_source, item->n_drafts, item->n_accepted);
        }
        if (item->first >= q->n_prompt) figures->n_decodes_with[item->n_drafts]++;
        cost.n_tokens += plan_gained(item);
        speculation_score(&s->policy, &r->speculation, q->tokens, q->n_tokens);
    }
    speculation_step(&s->policy, &cost);
}
