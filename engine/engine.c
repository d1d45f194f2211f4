/* engine.c - opening and closing an engine: options, the checkpoint, the plan of memory, the scheduler, the thread. */
#include "engine/engine_internal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int parse_dtype(const char *flag, const char *name, enum dtype automatic, enum dtype *out, char *err,
                       size_t err_bytes) {
    static const struct {
        const char *name;
        enum dtype dtype;
    } names[] = {{"bfloat16", DTYPE_BF16},
                 {"float16", DTYPE_F16},
                 {"half", DTYPE_F16},
                 {"float32", DTYPE_F32},
                 {"float", DTYPE_F32}};
    *out = automatic;
    if (!name || !strcmp(name, "auto")) return 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i].name)) {
            *out = names[i].dtype;
            return 0;
        }
    return fail(err, err_bytes, STATUS_INVALID, "%s: expected auto, bfloat16, float16, half or float32, found \"%s\"",
                flag, name);
}

static int choose_dtypes(struct engine *e, char *err, size_t err_bytes) {
    const char *kv = e->options.kv_cache_dtype;
    int status = parse_dtype("--dtype", e->options.dtype, e->info.model.dtype, &e->info.dtype, err, err_bytes);
    if (status) return status;
    e->info.kv_dtype = e->info.dtype;
    if (!kv || !strcmp(kv, "auto")) return 0;
    if (strcmp(kv, "fp8") && strcmp(kv, "fp8_e4m3"))
        return fail(err, err_bytes, STATUS_INVALID, "--kv-cache-dtype: expected auto, fp8 or fp8_e4m3, found \"%s\"",
                    kv);
    e->info.kv_dtype = DTYPE_F8_E4M3;
    return 0;
}

static int check_range(const char *flag, int value, int low, int high, char *err, size_t err_bytes) {
    if (value >= low && value <= high) return 0;
    return fail(err, err_bytes, STATUS_INVALID, "%s: expected a number from %d to %d, found %d", flag, low, high,
                value);
}

static int check_options(const struct engine_options *o, char *err, size_t err_bytes) {
    int status;
    if ((status = check_range("--max-num-seqs", o->max_num_seqs, 1, 4096, err, err_bytes))) return status;
    if ((status = check_range("--max-num-batched-tokens", o->max_num_batched_tokens, 1, 1 << 17, err, err_bytes)))
        return status;
    if ((status = check_range("--max-model-len", o->max_model_len, 0, 1 << 22, err, err_bytes))) return status;
    if ((status = check_range("--block-size", o->block_size, 1, 256, err, err_bytes))) return status;
    if ((status = check_range("--max-logprobs", o->max_logprobs, 0, 1000, err, err_bytes))) return status;
    return check_range("--num-gpu-blocks-override", o->num_blocks_override, 0, 1 << 28, err, err_bytes);
}

