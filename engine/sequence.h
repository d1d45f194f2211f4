/* sequence.h - one request, as the scheduler sees it: its tokens, where their KV lies, how far it got, how it ended.
 * Private to engine/. Made on any thread; from sched_add until it is finished it belongs to the scheduler. */
#pragma once

#include "engine/engine.h" /* enum finish_reason */

#include <stdbool.h>
#include <stdint.h>

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
    int draft_P;       /* of the draft model; 0: there is none */
};

struct shadow { /* what the draft model has of a sequence: see draft.h */
    int32_t *blocks; /* [max_blocks] first granules, of the draft model */
    int n_blocks, max_blocks;
    int n_computed, n_scheduled; /* tokens, as in the sequence */
    int n_published;
    uint64_t serial;
    int n_drops;     /* times that its blocks went */
    bool wanted;     /* set by the engine: it is to be kept ready */
    bool impossible; /* the sequence has a token that the draft model's vocabulary lacks */
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
    int n_scheduled;   /* n_computed and what is in flight, drafts not counted */
    int n_pending;     /* tokens behind n_tokens that steps in flight will sample; with drafts perhaps more */
    int n_drafts;      /* that the step in flight verifies; above 0 there is exactly one */
    int n_flights;     /* steps in flight that have an item of it */
    int n_cached;      /* prompt tokens found in the prefix cache when it was first admitted: for usage */
    int n_logits_rows; /* prompt_logits: rows planned so far; not repeated after a preemption */

    /* KV */
    int32_t *blocks; /* [max_blocks] first granules: its row of batch.block_table */
    int n_blocks, max_blocks;
    int n_published; /* full blocks that went through prefix_publish or came from prefix_find */
    uint64_t serial; /* chain of the prefix cache: of block n_published - 1, or 0 */
    struct shadow shadow;

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

/* Shared with sched.c: takes a sampled token, and ends the sequence if that was its last. */
void sequence__append(struct sequence *q, int32_t id);
