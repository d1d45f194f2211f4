/* api_request.c - request bodies to parameters; see api_request.h.
 *
 * Plain fields stand in tables: name, type, place, range. What needs more than a range has a function of its own below
 * them. Ranges are OpenAI's, widened where vLLM's are wider. */
#include "server/api_request.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STOP_STRINGS              16 /* the text stream's bounds */
#define MAX_STOP_BYTES                1024
#define MAX_N                         128
#define MAX_ID_BYTES                  128
#define MAX_SALT_BYTES                1024
#define COMPLETION_DEFAULT_MAX_TOKENS 16

int api_error_set(struct api_error *error, int http_status, const char *param, const char *format, ...) {
    va_list args;
    error->status = http_status;
    snprintf(error->param, sizeof error->param, "%s", param ? param : "");
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    return STATUS_INVALID;
}

/* A member, NULL where it is absent or null. */
static const cJSON *member(const cJSON *object, const char *name) {
    const cJSON *item = json_find(object, name);
    return cJSON_IsNull(item) ? NULL : item;
}

static int wrong_type(struct api_error *error, const char *param, const char *expected, const cJSON *found) {
    char shown[64];
    return api_error_set(error, 400, param, "%s: expected %s, found %s", param, expected,
                         json_show(found, shown, sizeof shown));
}

static void *allocate(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    CHECK(p);
    return p;
}

/* ---- plain fields ------------------------------------------------------------------------------------------------ */

