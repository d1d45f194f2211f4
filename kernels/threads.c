#include "kernels/threads.h"
#include "kernels/status.h"

#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

/* Longer than what lies between two ops, and between two steps of a small model. */
enum { THREADS_SPIN_NS = 100 * 1000 };

/* A slice of parts, in one word so that taking a part is one compare-and-swap: next (32 bits) | end. */
typedef uint64_t slice;

static slice slice_of(uint32_t next, uint32_t end) { return (uint64_t)next << 32 | end; }
static uint32_t slice_next(slice s) { return (uint32_t)(s >> 32); }
static uint32_t slice_end(slice s) { return (uint32_t)s; }

/* All that a thread needs to begin is in one place of its own, so that it comes over in one transfer: fetching a line
 * from another core takes as long as a thousand multiplications. */
struct worker {
    alignas(128) _Atomic uint32_t job; /* number of the last job; two cache lines: neighbours are fetched in pairs */
    int n, grain;                      /* the job: written by the caller while no part is left, */
    threads_body *body;                /* read by this thread while it holds a part */
    void *arg;
    _Atomic slice parts;
    struct threads *pool;
    pthread_t thread;
    int id;
};

struct threads {
    int n_threads, n_started;
    uint32_t n_jobs;                 /* the caller's */
    alignas(128) _Atomic int n_left; /* parts not yet done */
    alignas(128) _Atomic int n_asleep;
    atomic_bool stop;
    pthread_mutex_t lock; /* of sleeping */
    pthread_cond_t wake;
    struct worker workers[]; /* [n_threads], 0 being the caller */
};

