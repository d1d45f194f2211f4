/* test_speculation.c - the depth policy in simulated engines whose step times and acceptance are given: held against
 * the best fixed depth, found by trying them all, and against no speculation. Both see the same draws of who is right
 * as long as they make the same choices; a run is long enough that the rest averages out. */
#include "engine/speculation.h"

#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <math.h>
#include <string.h>
#include <time.h>

enum { K = 8, MAX_SEQS = 64, MAX_TOKENS = 400 };

/* ---- simulated engines ------------------------------------------------------------------------------------------- */

static double gpu_target(int T) { return 8e-3 * (1 + 0.001 * T) + 40e-6 * fmax(0, T - 96); } /* memory, then compute */
static double gpu_draft(int T) { return 0.7e-3 + 2e-6 * T; }
static double slow_draft(int T) { return 5e-3 + 2e-6 * T; }
static double tiled_target(int T) { return 6e-3 + 1.5e-3 * ((T + 15) / 16); }
static double cpu_target(int T) { return 30e-3 + 25e-3 * T; } /* a draft costs nearly as much as a token */
static double cpu_draft(int T) { return 2e-3 + 2e-3 * T; }

struct world {
    const char *name;
    double (*target)(int T), (*draft)(int T);
    double idle;            /* seconds that the device stands still in a step with drafts */
    double found;           /* chance that look-up finds something */
    double lookup[2];       /* chance that a draft of look-up is right, of even and odd sequences */
    double model[2];        /* of the draft model; draft NULL: there is none */
    double later[2];        /* of look-up and model from the middle of the run on; 0: no change */
    int growth;             /* after so many steps longer contexts have doubled the time; 0: never */
};

