#include "tools/score.h"

static int run(struct engine *e, const struct request_params *params, float *logprobs, char *err, size_t err_bytes) {
    struct engine_event event;
    int status = engine_submit(e, params, NULL, err, err_bytes);
    if (status) return status;
    do {
        engine_wait(e, -1);
        while (engine_poll(e, &event)) {
            if (event.prompt_logprobs && logprobs)
                for (int i = 0; i < params->n_prompt - 1; i++)
                    logprobs[i] = event.prompt_logprobs[i].entries[0].logprob;
            if (event.kind == EVENT_FINISHED) break;
        }
    } while (event.kind != EVENT_FINISHED);
    if (event.reason == FINISH_ERROR) return fail(err, err_bytes, STATUS_DEVICE, "%s", event.error);
    return 0;
}

int score_logits(struct engine *e, const int32_t *ids, int n, float *logits, char *err, size_t err_bytes) {
    struct request_params params = {.prompt = ids, .n_prompt = n, .sampling = sampling_default(), .logits = logits};
    params.sampling.prompt_only = true;
    return run(e, &params, NULL, err, err_bytes);
}

int score_logprobs(struct engine *e, const int32_t *ids, int n, float *logprobs, char *err, size_t err_bytes) {
    struct request_params params = {.prompt = ids, .n_prompt = n, .sampling = sampling_default()};
    params.sampling.prompt_only = true;
    params.sampling.prompt_logprobs = 0;
    return run(e, &params, logprobs, err, err_bytes);
}
