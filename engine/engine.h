/* engine.h - the engine's only door: open a model, submit requests, poll events.
 *
 * An engine serves one model. Engines that are opened together are a deployment: they share one device, one KV pool, one
 * queue of steps and one engine thread, and take turns (deployment_open).
 *
 * Threads: the engine thread plans, runs and commits steps. The caller's side (engine_submit,
 * engine_cancel, engine_poll) belongs to ONE thread, the client thread; text is detokenized there, inside engine_poll,
 * so the engine thread never waits for strings. What crosses between the two crosses through queues. engine_stats may
 * be called from the client thread at any time.
 *
 * Life of a request: engine_submit copies everything it needs -> EVENT_TOKENS any number of times -> exactly one
 * EVENT_FINISHED, also after engine_cancel. After that the id is dead.
 *
 *     struct engine *e;
 *     char err[ERR_BYTES];
 *     struct engine_options o = engine_default_options();
 *     o.model = "weights/sample/small";
 *     if (engine_open(&e, &o, err, sizeof err)) { fprintf(stderr, "%s\n", err); return 1; }
 *     ... engine_submit(e, &request, &id, err, sizeof err);
 *     struct engine_event event;
 *     do { engine_wait(e, -1); while (engine_poll(e, &event)) fwrite(event.text, 1, event.text_bytes, stdout);
 *     } while (event.kind != EVENT_FINISHED);
 *     engine_close(e);                                                                                               */
#pragma once

#include "engine/chat_template.h"
#include "engine/tokenizer.h"
#include "kernels/kernels.h"
#include "weights/weights.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine; /* owned */

enum sched_policy { POLICY_FCFS, POLICY_PRIORITY };
enum { SPECULATION_MAX_DRAFTS = 16 };

/* Names and meanings are those of vLLM's flags. Zero means "default" where a default is named. */
struct engine_options {
    const char *model;                  /* folder or Hugging Face cache name */
    const char *backend;                /* NULL: the best there is */
    enum chat_template chat_template;   /* NONE: recognised from the checkpoint */
    const char *dtype;                  /* NULL or "auto": the checkpoint's; "bfloat16", "float16", "half", "float32" */
    const char *kv_cache_dtype;         /* NULL or "auto": the activations'; "fp8", "fp8_e4m3" */
    int max_model_len;                  /* 0: the model's max_position_embeddings, or less where the pool is small */
    int max_num_seqs;                   /* default 256 */
    int max_num_batched_tokens;         /* default 2048 */
    int long_prefill_token_threshold;   /* 0: none */
    int block_size;                     /* P, default 16 */
    int num_blocks_override;            /* 0: from memory; else exactly so many KV blocks */
    size_t kv_cache_memory_bytes;       /* 0: CPU: up to a quarter of the machine's free memory, at most what
                                           max_num_seqs sequences of max_model_len can fill */
    size_t kv_cache_floor_bytes;        /* in a deployment: of the pool, kept for this model whatever the others do;
                                           0: one sequence of max_model_len, where that is at most its equal share */
    size_t kv_cache_ceiling_bytes;      /* in a deployment: never more than this for this model; 0: no bound */
    double gpu_memory_utilization;      /* default 0.92: of the GPU's memory, for weights, activations and KV */
    const char *load_format;            /* NULL or "auto": the checkpoint; "dummy": seeded random weights */
    const char *quantization;           /* NULL: what the checkpoint says; "awq", "awq_marlin": it must be AWQ */
    bool enforce_eager;                 /* no CUDA graphs */
    bool token_ids_only;                /* prompts come as ids: no tokenizer is opened, and a shape file will do */
    bool enable_prefix_caching;
    bool enable_chunked_prefill;
    enum sched_policy policy;
    int max_logprobs;                   /* default 20: the bound on logprobs in a request */
    int max_waiting;                    /* requests queued before engine_submit says STATUS_BUSY; 0: unbounded */
    const char *speculative_config;     /* NULL: none; else a JSON object: see below */
    uint64_t seed;                      /* of requests that bring none: mixed with their number */
    int n_threads;                      /* CPU backend; 0: one per core */
};
struct engine_options engine_default_options(void);

/* Speculative decoding. A step proposes tokens and lets the model check them all at once; those that the model would have
 * sampled itself are kept. So the output is what it is without, token for token, greedy or sampled; it only comes faster.
 * How many tokens are proposed, and whether any, follows measured step times and acceptance. Keys of the object:
 *     "method"                     "ngram": proposals are looked up in the sequence's own tokens (answers quote their
 *                                  prompt); "draft_model": a smaller model drafts them; "ngram+draft_model": they are
 *                                  looked up, and drafted where that finds nothing
 *     "model"                      the drafting model: one of the deployment's with the same path, else it is loaded
 *                                  beside. Its tokens must be the model's: ids that both have stand for the same bytes
 *     "num_speculative_tokens"     of one sequence in one step, at most: 1 .. 16, default 5
 *     "prompt_lookup_min", "_max"  tokens of context that a look-up matches: 1 .. 8, default 2 and 4
 *     "adaptive"                   false: always as many as num_speculative_tokens says, whether it pays or not
 *     "synthetic_acceptance_rate"  benchmarks: each proposal is accepted with this probability whatever the model says;
 *                                  the text is then meaningless */