static uint64_t random_state;
static double uniform(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

struct run {
    double tokens, seconds; /* in the second half separately: */
    double late_tokens, late_seconds;
    int n_drafts;
};

/* fixed: that depth for everyone; below 0: the policy decides. Returns tokens a second. */
static struct run simulate(const struct world *w, int B, int fixed, int n_steps) {
    static struct speculation_record records[MAX_SEQS];
    static int32_t tokens[MAX_SEQS][MAX_TOKENS];
    static const int32_t guess[K] = {1, 1, 1, 1, 1, 1, 1, 1};
    struct speculation s;
    struct run run = {0};
    int n_tokens[MAX_SEQS] = {0};
    random_state = (uint64_t)B * 1000;
    cr_assert_eq(speculation_open(&s, MAX_SEQS, K), STATUS_OK);
    memset(records, 0, sizeof records);
    for (int step = 0; step < n_steps; step++) {
        struct speculation_candidate c[MAX_SEQS];
        const bool late = step >= n_steps / 2;
        for (int i = 0; i < B; i++) {
            if (n_tokens[i] + K + 1 >= MAX_TOKENS) { /* it ends, another one begins */
                memset(&records[i], 0, sizeof records[i]);
                n_tokens[i] = 0;
            }
            const int n = w->found > 0 && uniform() < w->found ? K : 0;
            speculation_guess(&s, &records[i], guess, n, n_tokens[i]);
            c[i] = (struct speculation_candidate){
                .record = &records[i], .n_lookup = n, .chance = 1, .n_model = w->draft ? K : 0, .n_behind = 1};
        }
        int x = 0, depth = 0, n_seqs = 0;
        if (fixed < 0) speculation_choose(&s, c, B, B);
        for (int i = 0; i < B; i++) {
            if (fixed >= 0) {
                c[i].source = c[i].n_lookup ? DRAFT_BY_LOOKUP : DRAFT_BY_MODEL;
                c[i].n_drafts = c[i].n_lookup || c[i].n_model ? fixed : 0;
            }
            x += c[i].n_drafts;
            if (c[i].source != DRAFT_BY_MODEL || !c[i].n_drafts) continue;
            n_seqs++;
            if (c[i].n_drafts > depth) depth = c[i].n_drafts;
        }
        const double growth = w->growth ? 1 + (double)step / w->growth : 1;
        struct step_cost cost = {
            .T = B + x,
            .drafts = x > 0,
            .target_seconds = w->target(B + x) * growth * (0.98 + 0.04 * uniform()),
            .draft_seconds = depth ? depth * w->draft(n_seqs) * growth : 0,
            .draft_T = n_seqs,
            .draft_seqs = n_seqs,
            .draft_depth = depth,
        };
        if (step % 97 == 5) cost.target_seconds *= 4; /* something else happened */
        cost.wall_seconds = cost.target_seconds + cost.draft_seconds + (x ? w->idle : 0);
        for (int i = 0; i < B; i++) {
            const bool by_model = c[i].source == DRAFT_BY_MODEL;
            const double *first = by_model ? w->model : w->lookup;
            const double p = late && w->later[by_model] > 0 ? w->later[by_model] : first[i % 2];
            const double q = late && w->later[0] > 0 ? w->later[0] : w->lookup[i % 2];
            int n_right = 0;
            while (n_right < c[i].n_drafts && uniform() < p) tokens[i][n_tokens[i]++] = 1, n_right++;
            /* Without drafts the next token is as look-up would have guessed it, or not. */
            tokens[i][n_tokens[i]++] = !c[i].n_drafts && uniform() < q;
            cost.n_tokens += 1 + n_right;
            if (c[i].n_drafts) speculation_verified(&s, c[i].record, c[i].source, c[i].n_drafts, n_right);
            speculation_score(&s, c[i].record, tokens[i], n_tokens[i]);
        }
        speculation_step(&s, &cost);
        run.tokens += cost.n_tokens;
        run.seconds += cost.wall_seconds;
        run.n_drafts += x;
        if (step < 3 * n_steps / 4) continue;
        run.late_tokens += cost.n_tokens;
        run.late_seconds += cost.wall_seconds;
    }
    speculation_close(&s);
    return run;
}

static const struct world worlds[] = {
    {"gpu, look-up, quotes", gpu_target, NULL, .found = 0.8, .lookup = {0.9, 0.9}},
    {"gpu, look-up, prose", gpu_target, NULL, .found = 0.4, .lookup = {0.15, 0.15}},
    {"gpu, look-up, both kinds", gpu_target, NULL, .found = 0.6, .lookup = {0.9, 0.1}, .idle = 0.2e-3},
    {"gpu, look-up, useless", gpu_target, NULL, .found = 1, .lookup = {0.001, 0.001}, .idle = 1e-3},
    {"gpu, model", gpu_target, gpu_draft, .model = {0.75, 0.75}, .idle = 0.2e-3},
    {"gpu, model, both kinds", gpu_target, gpu_draft, .model = {0.85, 0.3}},
    {"gpu, model, poor", gpu_target, gpu_draft, .model = {0.1, 0.1}},
    {"gpu, slow model", gpu_target, slow_draft, .model = {0.7, 0.7}},
    {"gpu, look-up and model", gpu_target, gpu_draft, .found = 0.3, .lookup = {0.6, 0.6}, .model = {0.7, 0.7}},
    {"tiles, look-up", tiled_target, NULL, .found = 1, .lookup = {0.7, 0.7}},
    {"tiles, model, contexts grow", tiled_target, gpu_draft, .model = {0.8, 0.8}, .growth = 3000},
    {"cpu, look-up", cpu_target, NULL, .found = 0.8, .lookup = {0.5, 0.5}},
    {"cpu, look-up, quotes", cpu_target, NULL, .found = 0.9, .lookup = {0.95, 0.95}},
    {"cpu, model", cpu_target, cpu_draft, .model = {0.7, 0.7}},
    {"gpu, look-up becomes good", gpu_target, NULL, .idle = 1e-3, .found = 0.8, .lookup = {0.02, 0.02}, .later = {0.9}},
    {"gpu, look-up becomes bad", gpu_target, NULL, .idle = 1e-3, .found = 0.8, .lookup = {0.9, 0.9}, .later = {0.02}},
    {"gpu, model becomes good", gpu_target, gpu_draft, .model = {0.05, 0.05}, .later = {0, 0.85}},
    {"gpu, model becomes bad", gpu_target, gpu_draft, .model = {0.85, 0.85}, .later = {0, 0.05}},
};

enum { STEPS = 4000 };

/* Per batch size a test, since each tries all depths of all engines. */
static void all_worlds(int B) {
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++) {
        const struct world *w = &worlds[i];
        double best = 0, best_late = 0, none = 0, none_late = 0;
        int depth = 0;
        for (int k = 0; k <= K; k++) {
            const struct run r = simulate(w, B, k, STEPS);
            const double rate = r.tokens / r.seconds, late = r.late_tokens / r.late_seconds;
            if (!k) none = rate, none_late = late;
            if (rate > best) best = rate;
            if (late > best_late) best_late = late, depth = k;
        }
        const struct run r = simulate(w, B, -1, STEPS);
        const double rate = r.tokens / r.seconds, late = r.late_tokens / r.late_seconds;
        cr_log_info("%-28s B %2d: %.3f of none, %.3f of the best depth; in the last quarter %.3f of none, %.3f of the "
                    "best (%d); %.1f drafts a sequence and step\n",
                    w->name, B, rate / none, rate / best, late / none_late, late / best_late, depth,
                    (double)r.n_drafts / STEPS / B);
        cr_assert_gt(rate, 0.98 * none, "%s, B %d: %.3f of no speculation", w->name, B, rate / none);
        cr_assert_gt(late, 0.98 * none_late, "%s, B %d: late %.3f of no speculation", w->name, B, late / none_late);
        cr_assert_gt(rate, 0.90 * best, "%s, B %d: %.3f of the best depth", w->name, B, rate / best);
        cr_assert_gt(late, 0.92 * best_late, "%s, B %d: late %.3f of depth %d", w->name, B, late / best_late, depth);
    }
}

