/* serve_config.c - vLLM's flag names onto struct server_options; see serve_config.h.
 *
 * Flags of what this engine does not do are known nevertheless: accepted where their value means "off", refused with a
 * sentence otherwise, so that a command line written for vLLM either works or says why not. */
#include "tools/serve_config.h"

#include "kernels/status.h"
#include "tools/engine_flags.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the tables of flags ----------------------------------------------------------------------------------------- */

/* Appends rows to a table of SERVE_MAX_FLAGS that ends with {0}. */
static void add_rows(struct option_spec *table, const struct option_spec *rows, size_t n, bool per_entry) {
    size_t at = 0;
    while (table[at].name) at++;
    CHECK_LT(at + n, SERVE_MAX_FLAGS);
    memcpy(table + at, rows, n * sizeof *rows);
    for (size_t i = 0; i < n; i++) table[at + i].per_entry = per_entry;
}

static void add_server_flags(struct option_spec *table, struct server_options *server, struct serve_flags *f) {
    static const char *const formats[] = {"text", "json", NULL}, *const levels[] = {"debug", "info", "warning", "error",
                                                                                    NULL};
    struct http_options *http = &server->http;
    const double day = 86400;
    const struct option_spec rows[] = {
        FLAG_TITLE("Server"),
        FLAG(STRING, "host", &http->host, "ADDRESS", "address to listen on"),
        FLAG(INT, "port", &http->port, "N", "port to listen on; 0: any free one", .low = 0, .high = 65535),
        FLAG(STRING, "uds", &http->uds, "PATH", "a Unix socket instead of host and port"),
        FLAG(LIST, "api-key", &f->keys, "KEY...", "keys that clients must present; or $VLLM_API_KEY"),
        FLAG(STRING, "api-key-file", &server->api_key_file, "FILE", "lines \"SHA256 TENANT\"; see tandem key"),
        FLAG(STRING, "cors-origin", &f->cors, "ORIGIN", "allowed origin for browsers; none: no CORS"),
        FLAG(BOOL, "enable-request-id-headers", &server->request_id_headers, NULL, "X-Request-Id in answers"),
        FLAG(BOOL, "enable-force-include-usage", &server->force_include_usage, NULL,
             "usage at the end of every stream"),
        FLAG(INT, "stream-interval", &server->stream_interval, "N", "tokens per chunk of a stream, at least", .low = 1,
             .high = 1 << 20),
        FLAG(CONFIG, "config", &f->config, "FILE", "a JSON object of these flags; the command line counts more"),
        FLAG(ENTRIES, "models", &f->models, NULL, "one object per model"),
        FLAG_TITLE("Bounds"),
        FLAG(SIZE, "max-body-bytes", &http->max_body_bytes, "BYTES", "longest request body; above: 413", .low = 1,
             .high = 1 << 30),
        FLAG(SIZE, "max-header-bytes", &http->max_header_bytes, "BYTES", "longest request head; above: 431", .low = 256,
             .high = 1 << 20),
        FLAG(INT, "max-connections", &http->max_connections, "N", "open connections; above: 503", .low = 1,
             .high = 1 << 20),
        FLAG(INT, "max-requests-in-flight", &server->max_requests_in_flight, "N",
             "requests being answered; above: 429; 0: unbounded", .low = 0, .high = 1 << 20),
        FLAG(SIZE, "max-write-buffer", &http->max_write_buffer, "BYTES", "bytes kept for one slow reader", .low = 1024,
             .high = 1 << 30),
        FLAG(DOUBLE, "header-timeout", &f->header_timeout, "SECONDS", "for a request's head", .low = 0.001,
             .high = day),
        FLAG(DOUBLE, "body-timeout", &f->body_timeout, "SECONDS", "for a request's body", .low = 0.001, .high = day),
        FLAG(DOUBLE, "idle-timeout", &f->idle_timeout, "SECONDS", "for a connection without a request", .low = 0.001,
             .high = day),
        FLAG(DOUBLE, "write-timeout", &f->write_timeout, "SECONDS", "for a reader that takes nothing", .low = 0.001,
             .high = day),
        FLAG(DOUBLE, "drain-timeout", &server->drain_timeout_seconds, "SECONDS", "for running requests after SIGTERM",
             .low = 0, .high = day),
        FLAG_TITLE("Log"),
        FLAG(STRING, "log-format", &f->log_format, "NAME", "lines on standard error", .choices = formats),
        FLAG(STRING, "log-level", &f->log_level, "NAME", "the least important lines", .choices = levels),
        FLAG(BOOL, "disable-log-requests", &f->disable_log_requests, NULL, "no line per request"),
    };
    *f = (struct serve_flags){
        .log_format = "text",
        .log_level = "info",
        .cors = "*",
        .header_timeout = http->header_timeout_ms / 1e3,
        .body_timeout = http->body_timeout_ms / 1e3,
        .idle_timeout = http->idle_timeout_ms / 1e3,
        .write_timeout = http->write_timeout_ms / 1e3,
    };
    add_rows(table, rows, sizeof rows / sizeof *rows, false);
}

