/* drafter.h - the draft model's side of a step: so many steps of the small model in a row, each reading the ids that the
 * one before sampled, without the host in between. Private to engine/.
 *
 * A sequence's drafts are drawn with its own sampling parameters, seed and positions, so that greedy or sampled the
 * small model picks what the large one will pick, as far as their distributions agree (noise.h). */
#pragma once

#include "engine/runner.h"

struct draft_item {
    struct request *request;
    const int32_t *tokens; /* of the sequence; known where computed here */
    const int32_t *blocks; /* the draft model's own KV: first + n_tokens + n_drafts - 1 tokens, if n_drafts > 0 */
    int n_blocks;
    int first, n_tokens; /* known tokens to compute first: at least 1; with drafts they end with the last known one */
    int n_drafts;        /* 0: only the tokens are computed */
};

struct drafter {
    struct runner *draft, *target; /* borrowed; of one queue */
    struct model model;            /* view of the draft model, without the logits of ids that the target lacks */
    int max_drafts;
    int32_t **batches;             /* owned [max_drafts] of pinned memory, one for each step in a row */
    int *rank;                     /* owned [max_seqs] items in order of falling n_drafts */
    int *rank_of;                  /* owned [max_seqs] an item's place there */
    int *order;                    /* owned [max_seqs] items as they lie in the first batch */
};

/* STATUS_NO_MEMORY and a sentence; drafter_close then clears up. */
int drafter_open(struct drafter *d, struct runner *draft, struct runner *target, int max_drafts, char *err,
                 size_t err_bytes);
void drafter_close(struct drafter *d); /* zeroed is fine; before the runners */

/* Enqueues it all. The ids go to the target's device_ids, where each item's request->drafts_at says. At most
 * max_tokens of the draft's runner in all, and max_seqs of both. Marks the begin and end of the work for
 * drafter_seconds. What the arguments point to is free again when the call returns; host memory of the batches is in use
 * until the step has landed. */
void drafter_launch(struct drafter *d, const struct draft_item *items, int n);
/* Device time of the last launch, once it has landed. */
double drafter_seconds(struct drafter *d);
