/* runner.h - the executor: turns a step's plan into a flat batch, runs the model and samples. Private to engine/.
 *
 * Owns the exec, the weights, the activation arena and the KV memory, all allocated when it is opened: a step
 * allocates nothing. Belongs to the engine thread once opened.
 *
 *     runner_launch(r, slot, plan)   builds the batch, enqueues upload, forward, sampling, download
 *     runner_land(r, slot, plan, …)  waits for it and hands the results out
 *
 * Two steps may be on their way, in the slots 0 and 1 in turn. What the first samples feeds the second on the device:
 * a token that the host does not know yet is uploaded as the row that samples it (batch.tokens below 0).
 *
 * A step of nothing but decodes, without logprobs, is run as a graph: one is recorded when (B, width of the block
 * table, sampling stages, slot) occurs for the second time, and repeated from then on. */
#pragma once

#include "engine/model.h"
#include "engine/request.h"

enum { RUNNER_SLOTS = SCHED_MAX_FLIGHTS };

struct runner_options {
    const char *backend;
    int n_threads;
    struct exec *beside; /* the exec of the runner whose queue this one shares, or NULL (exec_options) */
    enum dtype dtype, kv_dtype;
    int max_tokens, max_rows, max_seqs; /* of a step: T, R, B */
    int max_model_len;
    int block_size; /* P */
    int max_logprobs;
    bool use_graphs;
};

struct row_of { /* what a logits row belongs to */
    struct request *request;
    int position;
    int token; /* of the batch */
};

struct flight { /* one step on its way; host memory is the device's to read and write until it has landed */
    int32_t *batch;                 /* owned, pinned: the arrays of struct batch, one after the other */
    int32_t *ids;                   /* owned, pinned [max_rows] sampled */
    struct token_logprob *logprobs; /* owned, pinned [max_rows, 1 + max_logprobs] */
    int *n_top;                     /* owned [max_rows] below 0: no logprobs of that row */
    struct row_of *rows;            /* owned [max_rows] */
    int *order;                     /* owned [max_seqs] the plan's items as they lie in the batch: decodes first */
    int *row_of_item;               /* owned [max_seqs] of the plan's item: the first row that it samples, or -1 */
    int n_sampled, R;
    int stride; /* of logprobs; 0: none */
};

struct graph_key {
    int B, max_blocks, slot;
    unsigned stages;
};

struct runner {
    struct runner_options options;
    struct exec *exec;
    struct model model;
    struct activations a;
    struct kv_cache kv;
    int32_t *device_ids;                   /* device [RUNNER_SLOTS, max_rows]: of each slot what it sampled, then the
                                              targets of prompt rows; [SPECULATION_MAX_DRAFTS, max_seqs]: what a draft model
                                              made. A token below 0 of a batch is an index here */
    int32_t *drafted;                      /* owned, pinned: the last of these */
    int32_t *device_batch;                 /* device: the arrays of struct batch */
    struct token_logprob *device_logprobs; /* device [max_rows, 1 + max_logprobs] */
    struct sample_params *sample;          /* owned [max_rows] */
    struct flight flights[RUNNER_SLOTS];
    struct {
        struct graph_key key;
        struct exec_graph *graph; /* owned */
        uint64_t used_at;
    } * graphs; /* owned [MAX_GRAPHS] */
    int n_graphs;
    uint64_t clock;
};

/* In this order, before the first step: the device; the weights (of a checkpoint, or NULL: seeded random ones) and the
 * buffers of a step; the memory that models share. Whatever fails, runner_close clears up. */
int runner_open(struct runner *r, const struct runner_options *options, const struct model_config *config, char *err,
                size_t err_bytes);
int runner_load(struct runner *r, const struct checkpoint *checkpoint, const struct model_config *config, char *err,
                size_t err_bytes);
/* arena: device memory for activations, runner_arena_bytes long, which runners of one queue may share. pool: base of the
 * KV memory, whose granules have so many bytes. Both stay the caller's. */
void runner_place(struct runner *r, void *arena, void *pool, size_t granule_bytes);
void runner_close(struct runner *r); /* accepts a half-opened one */

/* Where in device_ids the ids begin that a draft model makes; draft j of a sequence lies j * max_seqs behind its first. */
static inline int runner_drafts_at(const struct runner *r) { return RUNNER_SLOTS * r->options.max_rows; }

size_t runner_arena_bytes(const struct runner_options *options, const struct model_config *config);
/* The layout of KV blocks where a granule has so many bytes. */
struct kv_layout runner_kv_layout(const struct runner_options *options, const struct model_config *config,
                                  size_t granule_bytes);

/* Enqueues a plan. Slots alternate; the slot's last step has landed. A failure is latched and shows in runner_land. */
void runner_launch(struct runner *r, int slot, const struct plan *plan);

/* Waits for the step. sampled [plan->n_sampled]: as sched_commit takes them. Logprobs and logits go to the
 * requests' own buffers. device_seconds: how long the device was at it. 0, or STATUS_DEVICE and a sentence. */
int runner_land(struct runner *r, int slot, const struct plan *plan, int32_t *sampled, double *device_seconds,
                char *err, size_t err_bytes);
