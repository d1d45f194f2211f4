/* The Prometheus page: its format, the histograms' arithmetic, labels from outside. */
#include "server/metrics.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct engine_info info = {.block_size = 16,
                                        .n_blocks = 100,
                                        .kv_bytes = 1000,
                                        .prefix_caching = true,
                                        .dtype = DTYPE_BF16,
                                        .kv_dtype = DTYPE_BF16};

static const struct metrics_gauges gauges = {
    .n_connections = 3, .queued_bytes = 4, .n_in_flight = 5, .start_seconds = 6};

static struct metrics *open_one(const char *name) {
    return metrics_open(&name, 1);
}

static struct out page(const struct metrics *m, const struct engine_stats *stats) {
    const struct metrics_engine engine = {&info, *stats};
    struct out out = {0};
    metrics_write(m, &engine, &gauges, &out);
    return out;
}

/* The value of the line that begins with `series` and a blank. */
static double value_of(const struct out *page, const char *series) {
    size_t n = strlen(series);
    for (const char *line = page->data; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!strncmp(line, series, n) && line[n] == ' ') return strtod(line + n, NULL);
    }
    cr_assert_fail("no series %s", series);
    return NAN;
}

Test(metrics, values_from_the_engine) {
    struct metrics *m = open_one("m");
    const struct engine_stats stats = {.n_running = 7,
                                       .n_waiting = 8,
                                       .n_blocks = 100,
                                       .n_blocks_used = 25,
                                       .n_preemptions = 2,
                                       .n_prompt_tokens = 1000,
                                       .n_prompt_tokens_cached = 300,
                                       .n_generated_tokens = 50,
                                       .prefix_queries = 11,
                                       .prefix_hits = 10,
                                       .step_tokens_bucket = {1, 2, [16] = 4},
                                       .step_tokens_sum = 300000};
    struct out p = page(m, &stats);
    static const struct {
        const char *series;
        double value;
    } expected[] = {
        {"vllm:num_requests_running{model_name=\"m\",engine=\"0\"}", 7},
        {"vllm:num_requests_waiting{model_name=\"m\",engine=\"0\"}", 8},
        {"vllm:kv_cache_usage_perc{model_name=\"m\",engine=\"0\"}", 0.25},
        {"vllm:num_preemptions_total{model_name=\"m\",engine=\"0\"}", 2},
        {"vllm:prompt_tokens_total{model_name=\"m\",engine=\"0\"}", 1000},
        {"vllm:prompt_tokens_cached_total{model_name=\"m\",engine=\"0\"}", 300},
        {"vllm:generation_tokens_total{model_name=\"m\",engine=\"0\"}", 50},
        {"vllm:prefix_cache_queries_total{model_name=\"m\",engine=\"0\"}", 11},
        {"vllm:prefix_cache_hits_total{model_name=\"m\",engine=\"0\"}", 10},
        {"vllm:iteration_tokens_total_bucket{model_name=\"m\",engine=\"0\",le=\"1\"}", 1},
        {"vllm:iteration_tokens_total_bucket{model_name=\"m\",engine=\"0\",le=\"2\"}", 3},
        {"vllm:iteration_tokens_total_bucket{model_name=\"m\",engine=\"0\",le=\"32768\"}", 3},
        {"vllm:iteration_tokens_total_bucket{model_name=\"m\",engine=\"0\",le=\"+Inf\"}", 7},
        {"vllm:iteration_tokens_total_count{model_name=\"m\",engine=\"0\"}", 7},
        {"vllm:iteration_tokens_total_sum{model_name=\"m\",engine=\"0\"}", 300000},
        {"tandem:http_connections", 3}, /* of the process, not of a model */
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        cr_assert_float_eq(value_of(&p, expected[i].series), expected[i].value, 1e-9, "%s", expected[i].series);
    out_deinit(&p);
    metrics_close(m);
}

Test(metrics, histograms) {
    struct metrics *m = open_one("m");
    const struct engine_stats stats = {0};
    static const double seconds[] = {0, 0.0005, 0.00051, 0.009, 3, 1e9, -1, NAN}; /* the last two are not times */
    for (size_t i = 0; i < sizeof seconds / sizeof *seconds; i++) metrics_observe(m, 0, METRIC_TTFT, seconds[i]);
    struct out p = page(m, &stats);
#define TTFT   "vllm:time_to_first_token_seconds"
#define LABELS "{model_name=\"m\",engine=\"0\""
    cr_assert_eq(value_of(&p, TTFT "_bucket" LABELS ",le=\"0.0005\"}"), 2);
    cr_assert_eq(value_of(&p, TTFT "_bucket" LABELS ",le=\"0.001\"}"), 3);
    cr_assert_eq(value_of(&p, TTFT "_bucket" LABELS ",le=\"0.0075\"}"), 3);
    cr_assert_eq(value_of(&p, TTFT "_bucket" LABELS ",le=\"0.01\"}"), 4);
    cr_assert_eq(value_of(&p, TTFT "_bucket" LABELS ",le=\"2560\"}"), 5);
    cr_assert_eq(value_of(&p, TTFT "_bucket" LABELS ",le=\"+Inf\"}"), 6);
    cr_assert_eq(value_of(&p, TTFT "_count" LABELS "}"), 6);
    cr_assert_float_eq(value_of(&p, TTFT "_sum" LABELS "}"), 1e9 + 3.01001, 1e-3);
    out_deinit(&p);
    metrics_close(m);
}

Test(metrics, http_and_finish_reasons) {
    struct metrics *m = open_one("m");
    const struct engine_stats stats = {0};
    static const char *const handler = "/v1/models";
    metrics_http(m, handler, "GET", 200, 0.001);
    metrics_http(m, handler, "GET", 204, 0.001);
    metrics_http(m, handler, "GET", 401, 0.001);
    metrics_http(m, handler, "BREW", 405, 0.001);
    metrics_http(m, handler, "GET", 0, 0.001); /* the client left before there was a status */
    for (int i = 0; i < 3; i++) metrics_finished(m, 0, FINISH_CANCELLED);
    metrics_finished(m, 0, FINISH_STOP);
    struct out p = page(m, &stats);
    cr_assert_eq(value_of(&p, "http_requests_total{handler=\"/v1/models\",method=\"GET\",status=\"2xx\"}"), 2);
    cr_assert_eq(value_of(&p, "http_requests_total{handler=\"/v1/models\",method=\"GET\",status=\"4xx\"}"), 2);
    cr_assert_eq(value_of(&p, "http_requests_total{handler=\"/v1/models\",method=\"other\",status=\"4xx\"}"), 1);
    cr_assert_eq(value_of(&p, "http_request_duration_seconds_count{handler=\"/v1/models\",method=\"GET\"}"), 4);
    cr_assert_eq(value_of(&p, "vllm:request_success_total" LABELS ",finished_reason=\"abort\"}"), 3);
    cr_assert_eq(value_of(&p, "vllm:request_success_total" LABELS ",finished_reason=\"stop\"}"), 1);
    cr_assert_eq(value_of(&p, "vllm:request_success_total" LABELS ",finished_reason=\"error\"}"), 0);
    out_deinit(&p);
    metrics_close(m);
}

/* Each model's values carry its labels; a family is announced once, and its samples of all models stand together. */
Test(metrics, several_models) {
    static const char *const names[] = {"big", "little"};
    struct metrics *m = metrics_open(names, 2);
    const struct metrics_engine engines[] = {{&info, {.n_generated_tokens = 5, .step_tokens_bucket = {3}}},
                                             {&info, {.n_generated_tokens = 7, .step_tokens_bucket = {4}}}};
    struct out p = {0};
    metrics_observe(m, 1, METRIC_TTFT, 0.002);
    metrics_finished(m, 0, FINISH_STOP);
    metrics_finished(m, 1, FINISH_STOP);
    metrics_finished(m, 1, FINISH_STOP);
    metrics_write(m, engines, &gauges, &p);
#define BIG    "{model_name=\"big\",engine=\"0\""
#define LITTLE "{model_name=\"little\",engine=\"1\""
    cr_assert_eq(value_of(&p, "vllm:generation_tokens_total" BIG "}"), 5);
    cr_assert_eq(value_of(&p, "vllm:generation_tokens_total" LITTLE "}"), 7);
    cr_assert_eq(value_of(&p, "vllm:iteration_tokens_total_count" BIG "}"), 3);
    cr_assert_eq(value_of(&p, "vllm:iteration_tokens_total_count" LITTLE "}"), 4);
    cr_assert_eq(value_of(&p, TTFT "_count" BIG "}"), 0);
    cr_assert_eq(value_of(&p, TTFT "_count" LITTLE "}"), 1);
    cr_assert_eq(value_of(&p, "vllm:request_success_total" BIG ",finished_reason=\"stop\"}"), 1);
    cr_assert_eq(value_of(&p, "vllm:request_success_total" LITTLE ",finished_reason=\"stop\"}"), 2);
    cr_assert_eq(value_of(&p, "tandem:server_load"), 5);

    char families[128][64], *rest, *line = strtok_r(p.data, "\n", &rest);
    int n = 0;
    for (; line; line = strtok_r(NULL, "\n", &rest)) {
        if (!strncmp(line, "# TYPE ", 7)) {
            cr_assert_eq(sscanf(line, "# TYPE %63s", families[n]), 1);
            for (int i = 0; i < n; i++) cr_assert_str_neq(families[i], families[n]);
            cr_assert_lt(++n, 128);
        } else if (*line != '#')
            cr_assert(!strncmp(line, families[n - 1], strlen(families[n - 1])), "%s after the head of %s", line,
                      families[n - 1]);
    }
    out_deinit(&p);
    metrics_close(m);
}

/* However many routes and methods: the table is bounded, nothing is lost. */
Test(metrics, many_series) {
    static char handlers[600][16];
    struct metrics *m = open_one("m");
    const struct engine_stats stats = {0};
    for (int i = 0; i < 600; i++) {
        snprintf(handlers[i], sizeof handlers[i], "/h%d", i);
        metrics_http(m, handlers[i], "GET", 200, 0.001);
    }
    struct out p = page(m, &stats);
    double sum = 0;
    for (const char *line = p.data; (line = strstr(line, "\nhttp_requests_total{")); line++)
        sum += strtod(strstr(line, "} ") + 2, NULL);
    cr_assert_eq(sum, 600);
    out_deinit(&p);
    metrics_close(m);
}

/* Every line is a comment or "name{labels} number", names are families that were announced, and a model's name from the
 * command line cannot break out of its label. */
Test(metrics, format) {
    struct metrics *m = open_one("a\"b\\c\nd");
    const struct engine_stats stats = {.step_seconds_total = 0.1};
    metrics_http(m, "/v1/models", "GET", 200, 0.25);
    struct out p = page(m, &stats);
    char family[128] = "";
    cr_assert_not_null(strstr(p.data, "{model_name=\"a\\\"b\\\\c\\nd\",engine=\"0\"}"));
    cr_assert_eq(p.data[p.bytes - 1], '\n');
    char *rest, *line = strtok_r(p.data, "\n", &rest);
    for (; line; line = strtok_r(NULL, "\n", &rest)) {
        if (sscanf(line, "# TYPE %127s", family) == 1 || !strncmp(line, "# HELP ", 7)) continue;
        char *brace = strchr(line, '{'), *end = brace ? strrchr(line, '}') + 1 : strchr(line, ' '), *number_end;
        cr_assert(end && *end == ' ', "%s", line);
        cr_assert(!strncmp(line, family, strlen(family)), "%s is not of %s", line, family);
        strtod(end + 1, &number_end);
        cr_assert(*number_end == 0 && number_end > end + 1, "%s", line);
    }
    out_deinit(&p);
    metrics_close(m);
}
