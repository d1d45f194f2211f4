/* engine_client.c - the client thread's side: requests go in, events come out, text is made here. */
#include "engine/engine_internal.h"
#include "engine/params.h"

#include <stdlib.h>
#include <string.h>

/* ---- client thread: requests ------------------------------------------------------------------------------------- */

/* splitmix64: distinct, well-spread seeds for requests that bring none. */
static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static void live_add(struct engine *e, struct request *r) {
    r->prev_live = NULL;
    r->next_live = e->live;
    if (e->live) e->live->prev_live = r;
    e->live = r;
    e->n_live++;
}

static void live_remove(struct engine *e, struct request *r) {
    if (r->prev_live)
        r->prev_live->next_live = r->next_live;
    else
        e->live = r->next_live;
    if (r->next_live) r->next_live->prev_live = r->prev_live;
}

int engine_submit(struct engine *e, const struct request_params *params, uint64_t *id, char *err, size_t err_bytes) {
    int status = request_params_check(params, &e->info, err, err_bytes);
    if (status) return status;
    if (atomic_load(&e->deployment->stopping))
        return fail(err, err_bytes, STATUS_CLOSED, "the engine is shutting down");
    const int bound = e->options.max_num_seqs + e->options.max_waiting;
    if (e->options.max_waiting && e->n_live >= bound && !params->admitted)
        return fail(err, err_bytes, STATUS_BUSY, "%d requests are running or waiting, and no more than %d may be",
                    e->n_live, bound);
    struct request *r;
    const uint64_t number = e->n_requests + 1;
    status = request_open(&r, number, params, &e->info, e->tokenizer, &e->speculative_config,
                          mix(e->options.seed ^ mix(number)));
    if (status) return fail(err, err_bytes, status, "no memory for the request");
    e->n_requests = number;
    r->t_submit = engine__now();
    live_add(e, r);
    if (id) *id = number;
    mailbox_put(&e->inbox, &r->news.mail);
    engine__nudge(e);
    return 0;
}

static void ask_to_end(struct engine *e, struct request *r) {
    atomic_store(&r->cancelled, true);
    atomic_fetch_add(&e->n_cancels, 1);
    engine__nudge(e);
}

void engine_cancel(struct engine *e, uint64_t id) {
    for (struct request *r = e->live; r; r = r->next_live)
        if (r->id == id) {
            if (!r->finished) ask_to_end(e, r);
            return;
        }
}

/* ---- client thread: events --------------------------------------------------------------------------------------- */

static void append_text(struct engine *e, struct engine_event *event, const char *text, size_t bytes) {
    if (event->text_bytes + bytes + 1 > e->text_capacity) {
        e->text_capacity = 2 * (event->text_bytes + bytes + 1);
        e->text = realloc(e->text, e->text_capacity);
        CHECK(e->text);
    }
    if (bytes) memcpy(e->text + event->text_bytes, text, bytes);
    event->text_bytes += bytes;
    e->text[event->text_bytes] = 0;
    event->text = e->text;
}

/* Views of the logprobs of output tokens [from, to) and, once, of the prompt. */
static void attach_logprobs(struct engine *e, struct request *r, struct engine_event *event, int from, int to) {
    const int n_prompt = r->seq->n_prompt;
    const bool prompt = r->prompt_logprobs && !r->prompt_logprobs_seen && (to > n_prompt || r->seq->prompt_only);
    const size_t n_output = r->logprobs ? (size_t)(to - from) : 0, needed = n_output + (prompt ? (size_t)n_prompt : 0);
    if (needed > e->positions_capacity) {
        e->positions_capacity = 2 * needed;
        e->positions = realloc(e->positions, e->positions_capacity * sizeof *e->positions);
        CHECK(e->positions);
    }
    for (size_t i = 0; i < n_output; i++)
        e->positions[i] = (struct position_logprobs){r->n_logprobs, r->logprobs + ((size_t)(from - n_prompt) + i) *
                                                                                      (1 + (size_t)r->n_logprobs)};
    if (n_output) event->logprobs = e->positions;
    if (!prompt) return;
    for (int i = 0; i < n_prompt - 1; i++)
        e->positions[n_output + (size_t)i] = (struct position_logprobs){
            r->n_prompt_logprobs, r->prompt_logprobs + (size_t)i * (1 + (size_t)r->n_prompt_logprobs)};
    event->prompt_logprobs = e->positions + n_output;
    r->prompt_logprobs_seen = true;
}

