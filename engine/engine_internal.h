/* engine_internal.h - struct engine, struct deployment, and what their files share. Private to engine/.
 *
 *     client thread (engine_client.c)           engine thread (engine_thread.c)
 *     engine_submit --- inbox (mailbox) ----->  sched_add
 *     engine_cancel --- flag + counter ------>  sched_cancel
 *                                               sched_plan -> runner_launch; runner_land -> sched_commit
 *     engine_poll   <-- outbox (mailbox) -----  news: n_ready has grown; farewell: the end
 *
 * An engine's mutex guards nothing but its client's sleep and the copy of the figures. */
#pragma once

#include "engine/embedder.h"
#include "engine/engine.h"
#include "engine/kv_pool.h"
#include "engine/request.h"
#include "engine/runner.h"
#include "engine/sched.h"
#include "engine/speculator.h"

#include <limits.h>
#include <pthread.h>
#include <time.h>

struct engine {
    struct deployment *deployment;
    struct engine_options options;
    struct engine_info info;
    char path[PATH_MAX];
    struct tokenizer *tokenizer;
    struct speculative_config speculative_config;
    struct engine *draft;          /* of the same deployment: drafts for this model; NULL: none does */
    int drafts_for;                /* sequences of another model that this one drafts for in a step, at most */
    struct checkpoint *checkpoint; /* owned, from the check of its headers until its weights are on the device */

    /* engine thread */
    struct embedder embedder; /* of an encoder; else what follows */
    int kv_model;             /* of the pool; -1: an encoder */
    struct runner runner;
    struct sched sched;
    struct speculator speculator;
    struct plan plans[RUNNER_SLOTS]; /* plans[slot] is on its way from launch to land */
    double launched[RUNNER_SLOTS];   /* when */
    int slot, n_flights;             /* of the next step; steps on their way */
    int32_t *sampled;                /* [max_rows of the runner] */
    uint64_t n_cancels_done;
    struct engine_stats figures; /* its own copy */

    /* shared */
    struct mailbox inbox, outbox;
    atomic_uint_fast64_t n_cancels; /* grows with every flag set; the engine looks for flags when it has changed */
    pthread_mutex_t mutex;
    pthread_cond_t client_cond;
    struct engine_stats published; /* under mutex */
    void (*wake)(void *);
    void *wake_arg;

    /* client thread */
    uint64_t n_requests;
    int n_live;           /* not yet delivered as finished */
    struct request *live; /* every request that is not freed */
    struct mail *opened;  /* letters taken from the outbox, not yet looked at */
    struct request *dead; /* delivered last: freed by the next engine_poll, since the event has views of it */
    char *text;           /* of the last event; grows, owned */
    size_t text_capacity;
    struct position_logprobs *positions; /* of the last event; owned */
    size_t positions_capacity;
};

/* What engines share. Only one of them has work for the device at a time: one queue, in which steps of all lie in the
 * order of their launches. */
struct deployment {
    struct engine *engines; /* owned [n_engines]: those that were asked for, then models that only draft for them */
    int n_engines, n_public;
    int n_pooled; /* engines that have KV */
    void *arena, *kv_memory; /* device: activations of the largest step of all; the KV pool */

    /* engine thread */
    struct kv_pool *pool;
    struct {
        struct engine *engine;
        int slot;
    } flights[SCHED_MAX_FLIGHTS]; /* steps on their way, oldest first */
    int n_flights;
    int turn;         /* the engine that is asked first for the next step */
    double last_land; /* when the last step landed */
    pthread_t thread;
    bool thread_started;

    /* shared */
    atomic_bool stopping;
    pthread_mutex_t mutex; /* guards sleeping alone */
    pthread_cond_t cond;
};

static inline double engine__now(void) { /* CLOCK_MONOTONIC seconds */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* engine.c: one model from its options to its weights. In this order; engine__deinit accepts what is half done. */
void engine__init(struct engine *e, struct deployment *d, const struct engine_options *options);
int engine__configure(struct engine *e, char *err, size_t err_bytes); /* files and options; reads no weights */
int engine__load(struct engine *e, struct exec *beside, char *err, size_t err_bytes);
int engine__open_scheduler(struct engine *e, char *err, size_t err_bytes);
void engine__deinit(struct engine *e);
struct runner_options engine__runner_options(const struct engine *e);
static inline struct exec *engine__exec(const struct engine *e) {
    return e->info.is_encoder ? e->embedder.exec : e->runner.exec;
}

void *engine__thread(void *deployment);         /* the engine thread's main */
void engine__publish_figures(struct engine *e); /* engine thread, or before it runs */
void engine__nudge(struct engine *e);           /* wakes the engine thread */
