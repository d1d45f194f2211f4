/* Chat answers: whatever the engine's chunks, the stream's deltas add up to the whole answer, and every event is JSON.
 * No engine here: events are made by hand and go through the endpoint's own functions. */
#include "server/server_internal.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOOLS "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"

static struct server_model_options options;
static struct server_model model = {.options = &options, .think_open = -1, .think_close = -1};

/* What a client has put together. */
struct answer {
    struct out content, reasoning, calls; /* calls: "name(arguments)..." */
    char finish_reason[32];
    int n_chunks;
};

static void answer_deinit(struct answer *a) {
    out_deinit(&a->content);
    out_deinit(&a->reasoning);
    out_deinit(&a->calls);
}

static const char *text_of(const struct out *o) {
    return o->bytes ? o->data : "";
}

static void open_call(struct call *c, struct choice *choice, const char *fields, bool thinks, bool opens) {
    const struct api_defaults defaults = {
        .sampling = {.logprobs = -1, .prompt_logprobs = -1}, .vocab = 10, .enable_thinking = -1};
    char body[512];
    snprintf(body, sizeof body, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]%s%s}", *fields ? "," : "",
             fields);
    *c = (struct call){.api = &api_chat,
                       .kind = API_CHAT,
                       .id = "i",
                       .model = &model,
                       .model_name = "m",
                       .n_choices = 1,
                       .choices = choice};
    cr_assert_eq(api_request_open(&c->request, API_CHAT, body, strlen(body), &c->error), 0, "%s", c->error.message);
    cr_assert_eq(api_request_read(&c->request, &defaults, &c->error), 0, "%s", c->error.message);
    *choice = (struct choice){.call = c, .stop_string = -1, .stop_token = -1};
    reasoning_begin(&choice->split, thinks || opens, opens);
}

static void close_call(struct call *c, struct choice *choice) {
    choice_deinit(choice);
    out_deinit(&c->chunk_head);
    api_request_deinit(&c->request);
}

static void take(struct choice *choice, const char *text, size_t bytes, bool ends) {
    const struct engine_event event = {.kind = ends ? EVENT_FINISHED : EVENT_TOKENS, .text = text, .text_bytes = bytes};
    choice->finished = ends;
    choice->reason = ends ? FINISH_STOP : FINISH_NONE;
    api_chat.take(choice, &event);
    choice->taken = true;
}

static cJSON *parse(const char *text, size_t bytes) {
    char err[ERR_BYTES];
    cJSON *tree;
    cr_assert_eq(json_parse(&tree, text, bytes, (struct json_limits){1 << 20, 32}, err, sizeof err), 0, "%s: %.*s", err,
                 (int)bytes, text);
    return tree;
}

/* Adds a message or a delta. */
static void add_message(struct answer *a, const cJSON *message) {
    const cJSON *content = json_find(message, "content"), *reasoning = json_find(message, "reasoning"), *call;
    if (cJSON_IsString(content)) out_text(&a->content, content->valuestring);
    if (cJSON_IsString(reasoning)) {
        cr_assert_str_eq(reasoning->valuestring, json_find(message, "reasoning_content")->valuestring);
        out_text(&a->reasoning, reasoning->valuestring);
    }
    cJSON_ArrayForEach(call, json_find(message, "tool_calls")) {
        const cJSON *function = json_find(call, "function");
        cr_assert_str_eq(json_find(call, "type")->valuestring, "function");
        cr_assert(strlen(json_find(call, "id")->valuestring) > 4);
        out_format(&a->calls, "%s(%s)", json_find(function, "name")->valuestring,
                   json_find(function, "arguments")->valuestring);
    }
}

static void add_reason(struct answer *a, const cJSON *choice) {
    const cJSON *reason = json_find(choice, "finish_reason");
    cr_assert_str_empty(a->finish_reason, "something came after the finish reason");
    if (cJSON_IsString(reason)) snprintf(a->finish_reason, sizeof a->finish_reason, "%s", reason->valuestring);
}