static void add_device_flags(struct option_spec *table, struct engine_options *engine) {
    const struct option_spec rows[] = {FLAG_TITLE("Device"), ENGINE_DEVICE_FLAGS(*engine)};
    add_rows(table, rows, sizeof rows / sizeof *rows, false);
}

/* A model's own flags. */
static void add_model_flags(struct option_spec *table, struct server_model_options *m, struct serve_model_flags *f) {
    static const char *const policies[] = {"fcfs", "priority", NULL}, *const generation[] = {"auto", "vllm", NULL},
                             *const reasoning[] = {"qwen3", "deepseek_r1", "none", NULL},
                             *const tools[] = {"hermes", NULL};
    const struct option_spec rows[] = {
        FLAG_TITLE("Model"),
        FLAG(LIST, "served-model-name", &f->names, "NAME...", "names of the model; answers say the first",
             .shown = "MODEL as given"),
        ENGINE_MODEL_FLAGS(m->engine),
        FLAG(BOOL, "enable-chunked-prefill", &m->engine.enable_chunked_prefill, NULL,
             "cut long prompts into several steps"),
        FLAG(STRING, "scheduling-policy", &f->policy, "NAME", "order of waiting requests", .choices = policies),
        FLAG(INT, "max-requests-queued", &m->engine.max_waiting, "N",
             "answers waiting beyond max-num-seqs; above: 429; 0: unbounded", .low = 0, .high = 1 << 20),
        FLAG(INT, "max-logprobs", &m->engine.max_logprobs, "N", "most logprobs per token in a request", .low = 0,
             .high = 1 << 20),
        FLAG(INT, "seed", &f->seed, "N", "of requests that bring none", .low = 0, .high = INT_MAX),
        FLAG_TITLE("Chat and sampling"),
        FLAG(STRING, "generation-config", &f->generation_config, "NAME",
             "default sampling: the checkpoint's, or OpenAI's (vllm)", .choices = generation),
        FLAG(STRING, "chat-template", &m->chat_template, "NAME",
             "qwen2.5, qwen3, qwen3-thinking, qwen3-nonthinking, or a file with one of their texts",
             .shown = "the checkpoint's"),
        FLAG(STRING, "default-chat-template-kwargs", &f->template_kwargs, "JSON",
             "e.g. '{\"enable_thinking\": false}'"),
        FLAG(STRING, "reasoning-parser", &f->reasoning_parser, "NAME", "what <think> is split off by",
             .choices = reasoning),
        FLAG(BOOL, "enable-auto-tool-choice", &m->parse_tool_calls, NULL, "look for tool calls in answers"),
        FLAG(STRING, "tool-call-parser", &f->tool_parser, "NAME", "how tool calls are written", .choices = tools),
        FLAG_TITLE("Accepted for vLLM's command lines"),
        FLAG(INT, "tensor-parallel-size", &f->tensor_parallel, "N", "1 only", .low = 1, .high = 1024, .alias = "tp"),
        FLAG(INT, "pipeline-parallel-size", &f->pipeline_parallel, "N", "1 only", .low = 1, .high = 1024,
             .alias = "pp"),
        FLAG(INT, "data-parallel-size", &f->data_parallel, "N", "1 only", .low = 1, .high = 1024, .alias = "dp"),
        FLAG(BOOL, "enable-expert-parallel", &f->expert_parallel, NULL, "off only"),
        FLAG(BOOL, "trust-remote-code", &f->trust_remote_code, NULL, "changes nothing: no code of a model is ever run"),
    };
    *m = server_default_model();
    m->engine.max_waiting = 1024;
    *f = (struct serve_model_flags){
        .policy = "fcfs",
        .generation_config = "auto",
        .reasoning_parser = "qwen3",
        .tool_parser = "hermes",
        .tensor_parallel = 1,
        .pipeline_parallel = 1,
        .data_parallel = 1,
    };
    add_rows(table, rows, sizeof rows / sizeof *rows, true);
}

