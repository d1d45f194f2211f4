/* Request bodies: defaults, every field's type and range, and errors that name the field. */
#include "server/api_request.h"

#include "kernels/status.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct api_defaults defaults = {
    .sampling = {.temperature = 0.6f,
                 .top_p = 0.95f,
                 .top_k = 20,
                 .repetition_penalty = 1,
                 .skip_special_tokens = true,
                 .logprobs = -1,
                 .prompt_logprobs = -1},
    .max_logprobs = 20,
    .vocab = 1000,
    .enable_thinking = -1,
    .dimensions = 96,
    .normalized = true,
};

static int parse(struct api_request *r, enum api_kind kind, const char *body, struct api_error *error) {
    int status = api_request_open(r, kind, body, strlen(body), error);
    return status ? status : api_request_read(r, &defaults, error);
}

static void must_parse(struct api_request *r, enum api_kind kind, const char *body) {
    struct api_error error;
    cr_assert_eq(parse(r, kind, body, &error), 0, "%s: %s", body, error.message);
    cr_assert_eq(error.status, 0);
}

/* {"messages": ..., FIELDS} or {"prompt": ..., FIELDS} */
static struct api_request chat(const char *fields) {
    struct api_request r;
    char body[4096];
    snprintf(body, sizeof body, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]%s%s}", *fields ? "," : "",
             fields);
    must_parse(&r, API_CHAT, body);
    return r;
}

static struct api_request completion(const char *fields) {
    struct api_request r;
    char body[4096];
    snprintf(body, sizeof body, "{\"prompt\":\"hi\"%s%s}", *fields ? "," : "", fields);
    must_parse(&r, API_COMPLETION, body);
    return r;
}

Test(api_request, chat_defaults) {
    struct api_request r = chat("");
    cr_assert_float_eq(r.sampling.temperature, 0.6f, 1e-6);
    cr_assert_eq(r.sampling.top_k, 20);
    cr_assert_eq(r.sampling.max_tokens, 0);
    cr_assert_eq(r.sampling.logprobs, -1);
    cr_assert_eq(r.n, 1);
    cr_assert(!r.stream && !r.echo && r.include_reasoning && r.chat.add_generation_prompt && !r.sampling.has_seed);
    cr_assert_eq(r.chat.enable_thinking, -1);
    cr_assert_null(r.model);
    cr_assert_null(r.tools);
    api_request_deinit(&r);
}

Test(api_request, completion_defaults) {
    struct api_request r = completion("");
    cr_assert_eq(r.sampling.max_tokens, 16);
    cr_assert(!r.sampling.prompt_only);
    cr_assert_eq(r.n_prompts, 1);
    cr_assert_str_eq(r.prompts[0].text, "hi");
    api_request_deinit(&r);
}

Test(api_request, all_sampling_fields) {
    struct api_request r = chat(
        "\"temperature\":0,\"top_p\":0.5,\"min_p\":0.1,\"top_k\":-1,\"presence_penalty\":-2,\"frequency_penalty\":2,"
        "\"repetition_penalty\":1.5,\"min_tokens\":2,\"max_tokens\":7,\"ignore_eos\":true,\"seed\":-5,\"n\":3,"
        "\"include_stop_str_in_output\":true,\"skip_special_tokens\":false,\"stop\":[\"a\",\"bc\"],"
        "\"stop_token_ids\":[1,2],\"allowed_token_ids\":[5],\"logit_bias\":{\"7\":-100,\"3\":1.5},\"priority\":-3,"
        "\"logprobs\":true,\"top_logprobs\":4,\"prompt_logprobs\":2,\"cache_salt\":\"s\",\"request_id\":\"r1\","
        "\"truncate_prompt_tokens\":-1,\"return_token_ids\":true,\"model\":\"m\",\"user\":\"u\",\"metadata\":{\"a\":"
        "\"b\"},"
        "\"store\":true,\"service_tier\":\"auto\",\"a field of tomorrow\":[{}]");
    cr_assert_eq(r.sampling.temperature, 0);
    cr_assert_eq(r.sampling.top_k, -1);
    cr_assert_float_eq(r.sampling.repetition_penalty, 1.5, 1e-6);
    cr_assert_eq(r.sampling.min_tokens, 2);
    cr_assert_eq(r.sampling.max_tokens, 7);
    cr_assert(r.sampling.ignore_eos && r.sampling.include_stop_str_in_output && !r.sampling.skip_special_tokens);
    cr_assert(r.sampling.has_seed);
    cr_assert_eq(r.sampling.seed, (uint64_t)-5);
    cr_assert_eq(r.n, 3);
    cr_assert_eq(r.sampling.n_stop, 2);
    cr_assert_str_eq(r.sampling.stop[1], "bc");
    cr_assert_eq(r.sampling.n_stop_token_ids, 2);
    cr_assert_eq(r.sampling.allowed_token_ids[0], 5);
    cr_assert_eq(r.sampling.n_logit_bias, 2);
    cr_assert_eq(r.sampling.logit_bias[0].id, 3);
    cr_assert_eq(r.sampling.logit_bias[1].bias, -100);
    cr_assert_eq(r.sampling.logprobs, 4);
    cr_assert_eq(r.sampling.prompt_logprobs, 2);
    cr_assert(r.show_prompt_logprobs && r.return_token_ids);
    cr_assert_eq(r.priority, -3);
    cr_assert_eq(r.truncate_prompt_tokens, -1);
    cr_assert_str_eq(r.cache_salt, "s");
    api_request_deinit(&r);
}

