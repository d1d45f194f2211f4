/* test_engine_bits.c - the same request gives the same tokens and the same logprobs, to the bit, whatever happens
 * around it: alone, in a crowd, in prefill chunks of any size, from a cold or a warm prefix cache, after preemption,
 * with any number of threads and any block size. Any fault in scheduling, paging or caching shows as a changed bit. */
#include "engine/engine.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#define MODELS "tests/golden/"
enum { OUTPUT = 40, TOP = 3, MAX_REQUESTS = 24 };

struct answer {
    int n;
    int32_t tokens[OUTPUT];
    struct token_logprob logprobs[OUTPUT][1 + TOP];
    struct request_usage usage;
    enum finish_reason reason;
};

struct job { /* the user pointer of a request */
    int n_prompt;
    int32_t prompt[600];
    struct sampling_params sampling;
    struct answer answer;
};

/* A prompt that depends on nothing but its number. */
static struct job make_job(int number, int n_prompt) {
    struct job job = {.n_prompt = n_prompt, .sampling = sampling_default()};
    uint32_t x = 12345u + 7919u * (uint32_t)number;
    for (int i = 0; i < n_prompt; i++) {
        x = x * 1664525u + 1013904223u;
        job.prompt[i] = (int32_t)((x >> 8) % 250);
    }
    job.sampling.max_tokens = OUTPUT;
    job.sampling.ignore_eos = true;
    job.sampling.logprobs = TOP;
    job.sampling.temperature = number % 2 ? 0.9f : 0;
    job.sampling.top_p = 0.95f;
    job.sampling.has_seed = true;
    job.sampling.seed = 42 + (uint64_t)number;
    if (number % 3 == 1) job.sampling.repetition_penalty = 1.1f, job.sampling.frequency_penalty = 0.2f;
    return job;
}

static struct engine *open_engine(const char *model, const struct engine_options *options) {
    struct engine_options o = *options;
    struct engine *e;
    char err[ERR_BYTES];
    o.model = model;
    cr_assert_eq(engine_open(&e, &o, err, sizeof err), 0, "%s: %s", model, err);
    return e;
}

static struct engine_options small_options(void) {
    struct engine_options o = engine_default_options();
    o.max_model_len = 1024;
    o.max_num_seqs = 32;
    o.num_blocks_override = 2000;
    return o;
}

static void submit(struct engine *e, struct job *job) {
    char err[ERR_BYTES];
    const struct request_params params = {
        .prompt = job->prompt, .n_prompt = job->n_prompt, .sampling = job->sampling, .user = job};
    job->answer = (struct answer){0};
    cr_assert_eq(engine_submit(e, &params, NULL, err, sizeof err), 0, "%s", err);
}

static void run(struct engine *e, struct job *jobs, int n) {
    struct engine_event event;
    int n_left = n;
    for (int i = 0; i < n; i++) submit(e, &jobs[i]);
    while (n_left) {
        cr_assert(engine_wait(e, 60000), "nothing for a minute");
        while (engine_poll(e, &event)) {
            struct answer *a = &((struct job *)event.user)->answer;
            for (int i = 0; i < event.n_tokens; i++) {
                cr_assert_lt(a->n, OUTPUT);
                a->tokens[a->n] = event.tokens[i];
                cr_assert_eq(event.logprobs[i].n_top, TOP);
                memcpy(a->logprobs[a->n++], event.logprobs[i].entries, sizeof a->logprobs[0]);
            }
            if (event.kind != EVENT_FINISHED) continue;
            a->usage = event.usage;
            a->reason = event.reason;
            n_left--;
        }
    }
}

static void assert_same(const struct job *a, const struct job *b, const char *what) {
    cr_assert_eq(a->answer.reason, FINISH_LENGTH, "%s: reason %d", what, a->answer.reason);
    cr_assert_eq(b->answer.reason, FINISH_LENGTH, "%s: reason %d", what, b->answer.reason);
    cr_assert_eq(a->answer.n, OUTPUT, "%s: %d tokens", what, a->answer.n);
    cr_assert_eq(b->answer.n, OUTPUT, "%s: %d tokens", what, b->answer.n);
    for (int i = 0; i < OUTPUT; i++) {
        cr_assert_eq(a->answer.tokens[i], b->answer.tokens[i], "%s: token %d is %d against %d", what, i,
                     a->answer.tokens[i], b->answer.tokens[i]);
        cr_assert_arr_eq(a->answer.logprobs[i], b->answer.logprobs[i], sizeof a->answer.logprobs[i],
                         "%s: logprob of token %d is %.9g against %.9g", what, i, a->answer.logprobs[i][0].logprob,
                         b->answer.logprobs[i][0].logprob);
    }
}

/* Two requests, one greedy and one sampled with penalties, each alone: the truth of all comparisons. */
enum { N_PROBES = 2 };
static const int probe_length[N_PROBES] = {200, 77};