/* How long sequences may be and how many KV blocks there are. */
static int plan_memory(struct engine *e, char *err, size_t err_bytes) {
    const struct engine_options *o = &e->options;
    struct engine_info *info = &e->info;
    const int longest = info->model.max_positions;
    struct kv_layout layout;
    kv_layout_init(&layout, info->kv_dtype, info->model.n_layers, info->model.n_kv_heads, info->model.head_dim,
                   o->block_size, 64);
    if (o->max_model_len > longest)
        return fail(err, err_bytes, STATUS_INVALID,
                    "--max-model-len %d is more than the model's max_position_embeddings, which is %d",
                    o->max_model_len, longest);
    info->max_model_len = o->max_model_len ? o->max_model_len : longest;

    const size_t per_sequence = ((size_t)info->max_model_len + o->block_size - 1) / o->block_size;
    size_t n_blocks = (size_t)o->num_blocks_override;
    if (!n_blocks && o->kv_cache_memory_bytes)
        n_blocks = o->kv_cache_memory_bytes / layout.block_bytes;
    else if (!n_blocks) {
        const size_t free_bytes = (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
        n_blocks = free_bytes / 4 / layout.block_bytes;
        if (n_blocks > per_sequence * o->max_num_seqs) n_blocks = per_sequence * o->max_num_seqs;
    }
    if (n_blocks > INT_MAX / 2) n_blocks = INT_MAX / 2;
    if (n_blocks < per_sequence && o->max_model_len)
        return fail(err, err_bytes, STATUS_INVALID,
                    "a sequence of --max-model-len %d needs %zu KV blocks (%zu MB), but there is room for %zu: raise "
                    "--kv-cache-memory-bytes or lower --max-model-len",
                    info->max_model_len, per_sequence, per_sequence * layout.block_bytes >> 20, n_blocks);
    if (n_blocks < 2)
        return fail(err, err_bytes, STATUS_INVALID,
                    "at least two KV blocks of %zu bytes are needed, but there is room for %zu: raise "
                    "--kv-cache-memory-bytes",
                    layout.block_bytes, n_blocks);
    if (n_blocks < per_sequence) info->max_model_len = (int)n_blocks * o->block_size;
    info->n_blocks = (int)n_blocks;
    info->kv_bytes = n_blocks * layout.block_bytes;
    return 0;
}

static int open_scheduler(struct engine *e, char *err, size_t err_bytes) {
    const struct engine_options *o = &e->options;
    const struct kv_pool_options pool = {
        .n_granules = e->info.n_blocks, /* the runner makes a granule one block */
        .n_models = 1,
        .models = {{.P = o->block_size, .block_granules = 1}},
        .prefix_cache = o->enable_prefix_caching,
    };
    int status = kv_pool_open(&e->pool, &pool, err, err_bytes);
    if (status) return status;
    const struct sched_options sched = {
        .max_num_seqs = o->max_num_seqs,
        .max_num_batched_tokens = o->max_num_batched_tokens,
        .max_logits_rows = e->runner.options.max_rows,
        .max_model_len = e->info.max_model_len,
        .chunked_prefill = o->enable_chunked_prefill,
        .long_prefill_token_threshold = o->long_prefill_token_threshold,
        .policy = o->policy,
    };
    status = sched_init(&e->sched, &sched, e->pool, 0, err, err_bytes);
    if (status) return status;
    e->sampled = malloc((size_t)o->max_num_seqs * sizeof *e->sampled);
    status = plan_init(&e->plan, o->max_num_seqs);
    if (status || !e->sampled) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the scheduler");
    return 0;
}

/* Everything that reads the checkpoint; the mapping is gone afterwards, the weights are on the device. */
static int open_model(struct engine *e, char *err, size_t err_bytes) {
    const struct engine_options *o = &e->options;
    struct engine_info *info = &e->info;
    struct checkpoint *checkpoint = NULL;
    int status;
    if ((status = model_find(o->model, e->path, sizeof e->path, err, err_bytes))) return status;
    info->path = e->path;
    if ((status = model_config_load(&info->model, e->path, err, err_bytes))) return status;
    if ((status = generation_config_load(&info->generation, &info->model, e->path, err, err_bytes))) return status;
    if ((status = tokenizer_open(&e->tokenizer, e->path, err, err_bytes))) return status;
    if (tokenizer_size(e->tokenizer) > info->model.vocab)
        return fail(err, err_bytes, STATUS_INVALID,
                    "%s: the tokenizer has ids up to %d, but config.json says vocab_size %d: the two files are of "
                    "different models",
                    e->path, tokenizer_size(e->tokenizer) - 1, info->model.vocab);
    info->chat_template = o->chat_template;
    if (!o->chat_template) info->chat_template = chat_template_detect(tokenizer_chat_template(e->tokenizer));
    if ((status = choose_dtypes(e, err, err_bytes))) return status;
    if ((status = plan_memory(e, err, err_bytes))) return status;

    if ((status = checkpoint_open(&checkpoint, e->path, err, err_bytes))) return status;
    if ((status = checkpoint_check(checkpoint, &info->model, err, err_bytes))) goto done;
    const int rows = o->max_num_seqs > 64 ? o->max_num_seqs : 64;
    const struct runner_options runner = {
        .backend = o->backend,
        .n_threads = o->n_threads,
        .dtype = info->dtype,
        .kv_dtype = info->kv_dtype,
        .max_tokens = o->max_num_batched_tokens,
        .max_rows = rows < o->max_num_batched_tokens ? rows : o->max_num_batched_tokens,
        .max_seqs = o->max_num_seqs,
        .max_model_len = info->max_model_len,
        .block_size = o->block_size,
        .n_blocks = info->n_blocks,
        .max_logprobs = o->max_logprobs,
    };
    status = runner_open(&e->runner, &runner, checkpoint, &info->model, err, err_bytes);
    if (status) goto done;
    info->weight_bytes = e->runner.model.bytes;
    info->backend = exec_backend(e->runner.exec);
done:
    checkpoint_close(checkpoint);
    return status;
}

int engine_open(struct engine **out, const struct engine_options *options, char *err, size_t err_bytes) {
    struct engine *e = calloc(1, sizeof *e);
    if (!e) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the engine");
    e->options = *options;
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->engine_cond, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&e->client_cond, &monotonic);
    pthread_condattr_destroy(&monotonic);

    int status = check_options(options, err, err_bytes);
    if (!status) status = open_model(e, err, err_bytes);
    if (!status) status = open_scheduler(e, err, err_bytes);
    if (status) goto fail;
    e->info.block_size = options->block_size;
    e->info.max_num_seqs = options->max_num_seqs;
    e->info.max_num_batched_tokens = options->max_num_batched_tokens;
    e->info.max_logprobs = options->max_logprobs;
    e->info.prefix_caching = options->enable_prefix_caching;
    engine__publish_figures(e);
    /* signals are the caller's business: they must interrupt its calls, not the engine thread's */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int started = pthread_create(&e->thread, NULL, engine__thread, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started != 0) {
        status = fail(err, err_bytes, STATUS_NO_MEMORY, "cannot start the engine thread: %s", strerror(started));
        goto fail;
    }
    e->thread_started = true;
    *out = e;
    return 0;
fail:
    engine_close(e);
    return status;
}