Test(speculation, is_near_the_best_depth_alone) { all_worlds(1); }
Test(speculation, is_near_the_best_depth_of_2) { all_worlds(2); }
Test(speculation, is_near_the_best_depth_of_3) { all_worlds(3); }
Test(speculation, is_near_the_best_depth_of_5) { all_worlds(5); }
Test(speculation, is_near_the_best_depth_of_8) { all_worlds(8); }
Test(speculation, is_near_the_best_depth_of_16) { all_worlds(16); }
Test(speculation, is_near_the_best_depth_of_32) { all_worlds(32); }
Test(speculation, is_near_the_best_depth_of_64) { all_worlds(64); }

/* ---- one choice -------------------------------------------------------------------------------------------------- */

/* A policy that knows what steps take: 10 ms up to 64 tokens and 50 us for each further one. */
static void open_taught(struct speculation *s) {
    cr_assert_eq(speculation_open(s, 256, K), STATUS_OK);
    for (int round = 0; round < 40; round++)
        for (int T = 1; T <= 4096; T = T < 8 ? T + 1 : T + T / 4) {
            const double seconds = 0.01 + 50e-6 * fmax(0, T - 64);
            speculation_step(s, &(struct step_cost){.T = T, .n_tokens = 1, .target_seconds = seconds,
                                                    .wall_seconds = seconds, .draft_T = T, .draft_seqs = T,
                                                    .draft_depth = 1, .draft_seconds = 0});
        }
    s->budget = 0; /* no probes */
}

static struct speculation_candidate by_lookup(struct speculation *s, struct speculation_record *r, int tried,
                                              int right) {
    memset(r, 0, sizeof *r);
    for (int i = 0; i < tried; i++) speculation_verified(s, r, DRAFT_BY_LOOKUP, K, right);
    return (struct speculation_candidate){.record = r, .n_lookup = K, .chance = 1};
}

/* 64 decodes: a draft takes 50 us, a token of theirs 156 us, so those drafts are worth it that are right in 32 %. */
Test(speculation, gives_drafts_to_those_who_are_right) {
    struct speculation s;
    static struct speculation_record records[64];
    struct speculation_candidate c[64];
    open_taught(&s);
    for (int i = 0; i < 64; i++) c[i] = by_lookup(&s, &records[i], 50, i % 3 == 0 ? K : i % 3 == 1 ? 0 : 2);
    for (int n_lookup = K; n_lookup > 0; n_lookup--) {
        c[0].n_lookup = n_lookup; /* no more than there are */
        int n = speculation_choose(&s, c, 64, 64);
        cr_assert(c[0].n_drafts == n_lookup && c[1].n_drafts == 0 && c[2].n_drafts == 2 && c[3].n_drafts == K,
                  "%d %d %d %d", c[0].n_drafts, c[1].n_drafts, c[2].n_drafts, c[3].n_drafts);
        for (int i = 0; i < 64; i++) n -= c[i].n_drafts;
        cr_assert_eq(n, 0);
    }
    for (int i = 0; i < 64; i++) c[i].chance = 0.2f; /* they are there in one step of five */
    cr_assert_eq(speculation_choose(&s, c, 64, 64), 0);
    speculation_close(&s);
}

/* Beside a long chunk a draft costs what it adds, not what the chunk takes. */
Test(speculation, beside_a_chunk_counts_what_drafts_add) {
    struct speculation s;
    struct speculation_record record;
    open_taught(&s);
    for (int i = 0; i < 2; i++) {
        struct speculation_candidate c[64];
        for (int j = 0; j < 64; j++) c[j] = by_lookup(&s, &record, 50, i ? K : 0);
        const int n = speculation_choose(&s, c, 64, 2048); /* 50 us each; a token is worth 156 us */
        cr_assert(i ? n > 300 : n == 0, "%d drafts", n);
    }
    speculation_close(&s);
}

