/* encoder.h - texts' token ids in, vectors out: an encoder's weights, the buffers of a step, and steps on their way.
 *
 * An encoder runs on an exec that its caller opened, which may be that of other models: exec_options are widened by
 * encoder_widen first, and its activation dtype is the encoder's. Everything is allocated when the encoder opens: a
 * step allocates nothing. Belongs to the thread that the exec belongs to.
 *
 *     encoder_launch(n, slot, texts, n_texts)   enqueues upload, forward, download
 *     encoder_land(n, slot, &vectors, …)        waits, and shows the vectors in the slot's own host memory
 *
 * Two steps may be on their way, in the slots 0 and 1. On the CPU a launch is the step itself. A text's vector depends
 * on the text alone; on the CPU to the bit. */
#pragma once

#include "kernels/kernels.h"
#include "weights/weights.h"

struct encoder; /* owned */

enum { ENCODER_SLOTS = 2, ENCODER_MARKS = 2 * ENCODER_SLOTS };

struct encoder_options {
    int max_tokens; /* of a step; at least config.max_len */
    int max_texts;  /* of a step */
    int first_mark; /* the exec's slots (exec_record) first_mark .. first_mark + ENCODER_MARKS - 1 are the encoder's */
};

/* One text: ids with [CLS] and [SEP] (tokenizer_prefix, tokenizer_suffix). Borrowed until encoder_launch returns. */
struct encoder_text {
    const int32_t *ids; /* [n] each in 0 .. vocab-1 */
    int n;              /* 1 .. config.max_positions */
};

/* Raises what an exec must be opened for to what the encoder needs; other fields stay. */
void encoder_widen(struct exec_options *exec, const struct encoder_config *config,
                   const struct encoder_options *options);
/* Opens an exec for an encoder alone: exec_open with these sizes. With is_auto, exec->dtype is only the checkpoint's: where
 * that is float32, a GPU computes in float16, as vLLM does, for it has no speed to offer in float32. */
int encoder_exec_open(struct exec **out, const struct exec_options *exec, bool is_auto,
                      const struct encoder_config *config, const struct encoder_options *options, char *err,
                      size_t err_bytes);
/* Device memory that encoder_open will take. */
size_t encoder_bytes(const struct encoder_config *config, const struct encoder_options *options, enum dtype dtype);

/* Loads the weights (of a checkpoint that has passed encoder_check, or NULL: seeded random ones) and plans the buffers.
 * The exec must outlive the encoder. STATUS_NO_MEMORY or STATUS_DEVICE and a sentence. */
int encoder_open(struct encoder **out, struct exec *e, const struct checkpoint *checkpoint,
                 const struct encoder_config *config, const struct encoder_options *options, char *err,
                 size_t err_bytes);
void encoder_close(struct encoder *n); /* NULL is fine; nothing is on its way */

const struct encoder_config *encoder_config(const struct encoder *n);

/* Enqueues 1 .. max_texts texts of together at most max_tokens tokens. The slot's last step has landed. A failure is
 * latched in the exec and shows in encoder_land. */
void encoder_launch(struct encoder *n, int slot, const struct encoder_text *texts, int n_texts);

/* Waits for the step. *vectors [n_texts, C] f32 in the order of the texts, valid until the slot's next launch.
 * device_seconds (or NULL): how long the device was at it. 0, or STATUS_DEVICE and a sentence. */
int encoder_land(struct encoder *n, int slot, const float **vectors, double *device_seconds, char *err,
                 size_t err_bytes);
