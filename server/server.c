/* server.c - the server's life: start, the engines' events, signals, the end.
 *
 * The end, in this order, each step only once the one before is done: a signal -> no new requests; running ones finish,
 * or are ended when the drain timeout passes -> no connection is left and no call lives -> the engines are closed, so
 * that their thread can wake nobody any more -> the handles close, the loop runs out. */
#include "server/server_internal.h"

#include "kernels/status.h"
#include "weights/json.h"
#include "weights/weights.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Events taken from the engines before the loop looks after its sockets again. */
#define EVENTS_PER_TURN 4096
/* How long ended requests have to get their last bytes out. */
#define ENDING_MS          2000
#define MAX_TEMPLATE_BYTES ((size_t)1 << 20)

const char *const server_role_names[] = {"large", "small", "draft", "embedder", NULL};

struct server_model_options server_default_model(void) {
    return (struct server_model_options){
        .engine = engine_default_options(),
        .enable_thinking = -1,
        .checkpoint_sampling = true,
        .split_reasoning = true,
    };
}

struct server_options server_default_options(void) {
    return (struct server_options){
        .http = http_default_options(),
        .stream_interval = 1,
        .max_requests_in_flight = 4096,
        .drain_timeout_seconds = 30,
        .log_requests = true,
        .log_level = LOG_INFO,
    };
}

/* ---- the engines' events ----------------------------------------------------------------------------------------- */

static void on_engine(void *arg) { /* on the engines' thread */
    uv_async_send(arg);
}

