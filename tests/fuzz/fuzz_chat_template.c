/* Messages and tools from any JSON, in every template: the first byte chooses the template, the second the options.
 *
 * Besides not crashing: a rendering is valid UTF-8 (cJSON can carry it on), its spans are in order and inside it, and
 * special tokens come from the scaffold alone: blanking the spans changes none of their number. Run it from the
 * repository's root, where the small tokenizer is found. */
#include "engine/chat_template.h"
#include "kernels/status.h"
#include "weights/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct tokenizer *tokenizer; /* of the whole run */

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    char err[ERR_BYTES];
    (void)argc, (void)argv;
    CHECK_EQ(tokenizer_open(&tokenizer, "tests/golden/qwen3-bf16", err, sizeof err), 0);
    return 0;
}

static size_t count_special(const struct chat_prompt *p) {
    struct ids ids = {0};
    size_t n = 0;
    int status = chat_encode(tokenizer, p, &ids);
    CHECK(status == 0 || status == STATUS_TOO_LARGE);
    for (size_t i = 0; i < ids.n; i++) n += tokenizer_is_special(tokenizer, ids.data[i]);
    ids_deinit(&ids);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct json_limits limits = {.max_bytes = 1 << 16, .max_depth = 64};
    char err[ERR_BYTES] = "";
    struct chat_prompt p;
    cJSON *tree;
    if (bytes < 2) return 0;
    enum chat_template t = CHAT_TEMPLATE_QWEN25 + data[0] % (CHAT_TEMPLATE_QWEN2 + 1 - CHAT_TEMPLATE_QWEN25);
    struct chat_options options = {
        .add_generation_prompt = data[1] & 1,
        .continue_final_message = (data[1] & 3) == 2,
        .enable_thinking = data[1] / 4 % 3 - 1,
        .parse_arguments = data[1] & 64,
    };
    if (json_parse(&tree, (const char *)data + 2, bytes - 2, limits, err, sizeof err)) return 0;
    chat_keep_numbers(tree, (const char *)data + 2, bytes - 2);
    int status = chat_render(&p, t, json_find(tree, "messages"), json_find(tree, "tools"), &options, err, sizeof err);
    cJSON_Delete(tree);
    CHECK(status == 0 || *err);
    if (status) return 0;
    CHECK_EQ(strlen(p.text), p.bytes); /* JSON's \u0000 is refused before */
    size_t end = 0, special = count_special(&p);
    for (size_t i = 0; i < p.n_spans; i++) {
        CHECK_LE(end, p.spans[i].start);
        CHECK_LE(p.spans[i].start, p.spans[i].end);
        end = p.spans[i].end;
        memset(p.text + p.spans[i].start, ' ', end - p.spans[i].start);
    }
    CHECK_LE(end, p.bytes);
    CHECK_EQ(count_special(&p), special);
    chat_prompt_deinit(&p);
    return 0;
}
