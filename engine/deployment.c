/* deployment.c - several models on one device: opening them together, the plan of memory, closing.
 *
 *     configure all -> budgets that are numbers -> load all -> arena, KV pool -> schedulers -> the engine thread
 *
 * Device memory: weights of every model, activations of the largest step of all (steps run one after the other, so one
 * arena serves them), and the rest is the KV pool. With one model a granule of the pool is one of its blocks; with
 * several it is small, so that blocks of any size waste little. */
#include "engine/engine_internal.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL_GRANULE = 4096 };

/* ---- the plan of memory ------------------------------------------------------------------------------------------ */

static struct kv_layout layout_of(const struct engine *e, size_t granule_bytes) {
    const struct runner_options o = engine__runner_options(e);
    return runner_kv_layout(&o, &e->info.model, granule_bytes);
}

/* Engine of model i of the pool. */
static struct engine *of_pool(const struct deployment *d, int i) {
    for (int j = 0;; j++)
        if (d->engines[j].kv_model == i) return &d->engines[j];
}

static size_t granule_bytes_of(const struct deployment *d) {
    return d->n_pooled == 1 ? layout_of(of_pool(d, 0), 64).block_bytes : SMALL_GRANULE;
}

/* Blocks of one sequence as long as the model allows. */
static size_t sequence_blocks(const struct engine *e) {
    return ((size_t)e->info.max_model_len + (size_t)e->info.block_size - 1) / (size_t)e->info.block_size;
}

static int open_pool(struct deployment *d, size_t bytes, char *err, size_t err_bytes) {
    const size_t granule_bytes = granule_bytes_of(d), n_granules = bytes / granule_bytes;
    struct kv_pool_options pool = {
        .n_granules = (int)(n_granules < INT32_MAX ? n_granules : INT32_MAX),
        .n_models = d->n_pooled,
        .prefix_cache = true,
    };
    for (int i = 0; i < d->n_pooled; i++) {
        const struct engine *e = of_pool(d, i);
        const struct engine_options *o = &e->options;
        const struct kv_layout layout = layout_of(e, granule_bytes);
        const size_t share = n_granules / (2 * (size_t)d->n_pooled),
                     one_sequence = sequence_blocks(e) * (size_t)layout.block_granules,
                     floor = e >= d->engines + d->n_public ? 0 /* it only drafts: what is left will do */
                             : o->kv_cache_floor_bytes ? o->kv_cache_floor_bytes / granule_bytes
                             : one_sequence < share    ? one_sequence
                                                       : share;
        if (floor > n_granules || (o->kv_cache_ceiling_bytes && o->kv_cache_ceiling_bytes / granule_bytes < floor))
            return fail(err, err_bytes, STATUS_INVALID,
                        "%s: its floor of %zu MB of KV cache is more than %s: lower kv-cache-floor-bytes", e->path,
                        o->kv_cache_floor_bytes >> 20, floor > n_granules ? "the whole pool" : "its ceiling");
        const size_t ceiling = o->kv_cache_ceiling_bytes / granule_bytes;
        pool.models[i] = (struct kv_pool_model_options){
            .P = o->block_size,
            .block_granules = layout.block_granules,
            .floor_granules = (int)floor,
            .ceiling_granules = (int)(ceiling < n_granules ? ceiling : n_granules),
            .no_prefix_cache = !o->enable_prefix_caching,
        };
    }
    return kv_pool_open(&d->pool, &pool, err, err_bytes);
}

/* Whether each model's longest sequence fits; where nobody has asked for a length, it becomes what fits. */
static int fit_lengths(struct deployment *d, char *err, size_t err_bytes) {
    for (int i = 0; i < d->n_pooled; i++) {
        struct engine *e = of_pool(d, i);
        const struct engine_options *o = &e->options;
        const size_t block_bytes = layout_of(e, 64).block_bytes, needed = sequence_blocks(e);
        const int n_blocks = kv_pool_capacity(d->pool, i);
        if ((size_t)n_blocks < needed && o->max_model_len)
            return fail(err, err_bytes, STATUS_INVALID,
                        "%s: a sequence of --max-model-len %d needs %zu KV blocks (%zu MB), but there is room for %d: "
                        "raise --kv-cache-memory-bytes or lower --max-model-len",
                        e->path, e->info.max_model_len, needed, needed * block_bytes >> 20, n_blocks);
        if (n_blocks < 2)
            return fail(err, err_bytes, STATUS_INVALID,
                        "%s: at least two KV blocks of %zu bytes are needed, but there is room for %d: raise "
                        "--kv-cache-memory-bytes",
                        e->path, block_bytes, n_blocks);
        if ((size_t)n_blocks < needed) e->info.max_model_len = n_blocks * o->block_size;
        e->info.n_blocks = n_blocks;
    }
    return 0;
}

