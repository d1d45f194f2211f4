/* region.c - walks a model's weights: counts them, notes what is to be copied and repacked, and does so in bulk. */
#include "engine/region.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define RAW_BYTES ((size_t)2 << 30) /* of quantised tensors on their way: few bulk copies, and it fits beside */

static size_t align256(size_t n) {
    return (n + 255) & ~(size_t)255;
}

void *region_take(struct region *r, size_t n) {
    void *p = r->base ? r->base + r->used : NULL;
    r->used += align256(n);
    return p;
}

static void *grow_list(struct region *r, void *list, size_t n, size_t *capacity, size_t item_bytes) {
    if (n < *capacity) return list;
    const size_t more = *capacity ? *capacity * 2 : 256;
    void *grown = realloc(list, more * item_bytes);
    r->failed |= !grown;
    if (!grown) return list;
    *capacity = more;
    return grown;
}

void region_copy(struct region *r, void *piece, const void *host, size_t bytes) {
    r->transfers = grow_list(r, r->transfers, r->n_transfers, &r->transfers_capacity, sizeof *r->transfers);
    if (!r->failed) r->transfers[r->n_transfers++] = (struct transfer){piece, host, bytes};
}

/* Carries out what was noted; the raw buffer is free again afterwards. */
static void region_flush(struct region *r) {
    exec_upload_all(r->e, r->transfers, r->n_transfers);
    for (size_t i = 0; i < r->n_packs; i++) {
        const struct pack *p = &r->packs[i];
        awq_pack(r->e, &p->w, p->first_row, p->n_rows, p->qweight, p->qzeros, p->scales);
    }
    r->n_transfers = r->n_packs = 0;
    r->raw_used = 0;
}

/* ---- one tensor -------------------------------------------------------------------------------------------------- */

static size_t tensor_elements(const struct tensor *t) {
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n *= (size_t)t->dims[i];
    return n;
}

static float element(const struct tensor *t, size_t i) {
    switch (t->dtype) {
    case DTYPE_F32:
        return ((const float *)t->data)[i];
    case DTYPE_BF16:
        return f32_from_bf16(((const uint16_t *)t->data)[i]);
    case DTYPE_F16:
        return f32_from_f16(((const uint16_t *)t->data)[i]);
    default:
        CHECK(!"a weight's dtype is checked by checkpoint_check");
        return 0;
    }
}

/* Elements of t in the region's dtype, in the staging memory. */
static const void *region_convert(struct region *r, const struct tensor *t, size_t n) {
    CHECK_LE(n * dtype_bytes(r->dtype), r->staging_bytes);
    for (size_t i = 0; i < n; i++) {
        float f = element(t, i);
        if (r->dtype == DTYPE_F32)
            ((float *)r->staging)[i] = f;
        else
            ((uint16_t *)r->staging)[i] = r->dtype == DTYPE_BF16 ? bf16_from_f32(f) : f16_from_f32(f);
    }
    return r->staging;
}

static const struct tensor *region_find(const struct region *r, int layer, const char *name, const char *suffix) {
    char prefix[64] = "", full[160];
    if (layer >= 0) snprintf(prefix, sizeof prefix, r->layers, layer);
    snprintf(full, sizeof full, "%s%s%s", prefix, name, suffix);
    const struct tensor *t = checkpoint_find(r->c, full);
    CHECK(t); /* checkpoint_check has passed */
    return t;
}

/* ---- pieces of the region ---------------------------------------------------------------------------------------- */

void *region_stack(struct region *r, int layer, const struct part *parts, int n_parts, const char *suffix, int cols,
                   struct spread random) {
    size_t elements = 0, offset = 0;
    for (int i = 0; i < n_parts; i++) elements += (size_t)parts[i].rows * (size_t)cols;
    char *piece = region_take(r, elements * dtype_bytes(r->dtype));
    if (!r->c) {
        if (piece) fill_random(r->e, piece, r->dtype, elements, random.mean, random.spread, r->seed++);
        return piece;
    }
    for (int i = 0; i < n_parts; i++) {
        const struct tensor *t = region_find(r, layer, parts[i].name, suffix);
        const size_t n = (size_t)parts[i].rows * (size_t)cols, bytes = n * dtype_bytes(r->dtype);
        CHECK_EQ(n, tensor_elements(t));
        if (!piece) {
            if (t->dtype != r->dtype && bytes > r->staging_bytes) r->staging_bytes = bytes;
        } else if (t->dtype == r->dtype) {
            region_copy(r, piece + offset, t->data, bytes);
        } else {
            exec_upload(r->e, piece + offset, region_convert(r, t, n), bytes);
        }
        offset += bytes;
    }
    return piece;
}

