/* latency.c - `tandem bench latency`: time to the first token, and per token after it, by batch size and context.
 *
 * A run submits B prompts of the same length at once. Their prefill ends with the last first token. The decoding that
 * counts are the output_len - 1 steps after that, in which all B take part: those that came first generate more, and
 * all are cancelled at the end. */
#include "benchmarks/engine_run.h"
#include "benchmarks/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_RUNS = 32 };

struct row {
    int B, input_len, output_len;
    double ttft, ttft_last; /* seconds: the median request's, and until all have theirs */
    double per_token;       /* seconds between two tokens of a sequence; 0: not measured */
    double busy;            /* share of the decoding in which the device was at it */
    struct engine_stats drafts; /* n_decodes_with and n_accepted_at, of all runs */
};

struct live { /* one request of a run */
    uint64_t id;
    bool has_first; /* its first token came */
};

static int submit_all(struct live *live, struct engine *e, int B, int input_len, int output_len, uint64_t seed,
                      char *err, size_t err_bytes) {
    const struct bench_workload random = {.seed = seed};
    int32_t *ids = malloc((size_t)input_len * sizeof *ids);
    int status = 0;
    CHECK(ids);
    for (int i = 0; i < B && !status; i++) {
        struct request_params p = {
            .prompt = ids, .n_prompt = input_len, .sampling = sampling_default(), .user = &live[i]};
        p.sampling.temperature = 0;
        p.sampling.max_tokens = output_len;
        p.sampling.ignore_eos = true;
        workload_prompt(ids, &random, i, input_len, engine_info(e)->model.vocab);
        status = engine_submit(e, &p, &live[i].id, err, err_bytes);
    }
    free(ids);
    return status;
}

/* Tokens that each request may generate: while others are still in their prefill, one a step. */
static int most_tokens(const struct row *row, const struct engine *e) {
    const struct engine_info *info = engine_info(e);
    const int room = info->max_model_len - row->input_len, spare = info->max_num_batched_tokens - row->B;
    const int64_t n = row->output_len + (int64_t)row->B * row->input_len / (spare > 1 ? spare : 1) + row->B;
    if (row->output_len == 1 || row->B == 1) return row->output_len;
    return n < room ? (int)n : room;
}

/* One run. The clock is looked at when there is no event left, so that all tokens of a step are counted or none. */
static int run_once(struct row *row, struct engine *e, uint64_t seed, char *err, size_t err_bytes) {
    const int B = row->B;
    struct live *live = calloc((size_t)B, sizeof *live);
    double *ttft = calloc((size_t)B, sizeof *ttft), t_start = 0, t_end = 0;
    struct engine_stats before = {0}, after = {0};
    struct engine_event event;
    int n_first = 0, n_finished = 0;
    long tokens = 0, tokens_before = 0; /* the decoding that counts */
    CHECK(live && ttft);
    row->ttft_last = 0;
    const double t_submit = bench_now();
    int status = submit_all(live, e, B, row->input_len, most_tokens(row, e), seed, err, err_bytes);
    while (!status && n_finished < B) {
        engine_wait(e, -1);
        while (engine_poll(e, &event)) {
            struct live *r = event.user;
            if (!r->has_first && event.n_tokens) {
                r->has_first = true;
                ttft[n_first++] = event.usage.t_first - event.usage.t_submit;
                row->ttft_last = fmax(row->ttft_last, event.usage.t_first - t_submit);
            }
            if (t_end <= 0) tokens += event.n_tokens;
            n_finished += event.kind == EVENT_FINISHED;
            if (event.kind == EVENT_FINISHED && event.reason == FINISH_ERROR)
                status = fail(err, err_bytes, STATUS_DEVICE, "%s", event.error);
        }
        if (n_first == B && t_start <= 0) { /* all are decoding from here */
            t_start = bench_now();
            engine_stats(e, &before);
            tokens_before = tokens;
        }
        const bool enough = t_start > 0 && tokens - tokens_before >= (long)B * (row->output_len - 1);
        if ((n_finished || enough) && t_end <= 0) { /* up to here */
            t_end = bench_now();
            engine_stats(e, &after);
        }
        if (t_start > 0 && t_end > 0) /* those that have ended are not meant any more */
            for (int i = 0; i < B; i++) engine_cancel(e, live[i].id);
    }
    row->ttft = bench_quantile(ttft, (size_t)n_first, 0.5);
    const bool decodes = row->output_len > 1 && tokens > tokens_before && t_end > t_start && t_start > 0;
    row->per_token = decodes ? (t_end - t_start) * B / (double)(tokens - tokens_before) : 0;
    for (int i = 0; i <= SPECULATION_MAX_DRAFTS; i++)
        row->drafts.n_decodes_with[i] += after.n_decodes_with[i] - before.n_decodes_with[i];
    for (int i = 0; i < SPECULATION_MAX_DRAFTS; i++)
        row->drafts.n_accepted_at[i] += after.n_accepted_at[i] - before.n_accepted_at[i];
    row->busy = decodes ? (after.device_seconds_total - before.device_seconds_total) / (t_end - t_start) : 0;
    free(live);
    free(ttft);
    return status;
}