/* Bytes for KV: on a GPU what --gpu-memory-utilization leaves beside weights and activations, which are allocated; on
 * the CPU a quarter of what is free, because the machine is not ours alone, and no more than requests can fill. */
static int kv_budget(const struct deployment *d, size_t *bytes, char *err, size_t err_bytes) {
    const struct exec *exec = engine__exec(d->engines);
    const double share = d->engines->options.gpu_memory_utilization;
    size_t free_bytes, total_bytes, most = 0;
    exec_memory(exec, &free_bytes, &total_bytes);
    if (!exec_is_gpu(exec)) {
        for (int i = 0; i < d->n_pooled; i++) {
            const struct engine *e = of_pool(d, i);
            most += sequence_blocks(e) * (size_t)e->options.max_num_seqs * layout_of(e, 64).block_bytes;
        }
        *bytes = free_bytes / 4 < most ? free_bytes / 4 : most;
        return 0;
    }
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

/* What the options say of the pool's size in numbers; 0: nothing. */
static size_t bytes_asked(const struct deployment *d) {
    const struct engine_options *o = &d->engines->options;
    if (!d->n_pooled) return 0;
    return o->num_blocks_override ? (size_t)o->num_blocks_override * granule_bytes_of(d) : o->kv_cache_memory_bytes;
}

/* The arena and the KV pool, when all weights are on the device. */
static int place(struct deployment *d, char *err, size_t err_bytes) {
    struct exec *exec = engine__exec(d->engines);
    const double t = engine__now();
    size_t arena_bytes = 0, kv_bytes = bytes_asked(d);
    if (!d->n_pooled) return exec_finish(exec, err, err_bytes);
    for (int i = 0; i < d->n_pooled; i++) {
        const struct runner *r = &of_pool(d, i)->runner;
        const size_t bytes = runner_arena_bytes(&r->options, &r->model.config);
        if (bytes > arena_bytes) arena_bytes = bytes;
    }
    d->arena = exec_alloc(exec, arena_bytes);
    if (!d->arena)
        return fail(err, err_bytes, STATUS_NO_MEMORY,
                    "no memory for the activations (%zu MB): lower --max-num-seqs or --max-num-batched-tokens",
                    arena_bytes >> 20);
    int status = 0;
    if (!d->pool) {
        status = kv_budget(d, &kv_bytes, err, err_bytes);
        if (!status) status = open_pool(d, kv_bytes, err, err_bytes);
        if (!status) status = fit_lengths(d, err, err_bytes);
    }
    if (status) return status;
    const size_t granule_bytes = granule_bytes_of(d);
    kv_bytes = (size_t)d->pool->n_granules * granule_bytes;
    d->kv_memory = exec_alloc(exec, kv_bytes);
    if (!d->kv_memory)
        return fail(err, err_bytes, STATUS_NO_MEMORY,
                    "no memory for the KV pool (%zu MB): lower --gpu-memory-utilization or --kv-cache-memory-bytes",
                    kv_bytes >> 20);
    status = exec_finish(exec, err, err_bytes);
    for (int i = 0; i < d->n_pooled; i++) {
        struct engine *e = of_pool(d, i);
        runner_place(&e->runner, d->arena, d->kv_memory, granule_bytes);
        e->info.kv_bytes = kv_bytes;
        e->info.start.kv = engine__now() - t;
    }
    return status;
}

/* ---- opening and closing ----------------------------------------------------------------------------------------- */

/* Options of a model that does nothing but draft for another. */
static struct engine_options drafting_options(const struct engine *e) {
    const struct engine_options *o = &e->options;
    struct engine_options draft = engine_default_options();
    draft.model = e->speculative_config.draft;
    draft.backend = o->backend;
    draft.load_format = o->load_format;
    draft.token_ids_only = o->token_ids_only;
    draft.enforce_eager = o->enforce_eager;
    draft.enable_prefix_caching = o->enable_prefix_caching;
    draft.max_num_seqs = o->max_num_seqs;
    draft.max_num_batched_tokens = o->max_num_batched_tokens;
    draft.block_size = o->block_size;
    draft.max_logprobs = 0;
    return draft;
}

/* Every id that both tokenizers have must stand for the same bytes. */
static int check_same_tokens(const struct engine *e, const struct engine *draft, char *err, size_t err_bytes) {
    const struct tokenizer *a = e->tokenizer, *b = draft->tokenizer;
    if (!a || !b) return 0;
    const int n = tokenizer_size(a) < tokenizer_size(b) ? tokenizer_size(a) : tokenizer_size(b);
    for (int id = 0; id < n; id++) {
        size_t a_bytes, b_bytes;
        const char *of_a = tokenizer_bytes(a, id, &a_bytes), *of_b = tokenizer_bytes(b, id, &b_bytes);
        if (!a_bytes || !b_bytes || (a_bytes == b_bytes && !memcmp(of_a, of_b, a_bytes))) continue;
        return fail(
            err, err_bytes, STATUS_INVALID,
            "%s cannot draft for %s: expected the same tokens, but id %d is \"%.*s\" in one and \"%.*s\" in the "
            "other; choose a draft model of the same family",
            draft->path, e->path, id, (int)b_bytes, of_b, (int)a_bytes, of_a);
    }
    return 0;
}

/* Finds each model's drafting model among the others, or adds it to them. */
static int add_drafts(struct deployment *d, char *err, size_t err_bytes) {
    for (int i = 0; i < d->n_public; i++) {
        struct engine *e = &d->engines[i];
        if (!e->speculative_config.draft) continue;
        for (int j = 0; j < d->n_engines && !e->draft; j++)
            if (!strcmp(d->engines[j].options.model, e->speculative_config.draft)) e->draft = &d->engines[j];
        if (e->draft == e)
            return fail(err, err_bytes, STATUS_INVALID, "%s: expected another model to draft for it, found itself",
                        e->options.model);
        int status = 0;
        if (!e->draft) {
            const struct engine_options options = drafting_options(e);
            e->draft = &d->engines[d->n_engines++];
            engine__init(e->draft, d, &options);
            status = engine__configure(e->draft, err, err_bytes);
            if (!status && e->draft->info.max_model_len > e->info.max_model_len)
                e->draft->info.max_model_len = e->info.max_model_len;
        }
        if (!status && e->draft->info.is_encoder)
            status = fail(err, err_bytes, STATUS_INVALID, "%s cannot draft for %s: it turns texts into vectors",
                          e->draft->options.model, e->options.model);
        if (!status) status = check_same_tokens(e, e->draft, err, err_bytes);
        e->speculative_config.draft_P = e->draft->options.block_size;
        if (e->draft->drafts_for < e->options.max_num_seqs) e->draft->drafts_for = e->options.max_num_seqs;
        if (status) return status;
    }
    return 0;
}

/* Of several models the sentence must say which. */
static int name_model(const struct engine *e, int status, char *err, size_t err_bytes) {
    char reason[ERR_BYTES];
    if (!err || strstr(err, e->options.model)) return status;
    fail(reason, sizeof reason, status, "%s", err);
    return fail(err, err_bytes, status, "%s: %s", e->options.model, reason);
}

/* Everything that can be known before a weight is read. */
static int configure(struct deployment *d, char *err, size_t err_bytes) {
    int status = 0;
    for (int i = 0; i < d->n_public && !status; i++) {
        const struct engine *e = &d->engines[i];
        status = engine__configure(&d->engines[i], err, err_bytes);
        if (status && d->n_public > 1) status = name_model(e, status, err, err_bytes);
    }
    if (!status) status = add_drafts(d, err, err_bytes);
    for (int i = 0; i < d->n_engines; i++)
        d->engines[i].kv_model = d->engines[i].info.is_encoder ? -1 : d->n_pooled++;
    for (int i = 0; i < d->n_engines && !status && d->n_engines > 1; i++)
        if (d->engines[i].options.num_blocks_override)
            status = fail(err, err_bytes, STATUS_INVALID,
                          "%s: --num-gpu-blocks-override counts blocks of one model, but %d share the pool: give "
                          "--kv-cache-memory-bytes",
                          d->engines[i].options.model, d->n_engines);
    if (status || !bytes_asked(d)) return status;
    status = open_pool(d, bytes_asked(d), err, err_bytes);
    return status ? status : fit_lengths(d, err, err_bytes);
}

static int start_thread(struct deployment *d, char *err, size_t err_bytes) {
    /* signals are the caller's business: they must interrupt its calls, not the engine thread's */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int started = pthread_create(&d->thread, NULL, engine__thread, d);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started != 0)
        return fail(err, err_bytes, STATUS_NO_MEMORY, "cannot start the engine thread: %s", strerror(started));
    d->thread_started = true;
    return 0;
}