static void on_wake(uv_async_t *wake) {
    struct server *s = wake->data;
    const int bound = EVENTS_PER_TURN / s->n_models; /* of each model, so that none waits for another's flood */
    struct engine_event event;
    bool more = false;
    for (int i = 0; i < s->n_models; i++) {
        int n = 0;
        while (n < bound && s->models[i].engine && engine_poll(s->models[i].engine, &event)) {
            generation_event(&event);
            n++;
        }
        more |= n == bound;
    }
    if (more) uv_async_send(wake);
    server_check_drained(s);
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void stop(struct server *s) {
    s->stopped = true;
    deployment_close(s->deployment);
    s->deployment = NULL;
    for (int i = 0; i < s->n_models; i++) s->models[i].engine = NULL;
    http_server_close(s->http);
    uv_close((uv_handle_t *)&s->wake, NULL);
    uv_close((uv_handle_t *)&s->drain_timer, NULL);
    for (int i = 0; i < 2; i++) uv_close((uv_handle_t *)&s->signals[i], NULL);
}

void server_check_drained(struct server *s) {
    if (s->drained && !s->calls && !s->stopped) stop(s);
}

static void on_drained(void *user) {
    struct server *s = user;
    s->drained = true;
    server_check_drained(s);
}

static void on_ending_over(uv_timer_t *timer) {
    struct server *s = timer->data;
    http_server_close(s->http);
}

static void on_drain_timeout(uv_timer_t *timer) {
    struct server *s = timer->data;
    s->ending = true;
    log_message(&s->log, LOG_WARNING, "the drain timeout has passed; %d requests are ended", s->n_in_flight);
    for (struct call *c = s->calls, *next; c; c = next) {
        next = c->next;
        if (c->x && c->n_open) generation_fail(c, 503, "The server is shutting down.");
    }
    uv_timer_start(timer, on_ending_over, ENDING_MS, 0);
}

static void on_signal(uv_signal_t *handle, int number) {
    struct server *s = handle->data;
    if (s->draining) _exit(128 + number);
    s->draining = true;
    log_message(&s->log, LOG_INFO, "signal %d: %d requests are in flight; a second signal ends the process at once",
                number, s->n_in_flight);
    uv_timer_start(&s->drain_timer, on_drain_timeout, (uint64_t)(1000 * s->options->drain_timeout_seconds), 0);
    http_server_drain(s->http, on_drained);
}

/* ---- the start --------------------------------------------------------------------------------------------------- */

/* " as large and draft" */
static const char *show_roles(unsigned roles, char buffer[64]) {
    size_t n = 0;
    buffer[0] = 0;
    for (int i = 0; server_role_names[i]; i++)
        if (roles >> i & 1)
            n += (size_t)snprintf(buffer + n, 64 - n, "%s%s", n ? " and " : " as ", server_role_names[i]);
    return buffer;
}

/* The template whose text a file holds; NONE if it cannot be read or is not known. */
static enum chat_template template_by_file(const char *path) {
    char *text = calloc(1, MAX_TEMPLATE_BYTES + 1);
    FILE *f = fopen(path, "r");
    CHECK(text);
    if (f && fread(text, 1, MAX_TEMPLATE_BYTES, f) == 0) text[0] = 0;
    if (f) fclose(f);
    enum chat_template found = chat_template_detect(text);
    free(text);
    return found;
}

/* The template that --chat-template names; NONE, which stands for the checkpoint's, without the flag. */
static int choose_template(const struct server_model_options *o, enum chat_template *out, char *err, size_t err_bytes) {
    char quoted[128];
    *out = CHAT_TEMPLATE_NONE;
    if (!o->chat_template) return 0;
    *out = chat_template_by_name(o->chat_template);
    if (*out == CHAT_TEMPLATE_NONE) *out = template_by_file(o->chat_template);
    if (*out != CHAT_TEMPLATE_NONE) return 0;
    return fail(err, err_bytes, STATUS_INVALID,
                "%s: --chat-template: expected qwen2.5, qwen3, qwen3-thinking, qwen3-nonthinking or a file that holds "
                "the text of one of them, found \"%s\"",
                o->engine.model, json_quote(o->chat_template, quoted, sizeof quoted));
}

/* Whether the model can be what its role says, before any is opened. A model that cannot be found or read is left to
 * deployment_open. */
static int check_role(const struct server_model_options *o, char *err, size_t err_bytes) {
    char path[PATH_MAX], roles[64];
    bool is_encoder;
    if (!o->roles || model_find(o->engine.model, path, sizeof path, err, err_bytes) ||
        model_is_encoder(&is_encoder, path, err, err_bytes))
        return 0;
    if (is_encoder && o->roles != ROLE_EMBEDDER)
        return fail(err, err_bytes, STATUS_INVALID,
                    "%s: role: expected embedder, since the model turns texts into vectors, found it%s",
                    o->engine.model, show_roles(o->roles, roles));
    if (!is_encoder && o->roles & ROLE_EMBEDDER)
        return fail(err, err_bytes, STATUS_INVALID,
                    "%s: role: expected large, small or draft, since the model generates text, found it%s",
                    o->engine.model, show_roles(o->roles, roles));
    return 0;
}

static void set_model(struct server_model *m, struct engine *engine) {
    const struct server_model_options *o = m->options;
    m->engine = engine;
    m->info = engine_info(engine);
    m->names = o->n_served_names ? o->served_names : &o->engine.model;
    m->n_names = o->n_served_names ? o->n_served_names : 1;
    m->tokenizer = engine_tokenizer(engine);
    m->think_open = tokenizer_id(m->tokenizer, "<think>", 7);
    m->think_close = tokenizer_id(m->tokenizer, "</think>", 8);
}

static int open_models(struct server *s, char *err, size_t err_bytes) {
    const struct server_options *o = s->options;
    struct engine_options engines[DEPLOYMENT_MAX_MODELS];
    int status = 0;
    CHECK(o->n_models >= 1 && o->n_models <= DEPLOYMENT_MAX_MODELS);
    for (int i = 0; i < o->n_models && !status; i++) {
        s->models[i] = (struct server_model){.options = &o->models[i], .index = i};
        engines[i] = o->models[i].engine;
        status = check_role(&o->models[i], err, err_bytes);
        if (!status) status = choose_template(&o->models[i], &engines[i].chat_template, err, err_bytes);
    }
    if (!status) status = deployment_open(&s->deployment, engines, o->n_models, err, err_bytes);
    if (status) return status;
    s->n_models = o->n_models;
    for (int i = 0; i < s->n_models; i++) {
        struct server_model *m = &s->models[i];
        set_model(m, deployment_engine(s->deployment, i));
        m->defaults = (struct api_defaults){
            .sampling = m->options->checkpoint_sampling && !m->info->is_encoder
                            ? sampling_from_generation_config(&m->info->generation)
                            : sampling_default(),
            .max_logprobs = m->info->max_logprobs,
            .vocab = m->info->model.vocab,
            .enable_thinking = m->options->enable_thinking,
            .force_include_usage = o->force_include_usage,
            .dimensions = m->info->encoder.hidden,
            .normalized = m->info->encoder.normalize,
        };
    }
    return 0;
}

static double unix_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* "14.2 GiB" */
static const char *show_bytes(size_t bytes, char buffer[32]) {
    double gib = (double)bytes / 0x1p30;
    snprintf(buffer, 32, gib >= 1 ? "%.1f GiB" : "%.1f MiB", gib >= 1 ? gib : gib * 1024);
    return buffer;
}

/* Where the seconds of the start went. */
static void announce_load(const struct server *s, const struct server_model *m) {
    const struct engine_start *t = &m->info->start;
    const double rate = t->weights > 0 ? 1e-9 * (double)m->info->weight_bytes / t->weights : 0;
    char text[512], name[128] = "", bytes[32], kv[32] = "";
    const struct log_figure figures[] = {{"weight_bytes", (double)m->info->weight_bytes},
                                         {"weights_seconds", t->weights},
                                         {"weights_gb_per_second", rate},
                                         {"configuration_seconds", t->configuration},
                                         {"checkpoint_seconds", t->checkpoint},
                                         {"device_seconds", t->device},
                                         {"kv_seconds", t->kv}}; /* last: encoders have none */
    const bool has_kv = m->info->kv_bytes > 0;
    if (has_kv) snprintf(kv, sizeof kv, ", KV pool %.2f s", t->kv);
    if (s->n_models > 1) json_quote(m->names[0], name, sizeof name);
    snprintf(text, sizeof text,
             "%s%sloaded %s of weights in %.2f s (%.1f GB/s); tokenizer %.2f s, checkpoint's headers %.2f s, "
             "device %.2f s%s",
             name, *name ? ": " : "", show_bytes(m->info->weight_bytes, bytes), t->weights, rate, t->configuration,
             t->checkpoint, t->device, kv);
    log_figures(&s->log, LOG_INFO, text, figures, (int)(sizeof figures / sizeof *figures) - !has_kv);
}

/* What a model works with: "1.5 GiB for KV: 4096 tokens", "vectors of 768 dimensions". */
static const char *show_capacity(const struct engine_info *info, bool alone, char buffer[96]) {
    char bytes[32];
    if (info->is_encoder)
        snprintf(buffer, 96, "vectors of %d dimensions", info->encoder.hidden);
    else
        snprintf(buffer, 96, "%s for KV%s%lld tokens", show_bytes(info->kv_bytes, bytes),
                 alone ? ": " : " shared by all: up to ", (long long)info->n_blocks * info->block_size);
    return buffer;
}

static void announce(const struct server *s, const struct server_model *m, double seconds) {
    const struct http_options *h = &s->options->http;
    const struct engine_info *info = m->info;
    const bool alone = s->n_models == 1;
    char address[160], capacity[96], weights[32], roles[64], name[128];
    if (h->uds)
        snprintf(address, sizeof address, "unix:%s", h->uds);
    else
        snprintf(address, sizeof address, strchr(h->host, ':') ? "http://[%s]:%d" : "http://%s:%d", h->host,
                 http_port(s->http));
    log_message(&s->log, LOG_INFO, "ready in %.2f s: %s serves %s%s (%s weights, %s, max-model-len %d, %s)", seconds,
                address, json_quote(m->names[0], name, sizeof name), show_roles(m->options->roles, roles),
                show_bytes(info->weight_bytes, weights), show_capacity(info, alone, capacity), info->max_model_len,
                info->backend);
    if (info->chat_template == CHAT_TEMPLATE_NONE && !info->is_encoder)
        log_message(&s->log, LOG_WARNING,
                    "%s%sthe checkpoint's chat template is not known: chat requests are refused; "
                    "--chat-template names one",
                    alone ? "" : name, alone ? "" : ": ");
}

static int open_http(struct server *s, char *err, size_t err_bytes) {
    struct http_options http = s->options->http;
    http.error_body = call_error_body;
    int status = http_server_open(&s->http, &s->loop, &http, routes_handle, s, err, err_bytes);
    if (status) return status;
    http_set_done(s->http, call_done);
    return 0;
}

static void open_handles(struct server *s) {
    static const int numbers[2] = {SIGINT, SIGTERM};
    CHECK_EQ(uv_async_init(&s->loop, &s->wake, on_wake), 0);
    CHECK_EQ(uv_timer_init(&s->loop, &s->drain_timer), 0);
    s->wake.data = s->drain_timer.data = s;
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(uv_signal_init(&s->loop, &s->signals[i]), 0);
        s->signals[i].data = s;
        CHECK_EQ(uv_signal_start(&s->signals[i], on_signal, numbers[i]), 0);
    }
}

