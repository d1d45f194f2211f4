/* engine.c - one model of a deployment: options, configuration, checkpoint, weights, scheduler. deployment.c opens them
 * together and gives them memory. */
#include "engine/bert.h"
#include "engine/engine_internal.h"

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
    const int longest = e->info.model.max_positions, usual = e->info.is_encoder ? e->info.encoder.max_len : longest;
    if (o->max_model_len > longest)
        return fail(err, err_bytes, STATUS_INVALID,
                    "--max-model-len %d is more than the model's max_position_embeddings, which is %d",
                    o->max_model_len, longest);
    e->info.max_model_len = o->max_model_len ? o->max_model_len : usual;
    e->info.encoder.max_len = e->info.max_model_len;
    return 0;
}

int engine__open_scheduler(struct engine *e, char *err, size_t err_bytes) {
    const struct engine_options *o = &e->options;
    const struct sched_options sched = {
        .max_num_seqs = o->max_num_seqs,
        .max_num_batched_tokens = o->max_num_batched_tokens,
        .max_logits_rows = e->runner.options.max_rows,
        .max_model_len = e->info.max_model_len,
        .chunked_prefill = o->enable_chunked_prefill,
        .long_prefill_token_threshold = o->long_prefill_token_threshold,
        .policy = o->policy,
    };
    int status = sched_init(&e->sched, &sched, e->deployment->pool, e->kv_model, err, err_bytes);
    if (status) return status;
    e->sampled = malloc((size_t)e->runner.options.max_rows * sizeof *e->sampled);
    status = speculator_open(&e->speculator, &e->speculative_config, &e->sched, &e->runner, err, err_bytes);
    if (!status && e->draft)
        status = speculator_attach(&e->speculator, &e->draft->runner, e->draft->kv_model, err, err_bytes);
    if (status) return status;
    for (int i = 0; i < RUNNER_SLOTS && !status; i++) status = plan_init(&e->plans[i], o->max_num_seqs);
    if (status || !e->sampled) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the scheduler");
    return 0;
}

/* config.json of either kind of model. */
static int load_config(struct engine_info *info, const char *path, char *err, size_t err_bytes) {
    int status = model_is_encoder(&info->is_encoder, path, err, err_bytes);
    if (status) return status;
    if (info->is_encoder) {
        status = encoder_config_load(&info->encoder, path, err, err_bytes);
        info->model.vocab = info->encoder.vocab;
        info->model.max_positions = info->encoder.max_positions;
        info->model.dtype = info->encoder.dtype;
        return status;
    }
    status = model_config_load(&info->model, path, err, err_bytes);
    return status ? status : generation_config_load(&info->generation, &info->model, path, err, err_bytes);
}

