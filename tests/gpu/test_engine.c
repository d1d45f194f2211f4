/* test_engine.c - the engine on a GPU: graphs and steps run op by op, a crowd and one alone, warm and cold prefixes, a
 * pool that holds a tenth of what runs, two models at once, against each other and against the CPU backend.
 *
 *     gpu_tests test_engine [MODEL]    weights/sample/small
 *
 * On a GPU the kernel that computes a token may depend on the batch, so greedy texts may part where two logits nearly
 * tie. Where two runs must agree to the bit they are held to it; elsewhere the share of equal answers is printed, and a
 * run fails when an answer parts from the CPU's at a token that the CPU does not hold for nearly as likely. */
#include "engine/engine.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OUTPUT = 512, MAX_REQUESTS = 512 };

struct answer {
    int32_t ids[MAX_OUTPUT];
    float logprobs[MAX_OUTPUT]; /* with wants_logprobs */
    int n, n_preemptions, n_cached;
    enum finish_reason reason;
    char error[ERR_BYTES];
};

static int n_passed, n_failed;
static void verdict(bool passed, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void verdict(bool passed, const char *name, const char *format, ...) {
    va_list args;
    printf("%s  %s: ", passed ? "PASS" : "FAIL", name);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    fflush(stdout);
    *(passed ? &n_passed : &n_failed) += 1;
}

static struct engine *open_engine(const char *model, const char *backend, struct engine_options o) {
    char err[ERR_BYTES];
    struct engine *e;
    o.model = model;
    o.backend = backend;
    if (engine_open(&e, &o, err, sizeof err)) {
        fprintf(stderr, "%s\n", err);
        exit(1);
    }
    return e;
}

static uint32_t mix(uint32_t a, uint32_t b) {
    uint32_t x = (a + 0x9e3779b9u) * 0x85ebca6bu ^ (b + 0x7f4a7c15u) * 0xc2b2ae35u;
    x = (x ^ x >> 15) * 0x2c1b3c6du;
    return x ^ x >> 13;
}

struct load {
    int n_requests, n_prompt, n_output;
    bool together, logprobs;
    float temperature;
};

/* Prompt i is the same in every load of the same length. */
static void submit(struct engine *e, const struct load *load, int i, struct answer *answer) {
    char err[ERR_BYTES];
    int32_t prompt[4096];
    const int V = engine_info(e)->model.vocab, n = load->n_prompt + i % 7;
    for (int t = 0; t < n; t++) prompt[t] = (int32_t)(mix((uint32_t)i, (uint32_t)t) % (uint32_t)V);
    struct request_params p = {.prompt = prompt, .n_prompt = n, .sampling = sampling_default(), .user = answer};
    p.sampling.temperature = load->temperature;
    p.sampling.has_seed = true;
    p.sampling.seed = (uint64_t)i;
    p.sampling.max_tokens = load->n_output;
    p.sampling.ignore_eos = true;
    p.sampling.logprobs = load->logprobs ? 0 : -1;
    *answer = (struct answer){0};
    if (engine_submit(e, &p, NULL, err, sizeof err)) {
        fprintf(stderr, "%s\n", err);
        exit(1);
    }
}

static void drain(struct engine *e, int n) {
    struct engine_event event;
    while (n) {
        engine_wait(e, -1);
        while (engine_poll(e, &event)) {
            struct answer *a = event.user;
            for (int i = 0; i < event.n_tokens; i++) {
                if (event.logprobs) a->logprobs[a->n] = event.logprobs[i].entries[0].logprob;
                a->ids[a->n++] = event.tokens[i];
            }
            if (event.kind != EVENT_FINISHED) continue;
            a->reason = event.reason;
            a->n_preemptions = event.usage.n_preemptions;
            a->n_cached = event.usage.n_cached;
            if (event.error) snprintf(a->error, sizeof a->error, "%s", event.error);
            n--;
        }
    }
}

static void run(struct engine *e, const struct load *load, struct answer *answers) {
    for (int i = 0; i < load->n_requests; i++) {
        submit(e, load, i, &answers[i]);
        if (!load->together) drain(e, 1);
    }
    if (load->together) drain(e, load->n_requests);
}

static int n_equal(const struct answer *a, const struct answer *b, int n) {
    int equal = 0;
    for (int i = 0; i < n; i++)
        equal += a[i].n == b[i].n && !memcmp(a[i].ids, b[i].ids, (size_t)a[i].n * sizeof *a[i].ids);
    return equal;
}

static bool all_finished(const struct answer *a, const struct load *load) {
    for (int i = 0; i < load->n_requests; i++)
        if (a[i].reason != FINISH_LENGTH || a[i].n != load->n_output) {
            printf("      request %d: reason %d, %d tokens %s\n", i, a[i].reason, a[i].n, a[i].error);
            return false;
        }
    return true;
}

static struct answer cpu[MAX_REQUESTS], gpu[MAX_REQUESTS], other[MAX_REQUESTS];

/* Each first difference must be one that the CPU's logprobs explain: its own choice was hardly better. Logprobs of the
 * GPU's choice are not at hand, so the probe asks the CPU to continue the common part, with the most likely two. */
static void compare_with_cpu(struct engine *c, const char *name, const struct load *load) {
    char err[ERR_BYTES];
    int equal = n_equal(cpu, gpu, load->n_requests);
    double worst = 0;
    for (int i = 0; i < load->n_requests; i++) {
        int t = 0;
        while (t < cpu[i].n && t < gpu[i].n && cpu[i].ids[t] == gpu[i].ids[t]) t++;
        if (t == cpu[i].n) continue;
        int32_t prompt[4096 + MAX_OUTPUT];
        const int V = engine_info(c)->model.vocab, n = load->n_prompt + i % 7;
        for (int k = 0; k < n; k++) prompt[k] = (int32_t)(mix((uint32_t)i, (uint32_t)k) % (uint32_t)V);
        memcpy(prompt + n, cpu[i].ids, (size_t)t * sizeof *prompt);
        struct request_params p = {.prompt = prompt, .n_prompt = n + t, .sampling = sampling_default()};
        p.sampling.temperature = 0;
        p.sampling.max_tokens = 1;
        p.sampling.ignore_eos = true;
        p.sampling.logprobs = 20;
        if (engine_submit(c, &p, NULL, err, sizeof err)) fprintf(stderr, "%s\n", err), exit(1);
        struct engine_event event;
        double gap = 100;
        do {
            engine_wait(c, -1);
            while (engine_poll(c, &event))
                for (int k = 0; event.logprobs && event.n_tokens && k <= event.logprobs[0].n_top; k++)
                    if (event.logprobs[0].entries[k].id == gpu[i].ids[t])
                        gap = event.logprobs[0].entries[0].logprob - event.logprobs[0].entries[k].logprob;
        } while (event.kind != EVENT_FINISHED);
        if (gap > worst) worst = gap;
    }
    verdict(worst <= 0.1, name,
            "%d of %d answers equal the CPU's; where they part, the logprobs differ by %.3g at most", equal,
            load->n_requests, worst);
}

/* A pool that holds a tenth of what runs at once: everything finishes, by preemption, and no device memory is taken. */
static void check_preemption(const char *model, struct engine_options o) {
    const struct load load = {.n_requests = MAX_REQUESTS, .n_prompt = 32, .n_output = 480, .together = true};
    char err[ERR_BYTES];
    struct exec *probe;
    const struct exec_options sizes = {.backend = "cuda",
                                       .dtype = DTYPE_BF16,
                                       .max_tokens = 1,
                                       .max_rows = 1,
                                       .max_width = 64,
                                       .max_kv_len = 1,
                                       .max_heads = 1,
                                       .max_head_dim = 64,
                                       .vocab = 64};
    o.max_num_seqs = MAX_REQUESTS;
    o.max_model_len = 1024;
    struct engine *e = open_engine(model, "cuda", o);
    run(e, &load, other);
    engine_close(e);
    o.num_blocks_override = MAX_REQUESTS * (load.n_prompt + load.n_output) / 10 / 16;
    e = open_engine(model, "cuda", o);
    if (exec_open(&probe, &sizes, err, sizeof err)) fprintf(stderr, "%s\n", err), exit(1);
    size_t free_before, free_after, total;
    exec_memory(probe, &free_before, &total);
    run(e, &load, gpu);
    exec_memory(probe, &free_after, &total);
    int n_preempted = 0;
    for (int i = 0; i < load.n_requests; i++) n_preempted += gpu[i].n_preemptions > 0;
    const bool finished = all_finished(gpu, &load) && all_finished(other, &load);
    verdict(finished && n_preempted > 0, "512 requests in a pool for 51",
            "all finished: %s; %d were preempted; %d answers equal those of a large pool", finished ? "yes" : "no",
            n_preempted, n_equal(gpu, other, load.n_requests));
    verdict(free_after + (256 << 20) >= free_before, "memory under pressure", "%.1f MB free before, %.1f MB after",
            (double)free_before / 1e6, (double)free_after / 1e6);
    exec_close(probe);
    engine_close(e);
}

/* Two models of one deployment, whose steps take turns on one stream: each answers, one request at a time, to the bit
 * what it answers without the other. */
static void check_deployment(const char *model, struct engine_options o) {
    enum { N = 24 };
    const struct load load = {.n_requests = N, .n_prompt = 40, .n_output = 64};
    static struct answer alone[2][N], together[2][N];
    struct engine_options both[2] = {o, o};
    struct deployment *d;
    char err[ERR_BYTES];
    both[1].kv_cache_dtype = "fp8";
    both[1].dtype = "float16";
    for (int m = 0; m < 2; m++) {
        both[m].model = model;
        both[m].backend = "cuda";
        struct engine *e = open_engine(model, "cuda", both[m]);
        run(e, &load, alone[m]);
        engine_close(e);
    }
    if (deployment_open(&d, both, 2, err, sizeof err)) {
        fprintf(stderr, "%s\n", err);
        exit(1);
    }
    for (int i = 0; i < N; i++) {
        for (int m = 0; m < 2; m++) submit(deployment_engine(d, m), &load, i, &together[m][i]);
        for (int m = 0; m < 2; m++) drain(deployment_engine(d, m), 1);
    }
    deployment_close(d);
    for (int m = 0; m < 2; m++)
        verdict(all_finished(together[m], &load) && n_equal(alone[m], together[m], N) == N,
                m ? "two models at once, the second" : "two models at once, the first", "%d of %d equal to one alone",
                n_equal(alone[m], together[m], N), N);
}

int main(int argc, char **argv) {
    const char *model = argc > 1 ? argv[1] : "weights/sample/small";
    struct engine_options o = engine_default_options();
    o.max_num_seqs = 64;
    o.max_model_len = 1024;
    o.gpu_memory_utilization = 0.5;
    const struct load alone = {.n_requests = 24, .n_prompt = 40, .n_output = 64},
                      crowd = {.n_requests = 24, .n_prompt = 40, .n_output = 64, .together = true},
                      sampled = {.n_requests = 24,
                                 .n_prompt = 40,
                                 .n_output = 64,
                                 .together = true,
                                 .temperature = 0.8f},
                      logprobs = {.n_requests = 24, .n_prompt = 40, .n_output = 64, .together = true, .logprobs = true};
    struct engine *c = open_engine(model, "cpu", o), *g = open_engine(model, "cuda", o);
    printf("%s\n%s\n", engine_info(c)->backend, engine_info(g)->backend);
    run(c, &crowd, cpu);
    run(g, &alone, gpu);
    compare_with_cpu(c, "one at a time", &alone);
    memcpy(other, gpu, sizeof other);
    run(g, &crowd, gpu);
    compare_with_cpu(c, "a crowd", &crowd);
    verdict(all_finished(gpu, &crowd), "crowd against alone", "%d of %d answers equal", n_equal(gpu, other, 24), 24);
    memcpy(other, gpu, sizeof other);
    run(g, &crowd, gpu);
    verdict(n_equal(gpu, other, 24) == 24, "the same crowd again, from a warm prefix cache",
            "%d of 24 equal, %d tokens cached", n_equal(gpu, other, 24), gpu[0].n_cached);
    run(g, &logprobs, gpu);
    compare_with_cpu(c, "with logprobs, op by op", &logprobs);
    run(g, &sampled, other);
    run(g, &sampled, gpu);
    verdict(n_equal(gpu, other, 24) >= 23, "sampled twice with the same seeds", "%d of 24 equal",
            n_equal(gpu, other, 24));
    engine_close(g);
    o.enforce_eager = true;
    o.enable_prefix_caching = false;
    g = open_engine(model, "cuda", o);
    run(g, &crowd, other);
    engine_close(g);
    o.enforce_eager = false;
    g = open_engine(model, "cuda", o);
    run(g, &crowd, gpu);
    verdict(n_equal(gpu, other, 24) == 24, "graphs against op by op", "%d of 24 equal", n_equal(gpu, other, 24));
    engine_close(g);
    engine_close(c);
    o.enable_prefix_caching = true;
    check_preemption(model, o);
    check_deployment(model, o);
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed > 0;
}
