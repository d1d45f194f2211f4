/* speculator.c - see speculator.h. */
#include "engine/speculator.h"

#include <stdlib.h>

_Static_assert((int)SPECULATION_MAX_DRAFTS == (int)SCHED_MAX_DRAFTS, "one bound by two names");

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

void speculator_close(struct speculator *s) {
    speculation_close(&s->policy);
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
        if (q->n_tokens <= q->n_prompt || !r->ngram) continue;
        s->candidates[s->n_candidates++] = (struct speculation_candidate){
            .record = &r->speculation, .n_lookup = s->config->max_drafts, .chance = r->speculation.chance};
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

void speculator_propose(struct speculator *s, struct plan *plan) {
    s->n_candidates = s->n_in_flight = 0;
    if (!s->config->max_drafts) return;
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        int most = sched_may_draft(s->sched, plan, i);
        if (most > s->config->max_drafts) most = s->config->max_drafts;
        const int n_lookup = look_up(s, item, most);
        if (!most) continue;
        s->items[s->n_candidates] = i;
        s->candidates[s->n_candidates++] = (struct speculation_candidate){
            .record = &request_of(item)->speculation, .n_lookup = n_lookup, .chance = 1};
    }
    if (!s->n_candidates || !choose(s, plan->n_tokens)) return;
    for (int i = 0; i < s->n_candidates; i++) {
        const struct speculation_candidate *c = &s->candidates[i];
        struct request *r = request_of(&plan->items[s->items[i]]);
        if (!c->n_drafts) continue;
        r->draft_source = c->source;
        s->n_in_flight += sched_draft(s->sched, plan, s->items[i], r->drafts, c->n_drafts);
    }
}

/* Uniform in [0, 1), of a position of a sequence. */
static double chance_of(uint64_t seed, int position) {
    uint64_t x = seed + 0x9e3779b97f4a7c15u * (uint64_t)(position + 1);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (double)((x ^ (x >> 31)) >> 11) * 0x1p-53;
}

void speculator_impose(const struct speculator *s, const struct plan *plan, int32_t *sampled) {
    if (s->config->acceptance <= 0) return;
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        if (!item->sample) continue;
        for (int j = 0; j < item->n_drafts; j++) {
            const bool right = chance_of(request_of(item)->sample.seed, item->first + j) < s->config->acceptance;
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
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        const struct sequence *q = item->seq;
        struct request *r = request_of(item);
        if (!item->sample) continue;
        if (item->n_drafts) {
            cost.drafts = true;
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