static void probes_alone(const char *model, struct job *jobs) {
    struct engine_options o = small_options();
    o.enable_prefix_caching = false;
    struct engine *e = open_engine(model, &o);
    for (int i = 0; i < N_PROBES; i++) {
        jobs[i] = make_job(i, probe_length[i]);
        run(e, &jobs[i], 1);
        cr_assert_eq(jobs[i].answer.usage.n_prompt, probe_length[i]);
        cr_assert_eq(jobs[i].answer.usage.n_cached, 0);
    }
    /* the comparison can fail: other prompts give other answers */
    cr_assert(memcmp(jobs[0].answer.logprobs, jobs[1].answer.logprobs, sizeof jobs[0].answer.logprobs) != 0);
    engine_close(e);
}

static const char *const models[] = {MODELS "qwen2-bf16", MODELS "qwen3-fp16", MODELS "qwen3-fp32"};
#define FOR_EACH_MODEL(m) for (const char *const *m = models; m < models + sizeof models / sizeof *models; m++)

Test(engine_bits, in_a_batch_of_sixteen_others) {
    static struct job alone[N_PROBES], crowd[MAX_REQUESTS];
    FOR_EACH_MODEL(m) {
        probes_alone(*m, alone);
        struct engine_options o = small_options();
        struct engine *e = open_engine(*m, &o);
        for (int p = 0; p < N_PROBES; p++) {
            for (int i = 0; i < 17; i++) crowd[i] = make_job(100 + 17 * p + i, 20 + 23 * i);
            crowd[8] = make_job(p, probe_length[p]);
            run(e, crowd, 17);
            assert_same(&alone[p], &crowd[8], *m);
        }
        engine_close(e);
    }
}

Test(engine_bits, prefill_chunks) {
    static const int chunk[] = {1, 7, 512};
    static struct job alone[N_PROBES], job;
    FOR_EACH_MODEL(m) {
        probes_alone(*m, alone);
        for (int c = 0; c < 3; c++) {
            struct engine_options o = small_options();
            o.max_num_batched_tokens = chunk[c];
            struct engine *e = open_engine(*m, &o);
            for (int p = 0; p < N_PROBES; p++) {
                job = make_job(p, probe_length[p]);
                run(e, &job, 1);
                assert_same(&alone[p], &job, *m);
            }
            struct engine_stats stats;
            engine_stats(e, &stats);
            cr_assert_geq(stats.n_steps, (uint64_t)(probe_length[0] / chunk[c] + OUTPUT - 1));
            engine_close(e);
        }
    }
}

Test(engine_bits, cold_and_warm_prefix_cache) {
    static struct job alone[N_PROBES], job;
    FOR_EACH_MODEL(m) {
        probes_alone(*m, alone);
        struct engine_options o = small_options();
        struct engine *e = open_engine(*m, &o);
        for (int p = 0; p < N_PROBES; p++) {
            for (int warm = 0; warm < 2; warm++) {
                job = make_job(p, probe_length[p]);
                run(e, &job, 1);
                assert_same(&alone[p], &job, warm ? "warm" : "cold");
                cr_assert_eq(job.answer.usage.n_cached, warm ? (probe_length[p] - 1) / 16 * 16 : 0);
            }
        }
        /* a prefix shared with another prompt: half of the blocks are warm */
        job = make_job(0, probe_length[0]);
        for (int i = 96; i < job.n_prompt; i++) job.prompt[i] = 7;
        run(e, &job, 1);
        cr_assert_eq(job.answer.usage.n_cached, 96);
        static struct job again;
        again = job;
        again.answer = (struct answer){0};
        engine_close(e);
        o.enable_prefix_caching = false;
        e = open_engine(*m, &o);
        run(e, &again, 1);
        assert_same(&job, &again, "half warm");
        engine_close(e);
    }
}

Test(engine_bits, after_preemption) {
    static struct job alone[N_PROBES], crowd[MAX_REQUESTS];
    FOR_EACH_MODEL(m) {
        probes_alone(*m, alone);
        for (int cached = 0; cached < 2; cached++) {
            struct engine_options o = small_options();
            o.max_model_len = 256;
            o.num_blocks_override = 34; /* room for two requests and a bit */
            o.enable_prefix_caching = cached;
            struct engine *e = open_engine(*m, &o);
            int n_preempted = 0;
            /* On a loaded machine a slow client may bring them one by one: no crowd. Then they come again. */
            for (int attempt = 0; attempt < 20 && !n_preempted; attempt++) {
                for (int i = 0; i < 12; i++)
                    crowd[i] = make_job(i < N_PROBES ? i : 100 + i, i ? probe_length[1] : probe_length[0]);
                run(e, crowd, 12);
                for (int p = 0; p < N_PROBES; p++) assert_same(&alone[p], &crowd[p], *m);
                for (int i = 0; i < 12; i++) n_preempted += crowd[i].answer.usage.n_preemptions;
            }
            cr_assert_gt(n_preempted, 0, "the pool was not small enough to preempt");
            /* one that was preempted, against itself alone */
            for (int i = 0; i < 12; i++) {
                if (!crowd[i].answer.usage.n_preemptions) continue;
                static struct job again;
                again = crowd[i];
                run(e, &again, 1);
                assert_same(&crowd[i], &again, "preempted");
            }
            struct engine_stats stats;
            engine_stats(e, &stats);
            cr_assert_eq(stats.n_blocks_used, 0);
            engine_close(e);
        }
    }
}