/* What only an entry of "models" can say. */
static void add_entry_flags(struct option_spec *table, struct server_model_options *m, struct serve_model_flags *f) {
    const struct option_spec rows[] = {
        FLAG(STRING, "model", &m->engine.model, "MODEL", "a path or a name"),
        FLAG(LIST, "role", &f->roles, "ROLE...", "what the model is there for", .choices = server_role_names),
        FLAG(SIZE, "kv-cache-floor-bytes", &m->engine.kv_cache_floor_bytes, "BYTES", "of the KV pool, kept for it"),
        FLAG(SIZE, "kv-cache-ceiling-bytes", &m->engine.kv_cache_ceiling_bytes, "BYTES", "of the KV pool, at most"),
    };
    add_rows(table, rows, sizeof rows / sizeof *rows, true);
}

/* ---- from values to options -------------------------------------------------------------------------------------- */

static int refuse(const char *flag, const char *reason, char *err, size_t err_bytes) {
    return fail(err, err_bytes, STATUS_UNSUPPORTED, "%s: %s", flag, reason);
}

static int refuse_unsupported(const struct serve_model_flags *f, char *err, size_t err_bytes) {
    const char *one = "expected 1: a model is served by one device here";
    if (f->tensor_parallel > 1) return refuse("tensor-parallel-size", one, err, err_bytes);
    if (f->pipeline_parallel > 1) return refuse("pipeline-parallel-size", one, err, err_bytes);
    if (f->data_parallel > 1) return refuse("data-parallel-size", one, err, err_bytes);
    if (f->expert_parallel)
        return refuse("enable-expert-parallel", "there are no models with experts here yet", err, err_bytes);
    return 0;
}

/* --default-chat-template-kwargs '{"enable_thinking": false}' */
static int parse_template_kwargs(const char *text, int *enable_thinking, char *err, size_t err_bytes) {
    char reason[ERR_BYTES];
    bool value = true;
    cJSON *tree;
    if (!text) return 0;
    int status = json_parse(&tree, text, strlen(text), (struct json_limits){1 << 16, 16}, reason, sizeof reason);
    if (!status && !cJSON_IsObject(tree))
        status = fail(reason, sizeof reason, STATUS_INVALID, "expected a JSON object, found %s", json_kind(tree));
    if (!status) status = json_get_bool(tree, "enable_thinking", &value, reason, sizeof reason);
    if (!status && json_find(tree, "enable_thinking")) *enable_thinking = value;
    cJSON_Delete(tree);
    return status ? refuse("default-chat-template-kwargs", reason, err, err_bytes) : 0;
}

/* Sentences begin with the flag's name. */
static int finish_model(struct server_model_options *m, const struct serve_model_flags *f, char *err,
                        size_t err_bytes) {
    const size_t floor = m->engine.kv_cache_floor_bytes, ceiling = m->engine.kv_cache_ceiling_bytes;
    int status = refuse_unsupported(f, err, err_bytes);
    if (!status) status = parse_template_kwargs(f->template_kwargs, &m->enable_thinking, err, err_bytes);
    if (status) return status;
    if (ceiling && floor > ceiling)
        return fail(err, err_bytes, STATUS_INVALID,
                    "kv-cache-floor-bytes: expected at most kv-cache-ceiling-bytes, which is %zu, found %zu", ceiling,
                    floor);
    m->served_names = f->names.items;
    m->n_served_names = (int)f->names.n;
    for (size_t i = 0; i < f->roles.n; i++)
        for (int r = 0; server_role_names[r]; r++)
            if (!strcmp(f->roles.items[i], server_role_names[r])) m->roles |= 1u << r;
    m->engine.policy = !strcmp(f->policy, "priority") ? POLICY_PRIORITY : POLICY_FCFS;
    m->engine.seed = (uint64_t)f->seed;
    m->checkpoint_sampling = !strcmp(f->generation_config, "auto");
    m->split_reasoning = strcmp(f->reasoning_parser, "none") != 0;
    return 0;
}

