/* probe.cu - what benchmarks measure against: reading memory at its limit, and cuBLASLt alone.
 *
 * Reading: two blocks of 1024 threads on each SM; a thread reads 16 bytes at a time, four loads in flight, its
 * neighbours the next 16 bytes. Reads `bytes` bytes past the L1 and xors them; writes one word, and that only if the
 * xor hits a value that it as good as never does, so that no compiler drops the reads. */
#include "kernels/cuda/cuda.cuh"

enum { PROBE_THREADS = 1024, PROBE_BLOCKS_PER_SM = 2, PROBE_UNROLL = 4 };

__device__ static inline uint4 load_once(const uint4 *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

__global__ static void __launch_bounds__(PROBE_THREADS) read_all(uint32_t *out, const uint4 *p, size_t n) {
    pdl_trigger();
    pdl_wait();
    const size_t stride = (size_t)gridDim.x * PROBE_THREADS;
    uint32_t sum = 0;
    size_t i = (size_t)blockIdx.x * PROBE_THREADS + threadIdx.x;
    for (; i + (PROBE_UNROLL - 1) * stride < n; i += PROBE_UNROLL * stride) {
        uint4 v[PROBE_UNROLL];
#pragma unroll
        for (int j = 0; j < PROBE_UNROLL; j++) v[j] = load_once(p + i + j * stride);
#pragma unroll
        for (int j = 0; j < PROBE_UNROLL; j++) sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    for (; i < n; i += stride) {
        const uint4 v = load_once(p + i);
        sum ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    if (sum == 0x9e3779b9u) *out = sum;
}

void cuda__probe_read(struct exec *e, uint32_t *out, const void *p, size_t bytes) {
    cuda_launch(e, read_all, cuda_of(e)->n_sms * PROBE_BLOCKS_PER_SM, PROBE_THREADS, 0, out, (const uint4 *)p,
                bytes / 16);
}

bool cuda__library_linear(struct exec *e, void *y, const void *x, const struct matrix *w, int T) {
    const struct linear_args a = {.y = y, .x = x, .w = w, .bias = NULL, .epilogue = EPILOGUE_STORE, .T = T};
    return cuda__linear_lt(e, &a);
}
