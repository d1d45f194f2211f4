/* test_api_prompt.c - bounds on the inputs of /v1/embeddings that no model of the tests reaches. */
#include "server/server_internal.h"

#include "kernels/status.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LEN = 1000 };

/* What becomes of n_inputs inputs of n_ids ids each: 0, or the status and *error. *n_kept: ids of the last input. */
static int prepare(int n_inputs, int n_ids, const char *fields, size_t *n_kept, struct api_error *error) {
    static const char *const names[] = {"e"};
    const struct engine_info info = {
        .is_encoder = true, .encoder = {.hidden = 8}, .model = {.vocab = 10}, .max_model_len = MAX_LEN};
    struct server s = {.n_models = 1, .models = {{.info = &info, .names = names, .n_names = 1}}};
    struct call c = {.server = &s, .kind = API_EMBEDDING};
    s.models[0].defaults = (struct api_defaults){.sampling = sampling_default(), .vocab = 10, .dimensions = 8};
    char *body = malloc((size_t)n_inputs * (2 * (size_t)n_ids + 3) + 256), *p = body;
    p += sprintf(p, "{%s\"input\":[", fields);
    for (int i = 0; i < n_inputs; i++) {
        for (int k = 0; k < n_ids; k++) p += sprintf(p, k ? ",%d" : i ? ",[%d" : "[%d", k % 10);
        *p++ = ']';
    }
    p += sprintf(p, "]}");
    int status = api_prepare(&c, body, (size_t)(p - body));
    *error = c.error;
    *n_kept = status ? 0 : c.prompts[n_inputs - 1].n;
    for (int i = 0; i < c.n_prompts; i++) ids_deinit(&c.prompts[i]);
    free(c.prompts);
    api_request_deinit(&c.request);
    free(body);
    return status;
}

Test(api_prompt, tokens_of_all_inputs) {
    struct api_error error;
    size_t n;
    cr_assert_eq(prepare(2048, 512, "", &n, &error), 0, "%s", error.message); /* 2^20: the most there may be */
    cr_assert_eq(n, 512);
    cr_assert_eq(prepare(2048, 513, "", &n, &error), STATUS_INVALID);
    cr_assert_eq(error.status, 400);
    cr_assert_str_eq(error.param, "input");
    cr_assert(strstr(error.message, "at most 1048576 tokens") && strstr(error.message, "in the first 2045 of 2048"),
              "%s", error.message);
    cr_assert_eq(prepare(2048, 513, "\"truncate_prompt_tokens\":512,", &n, &error), 0, "%s", error.message);
    cr_assert_eq(n, 512);
}

Test(api_prompt, tokens_of_one_input) {
    struct api_error error;
    size_t n;
    cr_assert_eq(prepare(2, MAX_LEN, "", &n, &error), 0, "%s", error.message);
    cr_assert_eq(n, MAX_LEN);
    cr_assert_eq(prepare(2, MAX_LEN + 1, "", &n, &error), STATUS_INVALID);
    cr_assert(strstr(error.message, "1000 tokens") && strstr(error.message, "1001 tokens in input[0]"), "%s",
              error.message);
    cr_assert_eq(prepare(2, MAX_LEN + 1, "\"truncate_prompt_tokens\":-1,", &n, &error), 0, "%s", error.message);
    cr_assert_eq(n, MAX_LEN);
    cr_assert_eq(prepare(2, 5, "\"truncate_prompt_tokens\":1001,", &n, &error), STATUS_INVALID);
    cr_assert_str_eq(error.param, "truncate_prompt_tokens");
}