static int milliseconds(double seconds) {
    return (int)(1000 * seconds);
}

static void finish_server(struct server_options *o, const struct serve_flags *f) {
    o->api_keys = f->keys.items;
    o->n_api_keys = f->keys.n;
    o->log_json = !strcmp(f->log_format, "json");
    o->log_requests = !f->disable_log_requests;
    log_level_by_name(f->log_level, &o->log_level);
    o->http.header_timeout_ms = milliseconds(f->header_timeout);
    o->http.body_timeout_ms = milliseconds(f->body_timeout);
    o->http.idle_timeout_ms = milliseconds(f->idle_timeout);
    o->http.write_timeout_ms = milliseconds(f->write_timeout);
    o->http.cors_origin = strcmp(f->cors, "none") ? f->cors : NULL;
}

/* ---- the models of a config file --------------------------------------------------------------------------------- */

/* models[1] (Qwen/Qwen3-14B-AWQ) */
static const char *show_entry(const struct serve_config *c, int i, char buffer[192]) {
    char shown[160];
    const char *model = c->models[i].engine.model;
    snprintf(buffer, 192, model ? "models[%d] (%s)" : "models[%d]", i,
             model ? json_quote(model, shown, sizeof shown) : "");
    return buffer;
}

static int read_entry(struct serve_config *c, const cJSON *entry, int i, char *err, size_t err_bytes) {
    struct server_model_options *m = &c->models[i];
    struct option_spec table[SERVE_MAX_FLAGS] = {0};
    struct engine_options device = c->models[0].engine; /* as the flags at the top say */
    add_model_flags(table, m, &c->model_flags[i]);
    add_entry_flags(table, m, &c->model_flags[i]);
    m->engine.backend = device.backend;
    m->engine.n_threads = device.n_threads;
    m->engine.gpu_memory_utilization = device.gpu_memory_utilization;
    m->engine.kv_cache_memory_bytes = device.kv_cache_memory_bytes;
    if (!cJSON_IsObject(entry))
        return fail(err, err_bytes, STATUS_INVALID, "expected an object, found %s", json_kind(entry));
    int status = options_read_object(table, c->specs, entry, err, err_bytes);
    if (!status && !(m->engine.model && *m->engine.model))
        status = fail(err, err_bytes, STATUS_INVALID, "model: expected a path or a name, found %s",
                      m->engine.model ? "an empty text" : "nothing");
    return status ? status : finish_model(m, &c->model_flags[i], err, err_bytes);
}

/* Names are one model's, and so are the roles that somebody is looked up by. */
static int check_distinct(const struct serve_config *c, int i, char *err, size_t err_bytes) {
    const struct server_model_options *m = &c->models[i];
    const unsigned exclusive = ROLE_LARGE | ROLE_SMALL | ROLE_EMBEDDER;
    const char *const *mine = m->n_served_names ? m->served_names : &m->engine.model;
    char entry[192], quoted[128];
    for (int k = 0; k < i; k++) {
        const struct server_model_options *other = &c->models[k];
        const char *const *theirs = other->n_served_names ? other->served_names : &other->engine.model;
        for (int r = 0; server_role_names[r]; r++)
            if (m->roles & other->roles & exclusive & 1u << r)
                return fail(err, err_bytes, STATUS_INVALID, "role: expected one %s model, found %s to be it too",
                            server_role_names[r], show_entry(c, k, entry));
        for (int a = 0; a < (m->n_served_names ? m->n_served_names : 1); a++)
            for (int b = 0; b < (other->n_served_names ? other->n_served_names : 1); b++)
                if (!strcmp(mine[a], theirs[b]))
                    return fail(err, err_bytes, STATUS_INVALID,
                                "served-model-name: expected a name of its own, found \"%s\", which is %s's too",
                                json_quote(mine[a], quoted, sizeof quoted), show_entry(c, k, entry));
    }
    return 0;
}

