/* cmd_chat.c - `tandem chat`: a conversation in the terminal.
 *
 * The whole conversation is rendered anew for each turn; the prefix cache makes that cost only the new part. Ctrl-C
 * stops the answer that is being written; at the prompt it ends the program. */
#include "tools/engine_flags.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int cmd_chat(int argc, char **argv);

static volatile sig_atomic_t interrupted; /* set by the handler, cleared when seen */

static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

struct chat {
    struct engine *engine;
    cJSON *messages; /* owned: the conversation so far */
    struct sampling_params sampling;
    int max_tokens;
    int enable_thinking; /* -1: the template's default */
};

static void add_message(struct chat *c, const char *role, const char *content) {
    cJSON *m = cJSON_CreateObject();
    cJSON_AddStringToObject(m, "role", role);
    cJSON_AddStringToObject(m, "content", content);
    cJSON_AddItemToArray(c->messages, m);
}

/* Forgets the conversation; a system message, if any, stays. */
static void reset(struct chat *c) {
    const cJSON *first = cJSON_GetArrayItem(c->messages, 0);
    const bool system = first && !strcmp(cJSON_GetStringValue(cJSON_GetObjectItem(first, "role")), "system");
    while (cJSON_GetArraySize(c->messages) > (system ? 1 : 0))
        cJSON_DeleteItemFromArray(c->messages, cJSON_GetArraySize(c->messages) - 1);
}

static void set_system(struct chat *c, const char *text) {
    cJSON_Delete(c->messages);
    c->messages = cJSON_CreateArray();
    if (*text) add_message(c, "system", text);
}

