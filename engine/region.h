/* region.h - weights in memory: one region of device memory, filled from a checkpoint, every matrix 256-byte aligned.
 * Private to engine/.
 *
 * A model is walked twice by the same code, so the two agree: first the region only counts (base NULL), then, after
 * region_begin, it fills. What needs no conversion is only noted while the region is walked and copied in bulk by
 * exec_upload_all, at the speed of the link. Quantised tensors go to a raw buffer on the device first and are repacked
 * from there. Without a checkpoint the weights are random.
 *
 *     struct region r = {.e = e, .c = checkpoint, .dtype = dtype, .layers = "model.layers.%d."};
 *     place_weights(m, &r);                                        counts: r.used
 *     status = region_begin(&r, more);                             allocates
 *     place_weights(m, &r);                                        fills
 *     status = region_end(&r, err, err_bytes);                     copies; r.base is the caller's now
 *     region_deinit(&r);                                                                                             */
#pragma once

#include "kernels/kernels.h"
#include "weights/weights.h"

struct pack { /* a part of a quantised matrix that waits in the raw buffer */
    struct matrix w;
    int first_row, n_rows;
    const void *qweight, *qzeros, *scales; /* device */
};

struct region { /* the first four are set by the caller, the rest is zero */
    struct exec *e;
    const struct checkpoint *c; /* it has passed its check; NULL: random weights */
    enum dtype dtype;           /* of what is not quantised */
    const char *layers;         /* printf: what stands before the names of a layer's tensors */
    char *base;                 /* device memory, the caller's to free */
    size_t used;
    void *staging; /* owned: one tensor's worth of converted elements */
    size_t staging_bytes;
    char *raw; /* owned device memory */
    size_t raw_bytes, raw_used, raw_widest;
    struct transfer *transfers; /* owned: noted, not yet copied */
    size_t n_transfers, transfers_capacity;
    struct pack *packs; /* owned: noted, not yet repacked */
    size_t n_packs, packs_capacity;
    uint64_t seed;
    bool failed; /* no memory on the host */
};

/* One part of a stack: a tensor of the checkpoint and how many rows it has. */
struct part {
    const char *name; /* within a layer "self_attn.q_proj", without one "lm_head" */
    int rows;
};
#define N_PARTS(parts) (int)(sizeof(parts) / sizeof *(parts))

/* What random weights look like: uniform around a mean. */
struct spread {
    float mean, spread;
};

/* The fixed part of a model's device memory, `n` bytes of it: its address, or NULL while counting. */
void *region_take(struct region *r, size_t n);
/* Copies host memory, which stays as it is until region_end, to a piece. */
void region_copy(struct region *r, void *piece, const void *host, size_t bytes);

/* The parts' tensors NAME + suffix, [rows, cols] each, one below the other, as one dense piece. `layer` < 0: the names
 * have no layer in them. */
void *region_stack(struct region *r, int layer, const struct part *parts, int n_parts, const char *suffix, int cols,
                   struct spread random);
/* The same with suffix ".weight", as a matrix; random weights have a variance of 1 / cols. */
struct matrix region_dense(struct region *r, int layer, const struct part *parts, int n_parts, int cols);
/* Parts that are quantised in groups of `group` inputs. */
struct matrix region_awq(struct region *r, int layer, const struct part *parts, int n_parts, int cols, int group);

/* Allocates the region as counted, and `more` bytes behind it: 0 or STATUS_NO_MEMORY, without a sentence. */
int region_begin(struct region *r, size_t more);
/* Carries out what was noted, and waits. */
int region_end(struct region *r, char *err, size_t err_bytes);
void region_deinit(struct region *r); /* leaves base alone */
