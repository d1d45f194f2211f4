/* tensor_table.h - private to weights/: tables of tensor names and shapes, and the check of a checkpoint against one.
 *
 * A table's row is one tensor, or one for each layer where its name has a '*'. A shape is one word per dimension, a
 * word being a product of letters: "HD C" is [H * D, C]. */
#pragma once

#include "kernels/status.h"
#include "weights/weights.h"

/* model_tensors.c. Writes the shape's dims, value(letter, of) being a letter's; returns how many. */
int table__shape(const char *shape, int64_t (*value)(char letter, const void *of), const void *of,
                 int64_t dims[TENSOR_MAX_DIMS]);
/* The layer's copy of a name. */
void table__name(const char *pattern, int layer, char name[MODEL_TENSOR_NAME]);
/* Whether `name` is the pattern with one of 0..n_layers-1, in plain decimal, for its '*'. */
bool table__matches(const char *pattern, const char *name, int n_layers);

/* What a configuration makes of a table; config is passed on. */
struct expectation {
    const char *arch_name;
    int n_layers;
    const void *config;
    int n; /* tensors */
    /* The i-th tensor, as model_tensor; the shape of a name, as model_tensor_shape. */
    int (*tensor)(const void *config, int i, char name[MODEL_TENSOR_NAME], int64_t dims[TENSOR_MAX_DIMS]);
    int (*shape)(const void *config, const char *name, int64_t dims[TENSOR_MAX_DIMS]);
    bool (*is_ignored)(const void *config, const char *name); /* surplus that does no harm */
};
/* checkpoint.c: that the checkpoint holds exactly these tensors, as checkpoint_check. */
int checkpoint__check(const struct checkpoint *c, const struct expectation *x, char *err, size_t err_bytes);
