/* render_chat.c - the chat templates as a filter, for tests in other languages.
 *
 *     render_chat < requests > answers
 *
 * A request is a line of JSON: {"template": NAME, "messages": [...]} and, as wanted, "tools", "add_generation_prompt",
 * "continue_final_message", "enable_thinking", "parse_arguments". The answer is a line of JSON: {"text": ...,
 * "spans": [[start, end], ...], "opens_thinking": ...} or {"error": ..., "status": ...}. */
#include "engine/chat_template.h"
#include "kernels/status.h"
#include "weights/json.h"

#include <stdio.h>
#include <stdlib.h>

static cJSON *answer(cJSON *request, const char *line, size_t bytes) {
    char err[ERR_BYTES] = "";
    struct chat_options options = {.enable_thinking = -1};
    struct chat_prompt prompt;
    const cJSON *thinking = json_find(request, "enable_thinking");
    chat_keep_numbers(request, line, bytes);
    options.add_generation_prompt = cJSON_IsTrue(json_find(request, "add_generation_prompt"));
    options.continue_final_message = cJSON_IsTrue(json_find(request, "continue_final_message"));
    options.parse_arguments = cJSON_IsTrue(json_find(request, "parse_arguments"));
    if (cJSON_IsBool(thinking)) options.enable_thinking = cJSON_IsTrue(thinking);
    enum chat_template template = chat_template_by_name(json_find(request, "template")->valuestring);
    int status = chat_render(&prompt, template, json_find(request, "messages"), json_find(request, "tools"), &options,
                             err, sizeof err);
    cJSON *out = cJSON_CreateObject();
    if (status) {
        cJSON_AddStringToObject(out, "error", err);
        cJSON_AddNumberToObject(out, "status", status);
    } else {
        cJSON_AddStringToObject(out, "text", prompt.text);
        cJSON *spans = cJSON_AddArrayToObject(out, "spans");
        for (size_t i = 0; i < prompt.n_spans; i++) {
            double pair[2] = {(double)prompt.spans[i].start, (double)prompt.spans[i].end};
            cJSON_AddItemToArray(spans, cJSON_CreateDoubleArray(pair, 2));
        }
        cJSON_AddBoolToObject(out, "opens_thinking", prompt.opens_thinking);
    }
    chat_prompt_deinit(&prompt);
    return out;
}

int main(void) {
    char *line = NULL, err[ERR_BYTES];
    size_t capacity = 0;
    const struct json_limits limits = {.max_bytes = 1 << 26, .max_depth = 100};
    for (ssize_t bytes; (bytes = getline(&line, &capacity, stdin)) > 0;) {
        cJSON *request;
        if (json_parse(&request, line, (size_t)bytes, limits, err, sizeof err)) {
            fprintf(stderr, "%s\n", err);
            return 1;
        }
        cJSON *out = answer(request, line, (size_t)bytes);
        char *text = cJSON_PrintUnformatted(out);
        puts(text);
        cJSON_free(text);
        cJSON_Delete(out);
        cJSON_Delete(request);
    }
    free(line);
    return 0;
}
