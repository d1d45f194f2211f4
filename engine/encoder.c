/* encoder.c - texts -> ragged step -> forward -> vectors. */
#include "engine/encoder.h"
#include "engine/bert.h"

#include <stdlib.h>
#include <string.h>

struct flight { /* one step on its way; host memory is the device's to read and write until it has landed */
    int32_t *ints;  /* owned, pinned: the arrays of struct ragged, one after the other */
    float *vectors; /* owned, pinned [max_texts, C] */
};

struct encoder {
    struct exec *exec; /* borrowed */
    struct encoder_options options;
    struct bert model;
    struct bert_activations a;
    void *arena;          /* owned device memory: activations */
    int32_t *device_ints; /* owned device memory: the arrays of struct ragged */
    struct flight flights[ENCODER_SLOTS];
};

/* tokens, positions, seq_of [T], start [B + 1] */
static size_t n_ints(const struct encoder_options *o) {
    return 3 * (size_t)o->max_tokens + (size_t)o->max_texts + 1;
}

static void raise_to(int *field, int least) {
    if (*field < least) *field = least;
}

void encoder_widen(struct exec_options *exec, const struct encoder_config *c, const struct encoder_options *o) {
    raise_to(&exec->max_tokens, o->max_tokens);
    raise_to(&exec->max_rows, 1);
    raise_to(&exec->max_width, 3 * c->hidden);
    raise_to(&exec->max_width, c->ffn);
    raise_to(&exec->max_kv_len, c->max_positions);
    raise_to(&exec->max_heads, c->n_heads);
    raise_to(&exec->max_head_dim, c->head_dim);
    raise_to(&exec->vocab, 1); /* there are no logits */
}

int encoder_exec_open(struct exec **out, const struct exec_options *exec, bool is_auto, const struct encoder_config *c,
                      const struct encoder_options *o, char *err, size_t err_bytes) {
    struct exec_options wide = *exec;
    encoder_widen(&wide, c, o);
    int status = exec_open(out, &wide, err, err_bytes);
    if (status || !is_auto || wide.dtype != DTYPE_F32 || !exec_is_gpu(*out)) return status;
    exec_close(*out);
    wide.dtype = DTYPE_F16;
    return exec_open(out, &wide, err, err_bytes);
}

size_t encoder_bytes(const struct encoder_config *c, const struct encoder_options *o, enum dtype dtype) {
    return bert_weight_bytes(c, dtype) + bert_activations_layout(NULL, NULL, c, dtype, o->max_tokens, o->max_texts) +
           n_ints(o) * sizeof(int32_t);
}

int encoder_open(struct encoder **out, struct exec *e, const struct checkpoint *checkpoint,
                 const struct encoder_config *c, const struct encoder_options *o, char *err, size_t err_bytes) {
    const enum dtype dtype = exec_dtype(e);
    CHECK_LE(c->max_len, o->max_tokens);
    CHECK_LT(0, o->max_texts);
    CHECK_LE(o->first_mark + ENCODER_MARKS, EXEC_SLOTS);
    struct encoder *n = *out = calloc(1, sizeof *n);
    if (!n) return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for an encoder");
    n->exec = e;
    n->options = *o;
    int status = bert_load(&n->model, e, checkpoint, c, err, err_bytes);
    if (status) goto fail;

    const size_t arena_bytes = bert_activations_layout(NULL, NULL, c, dtype, o->max_tokens, o->max_texts);
    n->arena = exec_alloc(e, arena_bytes);
    n->device_ints = exec_alloc(e, n_ints(o) * sizeof(int32_t));
    bool complete = n->arena && n->device_ints;
    for (int i = 0; i < ENCODER_SLOTS; i++) {
        struct flight *f = &n->flights[i];
        f->ints = exec_alloc_host(e, n_ints(o) * sizeof *f->ints);
        f->vectors = exec_alloc_host(e, (size_t)o->max_texts * (size_t)c->hidden * sizeof *f->vectors);
        complete &= f->ints && f->vectors;
    }
    if (complete) {
        bert_activations_layout(&n->a, n->arena, c, dtype, o->max_tokens, o->max_texts);
        return 0;
    }
    status = fail(err, err_bytes, STATUS_NO_MEMORY,
                  "no memory for the encoder's activations (%zu MB): lower its tokens per step", arena_bytes >> 20);
fail:
    encoder_close(n);
    *out = NULL;
    return status;
}