/* Everything that can fail; `*s` is zero but for its options. */
static int start(struct server *s, char *err, size_t err_bytes) {
    const struct server_options *o = s->options;
    int status = auth_open(&s->auth, o->api_keys, o->n_api_keys, o->api_key_file, err, err_bytes);
    if (!status) status = open_models(s, err, err_bytes);
    return status ? status : open_http(s, err, err_bytes);
}

/* What is left once nothing can fail any more. */
static void open_rest(struct server *s, double began) {
    const char *names[DEPLOYMENT_MAX_MODELS];
    for (int i = 0; i < s->n_models; i++) names[i] = s->models[i].names[0];
    s->metrics = metrics_open(names, s->n_models);
    s->log.names_models = s->n_models > 1;
    s->created = (int64_t)time(NULL);
    open_handles(s);
    for (int i = 0; i < s->n_models; i++) engine_set_wake(s->models[i].engine, on_engine, &s->wake);
    s->ready_seconds = unix_seconds();
    for (int i = 0; i < s->n_models; i++) announce_load(s, &s->models[i]);
    for (int i = 0; i < s->n_models; i++) announce(s, &s->models[i], s->ready_seconds - began);
}

int server_run(const struct server_options *options, char *err, size_t err_bytes) {
    struct server s = {
        .options = options,
        .log = {.to = stderr,
                .json = options->log_json,
                .level = options->log_level,
                .no_requests = !options->log_requests},
    };
    double began = unix_seconds();
    signal(SIGPIPE, SIG_IGN);
    CHECK_EQ(uv_loop_init(&s.loop), 0);
    int status = start(&s, err, err_bytes);
    if (!status) open_rest(&s, began);
    uv_run(&s.loop, UV_RUN_DEFAULT); /* after a failed start: closes what was opened */
    if (!status) log_message(&s.log, LOG_INFO, "stopped");
    http_server_free(s.http);
    deployment_close(s.deployment);
    metrics_close(s.metrics);
    auth_close(s.auth);
    out_deinit(&s.scratch);
    CHECK_EQ(uv_loop_close(&s.loop), 0);
    return status;
}
