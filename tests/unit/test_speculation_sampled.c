/* test_speculation_sampled.c - what is sampled with speculation has the distribution of what is sampled without.
 *
 * With the same seeds the two are the same tokens (test_engine_bits.c). Here every request has a seed of its own, and a
 * chi-square test over 50,000 samples says whether the two histograms could come from one distribution: at temperature
 * 0.8 and top-p 0.95, of the token behind two that drafts were verified for, with look-up, a draft model, and both. */
#include "engine/engine.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define TARGET "tests/golden/qwen3-fp32"
#define DRAFT  "tests/golden/qwen3-bf16"
#define FIXED  "\"num_speculative_tokens\": 3, \"adaptive\": false}"
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SAMPLES = 1000, RARE = 8 }; /* the same ways, in little time */
#else
enum { SAMPLES = 50000, RARE = 40 };
#endif
enum { ALLOWED = 60, OUTPUT = 4, AT_ONCE = 64, MAX_V = 4096 };

/* counts [V]: of the last token of each answer. Returns how many drafts were verified. */
static int draw_answers(const char *speculative_config, uint64_t first_seed, int *counts) {
    struct engine_options o = engine_default_options();
    struct engine_stats stats;
    struct engine_event event;
    struct engine *e;
    char err[ERR_BYTES];
    o.model = TARGET;
    o.max_model_len = 128;
    o.max_num_seqs = AT_ONCE;
    o.speculative_config = speculative_config;
    cr_assert_eq(engine_open(&e, &o, err, sizeof err), 0, "%s", err);
    /* every allowed token once, so that look-up always finds the last one */
    int32_t prompt[ALLOWED];
    for (int i = 0; i < ALLOWED; i++) prompt[i] = (int32_t)(5 * (29 * i + 13) % (5 * ALLOWED));
    struct request_params p = {.prompt = prompt, .n_prompt = ALLOWED, .sampling = sampling_default()};
    p.sampling.allowed_token_ids = prompt;
    p.sampling.n_allowed_token_ids = ALLOWED;
    p.sampling.temperature = 0.8f;
    p.sampling.top_p = 0.95f;
    p.sampling.max_tokens = OUTPUT;
    p.sampling.ignore_eos = true;
    p.sampling.has_seed = true;
    cr_assert_lt(engine_info(e)->model.vocab, MAX_V);
    for (int asked = 0, ended = 0; ended < SAMPLES;) {
        for (; asked < SAMPLES && asked - ended < 2 * AT_ONCE; asked++) {
            p.sampling.seed = first_seed + (uint64_t)asked;
            cr_assert_eq(engine_submit(e, &p, NULL, err, sizeof err), 0, "%s", err);
        }
        engine_wait(e, -1);
        while (engine_poll(e, &event)) {
            if (event.kind != EVENT_FINISHED) continue;
            cr_assert_eq(event.usage.n_output, OUTPUT);
            counts[event.tokens[event.n_tokens - 1]]++;
            ended++;
        }
    }
    engine_stats(e, &stats);
    engine_close(e);
    return (int)engine_stats_speculation(&stats).n_draft_tokens;
}

/* Probability of a chi-square of at least x with so many degrees of freedom (Wilson and Hilferty's approximation). */
static double tail(double x, int n) {
    const double v = 2.0 / (9.0 * n), z = (cbrt(x / n) - (1 - v)) / sqrt(v);
    return 0.5 * erfc(z / sqrt(2.0));
}

/* Two samples of equal size: sum over bins of (a - b)^2 / (a + b). Rare tokens share one bin. */
static double compare(const int *a, const int *b, int *n_bins) {
    double x = 0, rare_a = 0, rare_b = 0;
    *n_bins = 0;
    for (int i = 0; i < MAX_V; i++) {
        if (a[i] + b[i] < RARE) {
            rare_a += a[i], rare_b += b[i];
            continue;
        }
        x += (double)(a[i] - b[i]) * (a[i] - b[i]) / (a[i] + b[i]);
        ++*n_bins;
    }
    if (rare_a + rare_b > 0) {
        x += (rare_a - rare_b) * (rare_a - rare_b) / (rare_a + rare_b);
        ++*n_bins;
    }
    return tail(x, *n_bins - 1);
}

Test(speculation, samples_the_same_distribution, .timeout = 600) {
    static const struct {
        const char *name, *config;
    } cases[] = {
        {"look-up", "{\"method\": \"ngram\", \"prompt_lookup_min\": 1, " FIXED},
        {"draft model", "{\"model\": \"" DRAFT "\", " FIXED},
        {"both", "{\"method\": \"ngram+draft_model\", \"model\": \"" DRAFT "\", \"prompt_lookup_min\": 2, " FIXED},
    };
    static int plain[MAX_V], other[MAX_V], found[MAX_V];
    int n_bins;
    draw_answers(NULL, 1, plain);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        memset(found, 0, sizeof found);
        const int n_drafts = draw_answers(cases[c].config, 1000000 * (c + 1), found);
        const double p = compare(plain, found, &n_bins);
        fprintf(stderr, "%s: p = %.3f over %d samples in %d bins, %d drafts\n", cases[c].name, p, SAMPLES, n_bins,
                n_drafts);
        cr_assert_gt(n_drafts, SAMPLES / 4, "%s: %d drafts: the test says nothing", cases[c].name, n_drafts);
        cr_assert_gt(n_bins, 10);
        cr_assert_gt(p, 0.01, "%s: p = %g", cases[c].name, p);
    }
    /* and the test can tell: probabilities that are a twentieth off, up and down */
    for (int i = 0; i < MAX_V; i++) other[i] = i / 5 % 2 ? plain[i] + plain[i] / 20 : plain[i] - plain[i] / 20;
    cr_assert(SAMPLES < 50000 || compare(plain, other, &n_bins) < 0.01);
}
