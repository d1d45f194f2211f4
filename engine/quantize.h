/* quantize.h - a model's linear layers in 4 bits: activation-aware weight quantisation (AWQ), layer by layer.
 *
 * The method, and why it is done as it is, stands in quantize.c. For `tandem quantize`; it shares kernels and checkpoints
 * with the engine and nothing else. Everything runs on the calling thread and one exec of its own. */
#pragma once

#include "weights/weights.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct quantize_options {
    const char *backend; /* NULL: the best there is */
    int n_threads;       /* CPU backend; 0: one per core */
    bool scale, clip;    /* AWQ's two steps; neither: weights are rounded to the nearest, and no tokens are needed */
    const int32_t *tokens; /* borrowed [n_sequences, length]: calibration text, each id in 0 .. V-1 */
    int n_sequences, length;
    void (*progress)(void *user, int64_t n_done); /* linear layers that share an input; QUANTIZE_GROUPS a layer */
    void *user;
};

/* Linear layers that share an input are scaled together: q, k, v; o; gate, up; down. */
enum { QUANTIZE_GROUPS = 4 };

/* What became of one such group. Errors are of the output of the block that it belongs to (attention, o_proj, the
 * feed-forward block, down_proj) over the calibration tokens: |quantised - original|^2 / |original|^2, the group alone
 * being quantised. NaN where nothing was measured. */
struct quantize_result {
    int layer;
    const char *linears;   /* "q_proj k_proj v_proj" */
    bool scaled, clipped;  /* false: not at all, or the error was smaller without */
    double exponent;       /* alpha */
    double error_nearest;  /* were the weights rounded to the nearest */
    double error;          /* of what was written: at most error_nearest */
};

/* Whether the model can be quantised: a sentence if not. */
int quantize_check(const struct model_config *config, const char *name, char *err, size_t err_bytes);

/* Quantises the checkpoint, which has passed checkpoint_check, and writes the tensors of an AutoAWQ "gemm" checkpoint as
 * one safetensors file at `path`. results [n_layers * QUANTIZE_GROUPS] are filled in order. On failure no file is left. */
int quantize_model(struct quantize_result *results, const char *path, const struct checkpoint *checkpoint,
                   const struct model_config *config, const struct quantize_options *options, char *err,
                   size_t err_bytes);
