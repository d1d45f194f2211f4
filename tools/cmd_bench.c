/* cmd_bench.c - `tandem bench`: the flags of each benchmark. What they do is in benchmarks/. */
#include "benchmarks/bench.h"
#include "tools/engine_flags.h"
#include "tools/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int cmd_bench(int argc, char **argv);

/* ---- shared ------------------------------------------------------------------------------------------------------ */

static void show_progress(void *user, const char *what, int done, int total) {
    struct progress *p = user;
    if (!p->label) {
        progress_begin(p, what ? what : "bench", "cases", total);
        p->shown &= !isatty(STDOUT_FILENO); /* where the table goes to a terminal, it is the progress */
    }
    if (what) {
        p->label = what;
        progress_update(p, done);
    } else {
        progress_end(p, done);
    }
}

static struct bench_ints ints(const struct option_ints *list) {
    return (struct bench_ints){.values = list->items, .n = (int)list->n};
}

/* The exit code; says what failed. */
static int outcome(const struct command_help *help, int status, const char *err) {
    if (status) fprintf(stderr, "tandem %s: %s\n", help->name, err);
    return status == 0 ? 0 : 1;
}

#define MODEL_IS                                                                                                       \
    "\nMODEL is a folder, a name in the Hugging Face cache, or, with random weights, a shape file or a name that\n"    \
    "benchmarks/configs has."

/* ---- kernels ----------------------------------------------------------------------------------------------------- */

static int bench_kernels_command(int argc, char **argv) {
    static const struct command_help help = {
        .name = "bench kernels",
        .operands = "",
        .summary =
            "Times every kernel at the sizes of real models, beside the limit that binds it, measured in the same run.",
        .example = "tandem bench kernels --model Qwen3-14B Qwen3-14B-AWQ --only '^linear'\n"
                   "  tandem bench kernels --model weights/sample/small --tokens 1 16 --json\n"
                   "  tandem bench kernels --only attention --list",
    };
    struct progress progress = {0};
    struct bench_kernels_options b = {
        .sample_ms = 30, .n_samples = 5, .progress = {.update = show_progress, .user = &progress}};
    struct option_list models = {0};
    struct option_ints tokens = {0};
    const struct option_spec specs[] = {
        FLAG(LIST, "model", &models, "MODEL...", "folders, shape files, or names that benchmarks/configs has",
             .shown = "all of benchmarks/configs on a GPU, else Qwen3-0.6B"),
        FLAG(STRING, "only", &b.only, "PATTERN",
             "cases whose kernel/model/shape/T=... matches this regular expression"),
        FLAG(INTS, "tokens", &tokens, "N...", "tokens per call", .low = 1, .high = 1 << 17, .shown = "from 1 to 8192"),
        FLAG(BOOL, "list", &b.list, NULL, "show the cases and measure nothing"),
        FLAG(STRING, "device", &b.backend, "NAME", "cpu or cuda", .shown = "cuda where there is a GPU",
             .alias = "backend"),
        FLAG(INT, "threads", &b.n_threads, "N", "of the CPU backend", .low = 0, .high = 1024, .shown = "one per core"),
        FLAG(INT, "samples", &b.n_samples, "N", "of which the median counts", .low = 1, .high = 64),
        FLAG(DOUBLE, "sample-ms", &b.sample_ms, "MS", "what each sample lasts, at least", .low = 0.01, .high = 60000),
        FLAG(BOOL, "json", &b.json, NULL, "print one JSON object"),
        {0},
    };
    struct options o = {0};
    char err[ERR_BYTES];
    int exit_code;
    if (options_parse(&o, &help, specs, argc, argv, &exit_code)) {
        b.tokens = ints(&tokens);
        b.models = models.items;
        b.n_models = (int)models.n;
        exit_code = outcome(&help, bench_kernels(&b, err, sizeof err), err);
    }
    options_deinit(&o);
    return exit_code;
}

/* ---- latency ----------------------------------------------------------------------------------------------------- */