/* One answer, streamed; it joins the conversation as far as it got. */
static int answer(struct chat *c, char *err, size_t err_bytes) {
    const struct engine_info *info = engine_info(c->engine);
    struct chat_prompt prompt;
    struct ids ids = {0};
    int status = chat_render(
        &prompt, info->chat_template, c->messages, NULL,
        &(struct chat_options){.add_generation_prompt = true, .enable_thinking = c->enable_thinking}, err, err_bytes);
    if (status) return status;
    chat_encode(engine_tokenizer(c->engine), &prompt, &ids);
    chat_prompt_deinit(&prompt);

    struct request_params params = {.prompt = ids.data, .n_prompt = (int)ids.n, .sampling = c->sampling};
    const int room = info->max_model_len - (int)ids.n;
    params.sampling.max_tokens = room > 0 && c->max_tokens > room ? room : c->max_tokens;
    uint64_t id;
    status = engine_submit(c->engine, &params, &id, err, err_bytes);
    ids_deinit(&ids);
    if (status) return status;

    struct engine_event event = {0};
    char *text = calloc(1, 1);
    size_t bytes = 0;
    interrupted = 0;
    for (bool ended = false; !ended;) {
        engine_wait(c->engine, 100);
        if (interrupted) {
            interrupted = 0;
            engine_cancel(c->engine, id);
        }
        while (!ended && engine_poll(c->engine, &event)) {
            fwrite(event.text, 1, event.text_bytes, stdout);
            fflush(stdout);
            text = realloc(text, bytes + event.text_bytes + 1);
            CHECK(text);
            memcpy(text + bytes, event.text, event.text_bytes + 1);
            bytes += event.text_bytes;
            ended = event.kind == EVENT_FINISHED;
        }
    }
    puts(event.reason == FINISH_CANCELLED ? " [stopped]" : event.reason == FINISH_LENGTH ? " [length]" : "");
    if (event.reason == FINISH_ERROR) status = fail(err, err_bytes, STATUS_DEVICE, "%s", event.error);
    add_message(c, "assistant", text);
    free(text);
    const double decode = event.usage.t_finish - event.usage.t_first;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\033[2m%d tokens (%d cached) in, %d out, %.0f tokens/s\033[0m\n", event.usage.n_prompt,
                event.usage.n_cached, event.usage.n_output, decode > 0 ? (event.usage.n_output - 1) / decode : 0);
    return status;
}

/* A line that begins with '/'. False: the conversation is over. */
static bool run_command(struct chat *c, char *line) {
    char *argument = strchr(line, ' ');
    if (argument)
        *argument++ = 0;
    else
        argument = line + strlen(line);
    char *end;
    const double number = strtod(argument, &end);
    const bool is_number = end != argument && !*end;

    if (!strcmp(line, "/quit") || !strcmp(line, "/exit")) return false;
    if (!strcmp(line, "/reset"))
        reset(c);
    else if (!strcmp(line, "/system"))
        set_system(c, argument);
    else if (!strcmp(line, "/temperature") && is_number && number >= 0)
        c->sampling.temperature = (float)number;
    else if (!strcmp(line, "/max-tokens") && is_number && number >= 1)
        c->max_tokens = (int)number;
    else if (!strcmp(line, "/seed") && is_number && number >= 0)
        c->sampling.has_seed = true, c->sampling.seed = (uint64_t)number;
    else if (!strcmp(line, "/thinking") && (!strcmp(argument, "on") || !strcmp(argument, "off")))
        c->enable_thinking = !strcmp(argument, "on");
    else
        printf("/system TEXT     begin anew with a system message (none: without)\n"
               "/reset           forget the conversation\n"
               "/temperature X   0 is greedy (now %g)\n"
               "/max-tokens N    of one answer (now %d)\n"
               "/seed N          of the sampler\n"
               "/thinking on|off for models that can\n"
               "/quit            or Ctrl-D; Ctrl-C stops an answer\n",
               (double)c->sampling.temperature, c->max_tokens);
    return true;
}

int cmd_chat(int argc, char **argv) {
    static const struct command_help help = {
        .name = "chat",
        .operands = "MODEL",
        .summary = "Talks with a model in the terminal. /help lists the commands; Ctrl-C stops an answer.",
        .example = "tandem chat weights/sample/small",
        .min_operands = 1,
        .max_operands = 1,
    };
    struct engine_options engine = engine_default_options();
    engine.max_num_seqs = 1;
    struct chat c = {.max_tokens = 1024, .enable_thinking = -1, .messages = cJSON_CreateArray()};
    const char *system = NULL, *template_name = NULL;
    double temperature = -1;
    const struct option_spec specs[] = {
        FLAG_TITLE("Conversation"),
        FLAG(STRING, "system", &system, "TEXT", "a system message"),
        FLAG(INT, "max-tokens", &c.max_tokens, "N", "of one answer", .low = 1, .high = 1 << 22),
        FLAG(DOUBLE, "temperature", &temperature, "X", "0 is greedy", .low = 0, .high = 100, .shown = "the model's"),
        FLAG(STRING, "chat-template", &template_name, "NAME", "qwen2.5, qwen3, qwen3-thinking or qwen3-nonthinking",
             .shown = "the checkpoint's"),
        ENGINE_FLAGS(engine),
        {0},
    };
    struct options o = {0};
    char err[ERR_BYTES], *line = NULL;
    size_t capacity = 0;
    int exit_code;

    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    exit_code = 1;
    engine.model = o.operands.items[0];
    if (template_name && (engine.chat_template = chat_template_by_name(template_name)) == CHAT_TEMPLATE_NONE) {
        fprintf(stderr, "tandem chat: --chat-template: unknown name \"%s\"\n", template_name);
        exit_code = 2;
        goto done;
    }
    if (engine_open(&c.engine, &engine, err, sizeof err)) {
        fprintf(stderr, "tandem chat: %s\n", err);
        goto done;
    }
    if (engine_info(c.engine)->chat_template == CHAT_TEMPLATE_NONE) {
        fprintf(stderr, "tandem chat: the checkpoint has no chat template that Tandem knows; name one with "
                        "--chat-template\n");
        goto done;
    }
    c.sampling = sampling_from_generation_config(&engine_info(c.engine)->generation);
    if (temperature >= 0) c.sampling.temperature = (float)temperature;
    if (system) set_system(&c, system);

    /* no SA_RESTART: at the prompt Ctrl-C must break getline */
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    const bool terminal = isatty(STDIN_FILENO);
    if (terminal) printf("%s. /help lists the commands.\n", engine_info(c.engine)->path);
    for (;;) {
        if (terminal) printf("> ");
        fflush(stdout);
        ssize_t n = getline(&line, &capacity, stdin);
        if (n < 0) break; /* end of input, or Ctrl-C at the prompt */
        if (n && line[n - 1] == '\n') line[--n] = 0;
        if (!n) continue;
        if (line[0] == '/') {
            if (!run_command(&c, line)) break;
            continue;
        }
        add_message(&c, "user", line);
        if (answer(&c, err, sizeof err)) {
            fprintf(stderr, "tandem chat: %s\n", err);
            cJSON_DeleteItemFromArray(c.messages, cJSON_GetArraySize(c.messages) - 1);
        }
    }
    if (terminal) putchar('\n');
    exit_code = 0;
done:
    free(line);
    engine_close(c.engine);
    cJSON_Delete(c.messages);
    options_deinit(&o);
    return exit_code;
}
