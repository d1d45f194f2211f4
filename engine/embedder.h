/* embedder.h - an engine's other kind: requests for vectors, batched into steps of an encoder. Private to engine/; the
 * engine thread's.
 *
 * First come, first served: a step takes requests from the queue until its tokens or its texts are full. There is no KV
 * and nothing to preempt, so a step is the whole life of a request. */
#pragma once

#include "engine/encoder.h"
#include "engine/request.h"

struct embedder {
    struct exec *exec;       /* owned; of the deployment's queue */
    struct encoder *encoder; /* owned; NULL: this engine generates text */
    int max_tokens, max_texts;
    struct request *head, *tail; /* waiting, by request->next_waiting */
    int n_waiting;
    struct embed_flight { /* a step on its way */
        struct request **requests; /* owned [max_texts] */
        int n, n_tokens;
    } flights[ENCODER_SLOTS];
    struct encoder_text *texts; /* owned [max_texts] */
};

/* Of a checkpoint that has passed encoder_check, or NULL: seeded random weights. `exec` says backend, dtype, threads and
 * whose queue; sizes are the encoder's. is_auto_dtype: see encoder_exec_open. */
int embedder_open(struct embedder *e, const struct exec_options *exec, bool is_auto_dtype,
                  const struct checkpoint *checkpoint, const struct encoder_config *config, int max_tokens, int max_texts,
                  char *err, size_t err_bytes);
void embedder_close(struct embedder *e); /* zeroed is fine; nothing is on its way */

void embedder_add(struct embedder *e, struct request *r);
/* Takes the requests that are marked as cancelled, or all, out of the queue: a list by next_waiting. */
struct request *embedder_cancel(struct embedder *e, bool all);
/* Sends the next step on its way, in the slot whose last step has landed; false when nobody waits. */
bool embedder_launch(struct embedder *e, int slot);
/* Waits for it; each request has its vector afterwards. 0, or STATUS_DEVICE and a sentence. */
int embedder_land(struct embedder *e, int slot, double *device_seconds, char *err, size_t err_bytes);