int deployment_open(struct deployment **out, const struct engine_options *models, int n_models, char *err,
                    size_t err_bytes) {
    *out = NULL;
    if (n_models < 1 || n_models > DEPLOYMENT_MAX_MODELS)
        return fail(err, err_bytes, STATUS_INVALID, "expected 1 to %d models, found %d", DEPLOYMENT_MAX_MODELS,
                    n_models);
    struct deployment *d = calloc(1, sizeof *d);
    if (d) d->engines = calloc(2 * (size_t)n_models, sizeof *d->engines); /* each may bring one that drafts for it */
    if (!d || !d->engines) {
        free(d);
        return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the engine");
    }
    pthread_mutex_init(&d->mutex, NULL);
    pthread_cond_init(&d->cond, NULL);
    for (; d->n_engines < n_models; d->n_engines++) engine__init(&d->engines[d->n_engines], d, &models[d->n_engines]);
    d->n_public = n_models;

    int status = configure(d, err, err_bytes);
    for (int i = 0; i < d->n_engines && !status; i++)
        status = engine__load(&d->engines[i], i ? engine__exec(d->engines) : NULL, err, err_bytes);
    if (!status) status = place(d, err, err_bytes);
    for (int i = 0; i < d->n_pooled && !status; i++) status = engine__open_scheduler(of_pool(d, i), err, err_bytes);
    for (int i = 0; i < d->n_engines && !status; i++) engine__publish_figures(&d->engines[i]);
    if (!status) status = start_thread(d, err, err_bytes);
    if (status) {
        deployment_close(d);
        return status;
    }
    *out = d;
    return 0;
}

