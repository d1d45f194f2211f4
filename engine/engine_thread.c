/* engine_thread.c - the engine thread: letters in, plan -> launch, land -> commit, letters out.
 *
 * On a GPU two steps are on their way: while the device runs step n, the host plans and enqueues step n + 1, then waits
 * for step n and commits it. So the device never waits for the host, and the host learns of a token one step late. On
 * the CPU a launch is the step itself, and there is one at a time.
 *
 * Models take turns. Whoever has launched a step is asked last for the next one, so between two steps of a model lies at
 * most one step of each other model that has work: with a small and a busy large model, a token of the small one takes
 * its own time and one step of the large one. An idle model costs nothing. */
#include "engine/engine_internal.h"

#include <stdio.h>

static struct request *request_of(const struct sequence *q) {
    return q->user;
}

static void wake_client(struct engine *e) {
    pthread_mutex_lock(&e->mutex);
    pthread_cond_signal(&e->client_cond);
    pthread_mutex_unlock(&e->mutex);
    if (e->wake) e->wake(e->wake_arg);
}

/* The request's sequence is out of the scheduler: say farewell. Nothing of it may be touched afterwards. */
static void say_farewell(struct engine *e, struct request *r) {
    r->t_finish = engine__now();
    mailbox_put(&e->outbox, &r->farewell.mail);
}

/* Tells everybody in a list of the embedder that this is the end. */
static void end_embeddings(struct engine *e, struct request *list, enum finish_reason reason) {
    for (struct request *r = list, *next; r; r = next) {
        next = r->next_waiting;
        r->seq->reason = reason;
        say_farewell(e, r);
    }
}

static void take_inbox(struct engine *e) {
    for (struct mail *m = mailbox_take(&e->inbox), *next; m; m = next) {
        struct request *r = ((struct letter *)m)->request;
        next = mail_open(m);
        if (e->info.is_encoder) {
            embedder_add(&e->embedder, r);
            continue;
        }
        int status = sched_add(&e->sched, r->seq);
        if (status == 0) continue;
        r->seq->reason = FINISH_ERROR;
        snprintf(r->error, sizeof r->error,
                 "the request needs up to %d tokens of KV cache, but the whole pool holds %d: shorten it, or give the "
                 "server more --kv-cache-memory-bytes",
                 r->seq->max_len, e->info.n_blocks * e->info.block_size);
        say_farewell(e, r);
        wake_client(e);
    }
}

static void cancel_marked(struct engine *e, struct sequence_list *list, bool all) {
    for (struct sequence *q = list->head, *next; q; q = next) {
        next = q->next;
        struct request *r = request_of(q);
        if ((all || atomic_load(&r->cancelled)) && sched_cancel(&e->sched, q, FINISH_CANCELLED)) say_farewell(e, r);
    }
}

static void take_cancels(struct engine *e) {
    const bool stopping = atomic_load(&e->deployment->stopping);
    const uint64_t n = atomic_load(&e->n_cancels);
    if (n == e->n_cancels_done && !stopping) return;
    e->n_cancels_done = n;
    if (e->info.is_encoder) {
        end_embeddings(e, embedder_cancel(&e->embedder, stopping), FINISH_CANCELLED);
    } else {
        cancel_marked(e, &e->sched.waiting, stopping);
        cancel_marked(e, &e->sched.running, stopping);
    }
    wake_client(e);
}

void engine__publish_figures(struct engine *e) {
    struct engine_stats *f = &e->figures;
    if (e->info.is_encoder) {
        f->n_waiting = e->embedder.n_waiting;
        f->n_running = 0;
        for (int i = 0; i < ENCODER_SLOTS; i++) f->n_running += e->embedder.flights[i].n;
    } else {
        struct sched_stats s = sched_stats(&e->sched);
        struct kv_pool_stats k = kv_pool_stats(e->sched.pool, e->sched.model);
        f->n_running = s.n_running;
        f->n_waiting = s.n_waiting;
        f->n_preemptions = s.n_preemptions;
        f->n_blocks = k.n_blocks;
        f->n_blocks_used = k.n_used;
        f->n_blocks_cached = k.n_cached;
        f->prefix_queries = k.n_query_tokens;
        f->prefix_hits = k.n_hit_tokens;
    }
    pthread_mutex_lock(&e->mutex);
    e->published = *f;
    pthread_mutex_unlock(&e->mutex);
}