static int run_case(struct row *row, struct engine *e, int n_runs, uint64_t *seed, char *err, size_t err_bytes) {
    double ttft[MAX_RUNS], last[MAX_RUNS], per_token[MAX_RUNS], busy[MAX_RUNS];
    if (n_runs > MAX_RUNS) n_runs = MAX_RUNS;
    for (int i = -1; i < n_runs; i++) { /* -1: to warm up */
        const int status = run_once(row, e, ++*seed, err, err_bytes);
        if (status) return status;
        if (i < 0) continue;
        ttft[i] = row->ttft, last[i] = row->ttft_last, per_token[i] = row->per_token, busy[i] = row->busy;
    }
    row->ttft = bench_quantile(ttft, (size_t)n_runs, 0.5);
    row->ttft_last = bench_quantile(last, (size_t)n_runs, 0.5);
    row->per_token = bench_quantile(per_token, (size_t)n_runs, 0.5);
    row->busy = bench_quantile(busy, (size_t)n_runs, 0.5);
    return 0;
}

/* ---- what it means ----------------------------------------------------------------------------------------------- */

struct figures {
    double prefill_tokens, prefill_flops, prefill_share; /* per second; of the matrix peak */
    double decode_tokens;
    struct step_cost decode;
    double byte_share, kernel_share; /* of the floors; 0: not measured */
};

static struct figures figures_of(const struct bench_engine *b, const struct row *r) {
    struct figures f = {0};
    const struct step_cost prefill = bench_step_cost(b, r->B, r->input_len, 0);
    f.prefill_tokens = (double)r->B * r->input_len / r->ttft_last;
    f.prefill_flops = prefill.flops / r->ttft_last;
    f.prefill_share = f.prefill_flops / b->peaks.gemm;
    if (r->per_token <= 0) return f;
    f.decode = bench_step_cost(b, r->B, 1, r->input_len + r->output_len / 2.0 - 1);
    f.decode_tokens = r->B / r->per_token;
    f.byte_share = f.decode.byte_floor / r->per_token;
    f.kernel_share = f.decode.kernel_floor / r->per_token;
    return f;
}

static void print_head(const struct bench_engine *b) {
    const struct engine_info *info = engine_info(b->engine);
    printf("%s, %s, KV %s, %s; opened in %.1f s\n", b->model.name, dtype_name(info->dtype), dtype_name(info->kv_dtype),
           info->backend, b->open_seconds);
    printf("the machine reads %.0f GB/s and multiplies matrices at %.1f TFLOP/s; weights %.2f GB, KV pool %.2f GB\n\n",
           b->peaks.read / 1e9, b->peaks.gemm / 1e12, (double)info->weight_bytes / 1e9, (double)info->kv_bytes / 1e9);
    printf("%4s %6s %6s | %9s %11s %9s %8s %6s | %9s %9s %10s %6s %10s %6s %6s\n", "B", "input", "output", "TTFT ms",
           "all ms", "tok/s", "TFLOP/s", "share", "ms/token", "tok/s", "bytes ms", "share", "kernels ms", "share",
           "busy");
}