/* Reads "data: {..}\n\n" events. */
static void add_events(struct answer *a, const struct out *out) {
    const char *at = out->bytes ? out->data : "";
    while (*at) {
        const char *end = strstr(at, "\n\n");
        cr_assert(end && !strncmp(at, "data: ", 6), "%s", at);
        cJSON *tree = parse(at + 6, (size_t)(end - at - 6));
        const cJSON *choice = json_find(tree, "choices")->child;
        cr_assert_eq(a->n_chunks == 0, json_find(json_find(choice, "delta"), "role") != NULL);
        add_message(a, json_find(choice, "delta"));
        add_reason(a, choice);
        a->n_chunks++;
        cJSON_Delete(tree);
        at = end + 2;
    }
}

static void check(const char *fields, bool thinks, bool opens, const char *text, const char *reasoning,
                  const char *content, const char *calls, const char *reason) {
    struct call c;
    struct choice choice;
    size_t n = strlen(text);

    for (size_t chunk = 1; chunk <= n; chunk++) {
        struct answer streamed = {0}, whole = {0};
        struct out out = {0};
        open_call(&c, &choice, fields, thinks, opens);
        c.request.stream = true;
        for (size_t at = 0; at < n; at += chunk) {
            take(&choice, text + at, chunk < n - at ? chunk : n - at, at + chunk >= n);
            out_clear(&out);
            api_chat.write_chunks(&choice, &out);
            add_events(&streamed, &out);
        }
        close_call(&c, &choice);

        open_call(&c, &choice, fields, thinks, opens);
        for (size_t at = 0; at < n; at += chunk)
            take(&choice, text + at, chunk < n - at ? chunk : n - at, at + chunk >= n);
        out_clear(&out);
        api_chat.write_choice(&choice, &out);
        cJSON *tree = parse(out.data, out.bytes);
        const cJSON *message = json_find(tree, "message");
        add_message(&whole, message);
        add_reason(&whole, tree);
        cr_assert(json_find(message, "refusal") && json_find(tree, "logprobs") && json_find(message, "content"));
        cJSON_Delete(tree);
        close_call(&c, &choice);

        const struct answer *both[] = {&streamed, &whole};
        for (int i = 0; i < 2; i++) {
            cr_assert_str_eq(text_of(&both[i]->reasoning), reasoning, "%s, chunk %zu", text, chunk);
            cr_assert_str_eq(text_of(&both[i]->content), content, "%s, chunk %zu", text, chunk);
            cr_assert_str_eq(text_of(&both[i]->calls), calls, "%s, chunk %zu", text, chunk);
            cr_assert_str_eq(both[i]->finish_reason, reason, "%s, chunk %zu", text, chunk);
        }
        answer_deinit(&streamed);
        answer_deinit(&whole);
        out_deinit(&out);
    }
}

Test(api_chat, content) {
    check("", false, false, "Hello \"you\"\n\x01 \\ end", "", "Hello \"you\"\n\x01 \\ end", "", "stop");
    check("", true, false, "plain", "", "plain", "", "stop");
}

Test(api_chat, reasoning) {
    check("", true, false, "<think>\nwhy\n</think>\n\nbecause", "why", "because", "", "stop");
    check("", true, true, "why\n</think>\n\nbecause", "why", "because", "", "stop");
    check("", true, false, "<think>\nwhy", "why", "", "", "stop");
    check("\"include_reasoning\":false", true, false, "<think>\nwhy\n</think>\n\nbecause", "", "because", "", "stop");
}

static const char two_calls[] =
    "<think>\nhm\n</think>\n\nLet me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n"
    "</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>";

Test(api_chat, tool_calls) {
    options.parse_tool_calls = true;
    check(TOOLS, true, false, two_calls, "hm", "Let me see.", "f({\"a\": 1})g({})", "tool_calls");
    check(TOOLS ",\"parallel_tool_calls\":false", true, false, two_calls, "hm", "Let me see.", "f({\"a\": 1})",
          "tool_calls");
    check(TOOLS, false, false, "no <tool_call>nonsense</tool_call>", "", "no <tool_call>nonsense</tool_call>", "",
          "stop");
}

/* Without tools in the request, or without the server's flag, the text stays as it is. */
Test(api_chat, tool_calls_not_looked_for) {
    static const char text[] = "<tool_call>\n{\"name\": \"f\"}\n</tool_call>";
    options.parse_tool_calls = true;
    check("", false, false, text, "", text, "", "stop");
    check(TOOLS ",\"tool_choice\":\"none\"", false, false, text, "", text, "", "stop");
    options.parse_tool_calls = false;
    check(TOOLS, false, false, text, "", text, "", "stop");
}
