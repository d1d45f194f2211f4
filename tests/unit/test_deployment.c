/* test_deployment.c - two models in one process: each answers to the bit as it does alone, memory follows the load, and
 * steps take turns. */
#include "engine/engine_internal.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#define MODELS "tests/golden/"
enum { OUTPUT = 48, MAX_JOBS = 64, MAX_PROMPT = 400 };

struct job { /* the user pointer of a request */
    int32_t prompt[MAX_PROMPT], tokens[OUTPUT];
    struct token_logprob logprobs[OUTPUT];
    int n_prompt, n;
    bool finished;
    enum finish_reason reason;
    struct sampling_params sampling;
};

/* A prompt that depends on nothing but its number. */
static void make_job(struct job *job, int number, int n_prompt) {
    uint32_t x = 977u + 7919u * (uint32_t)number;
    *job = (struct job){.n_prompt = n_prompt, .sampling = sampling_default()};
    for (int i = 0; i < n_prompt; i++) {
        x = x * 1664525u + 1013904223u;
        job->prompt[i] = (int32_t)((x >> 8) % 250);
    }
    job->sampling.max_tokens = OUTPUT;
    job->sampling.ignore_eos = true;
    job->sampling.logprobs = 0;
    job->sampling.temperature = number % 2 ? 0.8f : 0;
    job->sampling.has_seed = true;
    job->sampling.seed = (uint64_t)number;
}

static void submit(struct engine *e, struct job *job) {
    char err[ERR_BYTES];
    const struct request_params params = {
        .prompt = job->prompt, .n_prompt = job->n_prompt, .sampling = job->sampling, .user = job};
    job->n = 0;
    job->finished = false;
    cr_assert_eq(engine_submit(e, &params, NULL, err, sizeof err), 0, "%s", err);
}

/* Takes what the engine has to say; returns how many requests ended. */
static int take(struct engine *e, int timeout_ms) {
    struct engine_event event;
    int n_ended = 0;
    engine_wait(e, timeout_ms);
    while (engine_poll(e, &event)) {
        struct job *job = event.user;
        for (int i = 0; i < event.n_tokens; i++) {
            cr_assert_lt(job->n, OUTPUT);
            job->logprobs[job->n] = event.logprobs[i].entries[0];
            job->tokens[job->n++] = event.tokens[i];
        }
        if (event.kind != EVENT_FINISHED) continue;
        job->finished = true;
        job->reason = event.reason;
        n_ended++;
    }
    return n_ended;
}

static void finish(struct engine *e, int n) {
    while (n) n -= take(e, 60000);
}

/* Different architectures, dtypes and block sizes, so that nothing of one fits the other by chance. */
enum { LARGE, SMALL, N_MODELS };
static void two_models(struct engine_options o[N_MODELS]) {
    o[LARGE] = o[SMALL] = engine_default_options();
    o[LARGE].model = MODELS "qwen3-bf16";
    o[LARGE].max_model_len = 512;
    o[LARGE].max_num_seqs = 16;
    o[LARGE].max_num_batched_tokens = 128;
    o[SMALL].model = MODELS "qwen2-fp32";
    o[SMALL].kv_cache_dtype = "fp8";
    o[SMALL].block_size = 8;
    o[SMALL].max_model_len = 480;
    o[SMALL].max_num_seqs = 8;
}

static struct deployment *open_two(const struct engine_options o[N_MODELS]) {
    struct deployment *d;
    char err[ERR_BYTES];
    cr_assert_eq(deployment_open(&d, o, N_MODELS, err, sizeof err), 0, "%s", err);
    return d;
}

static void answer_alone(const struct engine_options *options, struct job *jobs, int n) {
    struct engine_options o = *options;
    struct engine *e;
    char err[ERR_BYTES];
    o.kv_cache_memory_bytes = 0;
    o.num_blocks_override = 2000;
    cr_assert_eq(engine_open(&e, &o, err, sizeof err), 0, "%s", err);
    for (int i = 0; i < n; i++) {
        submit(e, &jobs[i]);
        finish(e, 1);
    }
    engine_close(e);
}