/* Of the decodes: drafts of each on average, tokens that a decode gave, and how often the draft at each position was
 * accepted, of those that were made there. */
struct acceptance_figures {
    double depth, length, at[SPECULATION_MAX_DRAFTS];
    int n_positions;
};

static struct acceptance_figures acceptance_of(const struct row *r) {
    const struct speculation_figures f = engine_stats_speculation(&r->drafts);
    struct acceptance_figures a = {0};
    uint64_t n_made = f.n_drafts;
    if (!f.n_drafts) return a;
    a.depth = (double)f.n_draft_tokens / (double)f.n_decodes;
    a.length = 1 + (double)f.n_accepted_tokens / (double)f.n_decodes;
    for (; a.n_positions < SPECULATION_MAX_DRAFTS && n_made; a.n_positions++) {
        a.at[a.n_positions] = (double)r->drafts.n_accepted_at[a.n_positions] / (double)n_made;
        n_made -= r->drafts.n_decodes_with[1 + a.n_positions];
    }
    return a;
}

static void print_acceptance(const struct row *r) {
    const struct acceptance_figures a = acceptance_of(r);
    if (!a.n_positions) return;
    printf("%20s %.2f drafts and %.2f tokens a decode; accepted by position:", "", a.depth, a.length);
    for (int i = 0; i < a.n_positions; i++) printf(" %.0f%%", 100 * a.at[i]);
    printf("\n");
}

static void print_row(const struct bench_engine *b, const struct row *r) {
    const struct figures f = figures_of(b, r);
    printf("%4d %6d %6d | %9.2f %11.2f %9.0f %8.2f %5.1f%% | ", r->B, r->input_len, r->output_len, 1e3 * r->ttft,
           1e3 * r->ttft_last, f.prefill_tokens, f.prefill_flops / 1e12, 100 * f.prefill_share);
    if (r->per_token > 0)
        printf("%9.3f %9.0f %10.3f %5.1f%% %10.3f %5.1f%% %5.1f%%\n", 1e3 * r->per_token, f.decode_tokens,
               1e3 * f.decode.byte_floor, 100 * f.byte_share, 1e3 * f.decode.kernel_floor, 100 * f.kernel_share,
               100 * r->busy);
    else
        printf("%9s %9s %10s %6s %10s %6s %6s\n", "-", "-", "-", "-", "-", "-", "-");
    print_acceptance(r);
    fflush(stdout);
}

static void print_legend(void) {
    printf(
        "\nTTFT: the median request's; all: until each has its first token, which is what tok/s and TFLOP/s of the "
        "prefill\n"
        "count. bytes: weights and KV over the read bandwidth; kernels: the larger of bytes and arithmetic, kernel by\n"
        "kernel; share: that floor over the time of a step. busy: share of the decoding in which the device worked.\n");
}

