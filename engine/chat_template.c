/* chat_template.c - the chat templates of Qwen2.5 and Qwen3, one rule after the other as in their Jinja texts.
 *
 * All of them are ChatML: "<|im_start|>ROLE\nCONTENT<|im_end|>\n" for each message, results of tools inside a user's
 * turn, and at the end "<|im_start|>assistant\n". They differ in six ways, which `rules` lists. What the Jinja texts
 * take from messages and tools is written by user(), which records it as a span, and the rest by scaffold(). */
#include "engine/chat_template.h"

#include "engine/chat_template_internal.h"
#include "kernels/status.h"
#include "weights/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---- which template ---------------------------------------------------------------------------------------------- */

enum reasoning {
    KEEP,        /* an assistant's content stays as it is */
    DROP,        /* what comes before </think> is cut out of all but the last message */
    SINCE_QUERY, /* reasoning is written for the messages after the last query only */
};

/* What is written after "<|im_start|>assistant\n" when the model is to answer, by enable_thinking. */
struct opening {
    const char *unset, *off, *on;
};

static const struct rules {
    enum chat_template id;
    const char *name;
    bool thinks;
    const char *default_system; /* the system message where there is none, or NULL */
    bool blank_before_tools;    /* "# Tools" follows the system message after an empty line even if there is none */
    bool is_qwen3;              /* tool calls and contents in the manner of Qwen3 */
    enum reasoning reasoning;
    struct opening opening;
} rules[] = {
    {.id = CHAT_TEMPLATE_QWEN25,
     .name = "qwen2.5",
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
     .blank_before_tools = true,
     .opening = {"", "", ""}},
    {.id = CHAT_TEMPLATE_QWEN3,
     .name = "qwen3",
     .thinks = true,
     .is_qwen3 = true,
     .reasoning = SINCE_QUERY,
     .opening = {"", "<think>\n\n</think>\n\n", ""}},
    {.id = CHAT_TEMPLATE_QWEN3_THINKING,
     .name = "qwen3-thinking",
     .thinks = true,
     .is_qwen3 = true,
     .reasoning = SINCE_QUERY,
     .opening = {"<think>\n", "<think>\n", "<think>\n"}},
    {.id = CHAT_TEMPLATE_QWEN3_NONTHINKING,
     .name = "qwen3-nonthinking",
     .is_qwen3 = true,
     .reasoning = SINCE_QUERY,
     .opening = {"<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n"}},
    {.id = CHAT_TEMPLATE_QWEN3_INSTRUCT, .name = "qwen3-instruct", .is_qwen3 = true, .opening = {"", "", ""}},
    {.id = CHAT_TEMPLATE_QWQ,
     .name = "qwq",
     .thinks = true,
     .blank_before_tools = true,
     .reasoning = DROP,
     .opening = {"<think>\n</think>", "<think>\n</think>", "<think>\n"}},
    {.id = CHAT_TEMPLATE_QWEN2, .name = "qwen2", .default_system = "You are a helpful assistant."},
};

/* XXH3_64 of the texts, with LF line ends and without the last newlines. */
static const struct {
    uint64_t hash;
    enum chat_template id;
} known[] = {
    {0x2469c9508f79506e, CHAT_TEMPLATE_QWEN25},
    {0xc9e0155c80737cf2, CHAT_TEMPLATE_QWEN3}, /* as published now */
    {0x0283f874ff58d644, CHAT_TEMPLATE_QWEN3}, /* as first published */
    {0xbdee364f122d2352, CHAT_TEMPLATE_QWEN3_THINKING},
    {0xe8d988e03d7c3f97, CHAT_TEMPLATE_QWEN3_NONTHINKING},
    {0x8fb5d937b1e8f5d0, CHAT_TEMPLATE_QWEN3_INSTRUCT},
    {0xf0c9a4263780adf9, CHAT_TEMPLATE_QWQ},
    {0x5567f903ec81fe47, CHAT_TEMPLATE_QWEN2},
};

