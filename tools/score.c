#include "tools/score.h"
#include "tools/progress.h"

#include <stdio.h>
#include <stdlib.h>

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

int score_text(struct engine *e, const struct ids *ids, int window, const char *source, double *nll, int64_t *n_scored,
               char *err, size_t err_bytes) {
    double sum = 0;
    int status = 0;
    struct progress bar;
    float *logprobs = malloc((size_t)window * sizeof *logprobs);
    CHECK(logprobs);
    *n_scored = 0;
    progress_begin(&bar, "perplexity", "tokens", (int64_t)ids->n);
    for (size_t at = 0; at + 1 < ids->n && !status; at += (size_t)window) {
        const int n = ids->n - at < (size_t)window ? (int)(ids->n - at) : window;
        status = score_logprobs(e, ids->data + at, n, logprobs, err, err_bytes);
        for (int i = 0; i < n - 1 && !status; i++) sum -= logprobs[i];
        *n_scored += n - 1;
        progress_update(&bar, (int64_t)at + n);
    }
    free(logprobs);
    if (status) return status;
    progress_end(&bar, (int64_t)ids->n);
    if (!*n_scored)
        return fail(err, err_bytes, STATUS_INVALID, "%s: expected at least two tokens of text, found %zu", source,
                    ids->n);
    *nll = sum / (double)*n_scored;
    return 0;
}

int score_read_file(char **text, size_t *bytes, const char *flag, const char *path, char *err, size_t err_bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) return fail(err, err_bytes, STATUS_IO, "--%s %s: %m", flag, path);
    size_t capacity = 1 << 16, n = 0, got;
    char *data = malloc(capacity);
    while (data && (got = fread(data + n, 1, capacity - n, f)) > 0)
        if ((n += got) == capacity) {
            char *more = realloc(data, capacity *= 2);
            if (!more) free(data);
            data = more;
        }
    int status = !data ? STATUS_NO_MEMORY : ferror(f) ? STATUS_IO : 0;
    fclose(f);
    if (status) {
        free(data);
        return fail(err, err_bytes, status, "--%s %s: %s", flag, path, status_text(status));
    }
    *text = data;
    *bytes = n;
    return 0;
}