/* Bytes of the raw buffer that one quantised part needs: its three tensors, each aligned. */
static size_t part_raw_bytes(const struct part *part, int cols, int group) {
    const size_t n = (size_t)part->rows, k = (size_t)cols, g = (size_t)(cols / group);
    return align256(k * n / 2) + align256(g * n / 2) + align256(g * n * 2);
}

static void *raw_take(struct region *r, size_t n) {
    void *p = r->raw + r->raw_used;
    r->raw_used += align256(n);
    CHECK_LE(r->raw_used, r->raw_bytes);
    return p;
}

/* One of the three tensors of a quantised part, in the raw buffer. */
static void *raw_tensor(struct region *r, int layer, const char *name, const char *suffix, size_t elements,
                        enum dtype dtype, struct spread random) {
    void *p = raw_take(r, elements * dtype_bytes(dtype));
    if (r->c) {
        const struct tensor *t = region_find(r, layer, name, suffix);
        CHECK_EQ(elements, tensor_elements(t));
        region_copy(r, p, t->data, t->bytes);
    } else {
        fill_random(r->e, p, dtype, elements, random.mean, random.spread, r->seed++);
    }
    return p;
}

static int rows_of(const struct part *parts, int n_parts) {
    int rows = 0;
    for (int i = 0; i < n_parts; i++) rows += parts[i].rows;
    return rows;
}

struct matrix region_dense(struct region *r, int layer, const struct part *parts, int n_parts, int cols) {
    const struct spread random = {0, sqrtf(3.0f / (float)cols)};
    return (struct matrix){.format = MATRIX_DENSE,
                           .dtype = r->dtype,
                           .rows = rows_of(parts, n_parts),
                           .cols = cols,
                           .data = region_stack(r, layer, parts, n_parts, ".weight", cols, random)};
}

struct matrix region_awq(struct region *r, int layer, const struct part *parts, int n_parts, int cols, int group) {
    const int rows = rows_of(parts, n_parts);
    struct matrix w = {.format = MATRIX_AWQ, .dtype = DTYPE_F16, .rows = rows, .cols = cols, .group = group};
    awq_layout(r->e, &w, region_take(r, awq_bytes(r->e, rows, cols, group)));
    int row = 0;
    for (int i = 0; i < n_parts; i++) {
        const size_t need = part_raw_bytes(&parts[i], cols, group);
        if (!r->base) {
            r->raw_used += need;
            if (need > r->raw_widest) r->raw_widest = need;
            continue;
        }
        if (r->raw_used + need > r->raw_bytes) region_flush(r);
        const size_t n = (size_t)parts[i].rows, g = (size_t)(cols / group);
        /* q and zero are uniform in 0..15, so their difference has a variance of 42.5 */
        const float scale = 1 / sqrtf(42.5f * (float)cols);
        struct pack pack = {.w = w, .first_row = row, .n_rows = parts[i].rows};
        const char *name = parts[i].name;
        pack.qweight = raw_tensor(r, layer, name, ".qweight", (size_t)cols * n / 8, DTYPE_I32, (struct spread){0});
        pack.qzeros = raw_tensor(r, layer, name, ".qzeros", g * n / 8, DTYPE_I32, (struct spread){0});
        pack.scales = raw_tensor(r, layer, name, ".scales", g * n, DTYPE_F16, (struct spread){scale, 0.25f * scale});
        r->packs = grow_list(r, r->packs, r->n_packs, &r->packs_capacity, sizeof *r->packs);
        if (!r->failed) r->packs[r->n_packs++] = pack;
        row += parts[i].rows;
    }
    return w;
}

/* ---- the walk ---------------------------------------------------------------------------------------------------- */

/* Size of the raw buffer. On a GPU a bulk copy takes a while to begin: all at once, if half of what is free has room
 * for it. */
static size_t raw_bytes(const struct region *r) {
    size_t free_bytes, total_bytes, most = RAW_BYTES;
    exec_memory(r->e, &free_bytes, &total_bytes);
    if (exec_is_gpu(r->e) && most < free_bytes / 2) most = free_bytes / 2;
    if (most < r->raw_widest) most = r->raw_widest;
    return r->raw_used < most ? r->raw_used : most;
}

int region_begin(struct region *r, size_t more) {
    r->base = exec_alloc(r->e, r->used + more);
    r->raw_bytes = raw_bytes(r);
    r->staging = malloc(r->staging_bytes ? r->staging_bytes : 1);
    r->raw = exec_alloc(r->e, r->raw_bytes);
    r->used = r->raw_used = 0;
    return r->base && r->staging && r->raw ? 0 : STATUS_NO_MEMORY;
}

int region_end(struct region *r, char *err, size_t err_bytes) {
    if (r->failed) return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for the list of weights");
    region_flush(r);
    return exec_finish(r->e, err, err_bytes);
}

void region_deinit(struct region *r) {
    free(r->staging);
    free(r->transfers);
    free(r->packs);
    exec_free(r->e, r->raw);
}