/* config.json, generation_config.json, the tokenizer: what is known before any weight is read. */
static int open_configuration(struct engine *e, bool dummy, char *err, size_t err_bytes) {
    const struct engine_options *o = &e->options;
    struct engine_info *info = &e->info;
    struct stat st;
    int status;
    if ((status = model_find(o->model, e->path, sizeof e->path, err, err_bytes))) return status;
    info->path = e->path;
    if ((status = load_config(info, e->path, err, err_bytes))) return status;
    if (info->is_encoder && e->speculative_config.max_drafts)
        return fail(err, err_bytes, STATUS_INVALID, "%s turns texts into vectors: --speculative-config is not for it",
                    o->model);
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

/* Seconds since *t, which becomes now. */
static double lap(double *t) {
    const double before = *t;
    return (*t = engine__now()) - before;
}

static bool is_dummy(const struct engine *e) {
    return e->options.load_format && !strcmp(e->options.load_format, "dummy");
}

int engine__configure(struct engine *e, char *err, size_t err_bytes) {
    double t = engine__now();
    int status = check_options(&e->options, err, err_bytes);
    if (!status)
        status = speculative_config_parse(&e->speculative_config, e->options.speculative_config, err, err_bytes);
    if (!status) status = open_configuration(e, is_dummy(e), err, err_bytes);
    e->info.start.configuration = lap(&t);
    if (!status && !is_dummy(e)) status = checkpoint_open(&e->checkpoint, e->path, err, err_bytes);
    if (!status && !is_dummy(e))
        status = e->info.is_encoder ? encoder_check(e->checkpoint, &e->info.encoder, err, err_bytes)
                                    : checkpoint_check(e->checkpoint, &e->info.model, err, err_bytes);
    e->info.start.checkpoint = lap(&t);
    return status;
}

struct runner_options engine__runner_options(const struct engine *e) {
    const struct engine_options *o = &e->options;
    /* Beyond a row for every sequence: rows of prompts that want logprobs, and drafts; many sequences draft little. */
    const int seqs = o->max_num_seqs > e->drafts_for ? o->max_num_seqs : e->drafts_for,
              rows = (seqs > 64 ? seqs : 64) + 32 * e->speculative_config.max_drafts;
    return (struct runner_options){
        .backend = o->backend,
        .n_threads = o->n_threads,
        .dtype = e->info.dtype,
        .kv_dtype = e->info.kv_dtype,
        .max_tokens = o->max_num_batched_tokens,
        .max_rows = rows < o->max_num_batched_tokens ? rows : o->max_num_batched_tokens,
        .max_seqs = seqs,
        .max_model_len = e->info.max_model_len,
        .block_size = o->block_size,
        .max_logprobs = o->max_logprobs,
        .use_graphs = !o->enforce_eager,
    };
}

static int load_encoder(struct engine *e, struct exec *beside, char *err, size_t err_bytes) {
    const struct engine_options *o = &e->options;
    const struct exec_options exec = {
        .backend = o->backend, .dtype = e->info.dtype, .n_threads = o->n_threads, .beside = beside};
    const bool is_auto = !o->dtype || !strcmp(o->dtype, "auto");
    int status = embedder_open(&e->embedder, &exec, is_auto, e->checkpoint, &e->info.encoder, o->max_num_batched_tokens,
                               o->max_num_seqs, err, err_bytes);
    if (status) return status;
    e->info.dtype = e->info.kv_dtype = exec_dtype(e->embedder.exec);
    e->info.weight_bytes = bert_weight_bytes(&e->info.encoder, e->info.dtype);
    return 0;
}

static int load_decoder(struct engine *e, struct exec *beside, double *t, char *err, size_t err_bytes) {
    struct runner_options runner = engine__runner_options(e);
    runner.beside = beside;
    int status = runner_open(&e->runner, &runner, &e->info.model, err, err_bytes);
    e->info.start.device = lap(t);
    if (!status) status = runner_load(&e->runner, e->checkpoint, &e->info.model, err, err_bytes);
    if (!status) e->info.weight_bytes = e->runner.model.bytes;
    return status;
}

/* The mapping of the checkpoint is gone afterwards; the weights are on the device. */
int engine__load(struct engine *e, struct exec *beside, char *err, size_t err_bytes) {
    double t = engine__now();
    int status = e->info.is_encoder ? load_encoder(e, beside, err, err_bytes)
                                    : load_decoder(e, beside, &t, err, err_bytes);
    checkpoint_close(e->checkpoint);
    e->checkpoint = NULL;
    e->info.start.weights = lap(&t);
    if (!status) e->info.backend = exec_backend(engine__exec(e));
    return status;
}

void engine__init(struct engine *e, struct deployment *d, const struct engine_options *options) {
    *e = (struct engine){.deployment = d, .options = *options};
    pthread_mutex_init(&e->mutex, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&e->client_cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
    e->info.block_size = options->block_size;
    e->info.max_num_seqs = options->max_num_seqs;
    e->info.max_num_batched_tokens = options->max_num_batched_tokens;
    e->info.max_logprobs = options->max_logprobs;
    e->info.prefix_caching = options->enable_prefix_caching;
}

void engine__deinit(struct engine *e) {
    while (e->live) {
        struct request *r = e->live;
        e->live = r->next_live;
        request_close(r);
    }
    for (int i = 0; i < RUNNER_SLOTS; i++) plan_deinit(&e->plans[i]);
    free(e->sampled);
    embedder_close(&e->embedder);
    runner_close(&e->runner);
    checkpoint_close(e->checkpoint);
    tokenizer_close(e->tokenizer);
    speculative_config_deinit(&e->speculative_config);
    free(e->text);
    free(e->positions);
    pthread_cond_destroy(&e->client_cond);
    pthread_mutex_destroy(&e->mutex);
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

struct speculation_figures engine_stats_speculation(const struct engine_stats *stats) {
    struct speculation_figures f = {.n_decodes = stats->n_decodes_with[0]};
    for (int i = 0; i < SPECULATION_MAX_DRAFTS; i++) {
        f.n_drafts += stats->n_decodes_with[1 + i];
        f.n_draft_tokens += stats->n_decodes_with[1 + i] * (uint64_t)(1 + i);
        f.n_accepted_tokens += stats->n_accepted_at[i];
    }
    f.n_decodes += f.n_drafts;
    return f;
}
