#include "benchmarks/workload.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- random numbers ---------------------------------------------------------------------------------------------- */

uint64_t bench_random_bits(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double bench_random_unit(uint64_t *state) {
    return ((double)(bench_random_bits(state) >> 11) + 0.5) * 0x1p-53;
}

static double random_normal(uint64_t *state) {
    const double radius = sqrt(-2 * log(bench_random_unit(state)));
    return radius * cos(6.283185307179586 * bench_random_unit(state));
}

/* Marsaglia and Tsang, "A simple method for generating gamma variables" (2000). */
double bench_random_gamma(uint64_t *state, double shape) {
    const double a = shape < 1 ? shape + 1 : shape, d = a - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        const double x = random_normal(state), v = (1 + c * x) * (1 + c * x) * (1 + c * x);
        if (v <= 0 || log(bench_random_unit(state)) >= 0.5 * x * x + d - d * v + d * log(v)) continue;
        const double boost = shape < 1 ? pow(bench_random_unit(state), 1 / shape) : 1;
        return d * v * boost / shape;
    }
}

/* ---- traces ------------------------------------------------------------------------------------------------------ */

/* Seconds of the day in "2023-11-16 18:17:03.9799600", days added; negative: not in that form. */
static double read_timestamp(const char *text) {
    int year, month, day, hour, minute;
    double second;
    if (sscanf(text, "%d-%d-%d %d:%d:%lf", &year, &month, &day, &hour, &minute, &second) != 6) return -1;
    return ((day * 24.0 + hour) * 60 + minute) * 60 + second;
}

static int read_trace(struct bench_request **requests, int *n, const char *path, int most, char *err,
                      size_t err_bytes) {
    FILE *f = fopen(path, "r");
    char line[256];
    int capacity = 0, number = 1, status = 0;
    double start = 0;
    *requests = NULL;
    *n = 0;
    if (!f) return fail(err, err_bytes, STATUS_NOT_FOUND, "--trace %s: %s", path, strerror(errno));
    if (!fgets(line, sizeof line, f) || strncmp(line, "TIMESTAMP,ContextTokens,GeneratedTokens", 39))
        status = fail(err, err_bytes, STATUS_INVALID,
                      "--trace %s: expected the columns TIMESTAMP,ContextTokens,GeneratedTokens", path);
    while (!status && (!most || *n < most) && fgets(line, sizeof line, f)) {
        struct bench_request r;
        const char *comma = strchr(line, ',');
        const double t = read_timestamp(line);
        number++;
        if (t < 0 || !comma || sscanf(comma, ",%d,%d", &r.n_prompt, &r.n_output) != 2 || r.n_prompt < 0 ||
            r.n_output < 0) {
            status = fail(err, err_bytes, STATUS_INVALID, "--trace %s, line %d: expected a time and two counts", path,
                          number);
            break;
        }
        if (*n == capacity) {
            capacity = capacity ? 2 * capacity : 1024;
            *requests = realloc(*requests, (size_t)capacity * sizeof **requests);
            CHECK(*requests);
        }
        if (!*n) start = t;
        r.arrival = t > start ? t - start : 0;
        (*requests)[(*n)++] = r;
    }
    fclose(f);
    if (!status && !*n)
        status = fail(err, err_bytes, STATUS_INVALID, "--trace %s: expected requests, found none", path);
    if (status) {
        free(*requests);
        *requests = NULL;
    }
    return status;
}

static int uniform_length(uint64_t *state, int len, double ratio) {
    const double low = len * (1 - ratio), high = len * (1 + ratio);
    return (int)(low + bench_random_unit(state) * (high - low + 1));
}

int workload_open(struct bench_request **requests, int *n, int *n_cut, const struct bench_workload *w, int max_len,
                  char *err, size_t err_bytes) {
    *n_cut = 0;
    if (w->trace) {
        const int status = read_trace(requests, n, w->trace, w->n_prompts, err, err_bytes);
        if (status) return status;
    } else {
        uint64_t state = w->seed ^ 0x6c656e67746873u;
        *n = w->n_prompts;
        *requests = calloc((size_t)*n + 1, sizeof **requests);
        CHECK(*requests);
        for (int i = 0; i < *n; i++)
            (*requests)[i] =
                (struct bench_request){.n_prompt = w->prefix_len + uniform_length(&state, w->input_len, w->range_ratio),
                                       .n_output = uniform_length(&state, w->output_len, w->range_ratio)};
    }
    for (int i = 0; i < *n; i++) {
        struct bench_request *r = &(*requests)[i];
        if (r->n_prompt < 1) r->n_prompt = 1;
        if (r->n_output < 1) r->n_output = 1;
        if (!max_len || r->n_prompt + r->n_output <= max_len) continue;
        (*n_cut)++;
        if (r->n_output >= max_len) r->n_output = max_len - 1;
        if (r->n_prompt > max_len - r->n_output) r->n_prompt = max_len - r->n_output;
    }
    return 0;
}

void workload_prompt(int32_t *ids, const struct bench_workload *w, int i, int n_prompt, int vocab) {
    uint64_t shared = w->seed ^ 0x707265666978u, own = w->seed * 1000003u + (uint64_t)i;
    for (int t = 0; t < n_prompt; t++)
        ids[t] = (int32_t)(bench_random_bits(t < w->prefix_len ? &shared : &own) % (uint64_t)vocab);
}