Test(api_request, nulls_are_absent) {
    struct api_request r = chat("\"temperature\":null,\"max_tokens\":null,\"stop\":null,\"n\":null,\"stream\":null,"
                                "\"logit_bias\":null,\"tools\":null,\"response_format\":null,\"stream_options\":null,"
                                "\"structured_outputs\":null,\"seed\":null,\"logprobs\":null,\"top_logprobs\":null");
    cr_assert_float_eq(r.sampling.temperature, 0.6f, 1e-6);
    api_request_deinit(&r);
}

Test(api_request, max_tokens) {
    struct api_request r = chat("\"max_tokens\":3,\"max_completion_tokens\":5");
    cr_assert_eq(r.sampling.max_tokens, 5);
    api_request_deinit(&r);
    r = completion("\"max_tokens\":0,\"echo\":true,\"logprobs\":1");
    cr_assert(r.sampling.prompt_only && r.echo);
    cr_assert_eq(r.sampling.logprobs, 1);
    cr_assert_eq(r.sampling.prompt_logprobs, 1);
    cr_assert(!r.show_prompt_logprobs);
    api_request_deinit(&r);
}

Test(api_request, top_p_zero_is_greedy) {
    struct api_request r = chat("\"top_p\":0");
    cr_assert_eq(r.sampling.top_p, 1);
    cr_assert_eq(r.sampling.top_k, 1);
    api_request_deinit(&r);
}

Test(api_request, streams) {
    struct api_request r =
        chat("\"stream\":true,\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}");
    cr_assert(r.stream && r.include_usage && r.continuous_usage);
    api_request_deinit(&r);
    r = chat("\"stream\":true,\"stream_options\":{\"continuous_usage_stats\":true}");
    cr_assert(!r.include_usage && !r.continuous_usage);
    api_request_deinit(&r);
}

Test(api_request, prompts) {
    struct api_request r;
    must_parse(&r, API_COMPLETION, "{\"prompt\":[\"a\",\"bc\"]}");
    cr_assert_eq(r.n_prompts, 2);
    cr_assert_eq(r.prompts[1].text_bytes, 2);
    api_request_deinit(&r);
    must_parse(&r, API_COMPLETION, "{\"prompt\":[1,2,3]}");
    cr_assert_eq(r.n_prompts, 1);
    cr_assert_eq(r.prompts[0].n_ids, 3);
    cr_assert_eq(r.prompts[0].ids[2], 3);
    api_request_deinit(&r);
    must_parse(&r, API_COMPLETION, "{\"prompt\":[[1,2],[3],\"x\"],\"best_of\":2,\"n\":2}");
    cr_assert_eq(r.n_prompts, 3);
    cr_assert_eq(r.prompts[1].ids[0], 3);
    cr_assert_null(r.prompts[1].text);
    api_request_deinit(&r);
}

Test(api_request, tools_and_thinking) {
    static const char tools[] = "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]";
    char fields[512];
    struct api_request r = chat(tools);
    cr_assert_not_null(r.tools);
    api_request_deinit(&r);
    snprintf(fields, sizeof fields, "%s,\"tool_choice\":\"none\"", tools);
    r = chat(fields);
    cr_assert_null(r.tools, "a model that may call none gets none");
    api_request_deinit(&r);
    r = chat("\"chat_template_kwargs\":{\"enable_thinking\":false,\"other\":1}");
    cr_assert_eq(r.chat.enable_thinking, 0);
    api_request_deinit(&r);
    r = chat("\"reasoning_effort\":\"none\"");
    cr_assert_eq(r.chat.enable_thinking, 0);
    api_request_deinit(&r);
    r = chat("\"reasoning_effort\":\"none\",\"chat_template_kwargs\":{\"enable_thinking\":true}");
    cr_assert_eq(r.chat.enable_thinking, 1);
    api_request_deinit(&r);
    r = chat("\"continue_final_message\":true");
    cr_assert(r.chat.continue_final_message && !r.chat.add_generation_prompt);
    api_request_deinit(&r);
}

