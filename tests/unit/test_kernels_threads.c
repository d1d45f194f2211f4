/* test_kernels_threads.c - each item of a job is done exactly once, whoever comes late, and jobs follow each other. */
#include "kernels/threads.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

struct job {
    int n, grain;
    _Atomic int *times; /* [n] how often each item was done */
    long plain;         /* written before the job, read by all: a race here shows under the thread sanitizer */
};

static void count(void *arg, struct share *share) {
    struct job *j = arg;
    cr_assert_eq(j->plain, j->n * 31L);
    for (int first, last; threads_take(share, &first, &last);) {
        cr_assert(first < last && last - first <= j->grain && last <= j->n);
        for (int i = first; i < last; i++) atomic_fetch_add(&j->times[i], 1);
    }
}

static void run(struct threads *t, int n, int grain) {
    struct job j = {.n = n, .grain = grain, .times = calloc((size_t)n + 1, sizeof(_Atomic int)), .plain = n * 31L};
    threads_run(t, n, grain, count, &j);
    for (int i = 0; i < n; i++) cr_assert_eq(j.times[i], 1, "item %d of %d, done %d times", i, n, j.times[i]);
    free(j.times);
}

Test(threads, do_each_item_once) {
    static const int sizes[] = {0, 1, 2, 3, 7, 16, 64, 1000}, grains[] = {1, 3, 64, 2000};
    for (int n = 1; n <= 5; n++) {
        struct threads *t = threads_open(n);
        cr_assert(t);
        for (int round = 0; round < 200; round++)
            for (int s = 0; s < 8; s++) run(t, sizes[s], grains[(round + s) % 4]);
        threads_close(t);
    }
    threads_close(NULL);
}

Test(threads, wake_from_sleep) {
    struct threads *t = threads_open(3);
    for (int round = 0; round < 100; round++) {
        struct timespec pause = {.tv_nsec = round % 10 * 100 * 1000}; /* around the time that workers spin */
        nanosleep(&pause, NULL);
        run(t, 50, 1);
    }
    threads_close(t);
}

static void slowly(void *arg, struct share *share) {
    for (int first, last; threads_take(share, &first, &last);) {
        struct timespec pause = {.tv_nsec = 2 * 1000 * 1000};
        nanosleep(&pause, NULL);
        atomic_fetch_or((_Atomic unsigned *)arg, 1u << threads_id(share));
    }
}

Test(threads, all_take_part) {
    struct threads *t = threads_open(4);
    _Atomic unsigned who = 0;
    for (int round = 0; round < 20 && who != 15; round++) threads_run(t, 40, 1, slowly, &who);
    cr_assert_eq(who, 15);
    threads_close(t);
}