static void add_row(cJSON *rows, const struct bench_engine *b, const struct row *r) {
    const struct figures f = figures_of(b, r);
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "batch_size", r->B);
    cJSON_AddNumberToObject(o, "input_len", r->input_len);
    cJSON_AddNumberToObject(o, "output_len", r->output_len);
    cJSON_AddNumberToObject(o, "ttft_s", r->ttft);
    cJSON_AddNumberToObject(o, "prefill_s", r->ttft_last);
    cJSON_AddNumberToObject(o, "prefill_tokens_per_s", f.prefill_tokens);
    cJSON_AddNumberToObject(o, "prefill_flops_per_s", f.prefill_flops);
    cJSON_AddNumberToObject(o, "prefill_share_of_gemm", f.prefill_share);
    if (r->per_token > 0) {
        cJSON_AddNumberToObject(o, "per_token_s", r->per_token);
        cJSON_AddNumberToObject(o, "decode_tokens_per_s", f.decode_tokens);
        cJSON_AddNumberToObject(o, "step_bytes", f.decode.bytes);
        cJSON_AddNumberToObject(o, "byte_floor_s", f.decode.byte_floor);
        cJSON_AddNumberToObject(o, "share_of_byte_floor", f.byte_share);
        cJSON_AddNumberToObject(o, "kernel_floor_s", f.decode.kernel_floor);
        cJSON_AddNumberToObject(o, "share_of_kernel_floor", f.kernel_share);
        cJSON_AddNumberToObject(o, "device_busy", r->busy);
    }
    const struct acceptance_figures a = acceptance_of(r);
    if (a.n_positions) {
        cJSON_AddNumberToObject(o, "drafts_per_decode", a.depth);
        cJSON_AddNumberToObject(o, "tokens_per_decode", a.length);
        cJSON_AddItemToObject(o, "acceptance_per_position", cJSON_CreateDoubleArray(a.at, a.n_positions));
    }
    cJSON_AddItemToArray(rows, o);
}

static void print_json(const struct bench_engine *b, const struct row *rows, int n) {
    const struct engine_info *info = engine_info(b->engine);
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "model", b->model.name);
    cJSON_AddStringToObject(root, "backend", info->backend);
    cJSON_AddStringToObject(root, "dtype", dtype_name(info->dtype));
    cJSON_AddStringToObject(root, "kv_dtype", dtype_name(info->kv_dtype));
    cJSON_AddNumberToObject(root, "weight_bytes", (double)info->weight_bytes);
    cJSON_AddNumberToObject(root, "kv_bytes", (double)info->kv_bytes);
    cJSON_AddNumberToObject(root, "open_s", b->open_seconds);
    cJSON_AddNumberToObject(root, "read_bytes_per_s", b->peaks.read);
    cJSON_AddNumberToObject(root, "gemm_flops_per_s", b->peaks.gemm);
    cJSON *list = cJSON_AddArrayToObject(root, "rows");
    for (int i = 0; i < n; i++) add_row(list, b, &rows[i]);
    bench_print_and_delete(root);
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

int bench_latency(const struct bench_latency_options *o, char *err, size_t err_bytes) {
    struct bench_engine b = {0};
    struct engine_options engine = o->engine;
    const int n = o->batch_sizes.n * o->input_lens.n;
    struct row *rows = calloc((size_t)n + 1, sizeof *rows);
    uint64_t seed = 0;
    int most_len = 0, status;
    CHECK(rows);
    for (int i = 0; i < o->batch_sizes.n; i++)
        if (engine.max_num_seqs < o->batch_sizes.values[i]) engine.max_num_seqs = o->batch_sizes.values[i];
    for (int i = 0; i < o->input_lens.n; i++)
        if (most_len < o->input_lens.values[i] + o->output_len) most_len = o->input_lens.values[i] + o->output_len;
    if (engine.max_model_len && engine.max_model_len < most_len) engine.max_model_len = most_len;
    status = bench_engine_open(&b, &engine, true, err, err_bytes);
    if (!status && engine_info(b.engine)->max_model_len < most_len)
        status = fail(err, err_bytes, STATUS_INVALID, "the longest case has %d tokens, but the model takes %d",
                      most_len, engine_info(b.engine)->max_model_len);
    if (!status && !o->json) print_head(&b);
    for (int i = 0; i < n && !status; i++) {
        rows[i] = (struct row){.B = o->batch_sizes.values[i / o->input_lens.n],
                               .input_len = o->input_lens.values[i % o->input_lens.n],
                               .output_len = o->output_len};
        bench_report(&o->progress, "latency", i, n);
        status = run_case(&rows[i], b.engine, o->n_runs, &seed, err, err_bytes);
        if (!status && !o->json) print_row(&b, &rows[i]);
    }
    bench_report(&o->progress, NULL, n, n);
    if (!status && o->json) print_json(&b, rows, n);
    if (!status && !o->json) print_legend();
    bench_engine_close(&b);
    free(rows);
    return status;
}
