/* embedder.c - see embedder.h. */
#include "engine/embedder.h"

#include <stdlib.h>
#include <string.h>

int embedder_open(struct embedder *e, const struct exec_options *exec, bool is_auto_dtype,
                  const struct checkpoint *checkpoint, const struct encoder_config *config, int max_tokens,
                  int max_texts, char *err, size_t err_bytes) {
    const struct encoder_options options = {
        .max_tokens = max_tokens > config->max_len ? max_tokens : config->max_len, .max_texts = max_texts};
    *e = (struct embedder){.max_tokens = options.max_tokens, .max_texts = max_texts};
    int status = encoder_exec_open(&e->exec, exec, is_auto_dtype, config, &options, err, err_bytes);
    if (!status) status = encoder_open(&e->encoder, e->exec, checkpoint, config, &options, err, err_bytes);
    if (status) return status;
    e->texts = malloc((size_t)max_texts * sizeof *e->texts);
    bool complete = e->texts;
    for (int i = 0; i < ENCODER_SLOTS; i++)
        complete &= (e->flights[i].requests = malloc((size_t)max_texts * sizeof(struct request *))) != NULL;
    return complete ? 0 : fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for the embedder's steps");
}

void embedder_close(struct embedder *e) {
    encoder_close(e->encoder);
    exec_close(e->exec);
    free(e->texts);
    for (int i = 0; i < ENCODER_SLOTS; i++) free(e->flights[i].requests);
    *e = (struct embedder){0};
}

void embedder_add(struct embedder *e, struct request *r) {
    r->next_waiting = NULL;
    *(e->tail ? &e->tail->next_waiting : &e->head) = r;
    e->tail = r;
    e->n_waiting++;
}

struct request *embedder_cancel(struct embedder *e, bool all) {
    struct request *list = e->head, *cancelled = NULL;
    e->head = e->tail = NULL;
    e->n_waiting = 0;
    for (struct request *r = list, *next; r; r = next) {
        next = r->next_waiting;
        if (!all && !atomic_load(&r->cancelled)) {
            embedder_add(e, r);
            continue;
        }
        r->next_waiting = cancelled;
        cancelled = r;
    }
    return cancelled;
}

bool embedder_launch(struct embedder *e, int slot) {
    struct embed_flight *f = &e->flights[slot];
    f->n = f->n_tokens = 0;
    while (e->head && f->n < e->max_texts && f->n_tokens + e->head->seq->n_prompt <= e->max_tokens) {
        struct request *r = e->head;
        e->head = r->next_waiting;
        if (!e->head) e->tail = NULL;
        e->n_waiting--;
        e->texts[f->n] = (struct encoder_text){r->seq->tokens, r->seq->n_prompt};
        f->requests[f->n++] = r;
        f->n_tokens += r->seq->n_prompt;
    }
    if (f->n) encoder_launch(e->encoder, slot, e->texts, f->n);
    return f->n > 0;
}

int embedder_land(struct embedder *e, int slot, double *device_seconds, char *err, size_t err_bytes) {
    const struct embed_flight *f = &e->flights[slot];
    const size_t C = (size_t)encoder_config(e->encoder)->hidden;
    const float *vectors;
    int status = encoder_land(e->encoder, slot, &vectors, device_seconds, err, err_bytes);
    for (int i = 0; i < f->n && !status; i++)
        memcpy(f->requests[i]->embedding, vectors + (size_t)i * C, C * sizeof *vectors);
    return status;
}