void deployment_close(struct deployment *d) {
    if (!d) return;
    if (d->thread_started) {
        atomic_store(&d->stopping, true);
        engine__nudge(d->engines);
        pthread_join(d->thread, NULL);
    }
    struct exec *exec = engine__exec(d->engines);
    if (exec) exec_free(exec, d->kv_memory);
    if (exec) exec_free(exec, d->arena);
    for (int i = 0; i < d->n_engines; i++) speculator_close(&d->engines[i].speculator); /* it uses another's runner */
    while (d->n_engines) engine__deinit(&d->engines[--d->n_engines]); /* the first one's exec has the queue: last */
    kv_pool_close(d->pool);
    pthread_cond_destroy(&d->cond);
    pthread_mutex_destroy(&d->mutex);
    free(d->engines);
    free(d);
}

struct engine *deployment_engine(struct deployment *d, int i) {
    CHECK(i >= 0 && i < d->n_public);
    return &d->engines[i];
}

int engine_open(struct engine **out, const struct engine_options *options, char *err, size_t err_bytes) {
    struct deployment *d;
    *out = NULL;
    int status = deployment_open(&d, options, 1, err, err_bytes);
    if (!status) *out = deployment_engine(d, 0);
    return status;
}

void engine_close(struct engine *e) {
    if (!e) return;
    CHECK_EQ(e->deployment->n_public, 1);
    deployment_close(e->deployment);
}

void engine__nudge(struct engine *e) {
    pthread_mutex_lock(&e->deployment->mutex);
    pthread_cond_signal(&e->deployment->cond);
    pthread_mutex_unlock(&e->deployment->mutex);
}