static int bench_latency_command(int argc, char **argv) {
    static const struct command_help help = {
        .name = "bench latency",
        .operands = "MODEL",
        .summary =
            "Time to the first token and per token, by batch size and context, beside the floors of a step." MODEL_IS,
        .example =
            "tandem bench latency Qwen3-14B-AWQ --batch-size 1 16 64 --input-len 1024 8192\n"
            "  tandem bench latency weights/sample/small --batch-size 1 8 --input-len 128 --output-len 32 --json",
        .min_operands = 1,
        .max_operands = 1,
    };
    struct progress progress = {0};
    struct bench_latency_options b = {.engine = engine_default_options(),
                                      .output_len = 128,
                                      .n_runs = 3,
                                      .progress = {.update = show_progress, .user = &progress}};
    struct option_ints batch_sizes = {0}, input_lens = {0};
    static const int default_batch_sizes[] = {1, 16, 64}, default_input_lens[] = {1024};
    int exit_code;
    b.engine.enable_prefix_caching = false; /* a prefill that is found is none */
    const struct option_spec specs[] = {
        FLAG_TITLE("Cases"),
        FLAG(INTS, "batch-size", &batch_sizes, "N...", "sequences at a time", .low = 1, .high = 4096,
             .shown = "1 16 64"),
        FLAG(INTS, "input-len", &input_lens, "N...", "tokens of each prompt", .low = 1, .high = 1 << 22,
             .shown = "1024"),
        FLAG(INT, "output-len", &b.output_len, "N", "tokens that each generates", .low = 1, .high = 1 << 20),
        FLAG(INT, "runs", &b.n_runs, "N", "of each case, after one to warm up; the median counts", .low = 1,
             .high = 32),
        FLAG(BOOL, "json", &b.json, NULL, "print one JSON object"),
        ENGINE_FLAGS(b.engine),
        {0},
    };
    struct options o = {0};
    char err[ERR_BYTES];
    if (options_parse(&o, &help, specs, argc, argv, &exit_code)) {
        b.batch_sizes = batch_sizes.n ? ints(&batch_sizes) : (struct bench_ints){default_batch_sizes, 3};
        b.input_lens = input_lens.n ? ints(&input_lens) : (struct bench_ints){default_input_lens, 1};
        b.engine.model = o.operands.items[0];
        exit_code = outcome(&help, bench_latency(&b, err, sizeof err), err);
    }
    options_deinit(&o);
    return exit_code;
}

/* ---- throughput and sweep ---------------------------------------------------------------------------------------- */

/* Rows that say what the requests are. */
#define WORKLOAD_FLAGS(w)                                                                                              \
    FLAG_TITLE("Requests"),                                                                                            \
        FLAG(STRING, "trace", &(w).trace, "FILE",                                                                      \
             "CSV of TIMESTAMP,ContextTokens,GeneratedTokens to take lengths from"),                                   \
        FLAG(INT, "num-prompts", &(w).n_prompts, "N", "requests, or that many of the trace", .low = 1,                 \
             .high = 1 << 24, .shown = "100, or the whole trace"),                                                     \
        FLAG(INT, "input-len", &(w).input_len, "N", "tokens of a prompt", .low = 1, .high = 1 << 22),                  \
        FLAG(INT, "output-len", &(w).output_len, "N", "tokens that a request generates", .low = 1, .high = 1 << 22),   \
        FLAG(INT, "prefix-len", &(w).prefix_len, "N", "tokens in front of all prompts that they share", .low = 0,      \
             .high = 1 << 22),                                                                                         \
        FLAG(DOUBLE, "range-ratio", &(w).range_ratio, "X", "lengths are uniform within this share of the above",       \
             .low = 0, .high = 1),                                                                                     \
        FLAG(INT, "seed", &seed, "N", "of lengths, ids and arrivals", .low = 0, .high = 2147483647)

static const struct bench_workload default_workload = {.input_len = 1024, .output_len = 128};

static void finish_workload(struct bench_workload *w, int seed) {
    w->seed = (uint64_t)seed;
    if (!w->trace && !w->n_prompts) w->n_prompts = 100;
}

static int bench_throughput_command(int argc, char **argv) {
    static const struct command_help help = {
        .name = "bench throughput",
        .operands = "MODEL",
        .summary =
            "Runs requests that are all there at once, without a server: requests/s, tokens/s, preemptions." MODEL_IS,
        .example = "tandem bench throughput Qwen3-14B-AWQ --num-prompts 500 --input-len 1024 --output-len 256\n"
                   "  tandem bench throughput Qwen3-8B --trace AzureLLMInferenceTrace_conv.csv --num-prompts 2000",
        .min_operands = 1,
        .max_operands = 1,
    };
    struct progress progress = {0};
    struct bench_throughput_options b = {.engine = engine_default_options(),
                                         .workload = default_workload,
                                         .progress = {.update = show_progress, .user = &progress}};
    int seed = 0, exit_code;
    const struct option_spec specs[] = {
        WORKLOAD_FLAGS(b.workload),
        FLAG(BOOL, "json", &b.json, NULL, "print one JSON object"),
        ENGINE_FLAGS(b.engine),
        {0},
    };
    struct options o = {0};
    char err[ERR_BYTES];
    if (options_parse(&o, &help, specs, argc, argv, &exit_code)) {
        finish_workload(&b.workload, seed);
        b.engine.model = o.operands.items[0];
        exit_code = outcome(&help, bench_throughput(&b, err, sizeof err), err);
    }
    options_deinit(&o);
    return exit_code;
}

