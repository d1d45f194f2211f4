/* api_embeddings.c - /v1/embeddings: what an answer looks like.
 *
 * Each input is a choice without text. The engine writes its vector into the call's `vectors`; when the last has ended,
 * the answer is written from there. */
#include "server/server_internal.h"

#include "kernels/status.h"

#include <assert.h>
#include <math.h>

/* Numbers above this are written on a worker: printf takes some 0.2 us for one, and other clients' streams should not
 * wait for more than a few milliseconds. */
#define WORKER_FLOATS 8192

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "base64 holds the floats as they lie in memory");

static void take(struct choice *choice, const struct engine_event *event) {
    (void)choice;
    (void)event;
}

/* RFC 4648, with padding. */
static void out_base64(struct out *out, const unsigned char *data, size_t bytes) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < bytes; i += 3) {
        const size_t n = bytes - i < 3 ? bytes - i : 3;
        const uint32_t b =
            (uint32_t)data[i] << 16 | (n > 1 ? (uint32_t)data[i + 1] << 8 : 0) | (n > 2 ? data[i + 2] : 0);
        const char quad[4] = {digits[b >> 18], digits[b >> 12 & 63], n > 1 ? digits[b >> 6 & 63] : '=',
                              n > 2 ? digits[b & 63] : '='};
        out_bytes(out, quad, sizeof quad);
    }
}

static void out_vector(struct out *out, const float *vector, size_t C, bool as_base64) {
    if (as_base64) {
        out_char(out, '"');
        out_base64(out, (const unsigned char *)vector, C * sizeof *vector);
        out_char(out, '"');
        return;
    }
    for (size_t i = 0; i < C; i++) out_format(out, "%c%.9g", i ? ',' : '[', (double)vector[i]); /* exact for f32 */
    out_char(out, ']');
}

static bool is_finite(const float *vector, size_t C) {
    for (size_t i = 0; i < C; i++)
        if (!isfinite(vector[i])) return false;
    return true;
}

/* The whole answer into c->prepared, or c->error. */
static void write_answer(struct call *c) {
    const size_t C = (size_t)c->model->info->encoder.hidden;
    struct out *out = &c->prepared;
    size_t n_tokens = 0;
    out_text(out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < c->n_choices; i++) {
        const float *vector = c->vectors + (size_t)i * C;
        if (!is_finite(vector, C)) {
            api_error_set(&c->error, 500, NULL,
                          "The vector of input[%d] has numbers that are not finite: this model overflows in the dtype "
                          "that it is served in.",
                          i);
            return;
        }
        out_format(out, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i ? "," : "", i);
        out_vector(out, vector, C, c->request.as_base64);
        out_char(out, '}');
        n_tokens += c->prompts[i].n;
    }
    out_text(out, "],\"model\":");
    json_out_cstring(out, c->model_name);
    out_format(out, ",\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu}}", n_tokens, n_tokens);
}

static void answer(struct call *c) {
    const size_t n_floats = (size_t)c->n_choices * (size_t)c->model->info->encoder.hidden;
    call_work(c, n_floats > WORKER_FLOATS, write_answer, call_respond_prepared);
}

const struct api api_embeddings = {
    .take = take,
    .answer = answer,
};
