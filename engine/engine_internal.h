/* engine_internal.h - struct engine, and what its three files share. Private to engine/.
 *
 *     client thread (engine_client.c)           engine thread (engine_thread.c)
 *     engine_submit --- inbox (mailbox) ----->  sched_add
 *     engine_cancel --- flag + counter ------>  sched_cancel
 *                                               sched_plan -> runner_launch; runner_land -> sched_commit
 *     engine_poll   <-- outbox (mailbox) -----  news: n_ready has grown; farewell: the end
 *
 * The mutex guards nothing but sleeping (both conditions) and the copy of the figures. engine.c opens and closes. */
#pragma once

#include "engine/engine.h"
#include "engine/kv_pool.h"
#include "engine/request.h"
#include "engine/runner.h"
#include "engine/sched.h"

#include <limits.h>
#include <pthread.h>
#include <time.h>

struct engine {
    struct engine_options options;
    struct engine_info info;
    char path[PATH_MAX];
    struct tokenizer *tokenizer;

    /* engine thread */
    struct runner runner;
    struct kv_pool *pool;
    struct sched sched;
    struct plan plans[RUNNER_SLOTS]; /* plans[slot] is on its way from launch to land */
    int slot, n_flights;             /* the next step's slot; steps on their way */
    int32_t *sampled;                /* [max_num_seqs] */
    double last_land;                /* when the last step landed */
    uint64_t n_cancels_done;
    struct engine_stats figures; /* its own copy */
    pthread_t thread;
    bool thread_started;

    /* shared */
    struct mailbox inbox, outbox;
    atomic_uint_fast64_t n_cancels; /* grows with every flag set; the engine looks for flags when it has changed */
    atomic_bool stopping;
    pthread_mutex_t mutex;
    pthread_cond_t engine_cond, client_cond;
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

static inline double engine__now(void) { /* CLOCK_MONOTONIC seconds */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void *engine__thread(void *engine);             /* the engine thread's main */
void engine__publish_figures(struct engine *e); /* engine thread, or before it runs */
void engine__nudge(struct engine *e);           /* wakes the engine thread */