static int bench_sweep_command(int argc, char **argv) {
    static const struct command_help help = {
        .name = "bench sweep",
        .operands = "MODEL",
        .summary = "Throughput over every combination of the batching parameters that are listed." MODEL_IS,
        .example =
            "tandem bench sweep Qwen3-14B-AWQ --sweep-max-num-seqs 16 64 256 --sweep-max-num-batched-tokens 2048 8192 "
            "--csv\n"
            "  tandem bench sweep weights/sample/small --num-prompts 32 --input-len 64 --sweep-max-num-seqs 1 4 16",
        .min_operands = 1,
        .max_operands = 1,
    };
    struct progress progress = {0};
    struct bench_sweep_options b = {.engine = engine_default_options(),
                                    .workload = default_workload,
                                    .progress = {.update = show_progress, .user = &progress}};
    struct option_ints seqs = {0}, tokens = {0}, blocks = {0}, thresholds = {0};
    struct option_list kv = {0};
    int seed = 0, exit_code;
    const struct option_spec specs[] = {
        FLAG_TITLE("What varies"),
        FLAG(INTS, "sweep-max-num-seqs", &seqs, "N...", "values of --max-num-seqs", .low = 1, .high = 4096),
        FLAG(INTS, "sweep-max-num-batched-tokens", &tokens, "N...", "values of --max-num-batched-tokens", .low = 1,
             .high = 1 << 17),
        FLAG(INTS, "sweep-block-size", &blocks, "N...", "values of --block-size", .low = 1, .high = 256),
        FLAG(INTS, "sweep-long-prefill-token-threshold", &thresholds, "N...",
             "values of --long-prefill-token-threshold", .low = 1, .high = 1 << 22),
        FLAG(LIST, "sweep-kv-cache-dtype", &kv, "TYPE...", "values of --kv-cache-dtype"),
        FLAG(BOOL, "csv", &b.csv, NULL, "print comma-separated values"),
        FLAG(BOOL, "json", &b.json, NULL, "print one JSON array"),
        WORKLOAD_FLAGS(b.workload),
        ENGINE_FLAGS(b.engine),
        {0},
    };
    struct options o = {0};
    char err[ERR_BYTES];
    if (options_parse(&o, &help, specs, argc, argv, &exit_code)) {
        b.max_num_seqs = ints(&seqs);
        b.max_num_batched_tokens = ints(&tokens);
        b.block_sizes = ints(&blocks);
        b.long_prefill_token_thresholds = ints(&thresholds);
        b.kv_cache_dtypes = kv.items;
        b.n_kv_cache_dtypes = (int)kv.n;
        finish_workload(&b.workload, seed);
        b.engine.model = o.operands.items[0];
        exit_code = outcome(&help, bench_sweep(&b, err, sizeof err), err);
    }
    options_deinit(&o);
    return exit_code;
}

/* ---- serve ------------------------------------------------------------------------------------------------------- */

/* "ttft:200" and "tpot:50", in milliseconds. */
static bool read_goodput(struct bench_serve_options *b, const struct option_list *list) {
    for (size_t i = 0; i < list->n; i++) {
        double ms;
        const char *text = list->items[i];
        const bool ttft = !strncmp(text, "ttft:", 5), tpot = !strncmp(text, "tpot:", 5);
        if ((!ttft && !tpot) || !options_number(text + 5, &ms) || ms <= 0) {
            fprintf(stderr, "tandem bench serve: --goodput: expected ttft:MS or tpot:MS, found \"%s\"\n", text);
            return false;
        }
        *(ttft ? &b->goodput_ttft_ms : &b->goodput_tpot_ms) = ms;
    }
    return true;
}