static void count_step(struct engine *e, int T, double seconds, double device_seconds) {
    struct engine_stats *f = &e->figures;
    int bucket = 0;
    while (bucket < 16 && T > 1 << bucket) bucket++;
    f->n_steps++;
    f->step_tokens_bucket[bucket]++;
    f->step_tokens_sum += (uint64_t)T;
    f->step_seconds_total += seconds;
    f->device_seconds_total += device_seconds;
}

static void mark_started(struct engine *e, const struct plan *plan, double t) {
    for (int i = 0; i < plan->n_items; i++) {
        struct sequence *q = plan->items[i].seq;
        struct request *r = request_of(q);
        if (r->t_start != 0) continue;
        r->t_start = t;
        r->n_cached = q->n_cached;
        e->figures.n_prompt_tokens += (uint64_t)q->n_prompt;
        e->figures.n_prompt_tokens_cached += (uint64_t)q->n_cached;
    }
}

/* What the step gave, to the clients. A sequence that has ended is told by its farewell alone, so that its last token
 * is never read before its end is known. */
static void publish_step(struct engine *e, const struct plan *plan, double t) {
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        struct request *r = request_of(item->seq);
        if (!item->sample) continue;
        if (r->t_first == 0) r->t_first = t;
        if (item->seq->reason != FINISH_NONE) continue;
        atomic_store_explicit(&r->n_ready, item->seq->n_tokens, memory_order_release);
        mailbox_put(&e->outbox, &r->news.mail);
    }
    for (int i = 0; i < plan->n_finished; i++) say_farewell(e, request_of(plan->finished[i]));
}

/* A step of texts; false when nobody waits. */
static bool launch_embeddings(struct engine *e, double now) {
    const struct embed_flight *f = &e->embedder.flights[e->slot];
    if (!embedder_launch(&e->embedder, e->slot)) return false;
    for (int i = 0; i < f->n; i++) f->requests[i]->t_start = now;
    e->figures.n_prompt_tokens += (uint64_t)f->n_tokens;
    return true;
}

/* A step of tokens; false when there is nothing to run now. */
static bool launch_tokens(struct engine *e, double now) {
    struct plan *plan = &e->plans[e->slot];
    if (e->n_flights && !speculator_may_plan_ahead(&e->speculator)) return false;
    sched_plan(&e->sched, plan);
    if (!plan->n_items) return false;
    speculator_propose(&e->speculator, plan);
    mark_started(e, plan, now);
    runner_launch(&e->runner, e->slot, plan);
    return true;
}

/* Plans the engine's next step and sends it on its way. */
static bool launch(struct engine *e) {
    struct deployment *d = e->deployment;
    const double now = engine__now();
    if (!(e->info.is_encoder ? launch_embeddings(e, now) : launch_tokens(e, now))) return false;
    e->launched[e->slot] = now;
    d->flights[d->n_flights].engine = e;
    d->flights[d->n_flights++].slot = e->slot;
    e->slot = (e->slot + 1) % RUNNER_SLOTS;
    e->n_flights++;
    return true;
}

/* The next step of whoever's turn it is. */
static bool launch_next(struct deployment *d) {
    for (int i = 0; i < d->n_engines; i++) {
        const int turn = (d->turn + i) % d->n_engines;
        if (!launch(&d->engines[turn])) continue;
        d->turn = (turn + 1) % d->n_engines;
        return true;
    }
    return false;
}

/* Waits for a step of texts: each has its vector, or the sentence that says why not. */
static void land_embeddings(struct engine *e, int slot, double begin) {
    struct embed_flight *f = &e->embedder.flights[slot];
    double device_seconds = 0;
    char err[ERR_BYTES];
    int status = embedder_land(&e->embedder, slot, &device_seconds, err, sizeof err);
    const double now = engine__now();
    count_step(e, f->n_tokens, now - begin, device_seconds);
    const int n = f->n;
    f->n = 0;
    engine__publish_figures(e);
    for (int i = 0; i < n; i++) {
        struct request *r = f->requests[i];
        r->t_first = now;
        r->seq->reason = status ? FINISH_ERROR : FINISH_STOP; /* as vLLM counts them: nothing was cut */
        if (status) snprintf(r->error, sizeof r->error, "%s", err);
        say_farewell(e, r);
    }
}

