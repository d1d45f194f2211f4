/* metrics.c - histograms, counters and the Prometheus page; see metrics.h.
 *
 * Format: https://prometheus.io/docs/instrumenting/exposition_formats (0.0.4). A histogram counts each value in one
 * bucket; the page adds them up, because there a bucket holds all values up to its bound. */
#include "server/metrics.h"

#include "kernels/status.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BUCKETS    40
#define MAX_HTTP       256 /* routes times methods; more fall into one */
#define N_STATUS_CLASS 6   /* 1xx .. 5xx */

static const double short_seconds[] = {0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015,
                                       0.02,   0.025, 0.04,  0.05,  0.06,  0.075, 0.08,   0.1,  0.15,
                                       0.2,    0.25,  0.3,   0.4,   0.5,   0.75,  1,      2.5,  5,
                                       7.5,    10,    20,    40,    80,    160,   640,    2560, INFINITY};
static const double long_seconds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2,  0.3,  0.5,
                                      0.8,   1,      1.5,   2,    2.5,   5,    10,  15,   20,   30,
                                      40,    50,     60,    120,  240,   480,  960, 1920, 7680, INFINITY};
static const double tokens[] = {1,    2,    5,     10,    20,    50,     100,    200,    500,     1000,
                                2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000, INFINITY};

struct histogram {
    const double *bounds; /* ends with INFINITY */
    uint64_t counts[MAX_BUCKETS];
    double sum;
};

struct http_series {
    const char *handler, *method; /* static storage */
    uint64_t by_class[N_STATUS_CLASS];
    struct histogram seconds;
};

struct model {
    char *labels; /* owned: model_name="...",engine="0" */
    struct histogram histograms[N_METRIC_HISTOGRAMS];
    uint64_t finished[FINISH_ERROR + 1];
};

struct metrics {
    struct model *models; /* owned [n_models] */
    int n_models;
    struct http_series http[MAX_HTTP];
    int n_http;
};

static const struct {
    const char *series, *help;
    const double *bounds;
} histogram_table[] = {
#define X(name, series, help, buckets) {series, help, buckets},
    METRIC_HISTOGRAMS(X)
#undef X
};

/* ---- observing --------------------------------------------------------------------------------------------------- */

static void observe(struct histogram *h, double value) {
    int i = 0;
    if (!(value >= 0)) return; /* a time that is not known yet */
    while (value > h->bounds[i]) i++;
    h->counts[i]++;
    h->sum += value;
}

/* A label's value: backslash, quote and newline are escaped. */
static void out_label(struct out *out, const char *value) {
    for (; *value; value++) {
        if (*value == '\\' || *value == '"') out_char(out, '\\');
        if (*value == '\n')
            out_text(out, "\\n");
        else
            out_char(out, *value);
    }
}

struct metrics *metrics_open(const char *const *model_names, int n_models) {
    struct metrics *m = calloc(1, sizeof *m);
    CHECK(m);
    m->models = calloc((size_t)n_models, sizeof *m->models);
    CHECK(m->models);
    m->n_models = n_models;
    for (int i = 0; i < n_models; i++) {
        struct out labels = {0};
        out_text(&labels, "model_name=\"");
        out_label(&labels, model_names[i]);
        out_format(&labels, "\",engine=\"%d\"", i);
        m->models[i].labels = labels.data;
        for (int h = 0; h < N_METRIC_HISTOGRAMS; h++) m->models[i].histograms[h].bounds = histogram_table[h].bounds;
    }
    return m;
}

void metrics_close(struct metrics *m) {
    if (!m) return;
    for (int i = 0; i < m->n_models; i++) free(m->models[i].labels);
    free(m->models);
    free(m);
}

void metrics_observe(struct metrics *m, int model, enum metric_histogram h, double value) {
    observe(&m->models[model].histograms[h], value);
}

void metrics_finished(struct metrics *m, int model, enum finish_reason reason) {
    m->models[model].finished[reason]++;
}

void metrics_http(struct metrics *m, const char *handler, const char *method, int status, double seconds) {
    static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "other"};
    int k = 0, i = 0, class = status / 100;
    if (class < 1 || class >= N_STATUS_CLASS) class = 4;
    while (k < 7 && strcmp(methods[k], method)) k++;
    while (i < m->n_http && (m->http[i].handler != handler || m->http[i].method != methods[k])) i++;
    if (i == MAX_HTTP) i = MAX_HTTP - 1;
    if (i == m->n_http)
        m->http[m->n_http++] =
            (struct http_series){.handler = handler, .method = methods[k], .seconds = {.bounds = short_seconds}};
    m->http[i].by_class[class]++;
    observe(&m->http[i].seconds, seconds);
}

