/* cmd_serve.c - `tandem serve`: vLLM's flag names onto struct server_options.
 *
 * Flags of what this engine does not do are known nevertheless: accepted where their value means "off", refused with a
 * sentence otherwise, so that a command line written for vLLM either works or says why not. */
#include "server/server.h"
#include "tools/engine_flags.h"
#include "tools/options.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cmd_serve(int argc, char **argv);

/* Values that need a second look before they are options of the server. */
struct serve_flags {
    struct option_list names, keys;
    const char *policy, *generation_config, *reasoning_parser, *tool_parser, *template_kwargs;
    const char *speculative, *log_format, *log_level, *cors;
    int seed, max_queued, tensor_parallel, pipeline_parallel, data_parallel;
    bool expert_parallel, trust_remote_code, disable_log_requests;
    double header_timeout, body_timeout, idle_timeout, write_timeout;
    const char *config;
};

static int refuse(const char *sentence) {
    fprintf(stderr, "tandem serve: %s\n", sentence);
    return STATUS_UNSUPPORTED;
}

static bool is_off(const char *value) {
    static const char *const off[] = {"", "none", "null", "{}", "auto"};
    for (size_t i = 0; value && i < sizeof off / sizeof off[0]; i++)
        if (!strcmp(value, off[i])) return true;
    return !value;
}

static int refuse_unsupported(const struct serve_flags *f) {
    if (f->tensor_parallel > 1 || f->pipeline_parallel > 1 || f->data_parallel > 1)
        return refuse(
            "--tensor-parallel-size, --pipeline-parallel-size and --data-parallel-size: one device serves one "
            "model here; expected 1");
    if (f->expert_parallel) return refuse("--enable-expert-parallel: there are no models with experts here yet");
    if (!is_off(f->speculative)) return refuse("--speculative-config: speculative decoding is not supported");
    return 0;
}

/* --default-chat-template-kwargs '{"enable_thinking": false}' */
static int parse_template_kwargs(const char *text, int *enable_thinking) {
    char err[ERR_BYTES];
    bool value = true;
    cJSON *tree;
    if (!text) return 0;
    int status = json_parse(&tree, text, strlen(text), (struct json_limits){1 << 16, 16}, err, sizeof err);
    if (!status && !cJSON_IsObject(tree))
        status = fail(err, sizeof err, STATUS_INVALID, "expected a JSON object, found %s", json_kind(tree));
    if (!status) status = json_get_bool(tree, "enable_thinking", &value, err, sizeof err);
    if (status)
        fprintf(stderr, "tandem serve: --default-chat-template-kwargs: %s\n", err);
    else if (json_find(tree, "enable_thinking"))
        *enable_thinking = value;
    cJSON_Delete(tree);
    return status;
}

static int milliseconds(double seconds) {
    return (int)(1000 * seconds);
}

/* The flags' values into the options; a sentence on standard error and nonzero if they make no sense. */
static int finish(struct server_options *o, const struct serve_flags *f) {
    int status = refuse_unsupported(f);
    if (!status) status = parse_template_kwargs(f->template_kwargs, &o->enable_thinking);
    if (status) return status;
    o->served_names = f->names.items;
    o->n_served_names = (int)f->names.n;
    o->api_keys = f->keys.items;
    o->n_api_keys = f->keys.n;
    o->engine.policy = !strcmp(f->policy, "priority") ? POLICY_PRIORITY : POLICY_FCFS;
    o->engine.seed = (uint64_t)f->seed;
    o->engine.max_waiting = f->max_queued;
    o->checkpoint_sampling = !strcmp(f->generation_config, "auto");
    o->split_reasoning = strcmp(f->reasoning_parser, "none") != 0;
    o->log_json = !strcmp(f->log_format, "json");
    o->log_requests = !f->disable_log_requests;
    log_level_by_name(f->log_level, &o->log_level);
    o->http.header_timeout_ms = milliseconds(f->header_timeout);
    o->http.body_timeout_ms = milliseconds(f->body_timeout);
    o->http.idle_timeout_ms = milliseconds(f->idle_timeout);
    o->http.write_timeout_ms = milliseconds(f->write_timeout);
    o->http.cors_origin = strcmp(f->cors, "none") ? f->cors : NULL;
    return 0;
}