Test(api_request, tokenize_and_detokenize) {
    struct api_request r;
    must_parse(&r, API_TOKENIZE, "{\"prompt\":\"\",\"return_token_strs\":true}");
    cr_assert(r.return_token_strs);
    api_request_deinit(&r);
    must_parse(&r, API_TOKENIZE, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
    cr_assert_not_null(r.messages);
    api_request_deinit(&r);
    must_parse(&r, API_DETOKENIZE, "{\"tokens\":[1,2]}");
    cr_assert_eq(r.prompts[0].n_ids, 2);
    api_request_deinit(&r);
    must_parse(&r, API_DETOKENIZE, "{\"tokens\":[]}");
    api_request_deinit(&r);
}

Test(api_request, embeddings) {
    struct api_request r;
    must_parse(&r, API_EMBEDDING, "{\"input\":\"a\",\"user\":\"u\"}");
    cr_assert(r.n_prompts == 1 && r.n == 1 && !strcmp(r.prompts[0].text, "a"));
    cr_assert(r.sampling.prompt_only && r.add_special_tokens && !r.as_base64 && !r.keep_last && !r.stream);
    cr_assert(r.truncate_prompt_tokens == 0 && r.dimensions == 0);
    api_request_deinit(&r);
    must_parse(&r, API_EMBEDDING,
               "{\"input\":[\"\",[7,999]],\"encoding_format\":\"base64\",\"dimensions\":96,"
               "\"add_special_tokens\":false,\"truncate_prompt_tokens\":-1,\"truncation_side\":\"left\",\"normalize\":true,"
               "\"embed_dtype\":\"float32\",\"endianness\":\"native\"}");
    cr_assert(r.n_prompts == 2 && r.prompts[0].text_bytes == 0 && r.prompts[1].n_ids == 2);
    cr_assert(r.as_base64 && r.keep_last && !r.add_special_tokens && r.truncate_prompt_tokens == -1);
    cr_assert_eq(r.dimensions, 96);
    api_request_deinit(&r);
    must_parse(&r, API_EMBEDDING, "{\"input\":[1,2,3],\"encoding_format\":\"float\",\"truncation_side\":\"right\"}");
    cr_assert(r.n_prompts == 1 && r.prompts[0].n_ids == 3 && !r.as_base64 && !r.keep_last);
    api_request_deinit(&r);
}

/* Each of these is refused, with the field's name. */
static const struct {
    enum api_kind kind;
    const char *fields, *param;
} bad[] = {
    {API_CHAT, "\"temperature\":-0.1", "temperature"},
    {API_CHAT, "\"temperature\":2.1", "temperature"},
    {API_CHAT, "\"temperature\":\"hot\"", "temperature"},
    {API_CHAT, "\"top_p\":1.01", "top_p"},
    {API_CHAT, "\"min_p\":-1", "min_p"},
    {API_CHAT, "\"top_k\":-2", "top_k"},
    {API_CHAT, "\"top_k\":1.5", "top_k"},
    {API_CHAT, "\"presence_penalty\":3", "presence_penalty"},
    {API_CHAT, "\"repetition_penalty\":0", "repetition_penalty"},
    {API_CHAT, "\"n\":0", "n"},
    {API_CHAT, "\"n\":129", "n"},
    {API_CHAT, "\"max_tokens\":0", "max_tokens"},
    {API_CHAT, "\"max_tokens\":\"7\"", "max_tokens"},
    {API_CHAT, "\"max_completion_tokens\":-1", "max_completion_tokens"},
    {API_CHAT, "\"min_tokens\":8,\"max_tokens\":7", "min_tokens"},
    {API_CHAT, "\"seed\":1.5", "seed"},
    {API_CHAT, "\"seed\":1e30", "seed"},
    {API_CHAT, "\"stop\":\"\"", "stop"},
    {API_CHAT, "\"stop\":[1]", "stop"},
    {API_CHAT, "\"stop\":{}", "stop"},
    {API_CHAT,
     "\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\",\"12\",\"13\",\"14\",\"15\","
     "\"16\",\"17\"]",
     "stop"},
    {API_CHAT, "\"stop_token_ids\":[1000]", "stop_token_ids"},
    {API_CHAT, "\"stop_token_ids\":7", "stop_token_ids"},
    {API_CHAT, "\"allowed_token_ids\":[]", "allowed_token_ids"},
    {API_CHAT, "\"logit_bias\":{\"x\":1}", "logit_bias"},
    {API_CHAT, "\"logit_bias\":{\"1000\":1}", "logit_bias"},
    {API_CHAT, "\"logit_bias\":{\"99999999999999999999\":1}", "logit_bias"},
    {API_CHAT, "\"logit_bias\":{\"-1\":1}", "logit_bias"},
    {API_CHAT, "\"logit_bias\":{\"\":1}", "logit_bias"},
    {API_CHAT, "\"logit_bias\":{\"1\":101}", "logit_bias"},
    {API_CHAT, "\"logit_bias\":{\"1\":1,\"01\":2}", "logit_bias"},
    {API_CHAT, "\"logprobs\":3", "logprobs"},
    {API_CHAT, "\"top_logprobs\":3", "top_logprobs"},
    {API_CHAT, "\"logprobs\":true,\"top_logprobs\":21", "top_logprobs"},
    {API_CHAT, "\"stream\":true,\"prompt_logprobs\":1", "prompt_logprobs"},
    {API_CHAT, "\"stream\":\"yes\"", "stream"},
    {API_CHAT, "\"stream_options\":{\"include_usage\":true}", "stream_options"},
    {API_CHAT, "\"stream\":true,\"stream_options\":{\"include_usage\":1}", "stream_options"},
    {API_CHAT, "\"response_format\":{\"type\":\"json_object\"}", "response_format"},
    {API_CHAT, "\"response_format\":\"text\"", "response_format"},
    {API_CHAT, "\"structured_outputs\":{\"json\":{}}", "structured_outputs"},
    {API_CHAT, "\"bad_words\":[\"x\"]", "bad_words"},
    {API_CHAT, "\"thinking_token_budget\":10", "thinking_token_budget"},
    {API_CHAT, "\"functions\":[{}]", "functions"},
    {API_CHAT, "\"tools\":{}", "tools"},
    {API_CHAT, "\"tools\":[{\"type\":\"function\"}]", "tools"},
    {API_CHAT, "\"tools\":[{\"type\":\"custom\",\"function\":{\"name\":\"f\"}}]", "tools"},
    {API_CHAT, "\"tool_choice\":\"required\"", "tool_choice"},
    {API_CHAT, "\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}", "tool_choice"},
    {API_CHAT, "\"tool_choice\":1", "tool_choice"},
    {API_CHAT, "\"chat_template_kwargs\":[]", "chat_template_kwargs"},
    {API_CHAT, "\"chat_template_kwargs\":{\"enable_thinking\":\"no\"}", "chat_template_kwargs"},
    {API_CHAT, "\"continue_final_message\":true,\"add_generation_prompt\":true", "continue_final_message"},
    {API_CHAT, "\"model\":5", "model"},
    {API_CHAT, "\"cache_salt\":\"\"", "cache_salt"},
    {API_CHAT, "\"priority\":1e12", "priority"},
    {API_CHAT, "\"truncate_prompt_tokens\":-2", "truncate_prompt_tokens"},
    {API_CHAT, "\"messages\":[]", "messages"},
    {API_CHAT, "\"messages\":\"hi\"", "messages"},
    {API_CHAT, "\"messages\":null", "messages"},
    {API_COMPLETION, "\"logprobs\":21", "logprobs"},
    {API_COMPLETION, "\"logprobs\":true", "logprobs"},
    {API_COMPLETION, "\"best_of\":2", "best_of"},
    {API_COMPLETION, "\"suffix\":\"x\"", "suffix"},
    {API_COMPLETION, "\"max_tokens\":-1", "max_tokens"},
    {API_COMPLETION, "\"prompt\":null", "prompt"},
    {API_COMPLETION, "\"prompt\":\"\"", "prompt"},
    {API_COMPLETION, "\"prompt\":[]", "prompt"},
    {API_COMPLETION, "\"prompt\":[[]]", "prompt"},
    {API_COMPLETION, "\"prompt\":[1,\"a\"]", "prompt"},
    {API_COMPLETION, "\"prompt\":[-1]", "prompt"},
    {API_COMPLETION, "\"prompt\":[1000]", "prompt"},
    {API_COMPLETION, "\"prompt\":[1.5]", "prompt"},
    {API_COMPLETION, "\"prompt\":[{}]", "prompt"},
    {API_COMPLETION, "\"prompt\":7", "prompt"},
    {API_TOKENIZE, "\"prompt\":[1]", "prompt"},
    {API_DETOKENIZE, "\"tokens\":\"x\"", "tokens"},
    {API_DETOKENIZE, "\"tokens\":[1000]", "tokens"},
    {API_EMBEDDING, "\"input\":null", "input"},
    {API_EMBEDDING, "\"input\":[]", "input"},
    {API_EMBEDDING, "\"input\":{}", "input"},
    {API_EMBEDDING, "\"input\":[1,\"a\"]", "input"},
    {API_EMBEDDING, "\"input\":[\"a\",1]", "input"},
    {API_EMBEDDING, "\"input\":[1000]", "input"},
    {API_EMBEDDING, "\"encoding_format\":\"bytes\"", "encoding_format"},
    {API_EMBEDDING, "\"encoding_format\":1", "encoding_format"},
    {API_EMBEDDING, "\"dimensions\":95", "dimensions"},
    {API_EMBEDDING, "\"dimensions\":0", "dimensions"},
    {API_EMBEDDING, "\"truncate_prompt_tokens\":-2", "truncate_prompt_tokens"},
    {API_EMBEDDING, "\"truncation_side\":\"middle\"", "truncation_side"},
    {API_EMBEDDING, "\"add_special_tokens\":1", "add_special_tokens"},
    {API_EMBEDDING, "\"normalize\":false", "normalize"},
    {API_EMBEDDING, "\"normalize\":\"yes\"", "normalize"},
    {API_EMBEDDING, "\"embed_dtype\":\"float16\"", "embed_dtype"},
    {API_EMBEDDING, "\"endianness\":\"big\"", "endianness"},
};

Test(api_request, bad_fields) {
    static const char *const base[] = {"{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],%s}",
                                       "{\"prompt\":\"hi\",%s}", "{%s}", "{%s}", "{\"input\":\"hi\",%s}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct api_request r;
        struct api_error error;
        char body[4096];
        const char *format = base[bad[i].kind], *mark = strstr(format, "%s"); /* of equal names the last one counts */
        snprintf(body, sizeof body, "%.*s%s%s", (int)(mark - format), format, bad[i].fields, mark + 2);
        cr_assert_eq(parse(&r, bad[i].kind, body, &error), STATUS_INVALID, "%s was accepted", body);
        cr_assert_eq(error.status, 400, "%s", body);
        cr_assert_str_eq(error.param, bad[i].param, "%s: %s", body, error.message);
        cr_assert(strlen(error.message) > 10, "%s: %s", body, error.message);
        cr_assert_null(r.tree);
    }
}

Test(api_request, bad_bodies) {
    static const char *const bodies[] = {
        "", "{", "[]", "null", "\"x\"", "{\"prompt\":\"a\"} x", "{\"prompt\":\"\xff\"}"};
    struct api_request r;
    struct api_error error;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        cr_assert_eq(parse(&r, API_COMPLETION, bodies[i], &error), STATUS_INVALID, "%s", bodies[i]);
        cr_assert_eq(error.status, 400);
    }
}

