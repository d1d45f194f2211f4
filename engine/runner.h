/* runner.h - the executor: turns a step's plan into a flat batch, runs the model and samples. Private to engine/.
 *
 * Owns the exec, the weights, the activation arena and the KV memory, all allocated when it is opened: a step
 * allocates nothing. Belongs to the engine thread once opened. */
#pragma once

#include "engine/model.h"
#include "engine/request.h"

struct runner_options {
    const char *backend;
    int n_threads;
    enum dtype dtype, kv_dtype;
    int max_tokens, max_rows, max_seqs; /* of a step: T, R, B */
    int max_model_len;
    int block_size; /* P */
    int n_blocks;
    int max_logprobs;
};

struct runner {
    struct runner_options options;
    struct exec *exec;
    struct model model;
    struct activations a;
    struct kv_cache kv;
    void *arena;                    /* device: activations */
    int32_t *device_batch;          /* device: the arrays of struct batch, one after the other */
    int32_t *host_batch;            /* the same, being filled */
    struct sample_params *sample;   /* [max_rows] */
    int32_t *targets;               /* [max_rows] the token whose logprob a row is asked for */
    int *n_top;                     /* [max_rows] */
    struct token_logprob *logprobs; /* [max_rows, 1 + max_logprobs] */
    struct row_of {                 /* which request and which position a logits row belongs to */
        struct request *request;
        int position;
    } * rows; /* [max_rows] */
};

int runner_open(struct runner *r, const struct runner_options *options, const struct checkpoint *checkpoint,
                const struct model_config *config, char *err, size_t err_bytes);
void runner_close(struct runner *r); /* accepts a half-opened one */

/* Runs a plan. sampled [plan->n_items]: the token of each item that samples. Logprobs and logits go to the requests'
 * own buffers. 0, or STATUS_DEVICE and a sentence. */
int runner_step(struct runner *r, const struct plan *plan, int32_t *sampled, char *err, size_t err_bytes);