Test(engine_bits, threads_and_block_sizes) {
    static struct job alone[N_PROBES], job;
    static const int threads[] = {1, 2, 3}, blocks[] = {1, 5, 64};
    FOR_EACH_MODEL(m) {
        probes_alone(*m, alone);
        for (int i = 0; i < 3; i++) {
            struct engine_options o = small_options();
            o.n_threads = threads[i];
            o.block_size = blocks[i];
            struct engine *e = open_engine(*m, &o);
            for (int p = 0; p < N_PROBES; p++) {
                job = make_job(p, probe_length[p]);
                run(e, &job, 1);
                assert_same(&alone[p], &job, *m);
            }
            engine_close(e);
        }
    }
}

/* Drafts change when tokens come, never which. The tests' models repeat themselves when greedy, so look-up is right often,
 * and wrong as often when they sample; a draft model is right always where it is the same model, and hardly ever where it
 * is another one. Each also in a pool so small that sequences with drafts, and shadows, have to go. */
Test(engine_bits, speculation) {
    static const struct {
        const char *config;
        bool fixed, by_model;
    } cases[] = {
        {"{'method': 'ngram', 'num_speculative_tokens': 4, 'adaptive': false}", true, false},
        {"{'method': 'ngram', 'num_speculative_tokens': 16, 'prompt_lookup_min': 1, 'adaptive': false}", true, false},
        {"{'method': 'ngram'}", false, false},
        {"{'model': './%s', 'num_speculative_tokens': 3, 'adaptive': false}", true, true},
        {"{'model': './" MODELS "qwen3-bf16', 'num_speculative_tokens': 6, 'adaptive': false}", true, true},
        {"{'model': './%s'}", false, true},
        {"{'method': 'ngram+draft_model', 'model': './%s', 'adaptive': false}", true, true},
    };
    static struct job jobs[MAX_REQUESTS], plain[MAX_REQUESTS];
    FOR_EACH_MODEL(m) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
        if (m != models) break; /* another model takes no other ways */
#endif
        struct engine_options o = small_options();
        o.max_model_len = 256;
        for (int i = 0; i < MAX_REQUESTS; i++) plain[i] = jobs[i] = make_job(i, i % 2 ? 77 : 200);
        struct engine *e = open_engine(*m, &o);
        run(e, plain, MAX_REQUESTS);
        engine_close(e);
        for (size_t c = 0; c < 2 * sizeof cases / sizeof *cases; c++) {
            const bool tight = c % 2, by_model = cases[c / 2].by_model;
            struct engine_stats stats = {0};
            char config[256];
            snprintf(config, sizeof config, cases[c / 2].config, *m);
            for (char *p = config; *p; p++) *p = *p == '\'' ? '"' : *p;
            o.speculative_config = config;
            o.num_blocks_override = by_model ? 0 : tight ? 34 : 2000;
            o.kv_cache_memory_bytes = tight ? 3 << 18 : 64 << 20;
            e = open_engine(*m, &o);
            for (int attempt = 0; attempt < 20; attempt++) { /* see above */
                run(e, jobs, MAX_REQUESTS);
                for (int i = 0; i < MAX_REQUESTS; i++) assert_same(&plain[i], &jobs[i], config);
                engine_stats(e, &stats);
                cr_assert_eq(stats.n_blocks_used, 0);
                if (!tight || by_model || stats.n_preemptions) break;
            }
            cr_assert(!tight || by_model || stats.n_preemptions, "%s: the pool was not small enough to preempt", config);
            const struct speculation_figures f = engine_stats_speculation(&stats);
            const bool other = strstr(cases[c / 2].config, MODELS);
            cr_assert(!cases[c / 2].fixed || (tight && by_model) || (f.n_draft_tokens > 0 && (other || f.n_accepted_tokens > 0)),
                      "%s: %d of %d drafts accepted: the test says nothing", config, (int)f.n_accepted_tokens,
                      (int)f.n_draft_tokens);
            /* the same model drafts what it samples itself */
            if (strstr(cases[c / 2].config, "{'model': './%s'"))
                cr_assert_eq(f.n_accepted_tokens, f.n_draft_tokens, "%s: %d of %d", config, (int)f.n_accepted_tokens,
                             (int)f.n_draft_tokens);
            engine_close(e);
        }
    }
}