Test(api_request, too_many_of_anything) {
    size_t capacity = 1 << 20, n;
    char *body = malloc(capacity);
    struct api_request r;
    struct api_error error;
    n = (size_t)sprintf(body, "{\"prompt\":\"x\"");
    for (int i = 0; i < API_MAX_MEMBERS; i++) n += (size_t)sprintf(body + n, ",\"f%d\":0", i);
    sprintf(body + n, "}");
    cr_assert_eq(parse(&r, API_COMPLETION, body, &error), STATUS_INVALID);
    n = (size_t)sprintf(body, "{\"n\":128,\"prompt\":[\"x\"");
    for (int i = 0; i < API_MAX_CHOICES / 128; i++) n += (size_t)sprintf(body + n, ",\"x\"");
    sprintf(body + n, "]}");
    cr_assert_eq(parse(&r, API_COMPLETION, body, &error), STATUS_INVALID);
    cr_assert_str_eq(error.param, "prompt");
    n = (size_t)sprintf(body, "{\"input\":[\"x\"");
    for (int i = 0; i < API_MAX_CHOICES; i++) n += (size_t)sprintf(body + n, ",\"x\"");
    sprintf(body + n, "]}");
    cr_assert_eq(parse(&r, API_EMBEDDING, body, &error), STATUS_INVALID);
    cr_assert_str_eq(error.message, "input: expected at most 2048 inputs, found 2049");
    n = 0;
    for (int i = 0; i < 100000; i++) body[n++] = '[';
    body[n] = 0;
    cr_assert_eq(parse(&r, API_CHAT, body, &error), STATUS_INVALID);
    free(body);
}
