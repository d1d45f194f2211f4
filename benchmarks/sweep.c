/* sweep.c - `tandem bench sweep`: the same workload through an engine for every combination of what is listed. */
#include "benchmarks/throughput_run.h"

#include <stdio.h>
#include <stdlib.h>

struct point {
    int max_num_seqs, max_num_batched_tokens, block_size, threshold;
    const char *kv_cache_dtype;
    int n_blocks;
    struct throughput t;
};

/* Takes a list's digit off the number *i of a combination: that value, or the engine's own where the list is empty. */
static int pick(const struct bench_ints *list, int *i, int otherwise) {
    if (!list->n) return otherwise;
    const int digit = *i % list->n;
    *i /= list->n;
    return list->values[digit];
}

/* Combination i; the first list changes slowest. */
static struct point point_of(const struct bench_sweep_options *o, int i) {
    const struct engine_options *e = &o->engine;
    struct point p = {.kv_cache_dtype = e->kv_cache_dtype};
    if (o->n_kv_cache_dtypes) {
        p.kv_cache_dtype = o->kv_cache_dtypes[i % o->n_kv_cache_dtypes];
        i /= o->n_kv_cache_dtypes;
    }
    p.threshold = pick(&o->long_prefill_token_thresholds, &i, e->long_prefill_token_threshold);
    p.block_size = pick(&o->block_sizes, &i, e->block_size);
    p.max_num_batched_tokens = pick(&o->max_num_batched_tokens, &i, e->max_num_batched_tokens);
    p.max_num_seqs = pick(&o->max_num_seqs, &i, e->max_num_seqs);
    return p;
}

static int n_points(const struct bench_sweep_options *o) {
    const int sizes[] = {o->n_kv_cache_dtypes, o->long_prefill_token_thresholds.n, o->block_sizes.n,
                         o->max_num_batched_tokens.n, o->max_num_seqs.n};
    int n = 1;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i]) n *= sizes[i];
    return n;
}

static int run_point(struct point *p, const struct bench_sweep_options *o, char *err, size_t err_bytes) {
    struct engine_options engine = o->engine;
    struct bench_engine b = {0};
    const struct bench_progress silent = {0};
    engine.max_num_seqs = p->max_num_seqs;
    engine.max_num_batched_tokens = p->max_num_batched_tokens;
    engine.block_size = p->block_size;
    engine.long_prefill_token_threshold = p->threshold;
    engine.kv_cache_dtype = p->kv_cache_dtype;
    int status = bench_engine_open(&b, &engine, false, err, err_bytes);
    if (!status) {
        p->n_blocks = engine_info(b.engine)->n_blocks;
        status = throughput_run(&p->t, b.engine, &o->workload, &silent, err, err_bytes);
    }
    bench_engine_close(&b);
    return status;
}

static void print_head(bool csv) {
    if (csv)
        puts(
            "max_num_seqs,max_num_batched_tokens,block_size,long_prefill_token_threshold,kv_cache_dtype,blocks,seconds,"
            "requests_per_s,input_tokens_per_s,output_tokens_per_s,tokens_per_step,preemptions,prefix_hit_rate,"
            "ttft_median_s,per_token_median_s,device_busy");
    else
        printf("%8s %8s %6s %9s %8s %8s | %8s %9s %9s %9s %9s %8s %9s %9s %6s\n", "seqs", "tokens", "block",
               "threshold", "kv", "blocks", "s", "req/s", "in tok/s", "out tok/s", "tok/step", "preempt", "TTFT ms",
               "ms/token", "busy");
}

static void print_point(const struct point *p, bool csv) {
    const struct throughput *t = &p->t;
    const double s = t->seconds;
    const char *kv = p->kv_cache_dtype ? p->kv_cache_dtype : "auto";
    if (csv)
        printf("%d,%d,%d,%d,%s,%d,%.4f,%.4f,%.2f,%.2f,%.2f,%.0f,%.4f,%.6f,%.6f,%.4f\n", p->max_num_seqs,
               p->max_num_batched_tokens, p->block_size, p->threshold, kv, p->n_blocks, s, t->n_requests / s,
               t->input_tokens / s, t->output_tokens / s, t->tokens_per_step, t->n_preemptions, t->hit_rate,
               t->ttft_median, t->per_token_median, t->busy);
    else
        printf("%8d %8d %6d %9d %8s %8d | %8.2f %9.2f %9.0f %9.0f %9.1f %8.0f %9.1f %9.2f %5.1f%%\n", p->max_num_seqs,
               p->max_num_batched_tokens, p->block_size, p->threshold, kv, p->n_blocks, s, t->n_requests / s,
               t->input_tokens / s, t->output_tokens / s, t->tokens_per_step, t->n_preemptions, 1e3 * t->ttft_median,
               1e3 * t->per_token_median, 100 * t->busy);
    fflush(stdout);
}

static void add_point(cJSON *list, const struct point *p) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "max_num_seqs", p->max_num_seqs);
    cJSON_AddNumberToObject(o, "max_num_batched_tokens", p->max_num_batched_tokens);
    cJSON_AddNumberToObject(o, "block_size", p->block_size);
    cJSON_AddNumberToObject(o, "long_prefill_token_threshold", p->threshold);
    cJSON_AddStringToObject(o, "kv_cache_dtype", p->kv_cache_dtype ? p->kv_cache_dtype : "auto");
    cJSON_AddNumberToObject(o, "blocks", p->n_blocks);
    throughput_add_json(o, &p->t);
    cJSON_AddItemToArray(list, o);
}

int bench_sweep(const struct bench_sweep_options *o, char *err, size_t err_bytes) {
    const int n = n_points(o);
    cJSON *list = cJSON_CreateArray();
    int status = 0;
    if (!o->json) print_head(o->csv);
    for (int i = 0; i < n && !status; i++) {
        struct point p = point_of(o, i);
        bench_report(&o->progress, "sweep", i, n);
        status = run_point(&p, o, err, err_bytes);
        if (status) break;
        if (o->json)
            add_point(list, &p);
        else
            print_point(&p, o->csv);
    }
    bench_report(&o->progress, NULL, n, n);
    if (o->json && !status)
        bench_print_and_delete(list);
    else
        cJSON_Delete(list);
    return status;
}
