/* request.h - one request, as client thread and engine thread share it. Private to engine/.
 *
 * Who writes what:
 *   client  everything while it is being made; afterwards `cancelled`, the text stream and the n_seen marks
 *   engine  the sequence, the sampler's counts, the logprob buffers, `n_ready`, and the ending
 * Tokens and logprobs stay where the engine wrote them; `n_ready` (release/acquire) says how many the client may read.
 * The engine's last act on a request is to post `farewell`; the client frees the request when it opens that letter.
 * All memory is allocated at submit, sized by the longest answer that the request can get. */
#pragma once

#include "engine/engine.h"
#include "engine/mailbox.h"
#include "engine/ngram.h"
#include "engine/sched.h"
#include "engine/speculation.h"
#include "engine/speculative_config.h"

struct letter {
    struct mail mail; /* first: a struct mail pointer is a letter's */
    struct request *request;
    bool farewell;
};

struct request {
    uint64_t id;
    void *user;
    struct sequence *seq; /* owned; seq->user is this request */

    /* sampling, constant: what the op reads, and the bans that hold below min_tokens */
    struct sample_params sample; /* counts and position are filled in per step */
    struct token_bias *biases;   /* owned: logit_bias */
    int n_biases;
    struct token_bias *biases_early; /* owned: logit_bias with eos and stop ids forbidden; used below min_tokens */
    int n_biases_early;
    int32_t *allowed;                  /* owned or NULL */
    int n_logprobs, n_prompt_logprobs; /* as in sampling_params */
    bool include_stop;

    /* tokens seen so far, for penalties; engine thread; NULL when no penalty is on */
    struct token_count *counts; /* owned [seq->max_len] */
    int32_t *count_index;       /* owned [count_mask + 1] open addressing: index in counts, or -1 */
    uint32_t count_mask;
    int n_counts, n_counted;
    int sampled_at; /* engine thread: where in the runner's device_ids the latest step for it samples */
    int drafts_at;  /* engine thread: where there its drafts of this step begin; -1: the plan has them, or none */

    /* speculation; engine thread */
    struct ngram *ngram; /* owned, or NULL: no look-up */
    struct speculation_record speculation;
    int32_t drafts[SPECULATION_MAX_DRAFTS]; /* of the step that is planned */
    enum draft_source draft_source;
    int n_drafted, n_accepted; /* drafts that were verified, and that were right; final at the farewell */

    /* results, engine to client */
    struct token_logprob *logprobs;        /* owned [max output, 1 + n_logprobs] or NULL */
    struct token_logprob *prompt_logprobs; /* owned [n_prompt - 1, 1 + n_prompt_logprobs] or NULL */
    float *logits, *embedding;             /* borrowed: request_params' */
    struct request *next_waiting;          /* engine thread: embedder.h */
    atomic_int n_ready;                    /* tokens of seq->tokens, prompt included, that the client may read */
    int n_cached;                          /* final at the first token */
    double t_submit, t_start, t_first, t_finish;
    char error[ERR_BYTES]; /* with FINISH_ERROR */

    /* letters to the client, and its word back */
    struct letter news;     /* to the engine: take me; to the client: n_ready has grown */
    struct letter farewell; /* to the client: posted once, last */
    atomic_bool cancelled;

    /* client thread */
    struct text_stream *text; /* owned */
    int n_seen;               /* tokens taken over, prompt included */
    bool prompt_logprobs_seen;
    bool finished; /* EVENT_FINISHED was delivered (a stop string ends a request before the engine does) */
    struct request *next_live, *prev_live;
};

/* Makes a request from checked parameters. `info` must outlive it. STATUS_NO_MEMORY or sequence_open's codes. */
int request_open(struct request **out, uint64_t id, const struct request_params *params, const struct engine_info *info,
                 const struct tokenizer *tokenizer, const struct speculative_config *speculation,
                 uint64_t default_seed);
void request_close(struct request *r); /* NULL is fine */

/* Engine thread: the parameters for drawing token `position`. Tokens below seq->n_tokens are counted; the one that a
 * step in flight still owes is not. */
struct sample_params request_sample_params(struct request *r, int position);
