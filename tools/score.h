/* score.h - the logits of a list of tokens and how well they predict it, for the commands that measure rather than
 * generate. */
#pragma once

#include "engine/engine.h"

/* Runs the prompt through the engine and fills logits [n, V] f32. */
int score_logits(struct engine *e, const int32_t *ids, int n, float *logits, char *err, size_t err_bytes);
/* Natural-log probability of each token but the first given those before it: logprobs [n - 1]. */
int score_logprobs(struct engine *e, const int32_t *ids, int n, float *logprobs, char *err, size_t err_bytes);

/* Cuts ids into consecutive windows that do not overlap and scores every token of a window but its first. *nll: the mean
 * negative natural-log probability, so that perplexity is its exp. STATUS_INVALID where there is nothing to score;
 * `source` names the text. With a progress bar. */
int score_text(struct engine *e, const struct ids *ids, int window, const char *source, double *nll, int64_t *n_scored,
               char *err, size_t err_bytes);

/* A whole file, malloc'ed; `flag` is what named it. */
int score_read_file(char **text, size_t *bytes, const char *flag, const char *path, char *err, size_t err_bytes);
