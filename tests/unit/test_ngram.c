/* test_ngram.c - prompt look-up against a search of the whole sequence, on random and on nasty input, and its time. */
#include "engine/ngram.h"
#include "kernels/status.h"

#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t random_state = 1;
static int below(int n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (int)((random_state >> 33) % (uint64_t)n);
}

/* ---- the naive twin: every position, every n --------------------------------------------------------------------- */

struct naive {
    int source, run, at; /* where the last look-up read, how many tokens agreed, how long the sequence was then */
};

static bool equal(const int32_t *a, const int32_t *b, int n) { return !memcmp(a, b, (size_t)n * sizeof *a); }

static int naive_find(struct naive *s, const int32_t *tokens, int n_tokens, int min, int max, int32_t *drafts, int k) {
    const int n_new = n_tokens - s->at;
    const bool goes_on = s->run && equal(tokens + s->source, tokens + s->at, n_new);
    if (goes_on && s->run + n_new >= max) {
        s->source += n_new;
        s->run += n_new;
    } else {
        s->run = 0;
        for (int n = max < n_tokens ? max : n_tokens; n >= min && !s->run; n--)
            for (int e = n_tokens - 1; e >= n && !s->run; e--)
                if (equal(tokens + e - n, tokens + n_tokens - n, n)) s->source = e, s->run = n;
    }
    s->at = n_tokens;
    if (!s->run) return 0;
    for (int i = 0; i < k; i++)
        drafts[i] = s->source + i < n_tokens ? tokens[s->source + i] : drafts[s->source + i - n_tokens];
    return k;
}

/* Grows `tokens` as an engine would, by one to k + 1 tokens at a time, from a prompt on. */
static void compare(const int32_t *tokens, int n, int n_prompt, int min, int max, int k) {
    struct ngram *g;
    struct naive naive = {0};
    int32_t found[16], expected[16];
    cr_assert_eq(ngram_open(&g, min, max, n), STATUS_OK);
    for (int at = n_prompt; at <= n; at += 1 + below(k + 1)) {
        while (g->n_indexed < at - 1) ngram_extend(g, tokens, at, 7);
        ngram_extend(g, tokens, at, 7);
        if (below(8) == 0) continue; /* nobody asks */
        const int n_found = ngram_find(g, tokens, at, found, k);
        cr_assert_eq(n_found, naive_find(&naive, tokens, at, min, max, expected, k), "at %d of %d", at, n);
        cr_assert(equal(found, expected, n_found), "at %d of %d, %d..%d", at, n, min, max);
    }
    ngram_close(g);
}

Test(ngram, agrees_with_a_search) {
    int32_t tokens[600];
    for (int round = 0; round < 1500; round++) {
        const int n = 1 + below(600), kind = below(5), vocabulary = 1 + below(kind == 0 ? 3 : 40);
        for (int i = 0; i < n; i++) {
            tokens[i] = below(vocabulary);
            if (kind == 1 && i > 30 && below(12)) tokens[i] = tokens[i - 30]; /* long repetitions with breaks */
            if (kind == 2) tokens[i] = i % (1 + vocabulary);                  /* a loop */
            if (kind == 3 && i >= n / 2) tokens[i] = tokens[i - n / 2];       /* everything once more */
            if (kind == 4) tokens[i] = below(2) ? INT32_MAX - below(3) : below(3) << 16;
        }
        const int min = 1 + below(4), max = min + below(NGRAM_MAX + 1 - min);
        compare(tokens, n, 1 + below(n), min, max, 1 + below(16));
    }
}

Test(ngram, guesses_what_followed) {
    static const int32_t tokens[] = {5, 6, 7, 8, 1, 6, 7, 9, 2, 6, 7};
    struct ngram *g;
    int32_t drafts[4];
    cr_assert_eq(ngram_open(&g, 2, 3, 32), STATUS_OK);
    ngram_extend(g, tokens, 2, 100);
    cr_assert_eq(ngram_find(g, tokens, 2, drafts, 4), 0);
    ngram_extend(g, tokens, 11, 100);
    cr_assert_eq(ngram_find(g, tokens, 11, drafts, 4), 4); /* 6 7 stood there twice: what came the last time */
    cr_assert(equal(drafts, (int32_t[]){9, 2, 6, 7}, 4));
    ngram_close(g);

    static const int32_t loop[] = {1, 2, 3, 1, 2, 3, 1};
    cr_assert_eq(ngram_open(&g, 1, 4, 32), STATUS_OK);
    ngram_extend(g, loop, 7, 100);
    cr_assert_eq(ngram_find(g, loop, 7, drafts, 4), 4);
    cr_assert(equal(drafts, (int32_t[]){2, 3, 1, 2}, 4));
    ngram_close(g);
}

/* 1 2 3 occurs in the passage that is copied and, later, elsewhere. */
Test(ngram, a_copy_is_not_led_astray) {
    static const int32_t tokens[] = {9, 8, 7, 1, 2, 3, 4, 5, 0, 1, 2, 3, 6, 0, 9, 8, 7, 1, 2, 3};
    struct ngram *g;
    int32_t drafts[2];
    cr_assert_eq(ngram_open(&g, 2, 3, 32), STATUS_OK);
    ngram_extend(g, tokens, 17, 100);
    cr_assert_eq(ngram_find(g, tokens, 17, drafts, 2), 2);
    ngram_extend(g, tokens, 20, 100);
    cr_assert_eq(ngram_find(g, tokens, 20, drafts, 2), 2);
    cr_assert(equal(drafts, (int32_t[]){4, 5}, 2));
    ngram_close(g);
    cr_assert_eq(ngram_open(&g, 2, 3, 32), STATUS_OK); /* who did not follow takes the later one */
    ngram_extend(g, tokens, 20, 100);
    cr_assert_eq(ngram_find(g, tokens, 20, drafts, 2), 2);
    cr_assert(equal(drafts, (int32_t[]){6, 0}, 2));
    ngram_close(g);
}

/* The time of a token at 32k tokens: no input makes it grow with the length. */
Test(ngram, is_cheap_at_32k) {
    enum { N = 32768, K = 8 };
    static int32_t tokens[N];
    static const char *const names[] = {"one token", "a loop of 3", "random, 2 ids", "random, 150,000 ids", "all new"};
    for (int kind = 0; kind < 5; kind++) {
        for (int i = 0; i < N; i++)
            tokens[i] = kind == 0 ? 1 : kind == 1 ? i % 3 : kind == 2 ? below(2) : kind == 3 ? below(150000) : i;
        struct ngram *g;
        int32_t drafts[K];
        struct timespec a, b;
        cr_assert_eq(ngram_open(&g, 1, NGRAM_MAX, N), STATUS_OK);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        for (int n = 1; n <= N; n++) {
            ngram_extend(g, tokens, n, N);
            ngram_find(g, tokens, n, drafts, K);
        }
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        const double seconds = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
        cr_log_info("%-20s %.0f ns a token, 1..%d\n", names[kind], 1e9 * seconds / N, NGRAM_MAX);
        cr_assert_lt(seconds / N, 20e-6, "%s: %.1f us a token", names[kind], 1e6 * seconds / N);
        ngram_close(g);
    }
}