static int bench_serve_command(int argc, char **argv) {
    static const struct command_help help = {
        .name = "bench serve",
        .operands = "",
        .summary = "Puts a load on a running server with OpenAI's API and prints what its clients see.",
        .example = "tandem bench serve --port 8000 --num-prompts 200 --request-rate 4 --goodput ttft:200 tpot:50\n"
                   "  tandem bench serve --port 8000 --num-prompts 64 --max-concurrency 16 --input-len 512",
    };
    struct progress progress = {0};
    struct bench_serve_options b = {.host = "127.0.0.1",
                                    .port = 8000,
                                    .path = "/v1/completions",
                                    .vocab = 5000,
                                    .workload = default_workload,
                                    .burstiness = 1,
                                    .timeout = 120,
                                    .progress = {.update = show_progress, .user = &progress}};
    struct option_list goodput = {0}, percentiles = {0};
    double rate = 0, values[16] = {90, 99};
    int seed = 0, exit_code;
    const struct option_spec specs[] = {
        FLAG_TITLE("Server"),
        FLAG(STRING, "host", &b.host, "NAME", "name or address"),
        FLAG(INT, "port", &b.port, "N", "its port", .low = 1, .high = 65535),
        FLAG(STRING, "endpoint", &b.path, "PATH", "where completions are"),
        FLAG(STRING, "model", &b.model, "NAME", "the model's name", .shown = "the first that the server has"),
        FLAG(STRING, "api-key", &b.api_key, "KEY", "sent as the bearer token"),
        FLAG(DOUBLE, "timeout", &b.timeout, "S", "give up after so long without an answer", .low = 1, .high = 86400),
        FLAG_TITLE("Load"),
        FLAG(DOUBLE, "request-rate", &rate, "X", "requests per second", .low = 0, .high = 1e6, .shown = "all at once"),
        FLAG(DOUBLE, "burstiness", &b.burstiness, "X", "1: Poisson arrivals; less: burstier", .low = 0.01,
             .high = 1000),
        FLAG(DOUBLE, "replay", &b.replay, "X", "arrivals of the trace, X times as fast", .low = 0, .high = 1e6,
             .shown = "off"),
        FLAG(INT, "max-concurrency", &b.max_concurrency, "N", "requests under way at a time, at most", .low = 0,
             .high = 1 << 16, .shown = "no bound"),
        FLAG(INT, "vocab", &b.vocab, "N", "prompts are random ids below this", .low = 1, .high = 1 << 22),
        WORKLOAD_FLAGS(b.workload),
        FLAG_TITLE("Figures"),
        FLAG(LIST, "goodput", &goodput, "WORD:MS...", "count the requests within ttft:MS and tpot:MS"),
        FLAG(LIST, "percentiles", &percentiles, "P...", "of each time", .shown = "90 99"),
        FLAG(BOOL, "json", &b.json, NULL, "print one JSON object, with the names of vLLM's benchmark"),
        {0},
    };
    struct options o = {0};
    char err[ERR_BYTES];
    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    exit_code = 2;
    if (!read_goodput(&b, &goodput)) goto done;
    b.n_percentiles = 2;
    for (size_t i = 0; i < percentiles.n && i < 16; i++) {
        if (!options_number(percentiles.items[i], &values[i]) || values[i] < 0 || values[i] > 100) {
            fprintf(stderr, "tandem bench serve: --percentiles: expected 0 to 100, found \"%s\"\n",
                    percentiles.items[i]);
            goto done;
        }
        b.n_percentiles = (int)i + 1;
    }
    if (b.replay > 0 && !b.workload.trace) {
        fprintf(stderr, "tandem bench serve: --replay needs --trace FILE, whose arrivals it replays\n");
        goto done;
    }
    b.percentiles = values;
    b.request_rate = rate > 0 ? rate : INFINITY;
    finish_workload(&b.workload, seed);
    exit_code = outcome(&help, bench_serve(&b, err, sizeof err), err);
done:
    options_deinit(&o);
    return exit_code;
}

/* ---- which ------------------------------------------------------------------------------------------------------- */

int cmd_bench(int argc, char **argv) {
    static const struct command benches[] = {
        {"kernels", "every kernel beside the machine's limits", bench_kernels_command},
        {"latency", "time to the first token and per token, beside the floors of a step", bench_latency_command},
        {"throughput", "requests of a trace or of given lengths, all there at once", bench_throughput_command},
        {"sweep", "throughput over a grid of batching parameters", bench_sweep_command},
        {"serve", "a load on a running server, and what its clients see", bench_serve_command},
        {0},
    };
    static const struct command_table table = {
        .name = "tandem bench",
        .operand = "BENCHMARK",
        .what = "benchmark",
        .summary = "Measures. ",
        .end = "Example: tandem bench kernels --model Qwen3-14B-AWQ --only linear\n",
        .commands = benches,
    };
    return command_run(&table, argc, argv);
}