struct field {
    const char *name;
    enum { FIELD_FLOAT, FIELD_INT, FIELD_BOOL, FIELD_STRING } type;
    size_t offset; /* in struct api_request */
    double low, high;
};
#define FIELD(NAME, TYPE, PLACE, ...)                                                                                  \
    { NAME, FIELD_##TYPE, offsetof(struct api_request, PLACE), __VA_ARGS__ }

static const struct field identity_fields[] = {
    FIELD("model", STRING, model, 0, 0),
    FIELD("request_id", STRING, request_id, 0, MAX_ID_BYTES),
    FIELD("cache_salt", STRING, cache_salt, 1, MAX_SALT_BYTES),
    {0},
};

static const struct field generation_fields[] = {
    FIELD("temperature", FLOAT, sampling.temperature, 0, 2),
    FIELD("top_p", FLOAT, sampling.top_p, 0, 1),
    FIELD("min_p", FLOAT, sampling.min_p, 0, 1),
    FIELD("top_k", INT, sampling.top_k, -1, INT_MAX),
    FIELD("presence_penalty", FLOAT, sampling.presence_penalty, -2, 2),
    FIELD("frequency_penalty", FLOAT, sampling.frequency_penalty, -2, 2),
    FIELD("repetition_penalty", FLOAT, sampling.repetition_penalty, 1e-3, 1e3),
    FIELD("min_tokens", INT, sampling.min_tokens, 0, INT_MAX),
    FIELD("ignore_eos", BOOL, sampling.ignore_eos, 0, 0),
    FIELD("include_stop_str_in_output", BOOL, sampling.include_stop_str_in_output, 0, 0),
    FIELD("skip_special_tokens", BOOL, sampling.skip_special_tokens, 0, 0),
    FIELD("n", INT, n, 1, MAX_N),
    FIELD("stream", BOOL, stream, 0, 0),
    FIELD("echo", BOOL, echo, 0, 0),
    FIELD("priority", INT, priority, INT_MIN, INT_MAX),
    FIELD("truncate_prompt_tokens", INT, truncate_prompt_tokens, -1, INT_MAX),
    FIELD("return_token_ids", BOOL, return_token_ids, 0, 0),
    FIELD("return_tokens_as_token_ids", BOOL, return_tokens_as_token_ids, 0, 0),
    {0},
};

static const struct field template_fields[] = {
    FIELD("include_reasoning", BOOL, include_reasoning, 0, 0),
    FIELD("add_special_tokens", BOOL, add_special_tokens, 0, 0),
    FIELD("add_generation_prompt", BOOL, chat.add_generation_prompt, 0, 0),
    FIELD("continue_final_message", BOOL, chat.continue_final_message, 0, 0),
    FIELD("parallel_tool_calls", BOOL, parallel_tool_calls, 0, 0),
    {0},
};

static const struct field tokenize_fields[] = {
    FIELD("return_token_strs", BOOL, return_token_strs, 0, 0),
    FIELD("add_special_tokens", BOOL, add_special_tokens, 0, 0),
    {0},
};

static const struct field embedding_fields[] = {
    FIELD("truncate_prompt_tokens", INT, truncate_prompt_tokens, -1, INT_MAX),
    FIELD("add_special_tokens", BOOL, add_special_tokens, 0, 0),
    FIELD("dimensions", INT, dimensions, 1, INT_MAX),
    {0},
};

static int parse_field(struct api_request *r, const struct field *f, struct api_error *error) {
    void *place = (char *)r + f->offset;
    const char *string = NULL;
    double number = NAN;
    int64_t integer = INT64_MIN;
    int status = 0;

    switch (f->type) {
    case FIELD_FLOAT:
        status = json_get_double(r->tree, f->name, f->low, f->high, &number, error->message, sizeof error->message);
        if (!status && !isnan(number)) *(float *)place = (float)number;
        break;
    case FIELD_INT:
        status = json_get_int(r->tree, f->name, (int64_t)f->low, (int64_t)f->high, &integer, error->message,
                              sizeof error->message);
        if (!status && integer != INT64_MIN) *(int *)place = (int)integer;
        break;
    case FIELD_BOOL:
        status = json_get_bool(r->tree, f->name, place, error->message, sizeof error->message);
        break;
    case FIELD_STRING:
        status = json_get_string(r->tree, f->name, &string, error->message, sizeof error->message);
        if (!status && string && f->high > 0 && (strlen(string) < f->low || strlen(string) > f->high))
            return api_error_set(error, 400, f->name, "%s: expected %g to %g bytes, found %zu", f->name, f->low,
                                 f->high, strlen(string));
        if (!status && string) *(const char **)place = string;
        break;
    }
    if (!status) return 0;
    error->status = 400;
    snprintf(error->param, sizeof error->param, "%s", f->name);
    return STATUS_INVALID;
}

static int parse_fields(struct api_request *r, const struct field *fields, struct api_error *error) {
    int status = 0;
    for (const struct field *f = fields; f->name && !status; f++) status = parse_field(r, f, error);
    return status;
}

/* A string that is one of `choices`, which ends with NULL; *chosen stays where it is absent. */
static int parse_choice(struct api_request *r, const char *name, const char *const *choices, int *chosen,
                        struct api_error *error) {
    const cJSON *item = member(r->tree, name);
    char expected[128] = "";
    if (!item) return 0;
    for (int i = 0, n = 0; choices[i]; i++) {
        if (cJSON_IsString(item) && !strcmp(item->valuestring, choices[i])) {
            *chosen = i;
            return 0;
        }
        n += snprintf(expected + n, sizeof expected - (size_t)n, "%s\"%s\"", i ? " or " : "", choices[i]);
    }
    return wrong_type(error, name, expected, item);
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

static const struct {
    const char *name, *why;
} refused[] = {
    {"structured_outputs", "structured output is not supported by this server"},
    {"guided_json", "structured output is not supported by this server"},
    {"guided_regex", "structured output is not supported by this server"},
    {"guided_choice", "structured output is not supported by this server"},
    {"guided_grammar", "structured output is not supported by this server"},
    {"bad_words", "banned words are not supported by this server; logit_bias of -100 bans single tokens"},
    {"thinking_token_budget", "a budget of thinking tokens is not supported by this server; "
                              "chat_template_kwargs.enable_thinking = false turns thinking off"},
    {"use_beam_search", "beam search is not supported by this server"},
    {"prompt_embeds", "prompts as embeddings are not supported by this server"},
    {"suffix", "a suffix is not supported by this server"},
    {"functions", "functions are not supported by this server; use tools"},
    {"function_call", "function_call is not supported by this server; use tool_choice"},
    {"audio", "audio is not supported by this server"},
    {"chat_template", "a template of the request's own is not supported by this server; --chat-template chooses one"},
};

/* null, false, "", [] and {} ask for nothing. */
static bool asks_for_nothing(const cJSON *item) {
    return !item || cJSON_IsFalse(item) || (cJSON_IsString(item) && !item->valuestring[0]) ||
           ((cJSON_IsArray(item) || cJSON_IsObject(item)) && !item->child);
}

static int check_refused(const cJSON *tree, struct api_error *error) {
    const cJSON *format = member(tree, "response_format"), *type = member(format, "type");
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (!asks_for_nothing(member(tree, refused[i].name)))
            return api_error_set(error, 400, refused[i].name, "%s: %s", refused[i].name, refused[i].why);
    if (!format) return 0;
    if (!cJSON_IsString(type)) return wrong_type(error, "response_format", "an object with a type", format);
    if (strcmp(type->valuestring, "text"))
        return api_error_set(error, 400, "response_format",
                             "response_format: only type \"text\" is supported by this server");
    return 0;
}

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

static int parse_max_tokens(struct api_request *r, struct api_error *error) {
    static const char *const names[] = {"max_tokens", "max_completion_tokens"}; /* the later one wins */
    bool completion = r->kind == API_COMPLETION;
    int64_t value = -1;
    r->sampling.max_tokens = completion ? COMPLETION_DEFAULT_MAX_TOKENS : 0;
    for (int i = 0; i < (completion ? 1 : 2); i++)
        if (json_get_int(r->tree, names[i], completion ? 0 : 1, INT_MAX, &value, error->message,
                         sizeof error->message)) {
            error->status = 400;
            snprintf(error->param, sizeof error->param, "%s", names[i]);
            return STATUS_INVALID;
        }
    if (value >= 0) r->sampling.max_tokens = (int)value;
    if (value == 0) r->sampling.prompt_only = true;
    if (r->sampling.max_tokens > 0 && r->sampling.min_tokens > r->sampling.max_tokens)
        return api_error_set(error, 400, "min_tokens", "min_tokens: expected at most max_tokens = %d, found %d",
                             r->sampling.max_tokens, r->sampling.min_tokens);
    return 0;
}

/* Any integer of 64 bits, of either sign. */
static int parse_seed(struct api_request *r, struct api_error *error) {
    const cJSON *item = member(r->tree, "seed");
    if (!item) return 0;
    double v = item->valuedouble;
    if (!cJSON_IsNumber(item) || v != floor(v) || v < -0x1p63 || v >= 0x1p64)
        return wrong_type(error, "seed", "an integer of 64 bits", item);
    r->sampling.has_seed = true;
    r->sampling.seed = v < 0 ? (uint64_t)(int64_t)v : (uint64_t)v;
    return 0;
}

static int parse_stop(struct api_request *r, struct api_error *error) {
    const cJSON *item = member(r->tree, "stop"), *entry;
    int n = cJSON_IsArray(item) ? cJSON_GetArraySize(item) : 1;
    if (!item || n == 0) return 0;
    if (!cJSON_IsArray(item) && !cJSON_IsString(item)) return wrong_type(error, "stop", "a string or an array", item);
    if (n > MAX_STOP_STRINGS)
        return api_error_set(error, 400, "stop", "stop: expected at most %d strings, found %d", MAX_STOP_STRINGS, n);
    const char **stop = allocate((size_t)n, sizeof *stop);
    r->sampling.stop = stop;
    for (entry = cJSON_IsArray(item) ? item->child : item; r->sampling.n_stop < n; entry = entry->next) {
        size_t bytes = cJSON_IsString(entry) ? strlen(entry->valuestring) : 0;
        if (!cJSON_IsString(entry)) return wrong_type(error, "stop", "strings", entry);
        if (!bytes || bytes > MAX_STOP_BYTES)
            return api_error_set(error, 400, "stop", "stop: expected strings of 1 to %d bytes, found one of %zu",
                                 MAX_STOP_BYTES, bytes);
        stop[r->sampling.n_stop++] = entry->valuestring;
    }
    return 0;
}

static bool is_token_id(const cJSON *item, int vocab) {
    return cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < vocab &&
           item->valuedouble == floor(item->valuedouble);
}

/* An array of token ids into *ids (malloc'ed) and *n. */
static int parse_ids(const cJSON *array, const char *param, int vocab, int32_t **ids, size_t *n,
                     struct api_error *error) {
    char expected[64];
    const cJSON *item;
    size_t count = (size_t)cJSON_GetArraySize(array);
    snprintf(expected, sizeof expected, "token ids from 0 to %d", vocab - 1);
    *ids = allocate(count, sizeof **ids);
    *n = 0;
    cJSON_ArrayForEach(item, array) {
        if (!is_token_id(item, vocab)) return wrong_type(error, param, expected, item);
        (*ids)[(*n)++] = (int32_t)item->valuedouble;
    }
    return 0;
}

/* stop_token_ids, allowed_token_ids: an optional array of ids. */
static int parse_id_list(struct api_request *r, const char *name, int vocab, const int32_t **out, int *n_out,
                         struct api_error *error) {
    const cJSON *item = member(r->tree, name);
    int32_t *ids = NULL;
    size_t n = 0;
    if (!item) return 0;
    if (!cJSON_IsArray(item)) return wrong_type(error, name, "an array of token ids", item);
    int status = parse_ids(item, name, vocab, &ids, &n, error);
    *out = ids;
    *n_out = (int)n;
    return status;
}

static int compare_bias(const void *a, const void *b) {
    int32_t x = ((const struct token_bias *)a)->id, y = ((const struct token_bias *)b)->id;
    return (x > y) - (x < y);
}

/* {"id": bias}: keys are decimal token ids, values -100 .. 100. */
static int parse_logit_bias(struct api_request *r, int vocab, struct api_error *error) {
    const cJSON *item = member(r->tree, "logit_bias"), *entry;
    struct token_bias *biases;
    int n = 0;
    if (!item) return 0;
    if (!cJSON_IsObject(item)) return wrong_type(error, "logit_bias", "an object", item);
    r->sampling.logit_bias = biases = allocate((size_t)cJSON_GetArraySize(item), sizeof *biases);
    cJSON_ArrayForEach(entry, item) {
        char *end, shown[64];
        long id = strtol(entry->string, &end, 10);
        if (!*entry->string || *end || strspn(entry->string, "0123456789") != strlen(entry->string) || id >= vocab)
            return api_error_set(error, 400, "logit_bias", "logit_bias: expected token ids from 0 to %d, found \"%s\"",
                                 vocab - 1, json_quote(entry->string, shown, sizeof shown));
        if (!cJSON_IsNumber(entry) || fabs(entry->valuedouble) > 100)
            return wrong_type(error, "logit_bias", "values from -100 to 100", entry);
        biases[n++] = (struct token_bias){.id = (int32_t)id, .bias = (float)entry->valuedouble};
    }
    qsort(biases, (size_t)n, sizeof *biases, compare_bias);
    for (int i = 1; i < n; i++)
        if (biases[i].id == biases[i - 1].id)
            return api_error_set(error, 400, "logit_bias", "logit_bias: token id %d is there twice", biases[i].id);
    r->sampling.n_logit_bias = n;
    return 0;
}

/* chat: logprobs is a boolean and top_logprobs a count; completions: logprobs is the count. */
static int parse_logprobs(struct api_request *r, int max_logprobs, struct api_error *error) {
    char *err = error->message;
    size_t err_bytes = sizeof error->message;
    const char *name = "logprobs";
    bool on = false;
    int64_t top = -1, prompt = -1;
    int status = 0;

    if (r->kind == API_COMPLETION)
        status = json_get_int(r->tree, name, 0, max_logprobs, &top, err, err_bytes);
    else {
        status = json_get_bool(r->tree, name, &on, err, err_bytes);
        if (!status) {
            name = "top_logprobs";
            status = json_get_int(r->tree, name, 0, max_logprobs, &top, err, err_bytes);
        }
        if (!status && top > 0 && !on)
            return api_error_set(error, 400, name, "top_logprobs: expected logprobs = true with it");
        top = !on ? -1 : top < 0 ? 0 : top;
    }
    if (!status) {
        name = "prompt_logprobs";
        status = json_get_int(r->tree, name, 0, max_logprobs, &prompt, err, err_bytes);
    }
    if (status) {
        error->status = 400;
        snprintf(error->param, sizeof error->param, "%s", name);
        return STATUS_INVALID;
    }
    if (prompt >= 0 && r->stream)
        return api_error_set(error, 400, name, "prompt_logprobs: not available with stream = true");
    r->show_prompt_logprobs = prompt >= 0;
    if (r->kind == API_COMPLETION && r->echo && top > prompt) prompt = top;
    r->sampling.logprobs = (int)top;
    r->sampling.prompt_logprobs = (int)prompt;
    return 0;
}

static int parse_stream_options(struct api_request *r, bool force_usage, struct api_error *error) {
    const cJSON *item = member(r->tree, "stream_options");
    if (item && !cJSON_IsObject(item)) return wrong_type(error, "stream_options", "an object", item);
    if (item && item->child && !r->stream)
        return api_error_set(error, 400, "stream_options", "stream_options: only with stream = true");
    if (json_get_bool(item, "include_usage", &r->include_usage, error->message, sizeof error->message) ||
        json_get_bool(item, "continuous_usage_stats", &r->continuous_usage, error->message, sizeof error->message)) {
        error->status = 400;
        snprintf(error->param, sizeof error->param, "stream_options");
        return STATUS_INVALID;
    }
    r->include_usage |= force_usage;
    r->continuous_usage &= r->include_usage;
    return 0;
}

static int parse_generation(struct api_request *r, const struct api_defaults *d, struct api_error *error) {
    const cJSON *best_of = member(r->tree, "best_of");
    int status = parse_fields(r, generation_fields, error);
    if (!status) status = check_refused(r->tree, error);
    if (!status) status = parse_max_tokens(r, error);
    if (!status) status = parse_seed(r, error);
    if (!status) status = parse_stop(r, error);
    if (!status)
        status = parse_id_list(r, "stop_token_ids", d->vocab, &r->sampling.stop_token_ids,
                               &r->sampling.n_stop_token_ids, error);
    if (!status)
        status = parse_id_list(r, "allowed_token_ids", d->vocab, &r->sampling.allowed_token_ids,
                               &r->sampling.n_allowed_token_ids, error);
    if (!status && r->sampling.allowed_token_ids && !r->sampling.n_allowed_token_ids)
        status = api_error_set(error, 400, "allowed_token_ids", "allowed_token_ids: expected at least one, found none");
    if (!status) status = parse_logit_bias(r, d->vocab, error);
    if (!status) status = parse_logprobs(r, d->max_logprobs, error);
    if (!status) status = parse_stream_options(r, d->force_include_usage, error);
    if (status) return status;
    if (best_of && (!cJSON_IsNumber(best_of) || best_of->valuedouble != r->n))
        return api_error_set(error, 400, "best_of", "best_of: only the value of n (%d) is supported", r->n);
    if (r->sampling.top_p == 0) { /* a nucleus without mass holds the most likely token */
        r->sampling.top_p = 1;
        r->sampling.top_k = 1;
    }
    return 0;
}

/* ---- messages and tools ------------------------------------------------------------------------------------------ */

static int parse_template_kwargs(struct api_request *r, int default_thinking, struct api_error *error) {
    const cJSON *kwargs = member(r->tree, "chat_template_kwargs"), *thinking = member(kwargs, "enable_thinking");
    const char *effort = NULL;
    if (kwargs && !cJSON_IsObject(kwargs)) return wrong_type(error, "chat_template_kwargs", "an object", kwargs);
    if (thinking && !cJSON_IsBool(thinking))
        return api_error_set(error, 400, "chat_template_kwargs",
                             "chat_template_kwargs.enable_thinking: expected true or false, found %s",
                             json_kind(thinking));
    if (json_get_string(r->tree, "reasoning_effort", &effort, error->message, sizeof error->message)) {
        error->status = 400;
        snprintf(error->param, sizeof error->param, "reasoning_effort");
        return STATUS_INVALID;
    }
    r->chat.enable_thinking = default_thinking;
    if (effort && !strcmp(effort, "none")) r->chat.enable_thinking = 0;
    if (thinking) r->chat.enable_thinking = cJSON_IsTrue(thinking);
    return 0;
}

static int parse_tools(struct api_request *r, struct api_error *error) {
    const cJSON *tools = member(r->tree, "tools"), *choice = member(r->tree, "tool_choice"), *tool;
    if (tools && !cJSON_IsArray(tools)) return wrong_type(error, "tools", "an array", tools);
    cJSON_ArrayForEach(tool, tools) {
        const cJSON *function = member(tool, "function"), *type = member(tool, "type");
        if (!cJSON_IsObject(tool) || (type && (!cJSON_IsString(type) || strcmp(type->valuestring, "function"))) ||
            !cJSON_IsString(member(function, "name")))
            return api_error_set(error, 400, "tools",
                                 "tools: expected objects {\"type\": \"function\", \"function\": {\"name\": ...}}");
    }
    if (choice && !cJSON_IsString(choice) && !cJSON_IsObject(choice))
        return wrong_type(error, "tool_choice", "\"none\" or \"auto\"", choice);
    if (choice &&
        (!cJSON_IsString(choice) || (strcmp(choice->valuestring, "none") && strcmp(choice->valuestring, "auto"))))
        return api_error_set(error, 400, "tool_choice",
                             "tool_choice: only \"none\" and \"auto\" are supported by this server");
    if (tools && tools->child && !(choice && !strcmp(choice->valuestring, "none"))) r->tools = tools;
    return 0;
}

static int parse_messages(struct api_request *r, const struct api_defaults *d, struct api_error *error) {
    int status = parse_fields(r, template_fields, error);
    if (status) return status;
    r->messages = member(r->tree, "messages");
    if (!cJSON_IsArray(r->messages)) return wrong_type(error, "messages", "an array of messages", r->messages);
    if (!r->messages->child)
        return api_error_set(error, 400, "messages", "messages: expected at least one message, found none");
    if (r->chat.continue_final_message) {
        if (cJSON_IsTrue(member(r->tree, "add_generation_prompt")))
            return api_error_set(error, 400, "continue_final_message",
                                 "continue_final_message: not together with add_generation_prompt = true");
        r->chat.add_generation_prompt = false;
    }
    status = parse_template_kwargs(r, d->enable_thinking, error);
    return status ? status : parse_tools(r, error);
}

/* ---- prompts ----------------------------------------------------------------------------------------------------- */

static int parse_prompt(struct api_request *r, const cJSON *item, int vocab, const char *param,
                        struct api_error *error) {
    struct api_prompt *p = &r->prompts[r->n_prompts++];
    if (cJSON_IsString(item)) {
        p->text = item->valuestring;
        p->text_bytes = strlen(p->text);
        if (!p->text_bytes && r->kind == API_COMPLETION)
            return api_error_set(error, 400, param, "%s: expected at least one token, found an empty text", param);
        return 0;
    }
    if (!cJSON_IsArray(item)) return wrong_type(error, param, "a text or an array of token ids", item);
    if (!item->child && r->kind == API_COMPLETION)
        return api_error_set(error, 400, param, "%s: expected at least one token, found none", param);
    return parse_ids(item, param, vocab, &p->ids, &p->n_ids, error);
}

/* Completions, embeddings: a text, an array of ids, or an array of either. */
static int parse_prompts(struct api_request *r, int vocab, const char *param, struct api_error *error) {
    const cJSON *item = member(r->tree, param), *entry;
    if (!item || (!cJSON_IsString(item) && !cJSON_IsArray(item)))
        return wrong_type(error, param, "a text, texts, or token ids", item);
    if (cJSON_IsString(item) || cJSON_IsNumber(item->child)) {
        r->prompts = allocate(1, sizeof *r->prompts);
        return parse_prompt(r, item, vocab, param, error);
    }
    int n = cJSON_GetArraySize(item), status = 0;
    if (n == 0) return api_error_set(error, 400, param, "%s: expected at least one %s, found none", param, param);
    if (n > API_MAX_CHOICES / r->n)
        return r->n == 1 ? api_error_set(error, 400, param, "%s: expected at most %d %ss, found %d", param,
                                         API_MAX_CHOICES, param, n)
                         : api_error_set(error, 400, param, "%s: expected at most %d %ss times n, found %d times %d",
                                         param, API_MAX_CHOICES, param, n, r->n);
    r->prompts = allocate((size_t)n, sizeof *r->prompts);
    cJSON_ArrayForEach(entry, item) {
        status = parse_prompt(r, entry, vocab, param, error);
        if (status) return status;
    }
    return 0;
}

/* A vector's form that would be another vector than the model's is refused. */
static int check_vector(const struct api_request *r, const struct api_defaults *d, struct api_error *error) {
    const cJSON *normalize = member(r->tree, "normalize");
    if (r->dimensions && r->dimensions != d->dimensions)
        return api_error_set(error, 400, "dimensions",
                             "dimensions: this model's vectors have %d dimensions, and it was not trained for shorter "
                             "ones (Matryoshka): expected %d or nothing, found %d",
                             d->dimensions, d->dimensions, r->dimensions);
    if (normalize && !cJSON_IsBool(normalize)) return wrong_type(error, "normalize", "true or false", normalize);
    if (normalize && cJSON_IsTrue(normalize) != d->normalized)
        return api_error_set(error, 400, "normalize", "normalize: this model's vectors are %s: expected %s or nothing",
                             d->normalized ? "normalized" : "not normalized", d->normalized ? "true" : "false");
    return 0;
}

static int parse_embedding(struct api_request *r, const struct api_defaults *d, struct api_error *error) {
    static const char *const formats[] = {"float", "base64", NULL}, *const sides[] = {"right", "left", NULL},
                             *const dtypes[] = {"float32", NULL}, *const orders[] = {"little", "native", NULL};
    int format = 0, side = 0, dtype = 0, order = 0;
    int status = parse_fields(r, embedding_fields, error);
    if (!status) status = parse_choice(r, "encoding_format", formats, &format, error);
    if (!status) status = parse_choice(r, "truncation_side", sides, &side, error);
    if (!status) status = parse_choice(r, "embed_dtype", dtypes, &dtype, error);
    if (!status) status = parse_choice(r, "endianness", orders, &order, error);
    if (!status) status = check_vector(r, d, error);
    r->as_base64 = format == 1;
    r->keep_last = side == 1;
    r->sampling.prompt_only = true;
    return status ? status : parse_prompts(r, d->vocab, "input", error);
}

static int parse_tokenize(struct api_request *r, const struct api_defaults *d, struct api_error *error) {
    const cJSON *prompt = member(r->tree, "prompt");
    int status = parse_fields(r, tokenize_fields, error);
    if (status) return status;
    if (member(r->tree, "messages")) return parse_messages(r, d, error);
    if (!cJSON_IsString(prompt)) return wrong_type(error, "prompt", "a text (or messages)", prompt);
    r->prompts = allocate(1, sizeof *r->prompts);
    return parse_prompt(r, prompt, d->vocab, "prompt", error);
}

static int parse_detokenize(struct api_request *r, const struct api_defaults *d, struct api_error *error) {
    const cJSON *tokens = member(r->tree, "tokens");
    if (!cJSON_IsArray(tokens)) return wrong_type(error, "tokens", "an array of token ids", tokens);
    r->prompts = allocate(1, sizeof *r->prompts);
    return parse_prompt(r, tokens, d->vocab, "tokens", error);
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static int open_tree(struct api_request *r, struct api_error *error) {
    const cJSON *item;
    int n_members = 0;
    if (!cJSON_IsObject(r->tree))
        return api_error_set(error, 400, NULL, "expected a JSON object, found %s", json_kind(r->tree));
    cJSON_ArrayForEach(item, r->tree) n_members++;
    if (n_members > API_MAX_MEMBERS)
        return api_error_set(error, 400, NULL, "expected at most %d fields, found %d", API_MAX_MEMBERS, n_members);
    int status = parse_fields(r, identity_fields, error);
    if (r->model && !r->model[0]) r->model = NULL;
    return status;
}

int api_request_open(struct api_request *out, enum api_kind kind, const char *body, size_t bytes,
                     struct api_error *error) {
    struct json_limits limits = {.max_bytes = bytes, .max_depth = API_MAX_DEPTH};
    *error = (struct api_error){0};
    *out = (struct api_request){.kind = kind};
    int status = json_parse(&out->tree, body, bytes, limits, error->message, sizeof error->message);
    if (status)
        error->status = 400;
    else
        status = open_tree(out, error);
    if (!status) return 0;
    api_request_deinit(out);
    return STATUS_INVALID;
}

static int read_tree(struct api_request *r, const struct api_defaults *d, struct api_error *error) {
    int status;
    switch (r->kind) {
    case API_CHAT:
        status = parse_generation(r, d, error);
        return status ? status : parse_messages(r, d, error);
    case API_COMPLETION:
        status = parse_generation(r, d, error);
        return status ? status : parse_prompts(r, d->vocab, "prompt", error);
    case API_TOKENIZE:
        return parse_tokenize(r, d, error);
    case API_DETOKENIZE:
        return parse_detokenize(r, d, error);
    case API_EMBEDDING:
        return parse_embedding(r, d, error);
    }
    return 0;
}

int api_request_read(struct api_request *r, const struct api_defaults *defaults, struct api_error *error) {
    r->sampling = defaults->sampling;
    r->n = 1;
    r->include_reasoning = r->add_special_tokens = r->parallel_tool_calls = true;
    r->chat = (struct chat_options){.add_generation_prompt = true, .enable_thinking = defaults->enable_thinking};
    int status = read_tree(r, defaults, error);
    if (status) api_request_deinit(r);
    return status;
}

void api_request_deinit(struct api_request *r) {
    for (int i = 0; i < r->n_prompts; i++) free(r->prompts[i].ids);
    free(r->prompts);
    free((void *)r->sampling.stop);
    free((void *)r->sampling.stop_token_ids);
    free((void *)r->sampling.allowed_token_ids);
    free((void *)r->sampling.logit_bias);
    cJSON_Delete(r->tree);
    *r = (struct api_request){0};
}