Test(speculation, takes_look_up_first) {
    struct speculation s;
    struct speculation_record record;
    open_taught(&s);
    struct speculation_candidate c = by_lookup(&s, &record, 20, 2);
    c.n_model = K, c.n_behind = 1;
    speculation_choose(&s, &c, 1, 1);
    cr_assert(c.source == DRAFT_BY_LOOKUP && c.n_drafts > 0);
    c = by_lookup(&s, &record, 50, 0); /* look-up is never right, the draft model always is */
    c.n_model = K, c.n_behind = 1;
    for (int i = 0; i < 50; i++) speculation_verified(&s, &record, DRAFT_BY_MODEL, K, K);
    speculation_choose(&s, &c, 1, 1);
    cr_assert(c.source == DRAFT_BY_MODEL && c.n_drafts > 0);
    c.n_lookup = 0;
    speculation_choose(&s, &c, 1, 1);
    cr_assert(c.source == DRAFT_BY_MODEL && c.n_drafts > 0);
    speculation_close(&s);
}

Test(speculation, scores_guesses_that_nobody_verified) {
    struct speculation s;
    struct speculation_record r = {0};
    static const int32_t guess[] = {5, 6, 7}, tokens[] = {1, 2, 5, 6, 9, 5, 6, 7};
    cr_assert_eq(speculation_open(&s, 4, K), STATUS_OK);
    speculation_guess(&s, &r, guess, 3, 2);
    speculation_score(&s, &r, tokens, 3);
    speculation_guess(&s, &r, guess, 3, 3); /* one at a time */
    speculation_score(&s, &r, tokens, 4);
    cr_assert_eq(r.of[DRAFT_BY_LOOKUP].tried[0], 0);
    speculation_score(&s, &r, tokens, 5);
    const struct acceptance *a = &r.of[DRAFT_BY_LOOKUP];
    cr_assert(a->tried[0] == 1 && a->right[0] == 1 && a->right[1] == 1 && a->tried[2] == 1 && a->right[2] == 0);
    speculation_guess(&s, &r, guess, 3, 5);
    speculation_score(&s, &r, tokens, 8);
    cr_assert(a->right[2] == 1 && s.of[DRAFT_BY_LOOKUP].right[2] == 1 && r.chance == 1);
    speculation_guess(&s, &r, NULL, 0, 8);
    cr_assert_float_eq(r.chance, 0.75, 1e-6);
    speculation_close(&s);
}

Test(speculation, keeps_the_draft_model_ready_where_it_pays) {
    struct speculation s;
    cr_assert_eq(speculation_open(&s, 64, K), STATUS_OK);
    cr_assert_eq(speculation_shadows(&s, 4), 0); /* nothing is known yet */
    for (int step = 0; step < 300; step++) {
        const double seconds = 8e-3, drafting = step % 2 ? 1e-3 : 0;
        speculation_verified(&s, &(struct speculation_record){0}, DRAFT_BY_MODEL, 2, 2);
        speculation_step(&s, &(struct step_cost){.T = step % 2 ? 12 : 4, .n_tokens = 4, .drafts = step % 2,
                                                 .target_seconds = seconds, .draft_seconds = drafting,
                                                 .wall_seconds = seconds + drafting, .draft_T = 4, .draft_seqs = 4,
                                                 .draft_depth = step % 2 ? 2 : 0});
    }
    cr_assert_eq(speculation_shadows(&s, 4), 4);
    for (int i = 0; i < 2000; i++) speculation_verified(&s, &(struct speculation_record){0}, DRAFT_BY_MODEL, 2, 0);
    s.budget = 0;
    cr_assert_eq(speculation_shadows(&s, 4), 0);
    s.budget = 1;
    cr_assert_eq(speculation_shadows(&s, 4), 1);
    speculation_close(&s);
}

/* What the choice itself takes. */
Test(speculation, is_cheap) {
    struct speculation s;
    static struct speculation_record records[256];
    static struct speculation_candidate c[256];
    open_taught(&s);
    for (int B = 1; B <= 256; B *= 16) {
        for (int i = 0; i < B; i++) {
            c[i] = by_lookup(&s, &records[i], 1 + i % 7, i % K);
            c[i].n_model = K, c[i].n_behind = 1;
            if (i % 2) c[i].n_lookup = 0;
        }
        struct timespec a, b;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        for (int i = 0; i < 100; i++) speculation_choose(&s, c, B, B);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        const double seconds = ((double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec)) / 100;
        cr_log_info("%d sequences, %d drafts each: %.1f us\n", B, K, 1e6 * seconds);
        cr_assert_lt(seconds, 5e-3);
    }
    speculation_close(&s);
}
