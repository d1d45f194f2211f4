/* speculator.h - what one engine does to speculate: proposals for the decodes of a planned step, and what is learnt when
 * it has landed. Private to engine/; the engine thread's.
 *
 *     sched_plan -> speculator_propose -> runner_launch ... runner_land -> speculator_impose -> sched_commit
 *                                                                                            -> speculator_learn
 *
 * Proposals come from look-up (ngram.h) and from a draft model (drafter.h); speculation.h decides how many. */
#pragma once

#include "engine/drafter.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "engine/runner.h"
#include "engine/speculation.h"
#include "engine/speculative_config.h"

struct speculator {
    const struct speculative_config *config; /* borrowed; max_drafts 0: all of this does nothing */
    struct sched *sched;                     /* borrowed */
    struct runner *runner;                   /* borrowed: the target's */
    struct speculation policy;
    struct speculation_candidate *candidates; /* owned [max_seqs] */
    int *items;                               /* owned [max_seqs] each candidate's item of the plan */
    int n_candidates;
    struct drafter drafter;         /* draft NULL: there is no draft model */
    struct draft_item *draft_items; /* owned [max_seqs] */
    int n_in_flight;                /* of the step on its way: drafts, and what the draft model computes */
};

int speculator_open(struct speculator *s, const struct speculative_config *config, struct sched *sched,
                    struct runner *runner, char *err, size_t err_bytes);
/* A model that drafts: its runner, and its index in the pool. */
int speculator_attach(struct speculator *s, struct runner *draft, int kv_model, char *err, size_t err_bytes);
void speculator_close(struct speculator *s); /* zeroed is fine; before the runners */

/* Whether the next step may be planned while one is on its way. */
bool speculator_may_plan_ahead(struct speculator *s);

/* Gives drafts to decodes of a plan that was just made. */
void speculator_propose(struct speculator *s, struct plan *plan);

/* Benchmarks: makes of what was sampled what an imposed acceptance would have given. sampled [plan->n_sampled]. */
void speculator_impose(const struct speculator *s, const struct plan *plan, int32_t *sampled);

/* The committed step took so long: on the device, and since the one before landed. Adds to the figures. */
void speculator_learn(struct speculator *s, const struct plan *plan, double device_seconds, double wall_seconds,
                      struct engine_stats *figures);