/* ---- the page ---------------------------------------------------------------------------------------------------- */

static void out_head(struct out *out, const char *name, const char *type, const char *help) {
    out_format(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* A family with one sample and no labels. */
static void out_single(struct out *out, const char *name, const char *type, const char *help, double value) {
    out_head(out, name, type, help);
    out_format(out, "%s %.17g\n", name, value);
}

static void out_bound(struct out *out, double bound) {
    if (isinf(bound))
        out_text(out, "+Inf");
    else
        out_format(out, "%.15g", bound);
}

static void out_histogram(struct out *out, const char *name, const char *labels, const double *bounds,
                          const uint64_t *counts, double sum) {
    uint64_t total = 0;
    for (int i = 0;; i++) {
        total += counts[i];
        out_format(out, "%s_bucket{%s,le=\"", name, labels);
        out_bound(out, bounds[i]);
        out_format(out, "\"} %llu\n", (unsigned long long)total);
        if (isinf(bounds[i])) break;
    }
    out_format(out, "%s_sum{%s} %.17g\n%s_count{%s} %llu\n", name, labels, sum, name, labels,
               (unsigned long long)total);
}

/* The figures that an engine has one of. */
enum { N_SINGLES = 15 };
struct single {
    const char *name, *type, *help;
    double value;
};

static void read_singles(const struct engine_stats *s, struct single out[N_SINGLES]) {
    const struct speculation_figures drafts = engine_stats_speculation(s);
    const struct single singles[N_SINGLES] = {
        {"vllm:num_requests_running", "gauge", "Requests in the running batch.", s->n_running},
        {"vllm:num_requests_waiting", "gauge", "Requests that wait to be planned.", s->n_waiting},
        {"vllm:kv_cache_usage_perc", "gauge", "Share of the KV blocks that sequences hold; 1 is all.",
         s->n_blocks ? (double)s->n_blocks_used / s->n_blocks : 0},
        {"vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache.",
         (double)s->prefix_queries},
        {"vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.", (double)s->prefix_hits},
        {"vllm:num_preemptions_total", "counter", "Sequences preempted for want of KV blocks.",
         (double)s->n_preemptions},
        {"vllm:prompt_tokens_total", "counter", "Prompt tokens processed, cached ones included.",
         (double)s->n_prompt_tokens},
        {"vllm:prompt_tokens_cached_total", "counter", "Prompt tokens taken from the prefix cache.",
         (double)s->n_prompt_tokens_cached},
        {"vllm:generation_tokens_total", "counter", "Tokens generated.", (double)s->n_generated_tokens},
        {"tandem:kv_blocks_cached", "gauge", "KV blocks that hold reusable prefixes and nobody's sequence.",
         s->n_blocks_cached},
        {"tandem:steps_total", "counter", "Steps of the engine.", (double)s->n_steps},
        {"vllm:spec_decode_num_drafts_total", "counter", "Decodes that had drafts.", (double)drafts.n_drafts},
        {"vllm:spec_decode_num_draft_tokens_total", "counter", "Drafts that were verified.",
         (double)drafts.n_draft_tokens},
        {"vllm:spec_decode_num_accepted_tokens_total", "counter", "Drafts that were accepted.",
         (double)drafts.n_accepted_tokens},
        {"tandem:step_seconds_total", "counter", "Time spent in steps.", s->step_seconds_total},
    };
    memcpy(out, singles, sizeof singles);
}

/* A family's samples of all models stand together, as the format wants it. */
static void write_engines(const struct metrics *m, const struct metrics_engine *engines, struct out *out) {
    static const char *const dtypes[] = {"auto", "fp8"};
    struct single singles[N_SINGLES];
    double bounds[17];

    for (int k = 0; k < N_SINGLES; k++)
        for (int i = 0; i < m->n_models; i++) {
            read_singles(&engines[i].stats, singles);
            if (!i) out_head(out, singles[k].name, singles[k].type, singles[k].help);
            out_format(out, "%s{%s} %.17g\n", singles[k].name, m->models[i].labels, singles[k].value);
        }
    out_head(out, "vllm:cache_config_info", "gauge", "The KV cache as configured; the value is always 1.");
    for (int i = 0; i < m->n_models; i++) {
        const struct engine_info *info = engines[i].info;
        if (info->is_encoder) continue;
        out_format(out,
                   "vllm:cache_config_info{%s,block_size=\"%d\",num_gpu_blocks=\"%d\",cache_dtype=\"%s\","
                   "enable_prefix_caching=\"%s\",kv_cache_bytes=\"%zu\"} 1\n",
                   m->models[i].labels, info->block_size, info->n_blocks, dtypes[info->kv_dtype != info->dtype],
                   info->prefix_caching ? "True" : "False", info->kv_bytes);
    }
    out_head(out, "vllm:spec_decode_num_accepted_tokens_per_pos_total", "counter",
             "Drafts that were accepted, by their position.");
    for (int i = 0; i < m->n_models; i++)
        for (int k = 0; k < SPECULATION_MAX_DRAFTS; k++)
            out_format(out, "vllm:spec_decode_num_accepted_tokens_per_pos_total{%s,position=\"%d\"} %llu\n",
                       m->models[i].labels, k, (unsigned long long)engines[i].stats.n_accepted_at[k]);
    out_head(out, "tandem:spec_decode_depth_total", "counter", "Decodes, by how many drafts were chosen for them.");
    for (int i = 0; i < m->n_models; i++)
        for (int k = 0; k <= SPECULATION_MAX_DRAFTS; k++)
            out_format(out, "tandem:spec_decode_depth_total{%s,depth=\"%d\"} %llu\n", m->models[i].labels, k,
                       (unsigned long long)engines[i].stats.n_decodes_with[k]);
    for (int i = 0; i < 16; i++) bounds[i] = ldexp(1, i);
    bounds[16] = INFINITY;
    out_head(out, "vllm:iteration_tokens_total", "histogram", "Tokens per step.");
    for (int i = 0; i < m->n_models; i++)
        out_histogram(out, "vllm:iteration_tokens_total", m->models[i].labels, bounds,
                      engines[i].stats.step_tokens_bucket, (double)engines[i].stats.step_tokens_sum);
}

static void write_requests(const struct metrics *m, struct out *out) {
    static const struct {
        enum finish_reason reason;
        const char *label;
    } reasons[] = {
        {FINISH_STOP, "stop"}, {FINISH_LENGTH, "length"}, {FINISH_CANCELLED, "abort"}, {FINISH_ERROR, "error"}};
    char name[96];

    out_head(out, "vllm:request_success_total", "counter", "Answers that ended, by how they ended.");
    for (int i = 0; i < m->n_models; i++)
        for (size_t r = 0; r < sizeof reasons / sizeof reasons[0]; r++)
            out_format(out, "vllm:request_success_total{%s,finished_reason=\"%s\"} %llu\n", m->models[i].labels,
                       reasons[r].label, (unsigned long long)m->models[i].finished[reasons[r].reason]);
    for (int k = 0; k < N_METRIC_HISTOGRAMS; k++) {
        snprintf(name, sizeof name, "vllm:%s", histogram_table[k].series);
        out_head(out, name, "histogram", histogram_table[k].help);
        for (int i = 0; i < m->n_models; i++) {
            const struct histogram *h = &m->models[i].histograms[k];
            out_histogram(out, name, m->models[i].labels, h->bounds, h->counts, h->sum);
        }
    }
}

static void write_http(const struct metrics *m, struct out *out) {
    out_head(out, "http_requests_total", "counter", "HTTP requests by route, method and class of status.");
    for (int i = 0; i < m->n_http; i++)
        for (int class = 1; class < N_STATUS_CLASS; class ++)
            if (m->http[i].by_class[class])
                out_format(out, "http_requests_total{handler=\"%s\",method=\"%s\",status=\"%dxx\"} %llu\n",
                           m->http[i].handler, m->http[i].method, class,
                           (unsigned long long)m->http[i].by_class[class]);
    out_head(out, "http_request_duration_seconds", "histogram",
             "Time from a request's first byte to its answer's last.");
    for (int i = 0; i < m->n_http; i++) {
        char labels[160];
        snprintf(labels, sizeof labels, "handler=\"%s\",method=\"%s\"", m->http[i].handler, m->http[i].method);
        out_histogram(out, "http_request_duration_seconds", labels, short_seconds, m->http[i].seconds.counts,
                      m->http[i].seconds.sum);
    }
}

void metrics_write(const struct metrics *m, const struct metrics_engine *engines, const struct metrics_gauges *gauges,
                   struct out *out) {
    write_engines(m, engines, out);
    write_requests(m, out);
    out_single(out, "tandem:server_load", "gauge", "Requests that wait for, or receive, an answer of a model.",
               gauges->n_in_flight);
    out_single(out, "tandem:http_connections", "gauge", "Open connections.", gauges->n_connections);
    out_single(out, "tandem:http_queued_bytes", "gauge", "Bytes that slow readers have not taken yet.",
               (double)gauges->queued_bytes);
    out_single(out, "tandem:ready_time_seconds", "gauge", "Unix time at which the server became ready.",
               gauges->start_seconds);
    write_http(m, out);
}
