/* throughput.c - `tandem bench throughput`: requests of a trace or of given lengths, all there at once. */
#include "benchmarks/throughput_run.h"

#include <stdio.h>
#include <stdlib.h>

/* Requests in the engine at a time: enough that its scheduler always has a choice, without holding a whole trace. */
static int most_in_engine(const struct engine *e) {
    const int n = 4 * engine_info(e)->max_num_seqs;
    return n > 1024 ? n : 1024;
}

static int submit(struct engine *e, const struct bench_workload *w, const struct bench_request *r, int i, int32_t *ids,
                  char *err, size_t err_bytes) {
    struct request_params p = {.prompt = ids, .n_prompt = r->n_prompt, .sampling = sampling_default()};
    p.sampling.temperature = 0;
    p.sampling.max_tokens = r->n_output;
    p.sampling.ignore_eos = true;
    workload_prompt(ids, w, i, r->n_prompt, engine_info(e)->model.vocab);
    return engine_submit(e, &p, NULL, err, err_bytes);
}

int throughput_run(struct throughput *t, struct engine *e, const struct bench_workload *w,
                   const struct bench_progress *progress, char *err, size_t err_bytes) {
    const int max_len = engine_info(e)->max_model_len, bound = most_in_engine(e);
    struct bench_request *requests = NULL;
    struct engine_stats before, after;
    struct engine_event event;
    int n, next = 0, done = 0, status;
    *t = (struct throughput){0};
    status = workload_open(&requests, &n, &t->n_cut, w, max_len, err, err_bytes);
    if (status) return status;
    int32_t *ids = malloc((size_t)max_len * sizeof *ids);
    double *ttft = malloc((size_t)n * sizeof *ttft), *per_token = malloc((size_t)n * sizeof *per_token);
    size_t n_per_token = 0;
    CHECK(ids && ttft && per_token);
    engine_stats(e, &before);
    const double start = bench_now();
    while (!status && done < n) {
        while (!status && next < n && next - done < bound) {
            status = submit(e, w, &requests[next], next, ids, err, err_bytes);
            next++;
        }
        if (status) break;
        engine_wait(e, -1);
        while (engine_poll(e, &event)) {
            if (event.kind != EVENT_FINISHED) continue;
            const struct request_usage *u = &event.usage;
            if (event.reason == FINISH_ERROR) status = fail(err, err_bytes, STATUS_DEVICE, "%s", event.error);
            ttft[done++] = u->t_first - u->t_submit;
            if (u->n_output > 1) per_token[n_per_token++] = (u->t_finish - u->t_first) / (u->n_output - 1);
            t->input_tokens += u->n_prompt;
            t->output_tokens += u->n_output;
        }
        bench_report(progress, "throughput", done, n);
    }
    t->seconds = bench_now() - start;
    engine_stats(e, &after);
    bench_report(progress, NULL, done, n);
    const double queries = (double)(after.prefix_queries - before.prefix_queries);
    t->n_requests = n;
    t->n_steps = (double)(after.n_steps - before.n_steps);
    t->tokens_per_step = (double)(after.step_tokens_sum - before.step_tokens_sum) / (t->n_steps > 0 ? t->n_steps : 1);
    t->n_preemptions = (double)(after.n_preemptions - before.n_preemptions);
    t->busy = (after.device_seconds_total - before.device_seconds_total) / t->seconds;
    t->hit_rate = queries > 0 ? (double)(after.prefix_hits - before.prefix_hits) / queries : 0;
    t->ttft_median = bench_quantile(ttft, (size_t)done, 0.5);
    t->per_token_median = bench_quantile(per_token, n_per_token, 0.5);
    free(ids);
    free(ttft);
    free(per_token);
    free(requests);
    return status;
}

static void print_people(const struct bench_engine *b, const struct throughput *t) {
    const struct engine_info *info = engine_info(b->engine);
    const double s = t->seconds;
    printf("%s, %s, KV %s (%d blocks of %d tokens), %s\n", b->model.name, dtype_name(info->dtype),
           dtype_name(info->kv_dtype), info->n_blocks, info->block_size, info->backend);
    printf("max_num_seqs %d, max_num_batched_tokens %d, prefix caching %s\n\n", info->max_num_seqs,
           info->max_num_batched_tokens, info->prefix_caching ? "on" : "off");
    printf("requests            %12d", t->n_requests);
    if (t->n_cut) printf("  (%d cut to the %d tokens that the model takes)", t->n_cut, info->max_model_len);
    printf("\nseconds             %12.2f\n", s);
    printf("requests/s          %12.2f\n", t->n_requests / s);
    printf("input tokens/s      %12.0f\n", t->input_tokens / s);
    printf("output tokens/s     %12.0f\n", t->output_tokens / s);
    printf("tokens/s in all     %12.0f\n", (t->input_tokens + t->output_tokens) / s);
    printf("steps               %12.0f  (%.1f tokens each)\n", t->n_steps, t->tokens_per_step);
    printf("preemptions         %12.0f\n", t->n_preemptions);
    if (info->prefix_caching) printf("prefix cache hits   %11.1f%%  (of prompt tokens)\n", 100 * t->hit_rate);
    printf("time to first token %12.1f  ms, median, waiting included\n", 1e3 * t->ttft_median);
    printf("time per token      %12.2f  ms, median\n", 1e3 * t->per_token_median);
    printf("device busy         %11.1f%%\n", 100 * t->busy);
}

void throughput_add_json(cJSON *o, const struct throughput *t) {
    cJSON_AddNumberToObject(o, "requests", t->n_requests);
    cJSON_AddNumberToObject(o, "requests_cut", t->n_cut);
    cJSON_AddNumberToObject(o, "seconds", t->seconds);
    cJSON_AddNumberToObject(o, "requests_per_s", t->n_requests / t->seconds);
    cJSON_AddNumberToObject(o, "input_tokens", t->input_tokens);
    cJSON_AddNumberToObject(o, "output_tokens", t->output_tokens);
    cJSON_AddNumberToObject(o, "input_tokens_per_s", t->input_tokens / t->seconds);
    cJSON_AddNumberToObject(o, "output_tokens_per_s", t->output_tokens / t->seconds);
    cJSON_AddNumberToObject(o, "steps", t->n_steps);
    cJSON_AddNumberToObject(o, "tokens_per_step", t->tokens_per_step);
    cJSON_AddNumberToObject(o, "preemptions", t->n_preemptions);
    cJSON_AddNumberToObject(o, "prefix_hit_rate", t->hit_rate);
    cJSON_AddNumberToObject(o, "ttft_median_s", t->ttft_median);
    cJSON_AddNumberToObject(o, "per_token_median_s", t->per_token_median);
    cJSON_AddNumberToObject(o, "device_busy", t->busy);
}

int bench_throughput(const struct bench_throughput_options *o, char *err, size_t err_bytes) {
    struct bench_engine b = {0};
    struct throughput t;
    int status = bench_engine_open(&b, &o->engine, false, err, err_bytes);
    if (!status) status = throughput_run(&t, b.engine, &o->workload, &o->progress, err, err_bytes);
    if (!status && o->json) {
        cJSON *root = cJSON_CreateObject();
        cJSON_AddStringToObject(root, "model", b.model.name);
        cJSON_AddStringToObject(root, "backend", engine_info(b.engine)->backend);
        throughput_add_json(root, &t);
        bench_print_and_delete(root);
    } else if (!status) {
        print_people(&b, &t);
    }
    bench_engine_close(&b);
    return status;
}