/* The floors up to this model's, where the pool's size is a number. */
static int check_floors(const struct serve_config *c, int i, char *err, size_t err_bytes) {
    const size_t pool = c->models[i].engine.kv_cache_memory_bytes;
    size_t sum = 0;
    for (int k = 0; k <= i; k++) sum += c->models[k].engine.kv_cache_floor_bytes;
    if (!pool || sum <= pool) return 0;
    return fail(err, err_bytes, STATUS_INVALID,
                "kv-cache-floor-bytes: expected at most kv-cache-memory-bytes, which is %zu, of all models together, "
                "found %zu",
                pool, sum);
}

static int read_entries(struct serve_config *c, char *err, size_t err_bytes) {
    const int n = cJSON_GetArraySize(c->flags.models);
    const cJSON *entry;
    char reason[ERR_BYTES], shown[192];
    if (n < 1 || n > DEPLOYMENT_MAX_MODELS)
        return fail(err, err_bytes, STATUS_INVALID, "models: expected 1 to %d models, found %d", DEPLOYMENT_MAX_MODELS,
                    n);
    c->server.n_models = 0;
    cJSON_ArrayForEach(entry, c->flags.models) {
        const int i = c->server.n_models++;
        int status = read_entry(c, entry, i, reason, sizeof reason);
        if (!status) status = check_distinct(c, i, reason, sizeof reason);
        if (!status) status = check_floors(c, i, reason, sizeof reason);
        if (status) return fail(err, err_bytes, status, "%s: %s", show_entry(c, i, shown), reason);
    }
    return 0;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

bool serve_config_parse(struct serve_config *c, int argc, char **argv, int *exit_code) {
    static const struct command_help help = {
        .name = "serve",
        .operands = "MODEL",
        .summary =
            "Serves a model over HTTP with OpenAI's API. MODEL is a folder in Hugging Face layout, or a name in\n"
            "the local Hugging Face cache. SIGTERM lets running requests finish.\n\n"
            "Several models in one process: instead of MODEL a --config FILE whose \"models\" is an array of objects.\n"
            "Each has \"model\"; where wanted \"role\": large, small, draft, embedder, or several of them; and its "
            "own\n"
            "flags, which are those below from \"Model\" on, kv-cache-floor-bytes and kv-cache-ceiling-bytes.",
        .example =
            "tandem serve weights/sample/small --served-model-name small --port 8000\n"
            "  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\\n"
            "       -d '{\"model\": \"small\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'\n\n"
            "  tandem serve --config deployment.json, where the file says:\n"
            "  {\"port\": 8000, \"gpu-memory-utilization\": 0.9, \"models\": [\n"
            "    {\"model\": \"Qwen/Qwen3-14B-AWQ\", \"served-model-name\": \"qwen3\", \"role\": \"large\",\n"
            "     \"max-num-seqs\": 6, \"kv-cache-dtype\": \"fp8\"},\n"
            "    {\"model\": \"Qwen/Qwen2.5-3B-Instruct\", \"role\": [\"small\", \"draft\"], "
            "\"max-model-len\": 4096}]}",
        .min_operands = 1,
        .max_operands = 1,
    };
    char err[ERR_BYTES];

    c->server = server_default_options();
    c->server.http.port = 8000;
    c->server.models = c->models;
    c->server.n_models = 1;
    add_server_flags(c->specs, &c->server, &c->flags);
    add_device_flags(c->specs, &c->models[0].engine);
    add_model_flags(c->specs, &c->models[0], &c->model_flags[0]);
    if (!options_parse(&c->options, &help, c->specs, argc, argv, exit_code)) return false;
    finish_server(&c->server, &c->flags);
    if (c->flags.models) {
        if (!read_entries(c, err, sizeof err)) return true;
        fprintf(stderr, "tandem serve: --config: %s: %s\n", c->options.config_path, err);
    } else {
        c->models[0].engine.model = c->options.operands.items[0];
        if (!finish_model(&c->models[0], &c->model_flags[0], err, sizeof err)) return true;
        fprintf(stderr, "tandem serve: --%s\n", err);
    }
    *exit_code = 2;
    return false;
}

void serve_config_deinit(struct serve_config *c) {
    for (int i = 0; i < c->server.n_models; i++) {
        if (i) free(c->model_flags[i].names.items); /* the first model's is in the command's table */
        free(c->model_flags[i].roles.items);
    }
    options_deinit(&c->options);
    *c = (struct serve_config){0};
}
