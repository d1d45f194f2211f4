/* engine.c - opening and closing an engine: options, the checkpoint, the plan of memory, the scheduler, the thread. */
#include "engine/engine_internal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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
    const char *kv = e->options.kv_cache_dtype, *quantization = e->options.quantization;
    const bool awq = e->info.model.quantization.method == QUANTIZATION_AWQ;
    /* AWQ's scales are float16, and bfloat16 would lose three bits of them */
    const enum dtype automatic = awq ? DTYPE_F16 : e->info.model.dtype;
    int status = parse_dtype("--dtype", e->options.dtype, automatic, &e->info.dtype, err, err_bytes);
    if (status) return status;
    if (awq && e->info.dtype != DTYPE_F16)
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    "--dtype: expected auto or float16 for an AWQ checkpoint, found %s", e->options.dtype);
    if (quantization && (!*quantization || !strcmp(quantization, "none"))) quantization = NULL;
    if (quantization && strcmp(quantization, "awq") && strcmp(quantization, "awq_marlin"))
        return fail(err, err_bytes, STATUS_UNSUPPORTED, "--quantization: expected awq or awq_marlin, found \"%s\"",
                    quantization);
    if (quantization && !awq)
        return fail(err, err_bytes, STATUS_INVALID,
                    "--quantization %s: expected an AWQ checkpoint, found no quantization_config in its config.json",
                    quantization);
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
    if (!(o->gpu_memory_utilization > 0 && o->gpu_memory_utilization <= 1))
        return fail(err, err_bytes, STATUS_INVALID,
                    "--gpu-memory-utilization: expected more than 0 and at most 1, found %g",
                    o->gpu_memory_utilization);
    if (o->load_format && strcmp(o->load_format, "auto") && strcmp(o->load_format, "safetensors") &&
        strcmp(o->load_format, "dummy"))
        return fail(err, err_bytes, STATUS_INVALID, "--load-format: expected auto, safetensors or dummy, found \"%s\"",
                    o->load_format);
    return check_range("--num-gpu-blocks-override", o->num_blocks_override, 0, 1 << 28, err, err_bytes);
}

/* How long sequences may be. */
static int plan_length(struct engine *e, char *err, size_t err_bytes) {
    const struct engine_options *o = &e->options;
    const int longest = e->info.model.max_positions;
    if (o->max_model_len > longest)
        return fail(err, err_bytes, STATUS_INVALID,
                    "--max-model-len %d is more than the model's max_position_embeddings, which is %d",
                    o->max_model_len, longest);
    e->info.max_model_len = o->max_model_len ? o->max_model_len : longest;
    return 0;
}

/* Bytes for KV: on a GPU what --gpu-memory-utilization leaves beside weights and activations, which are allocated; on
 * the CPU a quarter of what is free, because the machine is not ours alone. */
static int kv_budget(struct engine *e, size_t *bytes, char *err, size_t err_bytes) {
    const double share = e->options.gpu_memory_utilization;
    size_t free_bytes, total_bytes;
    exec_memory(e->runner.exec, &free_bytes, &total_bytes);
    *bytes = free_bytes / 4;
    if (!exec_is_gpu(e->runner.exec)) return 0;
    /* Graphs of decode steps take device memory as they are recorded, and kernels when they are first used. */
    const double reserve = (double)((size_t)256 << 20);
    const double used = (double)(total_bytes - free_bytes) + reserve, allowed = share * (double)total_bytes;
    if (used >= allowed)
        return fail(err, err_bytes, STATUS_NO_MEMORY,
                    "--gpu-memory-utilization %.2f allows %.1f GB of the GPU's %.1f GB, but weights, activations and "
                    "other programs hold %.1f GB: raise it, or lower --max-num-batched-tokens",
                    share, allowed * 1e-9, (double)total_bytes * 1e-9, used * 1e-9);
    *bytes = (size_t)(allowed - used);
    return 0;
}

