/* probe.c - the limit of the memory: every thread reads its part of a buffer, four words at a time, and xors them.
 *
 * Reads `bytes` bytes. The xor of 64-byte lines is a few vector instructions per line, so the reads bind. */
#include "kernels/cpu/cpu.h"

enum { PROBE_PART = 1 << 20 }; /* bytes of one item: a thread keeps to one stream for about 50 us */

struct probe {
    const uint64_t *words;
    size_t n;
    uint32_t *out;
};

static void probe_parts(void *arg, struct share *share) {
    const struct probe *o = arg;
    uint64_t sum[8] = {0};
    for (int first, last; threads_take(share, &first, &last);) {
        size_t begin = (size_t)first * (PROBE_PART / 8), end = (size_t)last * (PROBE_PART / 8);
        if (end > o->n) end = o->n;
        for (size_t i = begin; i < end; i += 8)
            for (int j = 0; j < 8; j++) sum[j] ^= o->words[i + (size_t)j];
    }
    uint64_t x = 0;
    for (int j = 0; j < 8; j++) x ^= sum[j];
    if (x == 0x9e3779b97f4a7c15u) *o->out = 1; /* as good as never, but no compiler knows: the reads must happen */
}

void CPU(probe_read)(struct exec *e, uint32_t *out, const void *p, size_t bytes) {
    struct probe o = {.words = p, .n = bytes / 8, .out = out};
    *out = 0;
    parallel(e, (int)((bytes + PROBE_PART - 1) / PROBE_PART), 1, probe_parts, &o);
}