void encoder_close(struct encoder *n) {
    if (!n) return;
    for (int i = 0; i < ENCODER_SLOTS; i++) {
        exec_free_host(n->exec, n->flights[i].ints);
        exec_free_host(n->exec, n->flights[i].vectors);
    }
    bert_deinit(&n->model, n->exec);
    exec_free(n->exec, n->arena);
    exec_free(n->exec, n->device_ints);
    free(n);
}

const struct encoder_config *encoder_config(const struct encoder *n) {
    return &n->model.config;
}

/* The texts as flat arrays: filled on the host, copied to the device in one piece. */
static struct ragged make_ragged(struct encoder *n, struct flight *f, const struct encoder_text *texts, int B) {
    int T = 0, max_len = 0;
    for (int b = 0; b < B; b++) {
        CHECK_LT(0, texts[b].n);
        CHECK_LE(texts[b].n, n->model.config.max_positions);
        if (texts[b].n > max_len) max_len = texts[b].n;
        T += texts[b].n;
        CHECK_LE(T, n->options.max_tokens);
    }
    int32_t *tokens = f->ints, *positions = tokens + T, *seq_of = positions + T, *start = seq_of + T;
    for (int b = 0, t = 0; b < B; b++) {
        start[b] = t;
        start[b + 1] = t + texts[b].n;
        memcpy(tokens + t, texts[b].ids, (size_t)texts[b].n * sizeof *tokens);
        for (int i = 0; i < texts[b].n; i++, t++) {
            CHECK_LT((uint32_t)tokens[t], (uint32_t)n->model.config.vocab);
            positions[t] = i;
            seq_of[t] = b;
        }
    }
    exec_upload_async(n->exec, n->device_ints, f->ints, (3 * (size_t)T + (size_t)B + 1) * sizeof(int32_t));

    const int32_t *d = n->device_ints;
    return (struct ragged){
        .T = T,
        .B = B,
        .max_len = max_len,
        .tokens = d,
        .positions = d + T,
        .seq_of = d + 2 * (size_t)T,
        .start = d + 3 * (size_t)T,
    };
}

/* Marks of a slot: where its step begins and ends. */
static int begin_mark(const struct encoder *n, int slot) { return n->options.first_mark + 2 * slot; }
static int end_mark(const struct encoder *n, int slot) { return n->options.first_mark + 2 * slot + 1; }

void encoder_launch(struct encoder *n, int slot, const struct encoder_text *texts, int n_texts) {
    CHECK_LT((unsigned)slot, ENCODER_SLOTS);
    CHECK_LT(0, n_texts);
    CHECK_LE(n_texts, n->options.max_texts);
    struct flight *f = &n->flights[slot];
    exec_record(n->exec, begin_mark(n, slot));
    const struct ragged ragged = make_ragged(n, f, texts, n_texts);
    forward_bert(n->exec, &n->model, &n->a, &ragged);
    exec_download_async(n->exec, f->vectors, n->a.vectors,
                        (size_t)n_texts * (size_t)n->model.config.hidden * sizeof *f->vectors);
    exec_record(n->exec, end_mark(n, slot));
}

int encoder_land(struct encoder *n, int slot, const float **vectors, double *device_seconds, char *err,
                 size_t err_bytes) {
    CHECK_LT((unsigned)slot, ENCODER_SLOTS);
    int status = exec_wait(n->exec, end_mark(n, slot), err, err_bytes);
    if (status) return status;
    if (device_seconds) *device_seconds = exec_elapsed(n->exec, begin_mark(n, slot), end_mark(n, slot));
    *vectors = n->flights[slot].vectors;
    return 0;
}
