/* sched.h - which sequences advance in the next step, by how many tokens, in which KV blocks.
 *
 * Pure C without device, threads or clock: the same calls give the same plans. One scheduler per model; several may
 * share a pool. The engine thread owns it and repeats
 *
 *     sched_plan(s, plan);              who runs; blocks are allocated
 *     sched_draft(s, plan, i, ...);     for any of its decodes: drafts to verify beside its token
 *     ... the executor runs plan ...
 *     sched_commit(s, plan, sampled);   tokens appended, full blocks published, the finished ones in plan->finished
 *
 * or, so that the device never waits for the host, plans step n+1 while step n runs: plan n+1 comes before commit n,
 * and commits come in the order of their plans.
 *
 * There is no prefill phase and no decode phase: a sequence has n_tokens known tokens of which n_computed have their
 * KV in the pool, and a step computes some of the rest. When it computes the last known token, it samples the next.
 *
 * Order. Sequences are ordered by (priority, arrival), under FCFS by arrival alone. The running ones come first, then
 * the waiting ones are admitted in order; nobody overtakes the head of the queue. Each sequence with one token to go (a
 * decode) has this token of the budget reserved before any longer prefill gets its chunk, so streams do not stall. No
 * more sequences run than there are tokens (and logits rows) in a step, so all decodes always fit and the first
 * unfinished prefill always advances: nobody starves.
 *
 * Memory. When blocks are short the pool evicts cached ones; after that the last running sequence in the order is
 * preempted: its blocks go, it returns to the queue and is recomputed later, from the prefix cache as far as that still
 * has it. The first running sequence is never preempted for another one, so it finishes. A sequence is admitted only if
 * all its known tokens fit beside what running prefills still need, with one spare block per running sequence: what
 * was just preempted does not come back at once to be preempted again.
 *
 * Planning ahead. Plan advances n_scheduled, commit advances n_computed; they differ while steps are in flight. The
 * token that a flight will sample counts as known (n_pending): the next step may compute it, though only the device has
 * its id. A sequence that turns out to have ended, or is cancelled, keeps its blocks until the last flight that touches
 * them has landed, and what later flights sampled for it is dropped. A sequence may also be preempted while in flight:
 * the device runs steps in order, so whoever gets its blocks writes them after that flight, whose token counts.
 *
 * Drafts. A decode may carry drafts: guesses of the tokens behind the one that it computes. The step computes all of
 * them and samples behind each; commit appends the ids that were sampled up to and with the first one that differs
 * from its draft. An id depends on its position and on the tokens before it alone, so these are the tokens that steps
 * without drafts would have given. The KV of drafts that were wrong is overwritten by the next step.
 *     Drafts are guesses, so they come after everything that is certain: a step's decodes, its chunks and whom it
 * admits are planned first, and sched_draft only hands out what is left, of tokens, rows and blocks, in the order in
 * which it is called. Drafts preempt nobody, neither now nor later: they may take a block only while those that
 * running sequences will need, and a spare one for each, stay available, and commit gives back what they did not
 * fill. Only a sequence of which nothing else is in flight can have drafts, since a draft continues known tokens, and
 * then it is not planned again until they have landed: planning ahead goes on for the others only. Who speculates
 * should therefore let every step land before the next is planned.
 *     Drafts come from the caller (look-up), or from a draft model, whose own KV of the sequences the scheduler keeps
 * in the same pool: draft.h. */
#pragma once

#include "engine/engine.h" /* enum sched_policy, enum finish_reason */
#include "engine/kv_pool.h"
#include "engine/sequence.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- plan: one step ---------------------------------------------------------------------------------------------- */

/* Compute tokens[first .. first + n_tokens - 1] of seq, the last n_drafts of which are not tokens but drafts; its
 * context is then first + n_tokens tokens long and seq->blocks covers it. The last n_rows of these need logits (0:
 * none). */
struct plan_item {
    struct sequence *seq;
    int first, n_tokens;
    int n_rows;  /* one for each token that is sampled; with prompt_logits every prompt token of the item, once */
    bool sample; /* from the logits of the last 1 + n_drafts tokens, one each */
    int n_drafts;
    int32_t *drafts;   /* [n_drafts] view of the plan's memory */
    bool by_model;     /* the draft model makes them, in this step */
    int draft_first, n_draft_tokens; /* what the draft model computes before that (or without it: catching up); see
                                        draft.h. 0 tokens: nothing */
    int n_drops;       /* of seq->shadow then, as n_preemptions */
    int n_accepted;    /* set by sched_commit: how many drafts in a row, from the first, were sampled as well */
    int n_preemptions; /* of seq when it was planned: if it has more at commit, it has lost the blocks that it wrote */
};

/* Once committed: tokens that the item's sequence got by it. */
static inline int plan_gained(const struct plan_item *item) {
    const int known = item->first + item->n_tokens - item->n_drafts, n = item->seq->n_tokens - known;
    return item->sample && n > 0 ? n : 0;
}