static struct request_usage usage_of(const struct request *r, bool ended) {
    return (struct request_usage){
        .n_prompt = r->seq->n_prompt,
        .n_cached = r->n_cached,
        .n_output = r->n_seen - r->seq->n_prompt,
        .n_preemptions = ended ? r->seq->n_preemptions : 0,
        .n_drafted = ended ? r->n_drafted : 0,
        .n_accepted = ended ? r->n_accepted : 0,
        .t_submit = r->t_submit,
        .t_start = r->t_start,
        .t_first = r->t_first,
        .t_finish = ended ? r->t_finish : 0,
    };
}

/* Takes over tokens up to `ready`; returns true when there is something to tell. */
static bool advance(struct engine *e, struct request *r, int ready, bool farewell, struct engine_event *event) {
    const struct sequence *q = r->seq;
    const int from = r->n_seen;
    /* the token that ended it (eos, stop_token_ids) is counted and listed, but is text only on request */
    const bool silent_last = farewell && q->reason == FINISH_STOP && !r->include_stop;
    int stopped = -1;
    append_text(e, event, NULL, 0);
    while (r->n_seen < ready && stopped < 0) {
        const int i = r->n_seen++;
        if (silent_last && i == ready - 1) break;
        size_t bytes;
        const char *text = text_stream_push(r->text, q->tokens[i], &bytes, &stopped);
        append_text(e, event, text, bytes);
    }
    event->tokens = q->tokens + from;
    event->n_tokens = r->n_seen - from;
    attach_logprobs(e, r, event, from, r->n_seen);
    event->usage = usage_of(r, farewell);
    if (stopped >= 0) { /* a stop string: for the client the request ends here; the engine hears of it */
        event->kind = EVENT_FINISHED;
        event->reason = FINISH_STOP;
        event->stop_string = stopped;
        event->usage.t_finish = engine__now();
        if (!farewell) ask_to_end(e, r);
    } else if (farewell) {
        size_t bytes;
        const char *text = text_stream_finish(r->text, &bytes);
        append_text(e, event, text, bytes);
        event->kind = EVENT_FINISHED;
        event->reason = q->reason;
        event->stop_token = q->stop_token;
        if (q->reason == FINISH_ERROR) event->error = r->error;
    }
    if (event->kind == EVENT_FINISHED) {
        r->finished = true;
        e->n_live--;
    }
    return event->kind == EVENT_FINISHED || event->n_tokens > 0;
}

static void bury(struct engine *e) {
    if (!e->dead) return;
    live_remove(e, e->dead);
    request_close(e->dead);
    e->dead = NULL;
}

bool engine_poll(struct engine *e, struct engine_event *event) {
    for (;;) {
        bury(e);
        if (!e->opened) e->opened = mailbox_take(&e->outbox);
        struct letter *letter = (struct letter *)e->opened;
        if (!letter) return false;
        e->opened = mail_open(&letter->mail);

        struct request *r = letter->request;
        const bool farewell = letter->farewell, told = r->finished;
        *event = (struct engine_event){
            .kind = EVENT_TOKENS, .id = r->id, .user = r->user, .stop_string = -1, .stop_token = -1};
        const int ready = farewell ? r->seq->n_tokens : atomic_load_explicit(&r->n_ready, memory_order_acquire);
        const bool something = !told && advance(e, r, ready, farewell, event);
        if (farewell) e->dead = r; /* freed by the next call: the event has views of it */
        if (something) return true;
    }
}

static bool has_letters(struct engine *e) {
    return e->opened || !mailbox_empty(&e->outbox);
}

bool engine_wait(struct engine *e, int timeout_ms) {
    if (has_letters(e)) return true;
    if (e->n_live == 0) return false;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&e->mutex);
    for (int timed_out = 0; !has_letters(e) && !timed_out;) {
        if (timeout_ms < 0)
            pthread_cond_wait(&e->client_cond, &e->mutex);
        else
            timed_out = pthread_cond_timedwait(&e->client_cond, &e->mutex, &until) != 0;
    }
    pthread_mutex_unlock(&e->mutex);
    return has_letters(e);
}