/* Loads weights, plans memory, starts the engine thread. STATUS_* and a sentence on failure. */
int engine_open(struct engine **out, const struct engine_options *options, char *err, size_t err_bytes);
/* Closes an engine that engine_open gave. Ends every request, stops the thread, frees everything. NULL is fine. */
void engine_close(struct engine *e);

/* ---- several models on one device -------------------------------------------------------------------------------- */

struct deployment; /* owned: engines, and what they share */
enum { DEPLOYMENT_MAX_MODELS = 4 };

/* Opens one engine per model. What concerns the device (backend, n_threads, gpu_memory_utilization,
 * kv_cache_memory_bytes) is read from the first model's options, and num_blocks_override is for a model alone.
 *
 * Every model's files and options are checked, and the budgets as far as they are numbers, before any weight is read.
 * One KV pool serves all: a busy model takes memory from an idle one, cached blocks first, between the models' floors and
 * ceilings (kv_pool.h). Steps take turns: when several models have work, each runs one step before any runs its next, so
 * a token of one waits for at most one step of each other. */
int deployment_open(struct deployment **out, const struct engine_options *models, int n_models, char *err,
                    size_t err_bytes);
/* Ends every request, stops the thread, frees everything. NULL is fine. */
void deployment_close(struct deployment *d);
/* Engine i of 0 .. n_models-1, in the order of the options; borrowed. All have the same client thread. */
struct engine *deployment_engine(struct deployment *d, int i);

/* Seconds of engine_open, in the order in which it does these things. */
struct engine_start {
    double configuration; /* config.json, generation_config.json, the tokenizer */
    double checkpoint;    /* mapping the files, checking every tensor */
    double device;        /* opening the backend: on a GPU, CUDA's context */
    double weights;       /* reading, copying to the device, repacking; the buffers of a step */
    double kv;            /* allocating the KV pool */
};

struct engine_info {
    bool is_encoder;                     /* turns texts into vectors, and has no KV: request_params.embedding */
    struct encoder_config encoder;       /* if so; of `model` only vocab and max_positions are set then */
    struct model_config model;
    struct generation_config generation; /* the checkpoint's default sampling and eos ids */
    enum chat_template chat_template;    /* NONE if the checkpoint's is unknown */
    int max_model_len, block_size, n_blocks, max_num_seqs, max_num_batched_tokens, max_logprobs; /* n_blocks: at most,
                                            when the other models of a deployment hold no more than their floors */
    const char *path;                    /* of the checkpoint folder; owned by the engine */
    const char *backend;                 /* for people */
    enum dtype dtype, kv_dtype;
    size_t weight_bytes, kv_bytes;       /* kv_bytes: of the pool, which a deployment's models share */
    struct engine_start start;
    bool prefix_caching;
};
const struct engine_info *engine_info(const struct engine *e);
const struct tokenizer *engine_tokenizer(const struct engine *e); /* NULL with token_ids_only */

/* ---- requests ---------------------------------------------------------------------------------------------------- */

/* As vLLM's SamplingParams. All pointers are borrowed for the duration of engine_submit and copied. */
struct sampling_params {
    float temperature; /* 0: greedy */
    float top_p, min_p;
    int top_k; /* 0 or -1: off */
    float presence_penalty, frequency_penalty, repetition_penalty;
    bool has_seed;
    uint64_t seed;
    int max_tokens; /* generated; 0: up to max_model_len. prefill-only work sets max_tokens = 0 and prompt_only */
    int min_tokens;
    bool prompt_only; /* compute the prompt (for its logprobs or logits) and finish without generating */
    bool ignore_eos;
    const int32_t *stop_token_ids;
    int n_stop_token_ids;
    const char *const *stop; /* stop strings */
    int n_stop;
    bool include_stop_str_in_output;
    bool skip_special_tokens;
    const struct token_bias *logit_bias; /* distinct ids */
    int n_logit_bias;
    const int32_t *allowed_token_ids; /* NULL: all */
    int n_allowed_token_ids;
    int logprobs;        /* -1: none; k >= 0: of each token, and of the k most likely */
    int prompt_logprobs; /* -1: none; k >= 0: likewise of each prompt token but the first */
};
/* temperature 1, top_p 1, everything off, skip_special_tokens, logprobs -1. */
struct sampling_params sampling_default(void);
/* The same with the checkpoint's generation_config. */
struct sampling_params sampling_from_generation_config(const struct generation_config *config);