void engine__nudge(struct engine *e) {
    pthread_mutex_lock(&e->mutex);
    pthread_cond_signal(&e->engine_cond);
    pthread_mutex_unlock(&e->mutex);
}

void engine_close(struct engine *e) {
    if (!e) return;
    if (e->thread_started) {
        atomic_store(&e->stopping, true);
        engine__nudge(e);
        pthread_join(e->thread, NULL);
    }
    while (e->live) {
        struct request *r = e->live;
        e->live = r->next_live;
        request_close(r);
    }
    plan_deinit(&e->plan);
    free(e->sampled);
    kv_pool_close(e->pool);
    runner_close(&e->runner);
    tokenizer_close(e->tokenizer);
    free(e->text);
    free(e->positions);
    pthread_cond_destroy(&e->engine_cond);
    pthread_cond_destroy(&e->client_cond);
    pthread_mutex_destroy(&e->mutex);
    free(e);
}

const struct engine_info *engine_info(const struct engine *e) {
    return &e->info;
}

const struct tokenizer *engine_tokenizer(const struct engine *e) {
    return e->tokenizer;
}

void engine_set_wake(struct engine *e, void (*wake)(void *), void *arg) {
    e->wake_arg = arg;
    e->wake = wake;
}

void engine_stats(const struct engine *e, struct engine_stats *stats) {
    pthread_mutex_t *mutex = (pthread_mutex_t *)&e->mutex;
    pthread_mutex_lock(mutex);
    *stats = e->published;
    pthread_mutex_unlock(mutex);
}
