/* serve.c - `tandem bench serve`: a load on a running server with OpenAI's completions, and what its clients see.
 *
 * Open loop: requests arrive by a Gamma process of a given rate (burstiness 1 is Poisson) or as in a trace, whether or
 * not earlier ones are done. Closed loop: without a rate, max_concurrency of them are always under way. One thread, one
 * poll.
 *
 * Words as in vLLM's benchmark: TTFT from sending to the first token's event; ITL between two events that bring tokens;
 * E2EL to the end; TPOT = (E2EL - TTFT) / (tokens - 1). Waiting for max_concurrency is not counted. */
#include "benchmarks/http_stream.h"
#include "benchmarks/measure.h"
#include "benchmarks/report.h"
#include "benchmarks/workload.h"

#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

struct sample_list { /* owned */
    double *values;
    size_t n, capacity;
};

static void sample_add(struct sample_list *s, double value) {
    if (s->n == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 1024;
        s->values = realloc(s->values, s->capacity * sizeof *s->values);
        CHECK(s->values);
    }
    s->values[s->n++] = value;
}

/* What is measured of each request, or of each gap between two events: vLLM's words. */
enum metric { TTFT, TPOT, ITL, E2EL, N_METRICS };
static const struct {
    const char *name, *key;
} metric_names[N_METRICS] = {{"TTFT", "ttft"}, {"TPOT", "tpot"}, {"ITL", "itl"}, {"E2EL", "e2el"}};

struct load;

struct client { /* one request under way */
    struct load *load;
    struct http_stream http;
    double t_send, t_first, t_last;
    int n_input, n_output; /* from usage; else what was asked, and the events */
    int n_events;
    bool is_error;
    char said[200]; /* the start of an error's body */
};