struct request_params {
    const int32_t *prompt; /* 1 .. max_model_len - 1 ids, each in 0 .. V-1 */
    int n_prompt;
    struct sampling_params sampling;
    int priority;   /* lower is earlier; only with POLICY_PRIORITY */
    uint64_t salt;  /* tenant and cache_salt: prefix blocks are shared only within one salt */
    void *user;     /* comes back with every event */
    bool admitted;  /* one more of a group whose first request was taken: max_waiting does not count */
    float *embedding; /* engines of an encoder: [info.encoder.hidden], filled with the text's vector before
                       EVENT_FINISHED; stays alive until then. The prompt has the tokenizer's prefix and suffix, and
                       sampling is prompt_only. NULL for engines that generate */
    float *logits;  /* NULL, or [n_prompt, V] f32: filled with the prompt's logits before EVENT_FINISHED (library and
                       tools; stays alive until then) */
};

/* Places a request on the queue. STATUS_INVALID (a parameter out of range: the sentence names it, says the bound and
 * the value), STATUS_TOO_LARGE (cannot ever fit), STATUS_BUSY (max_waiting), STATUS_CLOSED. */
int engine_submit(struct engine *e, const struct request_params *params, uint64_t *id, char *err, size_t err_bytes);

/* Ends a request at the end of the step in flight; its EVENT_FINISHED says FINISH_CANCELLED. Unknown ids: nothing. */
void engine_cancel(struct engine *e, uint64_t id);

/* ---- events ------------------------------------------------------------------------------------------------------ */

enum event_kind { EVENT_TOKENS, EVENT_FINISHED };
enum finish_reason { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_ERROR };

/* The logprobs of one position: the chosen token first, then the n_top most likely. */
struct position_logprobs {
    int n_top;
    const struct token_logprob *entries; /* [1 + n_top] */
};

struct request_usage {
    int n_prompt, n_cached, n_output; /* tokens */
    int n_preemptions;
    int n_drafted, n_accepted; /* drafts of speculation that were verified, and that were right; 0 before the end */
    /* CLOCK_MONOTONIC seconds: submitted, first planned, first token, finished (0 while unknown) */
    double t_submit, t_start, t_first, t_finish;
};

/* Views in an event are valid until the next engine_poll. */
struct engine_event {
    enum event_kind kind;
    uint64_t id;
    void *user;
    const char *text; /* newly final text: whole characters, stop strings held back; may be empty */
    size_t text_bytes;
    const int32_t *tokens; /* the new tokens, the one that ended it included */
    int n_tokens;
    const struct position_logprobs *logprobs; /* [n_tokens], or NULL */
    const struct position_logprobs *prompt_logprobs; /* [n_prompt - 1], position i+1's; on the first event that has
                                                        them (EVENT_FINISHED for prompt_only), else NULL */
    enum finish_reason reason;   /* EVENT_FINISHED */
    int stop_string;             /* index in sampling.stop, or -1 */
    int32_t stop_token;          /* the stop_token_ids entry that ended it, or -1 (eos, string, length) */
    const char *error;           /* FINISH_ERROR: a sentence */
    struct request_usage usage;  /* so far; complete with EVENT_FINISHED */
};

/* Takes the next event; false when there is none now. */
bool engine_poll(struct engine *e, struct engine_event *event);
/* Blocks until engine_poll would give something, or timeout_ms (-1: forever; returns at once when nothing is in
 * flight). True if there is something. */
bool engine_wait(struct engine *e, int timeout_ms);
/* `wake` is called on the engine thread after events were queued (for uv_async_send); set before the first submit. */
void engine_set_wake(struct engine *e, void (*wake)(void *), void *arg);

/* ---- figures ----------------------------------------------------------------------------------------------------- */

struct engine_stats {
    int n_running, n_waiting;
    int n_blocks, n_blocks_used, n_blocks_cached; /* used: held by sequences */
    uint64_t n_steps, n_preemptions;
    uint64_t n_prompt_tokens, n_prompt_tokens_cached, n_generated_tokens;
    /* speculation: decodes, by how many drafts they had; and of the drafts at each position, how many were accepted */
    uint64_t n_decodes_with[1 + SPECULATION_MAX_DRAFTS], n_accepted_at[SPECULATION_MAX_DRAFTS];
    uint64_t prefix_queries, prefix_hits; /* tokens */
    double step_seconds_total; /* time in which a step was on its way */
    double device_seconds_total; /* of which the device was at it; on the CPU the same */
    /* tokens per step: counts per bucket with upper bounds 1, 2, 4, ... 2^15, inf */
    uint64_t step_tokens_bucket[17];
    uint64_t step_tokens_sum;
};
void engine_stats(const struct engine *e, struct engine_stats *stats);

/* What these say of speculation: sums of n_decodes_with and n_accepted_at. */
struct speculation_figures {
    uint64_t n_decodes, n_drafts, n_draft_tokens, n_accepted_tokens; /* n_drafts: decodes that had any */
};
struct speculation_figures engine_stats_speculation(const struct engine_stats *stats);