static void assert_same(const struct job *a, const struct job *b, const char *what, int number) {
    cr_assert_eq(a->reason, FINISH_LENGTH, "%s %d: reason %d", what, number, a->reason);
    cr_assert_eq(b->reason, FINISH_LENGTH, "%s %d: reason %d", what, number, b->reason);
    cr_assert_eq(a->n, b->n);
    for (int i = 0; i < a->n; i++) cr_assert_eq(a->tokens[i], b->tokens[i], "%s %d: token %d", what, number, i);
    cr_assert_arr_eq(a->logprobs, b->logprobs, (size_t)a->n * sizeof *a->logprobs, "%s %d: logprobs", what, number);
}

static struct engine_stats stats_of(struct deployment *d, int i) {
    struct engine_stats s;
    engine_stats(deployment_engine(d, i), &s);
    return s;
}

Test(deployment, each_answers_as_alone) {
    static struct job alone[N_MODELS][MAX_JOBS], together[N_MODELS][MAX_JOBS];
    const int n[N_MODELS] = {20, 12};
    struct engine_options o[N_MODELS];
    two_models(o);
    for (int m = 0; m < N_MODELS; m++) {
        for (int i = 0; i < n[m]; i++) make_job(&alone[m][i], 100 * m + i, 5 + 37 * i % 390);
        memcpy(together[m], alone[m], sizeof alone[m]);
        answer_alone(&o[m], alone[m], n[m]);
    }
    /* once with room for everything, once so tight that both preempt and take each other's cached blocks */
    static const size_t pools[] = {64 << 20, 5 << 19};
    for (size_t p = 0; p < sizeof pools / sizeof *pools; p++) {
        o[0].kv_cache_memory_bytes = pools[p];
        struct deployment *d = open_two(o);
        for (int pass = 0; pass < 2; pass++) { /* a cold prefix cache, and a warm one */
            for (int i = 0; i < MAX_JOBS; i++)
                for (int m = 0; m < N_MODELS; m++)
                    if (i < n[m]) submit(deployment_engine(d, m), &together[m][i]);
            for (int m = 0; m < N_MODELS; m++) finish(deployment_engine(d, m), n[m]);
            for (int m = 0; m < N_MODELS; m++)
                for (int i = 0; i < n[m]; i++) assert_same(&alone[m][i], &together[m][i], m ? "small" : "large", i);
        }
        for (int m = 0; m < N_MODELS && !p; m++)
            cr_assert(stats_of(d, m).prefix_hits > 0, "model %d: the second pass was cold too", m);
        const uint64_t n_preempted = stats_of(d, LARGE).n_preemptions + stats_of(d, SMALL).n_preemptions;
        cr_assert(p ? n_preempted > 0 : n_preempted == 0, "pool %zu: %d preemptions", p, (int)n_preempted);
        deployment_close(d);
    }
}

