/* Asks a model one question through engine.h and streams the answer.
 * Build: link libtandem_engine, libtandem_weights, libtandem_kernels and their libraries (see CMakeLists.txt). */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A user's question in the checkpoint's chat template, as token ids. */
static int make_prompt(struct ids *ids, struct engine *e, const char *question, char *err) {
    cJSON *messages = cJSON_CreateArray(), *message = cJSON_CreateObject();
    cJSON_AddStringToObject(message, "role", "user");
    cJSON_AddStringToObject(message, "content", question);
    cJSON_AddItemToArray(messages, message);

    const struct chat_options options = {.add_generation_prompt = true, .enable_thinking = -1};
    struct chat_prompt prompt;
    int status = chat_render(&prompt, engine_info(e)->chat_template, messages, NULL, &options, err, ERR_BYTES);
    if (!status) chat_encode(engine_tokenizer(e), &prompt, ids);
    if (!status) chat_prompt_deinit(&prompt);
    cJSON_Delete(messages);
    return status;
}

int main(int argc, char **argv) {
    char err[ERR_BYTES] = "usage: library_example MODEL QUESTION";
    struct engine *e = NULL;
    struct ids ids = {0};
    struct engine_event event;
    int exit_code = 1;

    struct engine_options options = engine_default_options();
    options.model = argc == 3 ? argv[1] : NULL;
    options.max_num_seqs = 4;
    if (argc != 3 || engine_open(&e, &options, err, sizeof err)) goto done;
    if (make_prompt(&ids, e, argv[2], err)) goto done;

    struct request_params request = {.prompt = ids.data, .n_prompt = (int)ids.n};
    request.sampling = sampling_from_generation_config(&engine_info(e)->generation);
    request.sampling.max_tokens = 100;
    if (engine_submit(e, &request, NULL, err, sizeof err)) goto done;
    do {
        engine_wait(e, -1);
        while (engine_poll(e, &event)) fwrite(event.text, 1, event.text_bytes, stdout);
        fflush(stdout);
    } while (event.kind != EVENT_FINISHED);
    printf("\n[%d tokens in, %d out]\n", event.usage.n_prompt, event.usage.n_output);
    exit_code = 0;
done:
    if (exit_code) fprintf(stderr, "%s\n", err);
    ids_deinit(&ids);
    engine_close(e);
    return exit_code;
}
