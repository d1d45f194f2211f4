/* sched.h - which sequences advance in the next step, by how many tokens, in which KV blocks.
 *
 * Pure C without device, threads or clock: the same calls give the same plans. One scheduler per model; several may
 * share a pool. The engine thread owns it and repeats
 *
 *     sched_plan(s, plan);              who runs; blocks are allocated
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
 * the device runs steps in order, so whoever gets its blocks writes them after that flight, whose token counts. */
#pragma once

#include "engine/engine.h" /* enum sched_policy, enum finish_reason */
#include "engine/kv_pool.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- sequence: one request, as the scheduler sees it ------------------------------------------------------------- */

enum sequence_state { SEQUENCE_NEW, SEQUENCE_WAITING, SEQUENCE_RUNNING, SEQUENCE_FINISHED };

struct sequence_params {
    const int32_t *prompt; /* [n_prompt] copied */
    int n_prompt;          /* 1 .. */
    int max_tokens;        /* generated; 0: up to max_model_len */
    int min_tokens;        /* below, eos and stop ids do not end it (the sampler is to forbid them) */
    bool ignore_eos;
    bool prompt_only;   /* compute the prompt, sample nothing */
    bool prompt_logits; /* logits of every prompt position: see plan_item.n_rows */
    const int32_t *eos_ids; /* [n_eos_ids] copied */
    int n_eos_ids;
    const int32_t *stop_token_ids; /* [n_stop_token_ids] copied */
    int n_stop_token_ids;
    int priority;  /* lower is earlier; only with POLICY_PRIORITY */
    uint64_t salt; /* prefix blocks are shared only within one */
    void *user;
    int max_model_len; /* of the scheduler's options */
    int P;             /* tokens per block of the model */
};

struct sequence { /* owned: one allocation, made by sequence_open on any thread */
    /* what was asked: constant */
    void *user;
    int n_prompt;
    int max_len; /* tokens it can ever have: min(n_prompt + max_tokens, max_model_len) */
    int min_tokens;
    bool ignore_eos, prompt_only, prompt_logits;
    int priority;
    uint64_t salt;
    int n_eos_ids, n_stop_token_ids;
    int32_t *eos_ids, *stop_token_ids;

    /* tokens: prompt, then output */
    int32_t *tokens; /* [max_len], n_tokens of them known */
    int n_tokens;
    int n_computed;    /* tokens whose KV is in the pool */
    int n_scheduled;   /* n_computed and what is in flight */
    int n_pending;     /* tokens behind n_tokens that steps in flight will sample */
    int n_flights;     /* steps in flight that have an item of it */
    int n_cached;      /* prompt tokens found in the prefix cache when it was first admitted: for usage */
    int n_logits_rows; /* prompt_logits: rows planned so far; not repeated after a preemption */

    /* KV */
    int32_t *blocks; /* [max_blocks] first granules: its row of batch.block_table */
    int n_blocks, max_blocks;
    int n_published; /* full blocks that went through prefix_publish or came from prefix_find */
    uint64_t serial; /* chain of the prefix cache: of block n_published - 1, or 0 */

    /* standing */
    enum sequence_state state;
    enum finish_reason reason;     /* FINISH_NONE until it ends, or is marked to end with the step in flight */
    int32_t stop_token;            /* the stop_token_ids entry that ended it, or -1 (then eos, or no token, did) */
    uint64_t arrival;              /* given by sched_add */
    int n_preemptions;
    struct sequence *prev, *next;  /* in waiting or running */
};

/* STATUS_TOO_LARGE when the prompt leaves no room to generate within max_model_len (prompt_only needs none);
 * STATUS_NO_MEMORY. */
int sequence_open(struct sequence **out, const struct sequence_params *params);
void sequence_close(struct sequence *q); /* NULL is fine; not while a scheduler has it */

/* ---- plan: one step ---------------------------------------------------------------------------------------------- */

/* Compute tokens[first .. first + n_tokens - 1] of seq; its context is then first + n_tokens tokens long and
 * seq->blocks covers it. The last n_rows of these tokens need logits (0: none). */
struct plan_item {
    struct sequence *seq;
    int first, n_tokens;
    int n_rows;  /* 1 where the next token is sampled; with prompt_logits every prompt token of the item, once */
    bool sample; /* from the last token's logits */
    int n_preemptions; /* of seq when it was planned: if it has more at commit, it has lost the blocks that it wrote */
};

struct plan {
    struct plan_item *items;    /* owned [max_num_seqs] in scheduling order; decodes and chunks alike */
    int n_items;                /* 0: nothing to run, do not commit. Never so while a sequence waits, unless
                                   a step is in flight or other models hold the pool */
    int n_tokens, n_rows;       /* sums over items: T and R of the batch */
    int n_preempted;            /* sequences that lost their blocks for this plan */
    struct sequence **finished; /* owned [max_num_seqs] filled by sched_commit: the caller's again */
    int n_finished;
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

/* The oldest step in flight has run. sampled [n_items]: the token that item i sampled; ignored where items[i].sample is
 * false. When the step failed, sched_cancel(FINISH_ERROR) each item's sequence first; sampled may then be NULL. */
void sched_commit(struct sched *s, struct plan *plan, const int32_t *sampled);

struct sched_stats {
    int n_waiting, n_running;
    uint64_t n_preemptions;
};
struct sched_stats sched_stats(const struct sched *s);

static inline bool sched_idle(const struct sched *s) { return !s->waiting.n && !s->running.n; }