/* Waves in opposite phase: while one model is busy it holds most of the pool, and the other next to nothing. */
Test(deployment, the_pool_follows_the_load) {
    static struct job jobs[MAX_JOBS];
    enum { WAVES = 6, PER_WAVE = 48 };
    struct engine_options o[N_MODELS];
    two_models(o);
    o[LARGE].max_num_seqs = o[SMALL].max_num_seqs = PER_WAVE;
    o[0].kv_cache_memory_bytes = 6 << 20;
    struct deployment *d = open_two(o);
    const int n_slabs = d->pool->n_slabs;
    int most[WAVES] = {0}, others[WAVES] = {0};
    for (int w = 0; w < WAVES; w++) {
        struct engine *e = deployment_engine(d, w % 2);
        for (int i = 0; i < PER_WAVE; i++) {
            make_job(&jobs[i], 1000 * w + i, 300);
            submit(e, &jobs[i]);
        }
        finish(e, PER_WAVE);
        for (int i = 0; i < PER_WAVE; i++) cr_assert_eq(jobs[i].reason, FINISH_LENGTH);
        /* the engine thread has published its last figures and sleeps: the pool stands still */
        most[w] = d->pool->models[w % 2].n_slabs;
        others[w] = d->pool->models[1 - w % 2].n_slabs;
        cr_assert_eq(stats_of(d, LARGE).n_blocks_used + stats_of(d, SMALL).n_blocks_used, 0, "blocks were lost");
        kv_pool_check(d->pool);
    }
    for (int w = 1; w < WAVES; w++) {
        const int floor = d->pool->models[1 - w % 2].floor_slabs;
        cr_assert(most[w] > n_slabs / 2, "wave %d: the busy model has %d of %d slabs", w, most[w], n_slabs);
        cr_assert(others[w] <= n_slabs - most[w] && others[w] < most[w] - floor, "wave %d: the idle one has %d of %d",
                  w, others[w], n_slabs);
    }
    deployment_close(d);
}

/* Under a saturated large model a token of the small one waits for at most one step of the large one. */
Test(deployment, steps_take_turns) {
    static struct job jobs[MAX_JOBS], small;
    enum { CROWD = 40 };
    struct engine_options o[N_MODELS];
    two_models(o);
    o[0].kv_cache_memory_bytes = 64 << 20;
    struct deployment *d = open_two(o);
    struct engine *large = deployment_engine(d, LARGE), *e = deployment_engine(d, SMALL);
    for (int i = 0; i < CROWD; i++) {
        make_job(&jobs[i], i, 390);
        submit(large, &jobs[i]);
    }
    while (stats_of(d, LARGE).n_steps < 4) continue;
    make_job(&small, 7, 20);
    submit(e, &small);
    while (!small.n) take(e, 60000);
    const uint64_t large_before = stats_of(d, LARGE).n_steps, small_before = stats_of(d, SMALL).n_steps;
    while (!small.finished) take(e, 60000);
    const uint64_t n_large = stats_of(d, LARGE).n_steps - large_before,
                   n_small = stats_of(d, SMALL).n_steps - small_before;
    cr_assert(n_large + 2 >= n_small, "the large model ran dry: the test says nothing");
    cr_assert(n_large <= n_small + 2, "%d steps of the large model beside %d of the small one", (int)n_large,
              (int)n_small);
    finish(large, CROWD);
    deployment_close(d);
}

Test(deployment, one_cancel_leaves_the_other) {
    static struct job jobs[N_MODELS], alone;
    struct engine_options o[N_MODELS];
    char err[ERR_BYTES];
    two_models(o);
    o[0].kv_cache_memory_bytes = 8 << 20;
    make_job(&alone, 3, 100);
    answer_alone(&o[SMALL], &alone, 1);
    struct deployment *d = open_two(o);
    make_job(&jobs[LARGE], 2, 100);
    make_job(&jobs[SMALL], 3, 100);
    const struct request_params params = {.prompt = jobs[LARGE].prompt, .n_prompt = 100,
                                          .sampling = jobs[LARGE].sampling, .user = &jobs[LARGE]};
    uint64_t id;
    cr_assert_eq(engine_submit(deployment_engine(d, LARGE), &params, &id, err, sizeof err), 0, "%s", err);
    submit(deployment_engine(d, SMALL), &jobs[SMALL]);
    engine_cancel(deployment_engine(d, LARGE), id);
    for (int m = 0; m < N_MODELS; m++) finish(deployment_engine(d, m), 1);
    assert_same(&alone, &jobs[SMALL], "small", 3);
    deployment_close(d);
}

/* A model that answers few and short requests of its own drafts for one with many and longer ones: it drafts as far as it
 * can, and the answers are those without it. Two models may have one that drafts for them. */
