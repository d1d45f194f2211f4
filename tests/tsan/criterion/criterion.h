/* criterion.h - the part of Criterion that our tests use, for builds under the thread sanitizer alone.
 *
 * Criterion runs each test in a sandboxed child whose memory arena the thread sanitizer does not allow ("Could not
 * initialize inheritable arena"). Here the tests run one after the other in this process: no sandbox, no time-outs. A
 * failed assertion ends the program; a failed expectation is counted. The last line and the exit code say the result.
 * `program NAME` runs only the tests whose "suite/name" contains NAME. */
#pragma once
#pragma GCC system_header /* as the real one is: its comparisons warn where the tests need no warning */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tsan_test {
    const char *suite, *name;
    void (*run)(void);
    void (*init)(void), (*fini)(void);
    double timeout;
    int disabled;
    struct tsan_test *next;
};
struct tsan_suite {
    const char *name;
    void (*init)(void), (*fini)(void);
    double timeout;
    int disabled;
    struct tsan_suite *next;
};
static struct tsan_test *tsan_tests, **tsan_last = &tsan_tests;
static struct tsan_suite *tsan_suites;
static int tsan_n_failed;

#define TestSuite(suite_, ...)                                                                                         \
    static struct tsan_suite tsan_suite_##suite_ = {.name = #suite_, ##__VA_ARGS__};                                   \
    __attribute__((constructor)) static void tsan_add_suite_##suite_(void) {                                           \
        tsan_suite_##suite_.next = tsan_suites;                                                                        \
        tsan_suites = &tsan_suite_##suite_;                                                                            \
    }                                                                                                                  \
    struct tsan_suite /* takes the semicolon */

#define Test(suite_, name_, ...)                                                                                       \
    static void tsan_run_##suite_##_##name_(void);                                                                     \
    static struct tsan_test tsan_test_##suite_##_##name_ = {                                                           \
        .suite = #suite_, .name = #name_, .run = tsan_run_##suite_##_##name_, ##__VA_ARGS__};                          \
    __attribute__((constructor)) static void tsan_add_##suite_##_##name_(void) {                                       \
        *tsan_last = &tsan_test_##suite_##_##name_;                                                                    \
        tsan_last = &tsan_test_##suite_##_##name_.next;                                                                \
    }                                                                                                                  \
    static void tsan_run_##suite_##_##name_(void)

/* Whatever follows the condition is a message: a format and its arguments, or nothing. */
#define TSAN_MESSAGE(...)                                                                                              \
    do {                                                                                                               \
        if (sizeof #__VA_ARGS__ > 1) fprintf(stderr, "    " __VA_ARGS__), fputc('\n', stderr);                         \
    } while (0)
#define TSAN_CHECK(fatal, condition, text, ...)                                                                        \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, text);                                                  \
            TSAN_MESSAGE(__VA_ARGS__);                                                                                 \
            tsan_n_failed++;                                                                                           \
            if (fatal) exit(1);                                                                                        \
        }                                                                                                              \
    } while (0)

#define cr_assert(c, ...)            TSAN_CHECK(1, c, #c, __VA_ARGS__)
#define cr_assert_not(c, ...)        TSAN_CHECK(1, !(c), "not " #c, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)      TSAN_CHECK(1, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)     TSAN_CHECK(1, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)      TSAN_CHECK(1, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)     TSAN_CHECK(1, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)      TSAN_CHECK(1, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)     TSAN_CHECK(1, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_null(a, ...)       TSAN_CHECK(1, (a) == NULL, #a " is NULL", __VA_ARGS__)
#define cr_assert_not_null(a, ...)   TSAN_CHECK(1, (a) != NULL, #a " is not NULL", __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) TSAN_CHECK(1, strcmp(a, b), #a " differs from " #b, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)  TSAN_CHECK(1, !strcmp(a, b), #a " equals " #b, __VA_ARGS__)
#define cr_assert_str_empty(a, ...)  TSAN_CHECK(1, !*(a), #a " is empty", __VA_ARGS__)
#define cr_assert_arr_neq(a, b, n, ...) TSAN_CHECK(1, memcmp(a, b, n), #a " differs from " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) TSAN_CHECK(1, !memcmp(a, b, n), #a " equals " #b, __VA_ARGS__)
#define cr_assert_float_eq(a, b, e, ...) TSAN_CHECK(1, fabs((double)(a) - (double)(b)) <= (e), #a " ~ " #b, __VA_ARGS__)
#define cr_assert_fail(...)          TSAN_CHECK(1, 0, "failed", __VA_ARGS__)
#define cr_expect(c, ...)            TSAN_CHECK(0, c, #c, __VA_ARGS__)
#define cr_expect_not(c, ...)        TSAN_CHECK(0, !(c), "not " #c, __VA_ARGS__)
#define cr_expect_eq(a, b, ...)      TSAN_CHECK(0, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)     TSAN_CHECK(0, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)      TSAN_CHECK(0, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)     TSAN_CHECK(0, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)      TSAN_CHECK(0, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)     TSAN_CHECK(0, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_expect_null(a, ...)       TSAN_CHECK(0, (a) == NULL, #a " is NULL", __VA_ARGS__)
#define cr_expect_not_null(a, ...)   TSAN_CHECK(0, (a) != NULL, #a " is not NULL", __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) TSAN_CHECK(0, strcmp(a, b), #a " differs from " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)  TSAN_CHECK(0, !strcmp(a, b), #a " equals " #b, __VA_ARGS__)
#define cr_expect_str_empty(a, ...)  TSAN_CHECK(0, !*(a), #a " is empty", __VA_ARGS__)
#define cr_expect_arr_neq(a, b, n, ...) TSAN_CHECK(0, memcmp(a, b, n), #a " differs from " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) TSAN_CHECK(0, !memcmp(a, b, n), #a " equals " #b, __VA_ARGS__)
#define cr_expect_float_eq(a, b, e, ...) TSAN_CHECK(0, fabs((double)(a) - (double)(b)) <= (e), #a " ~ " #b, __VA_ARGS__)
#define cr_expect_fail(...)          TSAN_CHECK(0, 0, "failed", __VA_ARGS__)
#define cr_log_info(...)             (printf(__VA_ARGS__), putchar('\n'))
/* Ends the test, as Criterion does. */
#define cr_skip_test(...)                                                                                              \
    do {                                                                                                               \
        printf("skipped: " __VA_ARGS__), putchar('\n');                                                                \
        return;                                                                                                        \
    } while (0)

int main(int argc, char **argv) {
    int n_run = 0;
    for (struct tsan_test *t = tsan_tests; t; t = t->next) {
        char full[256];
        const struct tsan_suite *s = tsan_suites;
        while (s && strcmp(s->name, t->suite)) s = s->next;
        snprintf(full, sizeof full, "%s/%s", t->suite, t->name);
        if ((argc > 1 && !strstr(full, argv[1])) || t->disabled || (s && s->disabled)) continue;
        printf("%s\n", full);
        fflush(stdout);
        if (s && s->init) s->init();
        if (t->init) t->init();
        t->run();
        if (t->fini) t->fini();
        if (s && s->fini) s->fini();
        n_run++;
    }
    printf("%d tests run, %d failures\n", n_run, tsan_n_failed);
    return tsan_n_failed != 0 || n_run == 0;
}