/* How many KV blocks there are. */
static int plan_blocks(struct engine *e, char *err, size_t err_bytes) {
    const struct engine_options *o = &e->options;
    struct engine_info *info = &e->info;
    const size_t block_bytes = runner_block_bytes(&e->runner), most = 1 << 24;
    const size_t per_sequence = ((size_t)info->max_model_len + o->block_size - 1) / o->block_size;
    size_t n_blocks = (size_t)o->num_blocks_override, bytes = o->kv_cache_memory_bytes;
    if (!n_blocks) {
        const bool automatic = !bytes;
        int status = automatic ? kv_budget(e, &bytes, err, err_bytes) : 0;
        if (status) return status;
        n_blocks = bytes / block_bytes;
        if (automatic && n_blocks > per_sequence * (size_t)o->max_num_seqs && !exec_is_gpu(e->runner.exec))
            n_blocks = per_sequence * (size_t)o->max_num_seqs;
        if (n_blocks > most) n_blocks = most;
    }
    if (n_blocks < per_sequence && o->max_model_len)
        return fail(err, err_bytes, STATUS_INVALID,
                    "a sequence of --max-model-len %d needs %zu KV blocks (%zu MB), but there is room for %zu: raise "
                    "--kv-cache-memory-bytes or lower --max-model-len",
                    info->max_model_len, per_sequence, per_sequence * block_bytes >> 20, n_blocks);
    if (n_blocks < 2)
        return fail(err, err_bytes, STATUS_INVALID,
                    "at least two KV blocks of %zu bytes are needed, but there is room for %zu: raise "
                    "--kv-cache-memory-bytes",
                    block_bytes, n_blocks);
    if (n_blocks < per_sequence) info->max_model_len = (int)n_blocks * o->block_size;
    info->n_blocks = (int)n_blocks;
    info->kv_bytes = n_blocks * block_bytes;
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
    for (int i = 0; i < RUNNER_SLOTS && !status; i++) status = plan_init(&e->plans[i], o->max_num_seqs);
    if (status || !e->sampled) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the scheduler");
    return 0;
}

/* config.json, generation_config.json, the tokenizer: what is known before any weight is read. */
static int open_configuration(struct engine *e, bool dummy, char *err, size_t err_bytes) {
    const struct engine_options *o = &e->options;
    struct engine_info *info = &e->info;
    struct stat st;
    int status;
    if ((status = model_find(o->model, e->path, sizeof e->path, err, err_bytes))) return status;
    info->path = e->path;
    if ((status = model_config_load(&info->model, e->path, err, err_bytes))) return status;
    if ((status = generation_config_load(&info->generation, &info->model, e->path, err, err_bytes))) return status;
    const bool shape_file = !stat(e->path, &st) && S_ISREG(st.st_mode);
    if (shape_file && !dummy)
        return fail(err, err_bytes, STATUS_INVALID,
                    "%s is a shape file, which has no weights: give a checkpoint folder, or --load-format dummy",
                    e->path);
    if (shape_file && !o->token_ids_only)
        return fail(err, err_bytes, STATUS_INVALID,
                    "%s is a shape file, which has no tokenizer: give a checkpoint folder, or run it with tandem bench",
                    e->path);
    if (!o->token_ids_only) {
        if ((status = tokenizer_open(&e->tokenizer, e->path, err, err_bytes))) return status;
        if (tokenizer_size(e->tokenizer) > info->model.vocab)
            return fail(err, err_bytes, STATUS_INVALID,
                        "%s: the tokenizer has ids up to %d, but config.json says vocab_size %d: the two files are of "
                        "different models",
                        e->path, tokenizer_size(e->tokenizer) - 1, info->model.vocab);
        info->chat_template = chat_template_detect(tokenizer_chat_template(e->tokenizer));
    }
    if (o->chat_template) info->chat_template = o->chat_template;
    if ((status = choose_dtypes(e, err, err_bytes))) return status;
    return plan_length(e, err, err_bytes);
}

/* Everything that reads the checkpoint; the mapping is gone afterwards, the weights are on the device. */
static int open_model(struct engine *e, char *err, size_t err_bytes) {
    const struct engine_options *o = &e->options;
    struct engine_info *info = &e->info;
    struct checkpoint *checkpoint = NULL;
    const bool dummy = o->load_format && !strcmp(o->load_format, "dummy");
    int status = open_configuration(e, dummy, err, err_bytes);
    if (!status && !dummy) status = checkpoint_open(&checkpoint, e->path, err, err_bytes);
    if (!status && !dummy) status = checkpoint_check(checkpoint, &info->model, err, err_bytes);
    if (status) goto done;
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
        .max_logprobs = o->max_logprobs,
        .use_graphs = !o->enforce_eager,
    };
    status = runner_open(&e->runner, &runner, checkpoint, &info->model, err, err_bytes);
    if (!status) status = plan_blocks(e, err, err_bytes);
    if (!status) status = runner_open_kv(&e->runner, info->n_blocks, err, err_bytes);
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
    for (int i = 0; i < RUNNER_SLOTS; i++) plan_deinit(&e->plans[i]);
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
