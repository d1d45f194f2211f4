/* fill.c - random tensors: weights where there is no checkpoint, and inputs of benchmarks.
 *
 *     p[i] = mean + spread * u(seed, i), rounded twice in fp32, then to the format;  i32: the bits themselves
 * u is noise.h's, so the i-th element is the same whatever else is filled, and on every backend. */
#include "kernels/cpu/cpu.h"
#include "kernels/noise.h"

enum { FILL_PART = 4096, FILL_BLOCK = 64 };

struct fill {
    char *p;
    enum dtype dtype;
    size_t n;
    float mean, spread;
    uint64_t seed;
};

/* Elements first .. first + n - 1, at most FILL_BLOCK. */
static void fill_block(const struct fill *o, size_t first, size_t n) {
    uint32_t bits[FILL_BLOCK];
    float x[FILL_BLOCK];
    for (size_t i = 0; i < FILL_BLOCK; i += 4) noise_elements(bits + i, o->seed, (first + i) / 4);
    char *p = o->p + first * dtype_bytes(o->dtype);
    if (o->dtype == DTYPE_I32) {
        memcpy(p, bits, n * sizeof *bits);
        return;
    }
    for (size_t i = 0; i < FILL_BLOCK; i++) x[i] = o->mean + o->spread * noise_symmetric(bits[i]);
    row_narrow(p, x, n, o->dtype);
}

static void fill_parts(void *arg, struct share *share) {
    const struct fill *o = arg;
    for (int part, last; threads_take(share, &part, &last);)
        for (; part < last; part++) {
            size_t first = (size_t)part * FILL_PART, end = first + FILL_PART < o->n ? first + FILL_PART : o->n;
            for (; first < end; first += FILL_BLOCK)
                fill_block(o, first, end - first < FILL_BLOCK ? end - first : FILL_BLOCK);
        }
}

void CPU(fill_random)(struct exec *e, void *p, enum dtype dtype, size_t n, float mean, float spread, uint64_t seed) {
    struct fill o = {.p = p, .dtype = dtype, .n = n, .mean = mean, .spread = spread, .seed = seed};
    size_t parts = (n + FILL_PART - 1) / FILL_PART;
    CHECK_LE(parts, INT32_MAX);
    parallel(e, (int)parts, 1, fill_parts, &o);
}
