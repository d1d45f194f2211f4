/* Request bodies of every kind: the first byte chooses the kind. */
#include "server/api_request.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const struct api_defaults defaults = {
        .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .logprobs = -1, .prompt_logprobs = -1},
        .max_logprobs = 20,
        .vocab = 151936,
        .enable_thinking = -1,
        .dimensions = 384,
        .normalized = true,
    };
    struct api_request r;
    struct api_error error;
    if (!bytes) return 0;
    if (api_request_open(&r, data[0] % 5, (const char *)data + 1, bytes - 1, &error)) return 0;
    if (api_request_read(&r, &defaults, &error)) return 0;
    api_request_deinit(&r);
    return 0;
}