int cmd_serve(int argc, char **argv) {
    static const struct command_help help = {
        .name = "serve",
        .operands = "MODEL",
        .summary =
            "Serves a model over HTTP with OpenAI's API. MODEL is a folder in Hugging Face layout, or a name in\n"
            "the local Hugging Face cache. SIGTERM lets running requests finish.",
        .example = "tandem serve weights/sample/small --served-model-name small --port 8000\n"
                   "  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\\n"
                   "       -d '{\"model\": \"small\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'",
        .min_operands = 1,
        .max_operands = 1,
    };
    static const char *const policies[] = {"fcfs", "priority", NULL}, *const generation[] = {"auto", "vllm", NULL},
                             *const reasoning[] = {"qwen3", "deepseek_r1", "none", NULL},
                             *const tools[] = {"hermes", NULL}, *const formats[] = {"text", "json", NULL},
                             *const levels[] = {"debug", "info", "warning", "error", NULL};
    struct server_options server = server_default_options();
    struct http_options *http = &server.http;
    struct serve_flags f = {
        .policy = "fcfs",
        .generation_config = "auto",
        .reasoning_parser = "qwen3",
        .tool_parser = "hermes",
        .log_format = "text",
        .log_level = "info",
        .cors = "*",
        .max_queued = 1024,
        .tensor_parallel = 1,
        .pipeline_parallel = 1,
        .data_parallel = 1,
        .header_timeout = http->header_timeout_ms / 1e3,
        .body_timeout = http->body_timeout_ms / 1e3,
        .idle_timeout = http->idle_timeout_ms / 1e3,
        .write_timeout = http->write_timeout_ms / 1e3,
    };
    const double day = 86400;
    http->port = 8000;
    const struct option_spec specs[] = {
        FLAG_TITLE("Server"),
        FLAG(STRING, "host", &http->host, "ADDRESS", "address to listen on"),
        FLAG(INT, "port", &http->port, "N", "port to listen on; 0: any free one", .low = 0, .high = 65535),
        FLAG(STRING, "uds", &http->uds, "PATH", "a Unix socket instead of host and port"),
        FLAG(LIST, "served-model-name", &f.names, "NAME...", "names of the model; answers say the first",
             .shown = "MODEL as given"),
        FLAG(LIST, "api-key", &f.keys, "KEY...", "keys that clients must present; or $VLLM_API_KEY"),
        FLAG(STRING, "api-key-file", &server.api_key_file, "FILE", "lines \"SHA256 TENANT\"; see tandem key"),
        FLAG(STRING, "cors-origin", &f.cors, "ORIGIN", "allowed origin for browsers; none: no CORS"),
        FLAG(BOOL, "enable-request-id-headers", &server.request_id_headers, NULL, "X-Request-Id in answers"),
        FLAG(BOOL, "enable-force-include-usage", &server.force_include_usage, NULL, "usage at the end of every stream"),
        FLAG(INT, "stream-interval", &server.stream_interval, "N", "tokens per chunk of a stream, at least", .low = 1,
             .high = 1 << 20),
        FLAG(CONFIG, "config", &f.config, "FILE", "a JSON object of these flags; the command line counts more"),
        FLAG_TITLE("Bounds"),
        FLAG(SIZE, "max-body-bytes", &http->max_body_bytes, "BYTES", "longest request body; above: 413", .low = 1,
             .high = 1 << 30),
        FLAG(SIZE, "max-header-bytes", &http->max_header_bytes, "BYTES", "longest request head; above: 431", .low = 256,
             .high = 1 << 20),
        FLAG(INT, "max-connections", &http->max_connections, "N", "open connections; above: 503", .low = 1,
             .high = 1 << 20),
        FLAG(INT, "max-requests-in-flight", &server.max_requests_in_flight, "N",
             "requests being answered; above: 429; 0: unbounded", .low = 0, .high = 1 << 20),
        FLAG(INT, "max-requests-queued", &f.max_queued, "N",
             "answers waiting beyond max-num-seqs; above: 429; 0: unbounded", .low = 0, .high = 1 << 20),
        FLAG(SIZE, "max-write-buffer", &http->max_write_buffer, "BYTES", "bytes kept for one slow reader", .low = 1024,
             .high = 1 << 30),
        FLAG(DOUBLE, "header-timeout", &f.header_timeout, "SECONDS", "for a request's head", .low = 0.001, .high = day),
        FLAG(DOUBLE, "body-timeout", &f.body_timeout, "SECONDS", "for a request's body", .low = 0.001, .high = day),
        FLAG(DOUBLE, "idle-timeout", &f.idle_timeout, "SECONDS", "for a connection without a request", .low = 0.001,
             .high = day),
        FLAG(DOUBLE, "write-timeout", &f.write_timeout, "SECONDS", "for a reader that takes nothing", .low = 0.001,
             .high = day),
        FLAG(DOUBLE, "drain-timeout", &server.drain_timeout_seconds, "SECONDS", "for running requests after SIGTERM",
             .low = 0, .high = day),
        ENGINE_FLAGS(server.engine),
        FLAG(BOOL, "enable-chunked-prefill", &server.engine.enable_chunked_prefill, NULL,
             "cut long prompts into several steps"),
        FLAG(STRING, "scheduling-policy", &f.policy, "NAME", "order of waiting requests", .choices = policies),
        FLAG(INT, "max-logprobs", &server.engine.max_logprobs, "N", "most logprobs per token in a request", .low = 0,
             .high = 1 << 20),
        FLAG(INT, "seed", &f.seed, "N", "of requests that bring none", .low = 0, .high = INT_MAX),
        FLAG_TITLE("Chat and sampling"),
        FLAG(STRING, "generation-config", &f.generation_config, "NAME",
             "default sampling: the checkpoint's, or OpenAI's (vllm)", .choices = generation),
        FLAG(STRING, "chat-template", &server.chat_template, "NAME",
             "qwen2.5, qwen3, qwen3-thinking, qwen3-nonthinking, or a file with one of their texts",
             .shown = "the checkpoint's"),
        FLAG(STRING, "default-chat-template-kwargs", &f.template_kwargs, "JSON", "e.g. '{\"enable_thinking\": false}'"),
        FLAG(STRING, "reasoning-parser", &f.reasoning_parser, "NAME", "what <think> is split off by",
             .choices = reasoning),
        FLAG(BOOL, "enable-auto-tool-choice", &server.parse_tool_calls, NULL, "look for tool calls in answers"),
        FLAG(STRING, "tool-call-parser", &f.tool_parser, "NAME", "how tool calls are written", .choices = tools),
        FLAG_TITLE("Log"),
        FLAG(STRING, "log-format", &f.log_format, "NAME", "lines on standard error", .choices = formats),
        FLAG(STRING, "log-level", &f.log_level, "NAME", "the least important lines", .choices = levels),
        FLAG(BOOL, "disable-log-requests", &f.disable_log_requests, NULL, "no line per request"),
        FLAG_TITLE("Accepted for vLLM's command lines"),
        FLAG(INT, "tensor-parallel-size", &f.tensor_parallel, "N", "1 only", .low = 1, .high = 1024, .alias = "tp"),
        FLAG(INT, "pipeline-parallel-size", &f.pipeline_parallel, "N", "1 only", .low = 1, .high = 1024, .alias = "pp"),
        FLAG(INT, "data-parallel-size", &f.data_parallel, "N", "1 only", .low = 1, .high = 1024, .alias = "dp"),
        FLAG(BOOL, "enable-expert-parallel", &f.expert_parallel, NULL, "off only"),
        FLAG(STRING, "speculative-config", &f.speculative, "JSON", "none only"),
        FLAG(BOOL, "trust-remote-code", &f.trust_remote_code, NULL, "changes nothing: no code of a model is ever run"),
        {0},
    };
    struct options o = {0};
    char err[ERR_BYTES];
    const char *key = getenv("VLLM_API_KEY");
    int exit_code;

    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    server.engine.model = o.operands.items[0];
    if (finish(&server, &f)) {
        exit_code = 2;
        goto done;
    }
    if (!f.keys.n && key && *key) {
        server.api_keys = &key;
        server.n_api_keys = 1;
    }
    if (server_run(&server, err, sizeof err)) {
        fprintf(stderr, "tandem serve: %s\n", err);
        exit_code = 1;
    }
done:
    options_deinit(&o);
    return exit_code;
}