static const struct rules *find_rules(enum chat_template t) {
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].id == t) return &rules[i];
    return NULL;
}

enum chat_template chat_template_detect(const char *jinja) {
    if (!jinja) return CHAT_TEMPLATE_NONE;
    struct bytes text = {0};
    for (const char *p = jinja; *p; p++)
        if (p[0] != '\r' || p[1] != '\n') bytes_append(&text, p, 1);
    while (text.n && text.data[text.n - 1] == '\n') text.n--;
    uint64_t hash = XXH3_64bits(text.data, text.n);
    free(text.data);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].hash == hash) return known[i].id;
    return CHAT_TEMPLATE_NONE;
}

enum chat_template chat_template_by_name(const char *name) {
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (!strcmp(rules[i].name, name)) return rules[i].id;
    return CHAT_TEMPLATE_NONE;
}

const char *chat_template_name(enum chat_template t) {
    const struct rules *r = find_rules(t);
    return r ? r->name : "none";
}

bool chat_template_thinks(enum chat_template t) {
    const struct rules *r = find_rules(t);
    return r && r->thinks;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

struct render {
    const struct rules *rules;
    const struct chat_options *options;
    struct chat_messages messages; /* owned */
    struct bytes text;             /* owned until it is handed out, like the spans */
    struct text_span *spans;
    size_t n_spans, spans_capacity;
    size_t turn; /* where the last assistant's turn begins in text */
    char *err;
    size_t err_bytes;
};

static bool is_null(const cJSON *item) {
    return !item || cJSON_IsNull(item);
}

static void scaffold(struct render *r, const char *text) {
    bytes_append(&r->text, text, strlen(text));
}

/* Marks everything from `start` on as a span, together with one that ends there. */
static void add_span(struct render *r, size_t start) {
    if (start == r->text.n) return;
    if (r->n_spans && r->spans[r->n_spans - 1].end == start) {
        r->spans[r->n_spans - 1].end = r->text.n;
        return;
    }
    if (r->n_spans == r->spans_capacity) {
        r->spans_capacity = 2 * r->spans_capacity + 16;
        r->spans = realloc(r->spans, r->spans_capacity * sizeof *r->spans);
        CHECK(r->spans);
    }
    r->spans[r->n_spans++] = (struct text_span){start, r->text.n};
}

static void user(struct render *r, struct chat_text text) {
    size_t start = r->text.n;
    utf8_append_lossy(&r->text, (const uint8_t *)text.p, text.n);
    add_span(r, start);
}

static void user_json(struct render *r, const cJSON *item) {
    size_t start = r->text.n;
    struct bytes json = {0};
    chat__json(&json, item);
    utf8_append_lossy(&r->text, json.data, json.n);
    free(json.data);
    add_span(r, start);
}

/* ---- Python's string methods ------------------------------------------------------------------------------------- */

static struct chat_text lstrip(struct chat_text v) {
    while (v.n && *v.p == '\n') v.p++, v.n--;
    return v;
}

static struct chat_text rstrip(struct chat_text v) {
    while (v.n && v.p[v.n - 1] == '\n') v.n--;
    return v;
}

static struct chat_text before_first(struct chat_text v, const char *separator) {
    const char *found = memmem(v.p, v.n, separator, strlen(separator));
    return found ? (struct chat_text){v.p, (size_t)(found - v.p)} : v;
}

static struct chat_text after_last(struct chat_text v, const char *separator) {
    size_t n = strlen(separator);
    for (const char *found; (found = memmem(v.p, v.n, separator, n));) {
        v.n -= (size_t)(found - v.p) + n;
        v.p = found + n;
    }
    return v;
}

static bool contains(struct chat_text v, const char *text) {
    return memmem(v.p, v.n, text, strlen(text));
}

/* ---- tools and their calls --------------------------------------------------------------------------------------- */

static const char tools_before[] =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    "signatures within <tools></tools> XML tags:\n<tools>";
static const char tools_after[] =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n"
    "</tool_call><|im_end|>\n";

/* The text of arguments, parsed and printed anew. */
static int parsed_arguments(struct render *r, const char *where, const char *json) {
    char sentence[ERR_BYTES];
    cJSON *tree = NULL;
    size_t bytes = strlen(json);
    /* vLLM's rule for calls without arguments. */
    if (!bytes) json = "{}", bytes = 2;
    struct json_limits limits = {.max_bytes = bytes, .max_depth = 100};
    int status = json_parse(&tree, json, bytes, limits, sentence, sizeof sentence);
    if (status) return fail(r->err, r->err_bytes, STATUS_INVALID, "%s.arguments: %s", where, sentence);
    chat_keep_numbers(tree, json, bytes);
    user_json(r, tree);
    cJSON_Delete(tree);
    return 0;
}

static int tool_call(struct render *r, size_t at, size_t k, const cJSON *call) {
    char where[64];
    snprintf(where, sizeof where, "messages[%zu].tool_calls[%zu]", at, k);
    const cJSON *function = json_find(call, "function");
    if (is_null(function)) function = call;
    const cJSON *name = json_find(function, "name"), *arguments = json_find(function, "arguments");
    if (!cJSON_IsString(name))
        return fail(r->err, r->err_bytes, STATUS_INVALID, "%s: expected a function with a name, found %s", where,
                    json_kind(name));
    if (!arguments) return fail(r->err, r->err_bytes, STATUS_INVALID, "%s: expected arguments, found nothing", where);
    scaffold(r, "<tool_call>\n{\"name\": \"");
    user(r, chat_text(name->valuestring));
    scaffold(r, "\", \"arguments\": ");
    if (cJSON_IsString(arguments) && r->options->parse_arguments) {
        int status = parsed_arguments(r, where, arguments->valuestring);
        if (status) return status;
    } else if (cJSON_IsString(arguments) && r->rules->is_qwen3) {
        user(r, chat_text(arguments->valuestring));
    } else {
        user_json(r, arguments);
    }
    scaffold(r, "}\n</tool_call>");
    return 0;
}

/* All calls of a message. Qwen3 begins without a newline if the message has no other content. */
static int tool_calls(struct render *r, size_t at, bool newline_first) {
    size_t k = 0;
    const cJSON *call;
    cJSON_ArrayForEach(call, r->messages.data[at].tool_calls) {
        if (k > 0 || newline_first) scaffold(r, "\n");
        int status = tool_call(r, at, k++, call);
        if (status) return status;
    }
    return 0;
}

/* ---- one message ------------------------------------------------------------------------------------------------- */

static void plain_message(struct render *r, const struct chat_message *m) {
    scaffold(r, "<|im_start|>");
    scaffold(r, chat__role_name(m->role));
    scaffold(r, "\n");
    user(r, m->content);
    scaffold(r, "<|im_end|>\n");
}

static void tool_result(struct render *r, size_t at) {
    bool first = at == 0 || r->messages.data[at - 1].role != ROLE_TOOL;
    bool last = at + 1 == r->messages.n || r->messages.data[at + 1].role != ROLE_TOOL;
    if (first) scaffold(r, "<|im_start|>user");
    scaffold(r, "\n<tool_response>\n");
    user(r, r->messages.data[at].content);
    scaffold(r, "\n</tool_response>");
    if (last) scaffold(r, "<|im_end|>\n");
}

/* Qwen2.5 and QwQ. */
static int assistant_qwen25(struct render *r, size_t at) {
    const struct chat_message *m = &r->messages.data[at];
    struct chat_text content = m->content;
    if (r->rules->reasoning == DROP && at + 1 < r->messages.n) content = lstrip(after_last(content, "</think>"));
    scaffold(r, "<|im_start|>assistant");
    if (!m->tool_calls || m->content.n) {
        scaffold(r, "\n");
        user(r, content);
    }
    return tool_calls(r, at, true);
}

static int assistant_qwen3(struct render *r, size_t at, size_t last_query) {
    const struct chat_message *m = &r->messages.data[at];
    struct chat_text content = m->content, reasoning = m->has_reasoning ? m->reasoning : chat_text("");
    if (r->rules->reasoning == SINCE_QUERY && !m->has_reasoning && contains(content, "</think>")) {
        reasoning = lstrip(after_last(rstrip(before_first(content, "</think>")), "<think>"));
        content = lstrip(after_last(content, "</think>"));
    }
    scaffold(r, "<|im_start|>assistant\n");
    bool is_last = at + 1 == r->messages.n;
    if (r->rules->reasoning == SINCE_QUERY && at > last_query && (is_last || reasoning.n)) {
        scaffold(r, "<think>\n");
        user(r, rstrip(lstrip(reasoning)));
        scaffold(r, "\n</think>\n\n");
        user(r, lstrip(content));
    } else {
        user(r, content);
    }
    return tool_calls(r, at, content.n > 0);
}

/* The last user's message that is not the result of a tool; the last message if there is none. */
static size_t last_query(const struct render *r) {
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    for (size_t i = r->messages.n; i-- > 0;) {
        struct chat_text v = r->messages.data[i].content;
        bool opens = v.n >= strlen(open) && !memcmp(v.p, open, strlen(open));
        bool closes = v.n >= strlen(close) && !memcmp(v.p + v.n - strlen(close), close, strlen(close));
        if (r->messages.data[i].role == ROLE_USER && !(opens && closes)) return i;
    }
    return r->messages.n - 1;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static int check(const struct render *r, const cJSON *tools) {
    const cJSON *tool;
    if (!is_null(tools) && !cJSON_IsArray(tools))
        return fail(r->err, r->err_bytes, STATUS_INVALID, "tools: expected an array, found %s", json_kind(tools));
    cJSON_ArrayForEach(tool, tools) {
        if (!cJSON_IsObject(tool))
            return fail(r->err, r->err_bytes, STATUS_INVALID, "tools: expected objects, found %s", json_kind(tool));
    }
    if (!r->options->continue_final_message) return 0;
    const struct chat_message *last = &r->messages.data[r->messages.n - 1];
    if (r->options->add_generation_prompt)
        return fail(r->err, r->err_bytes, STATUS_INVALID,
                    "continue_final_message: expected add_generation_prompt to be off, found both");
    if (last->role != ROLE_ASSISTANT || last->tool_calls)
        return fail(r->err, r->err_bytes, STATUS_INVALID,
                    "continue_final_message: expected an assistant's message without tool calls at the end, found %s",
                    last->role == ROLE_ASSISTANT ? "tool calls" : chat__role_name(last->role));
    return 0;
}

static void system_message(struct render *r, const cJSON *tools) {
    const struct chat_message *first = &r->messages.data[0];
    bool has_system = first->role == ROLE_SYSTEM;
    bool has_tools = !is_null(tools) && tools->child;
    if (!has_tools && !has_system && !r->rules->default_system) return;
    scaffold(r, "<|im_start|>system\n");
    if (has_system)
        user(r, first->content);
    else if (r->rules->default_system)
        scaffold(r, r->rules->default_system);
    if (!has_tools) {
        scaffold(r, "<|im_end|>\n");
        return;
    }
    if (has_system || r->rules->blank_before_tools) scaffold(r, "\n\n");
    scaffold(r, tools_before);
    const cJSON *tool;
    cJSON_ArrayForEach(tool, tools) {
        scaffold(r, "\n");
        user_json(r, tool);
    }
    scaffold(r, tools_after);
}

static int write_messages(struct render *r) {
    size_t query = last_query(r);
    for (size_t i = 0; i < r->messages.n; i++) {
        const struct chat_message *m = &r->messages.data[i];
        int status = 0;
        if (m->role == ROLE_TOOL) {
            tool_result(r, i);
        } else if (m->role == ROLE_ASSISTANT) {
            r->turn = r->text.n;
            status = r->rules->is_qwen3 ? assistant_qwen3(r, i, query) : assistant_qwen25(r, i);
            bool continued = r->options->continue_final_message && i + 1 == r->messages.n;
            if (!status && !continued) scaffold(r, "<|im_end|>\n");
        } else if (m->role == ROLE_USER || i > 0) {
            plain_message(r, m);
        }
        if (status) return status;
    }
    if (r->options->add_generation_prompt) {
        const struct opening *o = &r->rules->opening;
        int thinking = r->options->enable_thinking;
        r->turn = r->text.n;
        scaffold(r, "<|im_start|>assistant\n");
        scaffold(r, thinking < 0 ? o->unset : thinking ? o->on : o->off);
    }
    return 0;
}

/* LLaMA-Factory's: each user's message opens the answer; no tools, and no system messages but the first. */
static int write_qwen2(struct render *r, const cJSON *tools) {
    if (!is_null(tools) && tools->child)
        return fail(r->err, r->err_bytes, STATUS_INVALID, "tools: expected none, this model's template knows no tools");
    system_message(r, NULL);
    for (size_t i = 0; i < r->messages.n; i++) {
        const struct chat_message *m = &r->messages.data[i];
        if (m->tool_calls || m->role == ROLE_TOOL || (m->role == ROLE_SYSTEM && i > 0))
            return fail(r->err, r->err_bytes, STATUS_INVALID,
                        "messages[%zu]: expected a user's or an assistant's text, found %s", i,
                        m->tool_calls ? "tool calls" : chat__role_name(m->role));
        if (m->role == ROLE_USER) {
            plain_message(r, m);
            scaffold(r, "<|im_start|>assistant\n");
        } else if (m->role == ROLE_ASSISTANT) {
            r->turn = r->text.n;
            user(r, m->content);
            if (!r->options->continue_final_message || i + 1 < r->messages.n) scaffold(r, "<|im_end|>\n");
        }
    }
    return 0;
}

static bool ends_in_thought(const struct render *r) {
    if (!r->options->add_generation_prompt && !r->options->continue_final_message) return false;
    struct chat_text turn = {(const char *)r->text.data + r->turn, r->text.n - r->turn};
    return contains(turn, "<think>") && !contains(after_last(turn, "<think>"), "</think>");
}

int chat_render(struct chat_prompt *out, enum chat_template t, const cJSON *messages, const cJSON *tools,
                const struct chat_options *options, char *err, size_t err_bytes) {
    *out = (struct chat_prompt){0};
    struct render r = {.rules = find_rules(t), .options = options, .err = err, .err_bytes = err_bytes};
    if (!r.rules)
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    "expected a model with a known chat template, found none; --chat-template names one");
    int status = chat__read_messages(&r.messages, messages, err, err_bytes);
    if (!status) status = check(&r, tools);
    if (!status && t == CHAT_TEMPLATE_QWEN2) {
        status = write_qwen2(&r, tools);
    } else if (!status) {
        system_message(&r, tools);
        status = write_messages(&r);
    }
    chat__messages_deinit(&r.messages);
    if (status) {
        free(r.text.data);
        free(r.spans);
        return status;
    }
    bytes_reserve(&r.text, 1)[r.text.n] = 0;
    *out = (struct chat_prompt){.text = (char *)r.text.data,
                                .bytes = r.text.n,
                                .spans = r.spans,
                                .n_spans = r.n_spans,
                                .opens_thinking = ends_in_thought(&r)};
    return 0;
}

void chat_prompt_deinit(struct chat_prompt *p) {
    free(p->text);
    free(p->spans);
    *p = (struct chat_prompt){0};
}

int chat_encode(const struct tokenizer *t, const struct chat_prompt *p, struct ids *out) {
    return tokenizer_encode_spans(t, p->text, p->bytes, p->spans, p->n_spans, out);
}
