/* score.h - the logits of a list of tokens, for the commands that measure rather than generate. */
#pragma once

#include "engine/engine.h"

/* Runs the prompt through the engine and fills logits [n, V] f32. */
int score_logits(struct engine *e, const int32_t *ids, int n, float *logits, char *err, size_t err_bytes);
/* Natural-log probability of each token but the first given those before it: logprobs [n - 1]. */
int score_logprobs(struct engine *e, const int32_t *ids, int n, float *logprobs, char *err, size_t err_bytes);