Test(deployment, a_draft_of_smaller_limits) {
    static struct job alone[MAX_JOBS], jobs[N_MODELS][MAX_JOBS];
    enum { N = 12 };
    struct engine_options o[3];
    struct deployment *d;
    char err[ERR_BYTES];
    two_models(o);
    o[1] = o[0];
    o[2] = engine_default_options();
    o[2].model = MODELS "qwen3-fp32";
    o[2].max_num_seqs = 2;
    o[2].max_model_len = 100;
    o[2].block_size = 8;
    for (int i = 0; i < N; i++) make_job(&alone[i], i, 10 + 30 * i);
    for (int m = 0; m < N_MODELS; m++) memcpy(jobs[m], alone, sizeof alone);
    answer_alone(&o[0], alone, N);
    for (int m = 0; m < N_MODELS; m++)
        o[m].speculative_config = "{\"model\": \"" MODELS "qwen3-fp32\", \"adaptive\": false}";
    o[0].kv_cache_memory_bytes = 64 << 20;
    cr_assert_eq(deployment_open(&d, o, 3, err, sizeof err), 0, "%s", err);
    for (int i = 0; i < N; i++)
        for (int m = 0; m < N_MODELS; m++) submit(deployment_engine(d, m), &jobs[m][i]);
    for (int m = 0; m < N_MODELS; m++) finish(deployment_engine(d, m), N);
    for (int m = 0; m < N_MODELS; m++) {
        for (int i = 0; i < N; i++) assert_same(&alone[i], &jobs[m][i], "target", i);
        const struct engine_stats s = stats_of(d, m);
        cr_assert_gt(engine_stats_speculation(&s).n_draft_tokens, 0, "nothing was drafted: the test says nothing");
    }
    cr_assert_eq(stats_of(d, 2).n_blocks_used, 0);
    deployment_close(d);
}

/* An encoder in the crowd: each text's vector is to the bit the one that it gets alone. */
Test(deployment, an_encoder_beside_a_decoder) {
    enum { N_TEXTS = 30, C = 256 };
    static struct job jobs[MAX_JOBS], alone[MAX_JOBS], texts[N_TEXTS];
    static float vectors[2][N_TEXTS][C];
    struct engine_options o[2] = {engine_default_options(), engine_default_options()};
    struct deployment *d;
    char err[ERR_BYTES];
    o[0].model = MODELS "bert-fp32";
    o[0].max_num_batched_tokens = 128;
    o[1].model = MODELS "qwen3-bf16";
    o[1].max_model_len = 512;
    for (int i = 0; i < 8; i++) {
        make_job(&alone[i], i, 30 + 40 * i);
        jobs[i] = alone[i];
    }
    answer_alone(&o[1], alone, 8);
    for (int round = 0; round < 2; round++) { /* one text at a time, then all at once in a crowd */
        cr_assert_eq(deployment_open(&d, o, 1 + round, err, sizeof err), 0, "%s", err);
        struct engine *e = deployment_engine(d, 0);
        const struct engine_info *info = engine_info(e);
        cr_assert(info->is_encoder && info->encoder.hidden <= C);
        for (int i = 0; i < 8 && round; i++) submit(deployment_engine(d, 1), &jobs[i]);
        for (int i = 0; i < N_TEXTS; i++) {
            texts[i].n_prompt = 1 + 7 * i % info->max_model_len;
            for (int t = 0; t < texts[i].n_prompt; t++) texts[i].prompt[t] = (17 * i + 5 * t) % info->model.vocab;
            texts[i].sampling = sampling_default();
            texts[i].sampling.prompt_only = true;
            const struct request_params params = {.prompt = texts[i].prompt, .n_prompt = texts[i].n_prompt,
                                                  .sampling = texts[i].sampling, .user = &texts[i],
                                                  .embedding = vectors[round][i]};
            cr_assert_eq(engine_submit(e, &params, NULL, err, sizeof err), 0, "%s", err);
            if (!round) finish(e, 1);
        }
        if (round) finish(e, N_TEXTS);
        if (round) finish(deployment_engine(d, 1), 8);
        const struct request_params wrong = {.prompt = texts[0].prompt, .n_prompt = 1, .sampling = texts[0].sampling};
        cr_assert_eq(engine_submit(e, &wrong, NULL, err, sizeof err), STATUS_INVALID);
        cr_assert(strstr(err, "does not generate text"), "%s", err);
        cr_assert_eq(stats_of(d, 0).n_waiting + stats_of(d, 0).n_running, 0);
        deployment_close(d);
    }
    cr_assert_neq(vectors[0][0][0], 0);
    cr_assert_arr_eq(vectors[0], vectors[1], sizeof vectors[0]);
    for (int i = 0; i < 8; i++) assert_same(&alone[i], &jobs[i], "decoder", i);
}

