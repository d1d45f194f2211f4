/* Splitting reasoning and tool calls off an answer: the same result whatever the chunks. */
#include "server/reasoning.h"
#include "server/tool_calls.h"

#include <criterion/criterion.h>
#include <string.h>

static const char *text_of(const struct out *o) {
    return o->bytes ? o->data : "";
}

/* ---- reasoning --------------------------------------------------------------------------------------------------- */

static void check_split(bool enabled, bool opens, const char *answer, const char *reasoning, const char *content) {
    size_t n = strlen(answer);
    /* every chunk size, and every split into two */
    for (size_t chunk = 1; chunk <= 2 * n; chunk++) {
        struct out left = {0}, right = {0};
        struct reasoning r;
        reasoning_begin(&r, enabled, opens);
        for (size_t at = 0; at < n;) {
            size_t take = chunk <= n ? chunk : at == 0 ? chunk - n : n;
            if (take > n - at) take = n - at;
            reasoning_push(&r, answer + at, take, &left, &right);
            at += take;
        }
        reasoning_finish(&r, &left, &right);
        cr_assert_str_eq(text_of(&left), reasoning, "reasoning of \"%s\", chunk %zu", answer, chunk);
        cr_assert_str_eq(text_of(&right), content, "content of \"%s\", chunk %zu", answer, chunk);
        out_deinit(&left);
        out_deinit(&right);
    }
}

Test(reasoning, split) {
    check_split(true, false, "<think>\nwhy\n\nnot\n</think>\n\nbecause\n", "why\n\nnot", "because\n");
    check_split(true, false, "\n<think>a</think>b", "a", "b");
    check_split(true, false, "<think>\n\n</think>\n\nb", "", "b");
    check_split(true, false, "no thought", "", "no thought");
    check_split(true, false, "\n\nno <think>thought</think>", "", "\n\nno <think>thought</think>");
    check_split(true, false, "<thinkers> think", "", "<thinkers> think");
    check_split(true, false, "<think>never closed\n", "never closed", "");
    check_split(true, false, "<think>a < b </thin> c</ </think>d</think>", "a < b </thin> c</ ", "d</think>");
    check_split(true, false, "<think>a\n</thi", "a\n</thi", "");
    check_split(true, false, "<thi", "", "<thi");
    check_split(true, false, "\n", "", "\n");
    check_split(true, false, "<think>x<</think>y", "x<", "y");
}

Test(reasoning, prompt_opened_it) {
    check_split(true, true, "why\n</think>\n\nbecause", "why", "because");
    check_split(true, true, "\nwhy</think>because", "why", "because");
    check_split(true, true, "<think>\nwhy</think>because", "why", "because");
    check_split(true, true, "</think>because", "", "because");
    check_split(true, true, "<thin air</think>b", "<thin air", "b");
    check_split(true, true, "<t", "<t", "");
    check_split(true, true, "forever", "forever", "");
}

Test(reasoning, off) {
    check_split(false, false, "<think>a</think>b", "", "<think>a</think>b");
}

/* ---- tool calls -------------------------------------------------------------------------------------------------- */

/* calls: "name(arguments)name(arguments)..." */
static void check_calls(const char *answer, const char *calls, const char *content) {
    size_t n = strlen(answer);
    for (size_t chunk = 1; chunk <= n; chunk++) {
        struct tool_calls t = {0};
        struct out left = {0}, found = {0};
        for (size_t at = 0; at < n; at += chunk)
            tool_calls_push(&t, answer + at, chunk < n - at ? chunk : n - at, &left);
        tool_calls_finish(&t, &left);
        for (int i = 0; i < t.n_calls; i++) out_format(&found, "%s(%s)", t.calls[i].name, t.calls[i].arguments);
        cr_assert_str_eq(text_of(&found), calls, "calls of \"%s\", chunk %zu: %s", answer, chunk, text_of(&found));
        cr_assert_str_eq(text_of(&left), content, "content of \"%s\", chunk %zu: %s", answer, chunk, text_of(&left));
        tool_calls_deinit(&t);
        out_deinit(&left);
        out_deinit(&found);
    }
}

Test(tool_calls, found) {
    check_calls("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1.0}}\n</tool_call>", "f({\"a\": 1.0})", "");
    check_calls("Let me see.\n<tool_call>{\"name\":\"f\",\"arguments\":{\"n\":12345678901234567890}}</tool_call>\n"
                "<tool_call>{\"arguments\": {\"s\": \"}\\\"]</tool\"}, \"name\": \"g\"}</tool_call>\n",
                "f({\"n\":12345678901234567890})g({\"s\": \"}\\\"]</tool\"})", "Let me see.");
    check_calls("<tool_call>{\"name\":\"f\"}</tool_call>", "f({})", "");
    check_calls("<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>", "f({\"a\":1})", "");
    check_calls("<tool_call>{\"name\":\"f\",\"arguments\":null , \"x\":[1,{}]}", "f(null)", "");
}

Test(tool_calls, not_calls) {
    check_calls("plain text <tool_calls> and < more\n", "", "plain text <tool_calls> and < more\n");
    check_calls("<tool_call>not json</tool_call> tail", "", "<tool_call>not json</tool_call> tail");
    check_calls(" <tool_call>{\"name\": 3}</tool_call>", "", " <tool_call>{\"name\": 3}</tool_call>");
    check_calls("<tool_call>{\"name\":\"f\", \"argu", "", "<tool_call>{\"name\":\"f\", \"argu");
    check_calls("<tool_call>[]</tool_call>", "", "<tool_call>[]</tool_call>");
    check_calls("a <tool_", "", "a <tool_");
    check_calls("<tool_call></tool_call>", "", "<tool_call></tool_call>");
}