/* Waits for a step of tokens and commits it. */
static void land_tokens(struct engine *e, int slot, double begin) {
    struct plan *plan = &e->plans[slot];
    double device_seconds = 0;
    char err[ERR_BYTES];
    int status = runner_land(&e->runner, slot, plan, e->sampled, &device_seconds, err, sizeof err);
    if (status) {
        for (int i = 0; i < plan->n_items; i++) {
            struct request *r = request_of(plan->items[i].seq);
            if (r->seq->reason == FINISH_NONE) snprintf(r->error, sizeof r->error, "%s", err);
            sched_cancel(&e->sched, plan->items[i].seq, FINISH_ERROR);
        }
    } else {
        speculator_impose(&e->speculator, plan, e->sampled);
    }
    sched_commit(&e->sched, plan, status ? NULL : e->sampled);
    const double now = engine__now();
    count_step(e, plan->n_tokens, now - begin, device_seconds);
    for (int i = 0; i < plan->n_items; i++) e->figures.n_generated_tokens += (uint64_t)plan_gained(&plan->items[i]);
    if (!status) speculator_learn(&e->speculator, plan, device_seconds, now - begin, &e->figures);
    engine__publish_figures(e); /* before the news, so that whoever reads an ending sees its blocks free */
    publish_step(e, plan, now);
}

/* Waits for the oldest step on its way. */
static void land(struct deployment *d) {
    struct engine *e = d->flights[0].engine;
    const int slot = d->flights[0].slot;
    const double begin = e->launched[slot] > d->last_land ? e->launched[slot] : d->last_land;
    (e->info.is_encoder ? land_embeddings : land_tokens)(e, slot, begin);
    for (int i = 1; i < d->n_flights; i++) d->flights[i - 1] = d->flights[i];
    d->n_flights--;
    e->n_flights--;
    d->last_land = engine__now();
    wake_client(e);
}

static bool has_news(struct engine *e) {
    return !mailbox_empty(&e->inbox) || atomic_load(&e->n_cancels) != e->n_cancels_done;
}

/* Sleeps until there may be something to do. False: the engine is stopping. */
static bool wait_for_work(struct deployment *d) {
    for (int i = 0; i < d->n_engines; i++) engine__publish_figures(&d->engines[i]);
    pthread_mutex_lock(&d->mutex);
    for (;;) {
        bool news = atomic_load(&d->stopping);
        for (int i = 0; i < d->n_engines; i++) news |= has_news(&d->engines[i]);
        if (news) break;
        pthread_cond_wait(&d->cond, &d->mutex);
    }
    pthread_mutex_unlock(&d->mutex);
    return !atomic_load(&d->stopping);
}

static void take_letters(struct deployment *d) {
    for (int i = 0; i < d->n_engines; i++) {
        take_inbox(&d->engines[i]);
        take_cancels(&d->engines[i]);
    }
}

void *engine__thread(void *arg) {
    struct deployment *d = arg;
    const int depth = exec_is_gpu(engine__exec(d->engines)) ? SCHED_MAX_FLIGHTS : 1;
    for (;;) {
        take_letters(d);
        if (launch_next(d) && d->n_flights < depth) continue;
        if (d->n_flights) {
            land(d);
            continue;
        }
        for (int i = 0; i < d->n_engines; i++) /* nobody holds memory that somebody else waits for */
            if (!d->engines[i].info.is_encoder && !sched_idle(&d->engines[i].sched))
                CHECK(!"a scheduler has sequences but plans nothing");
        if (!wait_for_work(d)) break;
    }
    take_letters(d); /* requests that came with the word to stop */
    for (int i = 0; i < d->n_engines; i++) engine__publish_figures(&d->engines[i]);
    return NULL;
}