/* The bound on waiting requests is asked for the first of a group alone. */
Test(deployment, a_group_is_taken_whole) {
    enum { C = 256, BOUND = 3 };
    static float vectors[BOUND + 2][C];
    const int32_t ids[] = {2, 5, 3};
    struct engine_options o = engine_default_options();
    struct engine *e;
    char err[ERR_BYTES];
    o.model = MODELS "bert-fp32";
    o.max_num_seqs = 2;
    o.max_waiting = 1;
    cr_assert_eq(engine_open(&e, &o, err, sizeof err), 0, "%s", err);
    struct request_params params = {.prompt = ids, .n_prompt = 3, .sampling = sampling_default()};
    params.sampling.prompt_only = true;
    for (int i = 0; i < BOUND + 2; i++) { /* none of them has ended before engine_poll */
        static struct job job;
        params.user = &job;
        params.embedding = vectors[i];
        params.admitted = i == BOUND + 1;
        cr_assert_eq(engine_submit(e, &params, NULL, err, sizeof err), i == BOUND ? STATUS_BUSY : 0, "%d: %s", i, err);
    }
    finish(e, BOUND + 1);
    cr_assert_arr_eq(vectors[0], vectors[BOUND + 1], sizeof vectors[0]);
    cr_assert_neq(vectors[0][0], 0);
    engine_close(e);
}

Test(deployment, what_cannot_be_is_refused) {
    struct engine_options o[DEPLOYMENT_MAX_MODELS + 1];
    struct deployment *d;
    char err[ERR_BYTES];
    two_models(o);
    cr_assert_eq(deployment_open(&d, o, 0, err, sizeof err), STATUS_INVALID);
    cr_assert_eq(deployment_open(&d, o, DEPLOYMENT_MAX_MODELS + 1, err, sizeof err), STATUS_INVALID);
    cr_assert(strstr(err, "expected 1 to 4 models, found 5"), "%s", err);

    o[SMALL].model = "no/such/model";
    cr_assert_eq(deployment_open(&d, o, N_MODELS, err, sizeof err), STATUS_NOT_FOUND);
    cr_assert(strstr(err, "no/such/model"), "%s", err);

    two_models(o);
    o[SMALL].num_blocks_override = 100;
    cr_assert_eq(deployment_open(&d, o, N_MODELS, err, sizeof err), STATUS_INVALID);
    cr_assert(strstr(err, "--num-gpu-blocks-override"), "%s", err);

    two_models(o);
    o[0].kv_cache_memory_bytes = 2 << 20;
    o[SMALL].kv_cache_floor_bytes = 3 << 20;
    cr_assert_eq(deployment_open(&d, o, N_MODELS, err, sizeof err), STATUS_INVALID);
    cr_assert(strstr(err, "its floor of 3 MB"), "%s", err);
    cr_assert(strstr(err, "qwen2-fp32"), "%s", err);

    two_models(o);
    o[0].kv_cache_memory_bytes = 1 << 19;
    cr_assert_eq(deployment_open(&d, o, N_MODELS, err, sizeof err), STATUS_INVALID);
    cr_assert(strstr(err, "--max-model-len"), "%s", err);
    cr_assert_null(d);
}