struct load {
    const struct bench_serve_options *options;
    struct sockaddr_storage address;
    socklen_t address_bytes;
    char model[256];
    struct bench_request *requests; /* owned */
    int n_requests, n_cut;
    struct client *clients; /* owned [capacity]: 0 .. n_clients-1 are under way */
    struct pollfd *polls;
    int n_clients, capacity;
    struct sample_list metrics[N_METRICS]; /* seconds */
    double input_tokens, output_tokens, seconds;
    int n_ok, n_failed, n_good, most_clients;
    char failure[300]; /* the first */
};

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static int resolve(struct load *l, char *err, size_t err_bytes) {
    const struct bench_serve_options *o = l->options;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    char port[16];
    snprintf(port, sizeof port, "%d", o->port);
    const int failure = getaddrinfo(o->host, port, &hints, &found);
    if (failure) return fail(err, err_bytes, STATUS_NOT_FOUND, "%s: %s", o->host, gai_strerror(failure));
    memcpy(&l->address, found->ai_addr, found->ai_addrlen);
    l->address_bytes = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

/* Head and body in one malloc'ed piece. body NULL: a GET. */
static char *make_request(const struct load *l, const char *path, const char *body, size_t *bytes) {
    const struct bench_serve_options *o = l->options;
    const size_t body_bytes = body ? strlen(body) : 0,
                 room = body_bytes + strlen(path) + strlen(o->host) + 1024 + (o->api_key ? strlen(o->api_key) : 0);
    char *request = malloc(room);
    CHECK(request);
    int n = snprintf(request, room, "%s %s HTTP/1.1\r\nHost: %s:%d\r\nConnection: close\r\n", body ? "POST" : "GET",
                     path, o->host, o->port);
    if (o->api_key) n += snprintf(request + n, room - (size_t)n, "Authorization: Bearer %s\r\n", o->api_key);
    if (body)
        n += snprintf(request + n, room - (size_t)n, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                      body_bytes);
    n += snprintf(request + n, room - (size_t)n, "\r\n%s", body ? body : "");
    *bytes = (size_t)n;
    return request;
}

/* The JSON body of request i: ids, so that no tokenizer is needed to know the lengths. */
static char *make_body(const struct load *l, int i) {
    const struct bench_serve_options *o = l->options;
    const struct bench_request *r = &l->requests[i];
    int32_t *ids = malloc((size_t)r->n_prompt * sizeof *ids);
    CHECK(ids);
    workload_prompt(ids, &o->workload, i, r->n_prompt, o->vocab);
    cJSON *body = cJSON_CreateObject(), *usage;
    cJSON_AddStringToObject(body, "model", l->model);
    cJSON_AddItemToObject(body, "prompt", cJSON_CreateIntArray(ids, r->n_prompt));
    cJSON_AddNumberToObject(body, "max_tokens", r->n_output);
    cJSON_AddNumberToObject(body, "temperature", 0);
    cJSON_AddBoolToObject(body, "ignore_eos", true);
    cJSON_AddBoolToObject(body, "stream", true);
    usage = cJSON_AddObjectToObject(body, "stream_options");
    cJSON_AddBoolToObject(usage, "include_usage", true);
    char *text = cJSON_PrintUnformatted(body);
    CHECK(text);
    cJSON_Delete(body);
    free(ids);
    return text;
}

/* One line of an answer's body: "data: {...}" is an event. */
static void take_line(void *user, const char *text) {
    struct client *c = user;
    const double t = bench_now();
    if (c->http.status != 200 || strncmp(text, "data: ", 6)) {
        if (c->http.status != 200 && !c->said[0]) snprintf(c->said, sizeof c->said, "%s", text);
        return;
    }
    cJSON *event = cJSON_Parse(text + 6); /* NULL for [DONE] */
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(event, "choices"),
                *usage = cJSON_GetObjectItemCaseSensitive(event, "usage");
    if (cJSON_IsArray(choices) && choices->child) {
        if (c->t_first <= 0)
            c->t_first = t;
        else
            sample_add(&c->load->metrics[ITL], t - c->t_last);
        c->t_last = t;
        c->n_events++;
    }
    if (cJSON_IsObject(usage)) {
        const cJSON *in = cJSON_GetObjectItemCaseSensitive(usage, "prompt_tokens"),
                    *out = cJSON_GetObjectItemCaseSensitive(usage, "completion_tokens");
        if (cJSON_IsNumber(in)) c->n_input = in->valueint;
        if (cJSON_IsNumber(out)) c->n_output = out->valueint;
    }
    if (cJSON_GetObjectItemCaseSensitive(event, "error")) {
        c->is_error = true;
        snprintf(c->said, sizeof c->said, "%s", text + 6);
    }
    cJSON_Delete(event);
}

static void count_failure(struct load *l, const char *what) {
    if (!l->n_failed++) snprintf(l->failure, sizeof l->failure, "%s", what);
}

static void start(struct load *l, int i) {
    struct client *c = &l->clients[l->n_clients];
    size_t bytes;
    char *body = make_body(l, i), *request = make_request(l, l->options->path, body, &bytes);
    free(body);
    *c = (struct client){.load = l, .n_input = l->requests[i].n_prompt, .t_send = bench_now()};
    const int failure = http_stream_open(&c->http, (struct sockaddr *)&l->address, l->address_bytes, request, bytes);
    if (failure) {
        http_stream_close(&c->http);
        count_failure(l, strerror(failure));
        return;
    }
    if (++l->n_clients > l->most_clients) l->most_clients = l->n_clients;
}

static void finish(struct load *l, int at, bool whole) {
    struct client *c = &l->clients[at];
    const bool ok = whole && c->http.status == 200 && !c->is_error && c->t_first > 0;
    char what[280];
    if (ok) {
        const double end = bench_now() - c->t_send, first = c->t_first - c->t_send;
        const int n = c->n_output ? c->n_output : c->n_events;
        const double per_token = n > 1 ? (end - first) / (n - 1) : 0;
        const struct bench_serve_options *o = l->options;
        l->n_ok++;
        l->input_tokens += c->n_input;
        l->output_tokens += n;
        sample_add(&l->metrics[TTFT], first);
        sample_add(&l->metrics[E2EL], end);
        if (n > 1) sample_add(&l->metrics[TPOT], per_token);
        l->n_good += (o->goodput_ttft_ms <= 0 || 1e3 * first <= o->goodput_ttft_ms) &&
                     (o->goodput_tpot_ms <= 0 || 1e3 * per_token <= o->goodput_tpot_ms);
    } else {
        if (c->http.status)
            snprintf(what, sizeof what, "status %d: %s", c->http.status, c->said[0] ? c->said : "cut off");
        else
            snprintf(what, sizeof what, "the connection ended without an answer");
        count_failure(l, what);
    }
    http_stream_close(&c->http);
    l->clients[at] = l->clients[--l->n_clients];
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */

/* When each request is to be sent: the trace's times, those of a random process, or at once. */
static void plan_arrivals(struct load *l) {
    const struct bench_serve_options *o = l->options;
    uint64_t state = o->workload.seed ^ 0x6172726976616cu;
    double t = 0;
    for (int i = 0; i < l->n_requests; i++) {
        double *arrival = &l->requests[i].arrival;
        *arrival = o->replay > 0 ? *arrival / o->replay : t;
        if (isfinite(o->request_rate)) t += bench_random_gamma(&state, o->burstiness) / o->request_rate;
    }
}

static int run(struct load *l, char *err, size_t err_bytes) {
    const struct bench_serve_options *o = l->options;
    const int most = o->max_concurrency ? o->max_concurrency : l->n_requests;
    l->capacity = most < l->n_requests ? most : l->n_requests;
    l->clients = calloc((size_t)l->capacity, sizeof *l->clients);
    l->polls = calloc((size_t)l->capacity, sizeof *l->polls);
    CHECK(l->clients && l->polls);
    const double t0 = bench_now();
    int next = 0;
    for (double t_news = t0; next < l->n_requests || l->n_clients;) {
        double now = bench_now() - t0;
        while (next < l->n_requests && l->n_clients < l->capacity && l->requests[next].arrival <= now) start(l, next++);
        for (int i = 0; i < l->n_clients; i++)
            l->polls[i] =
                (struct pollfd){.fd = l->clients[i].http.fd, .events = http_stream_events(&l->clients[i].http)};
        double wait = 1;
        if (next < l->n_requests && l->n_clients < l->capacity) wait = fmin(wait, l->requests[next].arrival - now);
        wait = fmax(wait, 0);
        const struct timespec timeout = {.tv_sec = (time_t)wait, .tv_nsec = (long)(1e9 * (wait - floor(wait)))};
        const int n_ready = ppoll(l->polls, (nfds_t)l->n_clients, &timeout, NULL);
        if (n_ready > 0 || !l->n_clients)
            t_news = bench_now();
        else if (bench_now() - t_news > o->timeout)
            return fail(err, err_bytes, STATUS_IO, "no answer for %.0f s with %d requests under way", o->timeout,
                        l->n_clients);
        for (int i = l->n_clients; i-- > 0;) { /* backwards, for the last one takes the place of one that ends */
            if (!l->polls[i].revents) continue;
            const enum http_progress p = http_stream_advance(&l->clients[i].http, take_line, &l->clients[i]);
            if (p != HTTP_GOING) finish(l, i, p == HTTP_ENDED);
        }
        bench_report(&o->progress, "serve", l->n_ok + l->n_failed, l->n_requests);
    }
    l->seconds = bench_now() - t0;
    bench_report(&o->progress, NULL, l->n_ok + l->n_failed, l->n_requests);
    if (!l->n_ok) return fail(err, err_bytes, STATUS_IO, "every request failed; the first: %s", l->failure);
    return 0;
}

/* ---- which model ------------------------------------------------------------------------------------------------- */

struct answer {
    char text[65536];
    size_t n;
};

static void keep_line(void *user, const char *text) {
    struct answer *a = user;
    const int n = snprintf(a->text + a->n, sizeof a->text - a->n, "%s\n", text);
    a->n = n < (int)(sizeof a->text - a->n) ? a->n + (size_t)n : sizeof a->text - 1;
}

/* The first of GET /v1/models. */
static int ask_model(struct load *l, char *err, size_t err_bytes) {
    struct answer *a = calloc(1, sizeof *a);
    struct http_stream http;
    size_t bytes;
    CHECK(a);
    char *request = make_request(l, "/v1/models", NULL, &bytes);
    int failure = http_stream_open(&http, (struct sockaddr *)&l->address, l->address_bytes, request, bytes), status = 0;
    enum http_progress p = HTTP_GOING;
    while (!failure && p == HTTP_GOING) {
        struct pollfd poll_one = {.fd = http.fd, .events = http_stream_events(&http)};
        if (poll(&poll_one, 1, (int)(1e3 * l->options->timeout)) <= 0)
            failure = ETIMEDOUT;
        else
            p = http_stream_advance(&http, keep_line, a);
    }
    cJSON *root = cJSON_Parse(a->text);
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(root, "data"),
                *id = cJSON_GetObjectItemCaseSensitive(cJSON_IsArray(data) ? data->child : NULL, "id");
    if (cJSON_IsString(id))
        snprintf(l->model, sizeof l->model, "%s", id->valuestring);
    else if (failure || !http.status)
        status = fail(err, err_bytes, STATUS_IO, "no server at %s:%d%s%s; start one, or give --host and --port",
                      l->options->host, l->options->port, failure ? ": " : "", failure ? strerror(failure) : "");
    else
        status = fail(err, err_bytes, STATUS_INVALID, "GET /v1/models: status %d, no model in %.100s; use --model",
                      http.status, a->text);
    cJSON_Delete(root);
    http_stream_close(&http);
    free(a);
    return status;
}

/* ---- printing ---------------------------------------------------------------------------------------------------- */

static double mean(const struct sample_list *s) {
    double sum = 0;
    for (size_t i = 0; i < s->n; i++) sum += s->values[i];
    return s->n ? sum / (double)s->n : 0;
}

static void print_people(struct load *l) {
    const struct bench_serve_options *o = l->options;
    printf("%s at %s:%d%s, ", l->model, o->host, o->port, o->path);
    if (o->replay > 0)
        printf("the trace's arrivals %g times as fast", o->replay);
    else if (isfinite(o->request_rate))
        printf("%g requests/s, burstiness %g", o->request_rate, o->burstiness);
    else
        printf("as fast as they are answered");
    if (o->max_concurrency) printf(", at most %d at a time", o->max_concurrency);
    printf("\n\nrequests            %12d", l->n_ok + l->n_failed);
    if (l->n_failed) printf("  (%d failed; the first: %s)", l->n_failed, l->failure);
    printf("\nat a time, most     %12d\n", l->most_clients);
    printf("seconds             %12.2f\n", l->seconds);
    printf("requests/s          %12.2f\n", l->n_ok / l->seconds);
    if (o->goodput_ttft_ms > 0 || o->goodput_tpot_ms > 0)
        printf("good requests/s     %12.2f  (%d of %d)\n", l->n_good / l->seconds, l->n_good, l->n_ok + l->n_failed);
    printf("input tokens/s      %12.0f\n", l->input_tokens / l->seconds);
    printf("output tokens/s     %12.0f\n", l->output_tokens / l->seconds);
    printf("tokens/s in all     %12.0f\n\n%-8s %10s %10s", (l->input_tokens + l->output_tokens) / l->seconds, "ms",
           "mean", "median");
    for (int i = 0; i < o->n_percentiles; i++) printf("       p%-3g", o->percentiles[i]);
    printf(" %10s\n", "max");
    for (int m = 0; m < N_METRICS; m++) {
        struct sample_list *s = &l->metrics[m];
        printf("%-8s %10.2f %10.2f", metric_names[m].name, 1e3 * mean(s), 1e3 * bench_quantile(s->values, s->n, 0.5));
        for (int i = 0; i < o->n_percentiles; i++)
            printf(" %10.2f", 1e3 * bench_quantile(s->values, s->n, o->percentiles[i] / 100));
        printf(" %10.2f\n", 1e3 * bench_quantile(s->values, s->n, 1));
    }
}

static void print_json(struct load *l) {
    const struct bench_serve_options *o = l->options;
    cJSON *root = cJSON_CreateObject();
    char name[64];
    cJSON_AddStringToObject(root, "model", l->model);
    cJSON_AddNumberToObject(root, "completed", l->n_ok);
    cJSON_AddNumberToObject(root, "failed", l->n_failed);
    if (l->n_failed) cJSON_AddStringToObject(root, "first_failure", l->failure);
    cJSON_AddNumberToObject(root, "max_concurrent_requests", l->most_clients);
    cJSON_AddNumberToObject(root, "duration", l->seconds);
    cJSON_AddNumberToObject(root, "total_input_tokens", l->input_tokens);
    cJSON_AddNumberToObject(root, "total_output_tokens", l->output_tokens);
    cJSON_AddNumberToObject(root, "request_throughput", l->n_ok / l->seconds);
    cJSON_AddNumberToObject(root, "request_goodput", l->n_good / l->seconds);
    cJSON_AddNumberToObject(root, "output_throughput", l->output_tokens / l->seconds);
    cJSON_AddNumberToObject(root, "total_token_throughput", (l->input_tokens + l->output_tokens) / l->seconds);
    for (int m = 0; m < N_METRICS; m++) {
        struct sample_list *s = &l->metrics[m];
        snprintf(name, sizeof name, "mean_%s_ms", metric_names[m].key);
        cJSON_AddNumberToObject(root, name, 1e3 * mean(s));
        snprintf(name, sizeof name, "median_%s_ms", metric_names[m].key);
        cJSON_AddNumberToObject(root, name, 1e3 * bench_quantile(s->values, s->n, 0.5));
        for (int i = 0; i < o->n_percentiles; i++) {
            snprintf(name, sizeof name, "p%g_%s_ms", o->percentiles[i], metric_names[m].key);
            cJSON_AddNumberToObject(root, name, 1e3 * bench_quantile(s->values, s->n, o->percentiles[i] / 100));
        }
    }
    bench_print_and_delete(root);
}

int bench_serve(const struct bench_serve_options *o, char *err, size_t err_bytes) {
    struct load l = {.options = o};
    int status = resolve(&l, err, err_bytes);
    if (!status && o->model)
        snprintf(l.model, sizeof l.model, "%s", o->model);
    else if (!status)
        status = ask_model(&l, err, err_bytes);
    if (!status) status = workload_open(&l.requests, &l.n_requests, &l.n_cut, &o->workload, 0, err, err_bytes);
    if (!status) {
        plan_arrivals(&l);
        status = run(&l, err, err_bytes);
    }
    if (!status && o->json)
        print_json(&l);
    else if (!status)
        print_people(&l);
    if (!status && l.n_failed) status = fail(err, err_bytes, STATUS_IO, "%d requests failed", l.n_failed);
    while (l.n_clients) http_stream_close(&l.clients[--l.n_clients].http);
    for (int m = 0; m < N_METRICS; m++) free(l.metrics[m].values);
    free(l.requests);
    free(l.clients);
    free(l.polls);
    return status;
}
