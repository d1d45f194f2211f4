/* draft.h - the draft model's own KV: the scheduler's other half. Private to engine/.
 *
 * To draft for a sequence, a draft model must have computed all its tokens itself. What it has of a sequence is the
 * sequence's shadow: blocks of the same pool under the draft model's index. It is a convenience, so everything else
 * goes first:
 *
 *     a shadow grows only while blocks are not short: none was missing for the plan it is in, nobody waits for blocks,
 *     and beside what running sequences need two blocks for each of them stay available whatever slabs it takes;
 *     when blocks are short, shadows go before anybody is preempted and for anybody who could be admitted, the last
 *     sequence's in the order first, until slabs have become free; with its sequence's blocks a shadow goes, too.
 *
 * A sequence without a shadow, or with one that is behind, just does not draft: decodes never wait. Catching up takes
 * at most max_tokens a step, what those who draft need included; it begins with what the prefix cache has of the draft
 * model (same salt), and its full blocks are published there.
 *
 * Per step, between sched_plan and the launch, the engine calls
 *
 *     draft_ready(s, plan, i, &n_behind)   for the policy: may the model draft for item i, and what comes before that
 *     draft_by_model(s, plan, i, n)        where it chose so
 *     draft_catch_up(s, plan)              once, after these: the others whose shadow.wanted the engine has set
 *
 * and the executor then runs, before the target's batch,
 *
 *     1. the draft model over tokens[draft_first .. draft_first + n_draft_tokens - 1] of every item that has any; they
 *        are all known to the host; the context is as long as their end. Rows, for items by_model: the last one, which
 *        samples the first draft
 *     2. draft_depth - 1 times: the draft model over the draft before, for the items with more than so many drafts;
 *        each samples the next one
 *     3. the drafts, still on the device, are the last n_drafts tokens of the item in the target's batch
 *
 * all in the shadow's blocks, which cover it. A draft is sampled as the target would sample that position: same
 * parameters, same seed and position, with the drafts before it pending. Before sched_commit, item.drafts gets the ids.
 *
 * Vocabularies. A draft that the target lacks must not come into being: the draft model's logits are computed, and
 * sampled, over the first min(V, target's V) ids only. A token that the draft model lacks (ids >= vocab) ends a
 * sequence's shadow for good: its history can never be computed. In practice these are padding ids that nobody uses. */
#pragma once

#include "engine/sched.h"

/* Once, before the first step. model: its index in the pool. max_tokens: T of its first batch, at most; at least twice
 * as many as sequences may run are needed for all to draft at once. max_len: tokens of a sequence that it can compute;
 * whose sequence outgrows them loses its shadow for good. */
void draft_attach(struct sched *s, int model, int vocab, int max_tokens, int max_len);

/* How many drafts the model could make for item i: 0 where its shadow is not there or too far behind. n_behind: tokens
 * that it would compute first. */
int draft_ready(const struct sched *s, const struct plan *plan, int i, int *n_behind);

/* Has the model make up to n drafts for item i; returns how many, as sched_draft. Once for an item, and where
 * draft_ready is above 0. */
int draft_by_model(struct sched *s, struct plan *plan, int i, int n);

/* Lets shadows catch up with the plan's items, in their order, as far as tokens and blocks go. */
void draft_catch_up(struct sched *s, struct plan *plan);

/* ---- shared with sched.c ----------------------------------------------------------------------------------------- */

void draft__drop(struct sched *s, struct sequence *q); /* a shadow's blocks go back */
bool draft__shed(struct sched *s);                     /* blocks are short: drops one shadow; false: there is none */
void draft__commit(struct sched *s, struct plan_item *item); /* the item's step has run; n_accepted is set */