struct plan {
    struct plan_item *items;    /* owned [max_num_seqs] in scheduling order; decodes and chunks alike */
    int n_items;                /* 0: nothing to run, do not commit. Never so while a sequence waits, unless
                                   a step is in flight or other models hold the pool */
    int n_tokens, n_rows;       /* sums over items: T and R of the batch */
    int n_sampled;              /* sum of 1 + n_drafts over the items that sample */
    int n_draft_tokens;         /* sum over items: T of the draft model's first batch */
    int draft_depth;            /* the largest n_drafts that it makes: its steps, the first batch among them */
    int n_preempted;            /* sequences that lost their blocks for this plan */
    struct sequence **finished; /* owned [max_num_seqs] filled by sched_commit: the caller's again */
    int n_finished;
    int32_t *drafts;            /* owned [max_num_seqs, SPECULATION_MAX_DRAFTS] of item i in row i */
};
int plan_init(struct plan *plan, int max_num_seqs); /* STATUS_NO_MEMORY */
void plan_deinit(struct plan *plan);                /* zeroed is fine */

/* ---- sched ------------------------------------------------------------------------------------------------------- */

struct sched_options {
    int max_num_seqs;                 /* running at once, at most */
    int max_num_batched_tokens;       /* T of a step, at most */
    int max_logits_rows;              /* R of a step, at most */
    int max_model_len;
    bool chunked_prefill;             /* false: what is left of a prompt is computed in one step (with prompt_logits,
                                         as far as the rows go); max_num_batched_tokens >= max_model_len is needed */
    int long_prefill_token_threshold; /* with chunked_prefill: one chunk, at most; 0: no bound */
    enum sched_policy policy;
};

enum { SCHED_MAX_FLIGHTS = 2 };

struct sequence_list {
    struct sequence *head, *tail;
    int n;
};

struct sched { /* the caller's memory; owns no heap */
    struct sched_options options;
    struct kv_pool *pool; /* borrowed */
    int model, P;
    int max_running; /* the least of max_num_seqs, max_num_batched_tokens and max_logits_rows: each gets its token */
    struct sequence_list waiting, running; /* both in order */
    uint64_t n_arrivals;
    int n_flights;            /* plans without their commit: 0 .. SCHED_MAX_FLIGHTS */
    uint64_t n_preemptions;
    struct { /* the draft model, set by draft_attach */
        int model; /* KV_NONE: there is none */
        int P, vocab, max_tokens, max_len;
        bool is_short; /* blocks were short for the last plan, so no shadow grows */
        uint64_t n_drops;
    } draft;
};

/* STATUS_INVALID and a sentence when the options contradict each other. */
int sched_init(struct sched *s, const struct sched_options *options, struct kv_pool *pool, int model, char *err,
               size_t err_bytes);

/* Places a new sequence in the queue; borrowed until it is finished. STATUS_TOO_LARGE when the pool could not hold it
 * even alone: then it stays the caller's. Any time, also while a step is in flight. */
int sched_add(struct sched *s, struct sequence *q);

/* Ends a waiting or running sequence for a reason from outside: FINISH_CANCELLED, FINISH_STOP (a stop string was
 * found), FINISH_ERROR. True: it ended at once and is the caller's again. False: the step in flight may still use its
 * blocks; sched_commit discards that step's result for it and reports it in plan->finished. */
bool sched_cancel(struct sched *s, struct sequence *q, enum finish_reason reason);

/* Fills the plan of the next step. Unless it is empty, its sched_commit must follow; until then one more step may be
 * planned (SCHED_MAX_FLIGHTS in all). */
void sched_plan(struct sched *s, struct plan *plan);

/* How many drafts item i of the plan that was just made could verify: 0 unless it is a decode of which no other step is
 * in flight. */
int sched_may_draft(const struct sched *s, const struct plan *plan, int i);

/* Gives item i drafts, once, before the plan is run; at most sched_may_draft are taken. drafts [n]: copied; NULL: the
 * ids come into being on the device, and whoever runs the step puts them into item.drafts before sched_commit. Returns
 * how many were taken. */
int sched_draft(struct sched *s, struct plan *plan, int i, const int32_t *drafts, int n);

/* The oldest step in flight has run. sampled [plan->n_sampled]: item after item, of those that sample, the 1 + n_drafts
 * ids that it sampled, in order of position. When the step failed, sched_cancel(FINISH_ERROR) each item's sequence
 * first; sampled may then be NULL. */
void sched_commit(struct sched *s, struct plan *plan, const int32_t *sampled);

struct sched_stats {
    int n_waiting, n_running;
    uint64_t n_preemptions;
};
struct sched_stats sched_stats(const struct sched *s);

/* Shared with draft.c: blocks that could be had beside those that running sequences need for known tokens, and one more
 * for each. */
int sched__n_spare(const struct sched *s);

static inline bool sched_idle(const struct sched *s) { return !s->waiting.n && !s->running.n; }
