/* cmd_generate.c - `tandem generate`: one prompt in, streamed text out, without a server. */
#include "tools/engine_flags.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cmd_generate(int argc, char **argv);

/* The prompt's ids: plain text, or one user message in the checkpoint's chat template. */
static int make_prompt(struct ids *ids, const struct engine *e, const char *text, bool chat, char *err,
                       size_t err_bytes) {
    const struct tokenizer *t = engine_tokenizer(e);
    if (!chat) {
        tokenizer_encode(t, text, strlen(text), false, ids);
        return 0;
    }
    if (engine_info(e)->chat_template == CHAT_TEMPLATE_NONE)
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    "the checkpoint has no chat template that Tandem knows: leave out --chat");
    cJSON *messages = cJSON_CreateArray(), *message = cJSON_CreateObject();
    cJSON_AddStringToObject(message, "role", "user");
    cJSON_AddStringToObject(message, "content", text);
    cJSON_AddItemToArray(messages, message);
    struct chat_prompt prompt;
    int status =
        chat_render(&prompt, engine_info(e)->chat_template, messages, NULL,
                    &(struct chat_options){.add_generation_prompt = true, .enable_thinking = -1}, err, err_bytes);
    if (!status) {
        chat_encode(t, &prompt, ids);
        chat_prompt_deinit(&prompt);
    }
    cJSON_Delete(messages);
    return status;
}

/* Submits and prints until the end. The text of a JSON answer is collected in *text. */
static int run(struct engine *e, const struct request_params *params, bool json, char *err, size_t err_bytes) {
    struct engine_event event;
    cJSON *tokens = cJSON_CreateArray();
    size_t bytes = 0;
    char *text = calloc(1, 1);
    int status = engine_submit(e, params, NULL, err, err_bytes);
    for (bool ended = status != 0; !ended;) {
        engine_wait(e, -1);
        while (!ended && engine_poll(e, &event)) {
            if (json) {
                text = realloc(text, bytes + event.text_bytes + 1);
                CHECK(text);
                memcpy(text + bytes, event.text, event.text_bytes + 1);
                bytes += event.text_bytes;
                for (int i = 0; i < event.n_tokens; i++)
                    cJSON_AddItemToArray(tokens, cJSON_CreateNumber(event.tokens[i]));
            } else {
                fwrite(event.text, 1, event.text_bytes, stdout);
                fflush(stdout);
            }
            ended = event.kind == EVENT_FINISHED;
        }
    }
    if (!status && event.reason == FINISH_ERROR) status = fail(err, err_bytes, STATUS_DEVICE, "%s", event.error);
    if (!status && json) {
        const struct request_usage *u = &event.usage;
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "text", text);
        cJSON_AddStringToObject(o, "finish_reason", event.reason == FINISH_STOP ? "stop" : "length");
        cJSON_AddItemToObject(o, "token_ids", tokens);
        tokens = NULL;
        cJSON_AddNumberToObject(o, "prompt_tokens", u->n_prompt);
        cJSON_AddNumberToObject(o, "completion_tokens", u->n_output);
        cJSON_AddNumberToObject(o, "ttft_ms", 1e3 * (u->t_first - u->t_submit));
        cJSON_AddNumberToObject(o, "total_ms", 1e3 * (u->t_finish - u->t_submit));
        char *line = cJSON_PrintUnformatted(o);
        puts(line);
        free(line);
        cJSON_Delete(o);
    } else if (!status) {
        const struct request_usage *u = &event.usage;
        const double decode = u->t_finish - u->t_first;
        putchar('\n');
        fprintf(stderr, "[%d prompt tokens, %d generated, first after %.1f ms, then %.0f tokens/s]\n", u->n_prompt,
                u->n_output, 1e3 * (u->t_first - u->t_submit), decode > 0 ? (u->n_output - 1) / decode : 0);
    }
    cJSON_Delete(tokens);
    free(text);
    return status;
}

int cmd_generate(int argc, char **argv) {
    static const struct command_help help = {
        .name = "generate",
        .operands = "MODEL",
        .summary = "Continues one prompt and streams the text to standard output.",
        .example = "tandem generate weights/sample/small --chat --prompt \"What is a kernel?\" --max-tokens 64",
        .min_operands = 1,
        .max_operands = 1,
    };
    struct engine_options engine = engine_default_options();
    engine.max_num_seqs = 1;
    const char *prompt = NULL;
    bool chat = false, json = false, ignore_eos = false;
    int max_tokens = 256, top_k = -2, seed = -1;
    double temperature = -1, top_p = -1;
    const struct option_spec specs[] = {
        FLAG_TITLE("Generation"),
        FLAG(STRING, "prompt", &prompt, "TEXT", "the text to continue, or the question with --chat"),
        FLAG(BOOL, "chat", &chat, NULL, "put the prompt into the checkpoint's chat template"),
        FLAG(INT, "max-tokens", &max_tokens, "N", "tokens to generate, at most", .low = 1, .high = 1 << 22),
        FLAG(DOUBLE, "temperature", &temperature, "X", "0 is greedy", .low = 0, .high = 100, .shown = "the model's"),
        FLAG(DOUBLE, "top-p", &top_p, "X", "keep the most likely tokens up to this mass", .low = 0, .high = 1,
             .shown = "the model's"),
        FLAG(INT, "top-k", &top_k, "N", "keep the N most likely tokens; 0: all", .low = 0, .high = 1 << 22,
             .shown = "the model's"),
        FLAG(INT, "seed", &seed, "N", "of the sampler", .low = 0, .high = 2147483647, .shown = "0"),
        FLAG(BOOL, "ignore-eos", &ignore_eos, NULL, "go on after the end-of-text token"),
        FLAG(BOOL, "json", &json, NULL, "print one JSON object with text, token ids and times"),
        ENGINE_FLAGS(engine),
        {0},
    };
    struct options o = {0};
    struct engine *e = NULL;
    struct ids ids = {0};
    char err[ERR_BYTES];
    int exit_code;

    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    exit_code = 2;
    if (!prompt) {
        fprintf(stderr, "tandem generate: --prompt TEXT is needed\n");
        goto done;
    }
    exit_code = 1;
    engine.model = o.operands.items[0];
    if (engine_open(&e, &engine, err, sizeof err)) goto failed;
    if (make_prompt(&ids, e, prompt, chat, err, sizeof err)) goto failed;

    struct sampling_params s = sampling_from_generation_config(&engine_info(e)->generation);
    if (temperature >= 0) s.temperature = (float)temperature;
    if (top_p > 0) s.top_p = (float)top_p;
    if (top_k >= 0) s.top_k = top_k;
    s.has_seed = true;
    s.seed = seed < 0 ? 0 : (uint64_t)seed;
    s.ignore_eos = ignore_eos;
    const int room = engine_info(e)->max_model_len - (int)ids.n;
    s.max_tokens = room > 0 && max_tokens > room ? room : max_tokens;
    const struct request_params params = {.prompt = ids.data, .n_prompt = (int)ids.n, .sampling = s};
    if (run(e, &params, json, err, sizeof err)) goto failed;
    exit_code = 0;
    goto done;
failed:
    fprintf(stderr, "tandem generate: %s\n", err);
done:
    ids_deinit(&ids);
    engine_close(e);
    options_deinit(&o);
    return exit_code;
}