struct share {
    struct threads *pool;
    int id, victim; /* takes from slice victim: its own first */
    int n_done;     /* parts done and not yet reported */
    uint32_t part;
    bool first;     /* `part` has been taken but not handed out */
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Takes the front part of our own slice, the back part of another's. What is taken belongs to the job that runs now,
 * whichever that is: a job does not end, nor the next begin, before each of its parts was taken and reported. */
static bool take_from(struct worker *w, bool own, uint32_t *part) {
    slice s = atomic_load_explicit(&w->parts, memory_order_acquire);
    for (;;) {
        uint32_t next = slice_next(s), end = slice_end(s);
        if (next >= end) return false;
        slice rest = own ? slice_of(next + 1, end) : slice_of(next, end - 1);
        if (atomic_compare_exchange_weak_explicit(&w->parts, &s, rest, memory_order_acq_rel, memory_order_acquire)) {
            *part = own ? next : end - 1;
            return true;
        }
    }
}

static bool take(struct share *share) {
    struct threads *t = share->pool;
    for (; share->victim < share->id + t->n_threads; share->victim++)
        if (take_from(&t->workers[share->victim % t->n_threads], share->victim == share->id, &share->part)) return true;
    return false;
}

int threads_take(struct share *share, int *first, int *last) {
    struct threads *t = share->pool;
    const struct worker *w = &t->workers[share->id];
    if (!share->first) {
        /* The last part is reported after the next was sought: until then the job cannot end. */
        bool more = take(share);
        share->n_done++;
        if (!more) {
            atomic_fetch_sub_explicit(&t->n_left, share->n_done, memory_order_release);
            return 0;
        }
    }
    share->first = false;
    *first = (int)share->part * w->grain;
    *last = *first + w->grain < w->n ? *first + w->grain : w->n;
    return 1;
}

int threads_id(const struct share *share) { return share->id; }

/* Works on the current job, if there is anything left of it. */
static void help(struct threads *t, int id) {
    struct share share = {.pool = t, .id = id, .victim = id, .first = true};
    if (take(&share)) t->workers[id].body(t->workers[id].arg, &share);
}

static void *work(void *user) {
    struct worker *w = user;
    struct threads *t = w->pool;
    uint32_t seen = 0;
    for (;;) {
        int64_t until = 0;
        for (int i = 0; atomic_load_explicit(&w->job, memory_order_acquire) == seen; i++) {
            relax();
            if (i % 64) continue;
            int64_t now = now_ns();
            if (!i) until = now + THREADS_SPIN_NS;
            if (now < until) continue;
            pthread_mutex_lock(&t->lock);
            atomic_fetch_add(&t->n_asleep, 1); /* before the job is looked at: the caller looks in the other order */
            while (atomic_load(&w->job) == seen && !atomic_load(&t->stop)) pthread_cond_wait(&t->wake, &t->lock);
            atomic_fetch_sub(&t->n_asleep, 1);
            pthread_mutex_unlock(&t->lock);
            if (atomic_load(&t->stop)) return NULL;
        }
        seen = atomic_load_explicit(&w->job, memory_order_acquire);
        if (atomic_load_explicit(&t->stop, memory_order_relaxed)) return NULL;
        help(t, w->id);
    }
}

/* After the jobs were numbered. Adding nothing puts this before or after a worker's going to sleep: before, and it sees
 * the job; after, and we see it asleep. */
static void wake_sleepers(struct threads *t) {
    if (!atomic_fetch_add(&t->n_asleep, 0)) return;
    pthread_mutex_lock(&t->lock);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

static void post(struct worker *w, int n, int grain, threads_body *body, void *arg) {
    w->n = n;
    w->grain = grain;
    w->body = body;
    w->arg = arg;
}

void threads_run(struct threads *t, int n, int grain, threads_body *body, void *arg) {
    CHECK_LT(0, grain);
    int n_parts = n / grain + (n % grain != 0), n_threads = t->n_threads;
    if (n_parts <= 0) return;
    atomic_store_explicit(&t->n_left, n_parts, memory_order_relaxed);
    post(&t->workers[0], n, grain, body, arg);
    if (n_parts == 1 || n_threads == 1) { /* the caller's alone; nobody sees it */
        struct share share = {.pool = t, .victim = n_parts == 1 ? n_threads : 0, .first = true};
        if (n_parts > 1) atomic_store(&t->workers[0].parts, slice_of(1, (uint32_t)n_parts));
        body(arg, &share);
        return;
    }
    for (int i = 1; i < n_threads; i++) post(&t->workers[i], n, grain, body, arg);
    for (int i = n_threads - 1; i >= 0; i--) {
        uint32_t next = (uint32_t)((int64_t)n_parts * i / n_threads);
        uint32_t end = (uint32_t)((int64_t)n_parts * (i + 1) / n_threads);
        atomic_store_explicit(&t->workers[i].parts, slice_of(next, end), memory_order_release);
    }
    t->n_jobs++;
    for (int i = 1; i < n_threads; i++) atomic_store_explicit(&t->workers[i].job, t->n_jobs, memory_order_release);
    wake_sleepers(t);
    help(t, 0);
    /* Only parts that a worker is in the middle of are left: rarely more than microseconds, unless it lost its core. */
    for (int i = 0; atomic_load_explicit(&t->n_left, memory_order_acquire) > 0; i++)
        if (i < 2000) relax();
        else sched_yield();
}

struct threads *threads_open(int n) {
    struct threads *t = aligned_alloc(128, sizeof *t + (size_t)n * sizeof(struct worker));
    if (!t) return NULL;
    *t = (struct threads){.n_threads = n, .n_started = 1};
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    for (int i = 0; i < n; i++) {
        t->workers[i] = (struct worker){.pool = t, .id = i};
        if (i && pthread_create(&t->workers[i].thread, NULL, work, &t->workers[i])) {
            threads_close(t);
            return NULL;
        }
        t->n_started = i + 1;
    }
    return t;
}

void threads_close(struct threads *t) {
    if (!t) return;
    pthread_mutex_lock(&t->lock);
    atomic_store(&t->stop, true);
    for (int i = 1; i < t->n_started; i++) atomic_fetch_add(&t->workers[i].job, 1);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    for (int i = 1; i < t->n_started; i++) pthread_join(t->workers[i].thread, NULL);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    free(t);
}
