/* hopper.cuh - private to kernels/cuda: the instructions that only sm_90a has, one function each: mbarriers, copies by the
 * tensor memory accelerator (TMA), and products of warpgroups (wgmma). For kernels that cuda_state.hopper allows.
 *
 * Shared memory is given by its 32-bit address (smem_address). The three asynchronous parts are tied together so:
 *     TMA -> mbarrier (bytes) -> wgmma      the reader waits for the barrier, nothing else
 *     st.shared -> fence_async() by every writer -> a barrier of threads -> wgmma or TMA
 *     wgmma -> wgmma_wait -> mbarrier_arrive by every warp -> TMA overwrites */
#pragma once

#include "kernels/cuda/cuda.cuh"

#include <cuda.h>

/* ---- tensor maps: host side ------------------------------------------------------------------------------------------ */

/* A tensor of 16-bit or 8-bit elements for TMA, rank <= 5. dims and box in elements, innermost first; strides[i] in bytes
 * is that of dimension i + 1, a multiple of 16; strides may overlap. A coordinate outside its dimension, below 0 included,
 * reads zeros. base is 16-byte aligned. Inner boxes of 128 bytes are stored with the 128-byte swizzle: 16-byte chunk c of
 * the 128-byte line at shared address a lies at chunk c ^ (a / 128 % 8). False after a failure, which is latched. */
static inline bool tensor_map(struct exec *e, CUtensorMap *map, int element_bytes, int rank, const void *base,
                              const cuuint64_t *dims, const cuuint64_t *strides, const cuuint32_t *box) {
    typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                  const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                                  CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    void *encode = NULL; /* asked of the runtime, so that the build needs no libcuda */
    enum cudaDriverEntryPointQueryResult found;
    cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault, &found);
    if (status != cudaSuccess || !encode) {
        exec__fail(e, __func__, __FILE__, __LINE__, "the driver has no cuTensorMapEncodeTiled");
        return false;
    }
    static const cuuint32_t ones[5] = {1, 1, 1, 1, 1};
    CUresult result = ((encode_fn)encode)(
        map, element_bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_UINT16, (cuuint32_t)rank,
        (void *)base, dims, strides, box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE,
        box[0] * element_bytes == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result == CUDA_SUCCESS) return true;
    exec__fail(e, __func__, __FILE__, __LINE__, "cuTensorMapEncodeTiled refused a tensor map");
    return false;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ static inline uint32_t smem_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* ---- mbarriers --------------------------------------------------------------------------------------------------------- */

__device__ static inline void mbarrier_init(uint32_t barrier, uint32_t n_arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(n_arrivals) : "memory");
}
/* After the inits, by the thread that made them; a barrier of threads follows. */
__device__ static inline void mbarrier_init_fence(void) { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ static inline void mbarrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/* Arrives, and the phase ends only once so many more bytes have come by TMA. */
__device__ static inline void mbarrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ static inline bool mbarrier_try(uint32_t barrier, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n.reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return done;
}
/* Waits for the end of the phase of this parity: the first phase has parity 0, and waiting for parity 1 on a fresh
 * barrier returns at once. A wait of seconds is a bug of ours: better a dead kernel than a hanging server. */
__device__ static inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
    if (mbarrier_try(barrier, parity)) return;
    uint64_t start, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
    while (!mbarrier_try(barrier, parity)) {
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
        if (now - start > 8000000000u) __trap();
    }
}

/* Named barriers 1 .. 15 (0 is __syncthreads) of n_threads threads, whole warps: sync waits, arrive does not. */
__device__ static inline void named_barrier_sync(int id, int n_threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}
__device__ static inline void named_barrier_arrive(int id, int n_threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n_threads) : "memory");
}

/* Four 8x8 matrices of 16-bit elements, transposed: lane l gives the address of line l % 8 of matrix l / 8 and holds of
 * matrix i, in m_i, the pair of lines 2 (l % 4) and the next at element l / 4. */
__device__ static inline void store_matrices_transposed(uint32_t to, uint32_t m0, uint32_t m1, uint32_t m2, uint32_t m3) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(m0), "r"(m1),
                 "r"(m2), "r"(m3)
                 : "memory");
}

/* Shared memory by its address, in program order. */
__device__ static inline uint4 load_shared(uint32_t address) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}
__device__ static inline uint32_t load_shared_u32(uint32_t address) {
    uint32_t v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
    return v;
}
__device__ static inline uint32_t load_shared_u16(uint32_t address) {
    uint32_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
    return v;
}

/* Makes this thread's stores to shared memory visible to TMA and wgmma, once a barrier of threads follows. */
__device__ static inline void fence_async(void) { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/* ---- TMA --------------------------------------------------------------------------------------------------------------- */

__device__ static inline void tma_prefetch_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
/* One thread loads a box to `to` (128-byte aligned; 1024 where it is swizzled); its bytes count on the barrier. */
__device__ static inline void tma_load_2d(uint32_t to, const CUtensorMap *map, uint32_t barrier, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
                 "[%2];" ::"r"(to), "l"(map), "r"(barrier), "r"(x), "r"(y)
                 : "memory");
}
__device__ static inline void tma_load_3d(uint32_t to, const CUtensorMap *map, uint32_t barrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
                 "%5}], [%2];" ::"r"(to), "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
                 : "memory");
}
__device__ static inline void tma_load_4d(uint32_t to, const CUtensorMap *map, uint32_t barrier, int x, int y, int z,
                                          int w) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
                 "%5, %6}], [%2];" ::"r"(to), "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

/* The same box to the same place in every thread block of the cluster that has its bit in `blocks`, counting on the
 * barrier at the same place of each. */
__device__ static inline void tma_load_2d_multicast(uint32_t to, const CUtensorMap *map, uint32_t barrier, uint16_t blocks,
                                                    int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%4, %5}], [%2], %3;" ::"r"(to), "l"(map), "r"(barrier), "h"(blocks), "r"(x), "r"(y)
                 : "memory");
}

/* ---- clusters of thread blocks ------------------------------------------------------------------------------------------ */

__device__ static inline uint32_t cluster_rank(void) {
    uint32_t rank;
    asm("mov.u32 %0, %cluster_ctarank;" : "=r"(rank));
    return rank;
}
/* A barrier of all threads of the cluster; orders their accesses to each other's shared memory. */
__device__ static inline void cluster_sync(void) {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/* What lies at `address` in this block's shared memory, in that of block `rank`. */
__device__ static inline uint32_t cluster_address(uint32_t address, uint32_t rank) {
    uint32_t remote;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    return remote;
}
/* Arrives at another block's barrier. Releases this block's accesses only, which is enough to say that reads are done:
 * with the scope of the cluster it would be a fence of more than a thousand cycles. */
__device__ static inline void cluster_arrive_at(uint32_t remote_barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remote_barrier) : "memory");
}
__device__ static inline void cluster_store(uint32_t remote, float a, float b, float c, float d) {
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(remote), "f"(a), "f"(b), "f"(c), "f"(d)
                 : "memory");
}

/* ---- registers between roles ------------------------------------------------------------------------------------------ */

/* By all warps of a warpgroup; N is a multiple of 8. The kernel has __launch_bounds__(threads, 1). */
template <int N> __device__ static inline void registers_grow(void) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> __device__ static inline void registers_shrink(void) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

/* ---- wgmma: d [64, N] fp32 = a [64, 16] b [N, 16]' (+ d), a and b of A (bf16 or f16) ----------------------------------- */

/* Where an operand lies, in the 128-byte swizzle that TMA writes. Rows are lines of 64 elements (128 bytes), 8 rows a
 * contiguous kilobyte, aligned to 1024 at the first.
 *   lines along k (rows are rows of a or of b): `stride` is from 8 rows to the next 8; leading is not used. The next 16 of
 *     k lie 32 bytes further.
 *   lines along n (b transposed; rows are k): `stride` is from 8 rows to the next 8, `leading` from 64 of n to the next 64. */
__device__ static inline uint64_t wgmma_operand(uint32_t address, uint32_t leading, uint32_t stride) {
    return (uint64_t)1 << 62 | (uint64_t)((stride & 0x3ffff) >> 4) << 32 | (uint64_t)((leading & 0x3ffff) >> 4) << 16 |
           (address & 0x3ffff) >> 4;
}
/* The same operand `bytes` further on (within the 256 KB that a descriptor can name). */
__device__ static inline uint64_t wgmma_advance(uint64_t operand, uint32_t bytes) {
    return (operand & 0xffffffff00000000u) | ((uint32_t)operand + (bytes >> 4)); /* half an addition of 64 bits */
}

/* Before the first wgmma, and again after registers that one of the next uses were written. */
__device__ static inline void wgmma_fence(void) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ static inline void wgmma_commit(void) { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* Waits until at most N of the committed groups are unfinished. */
template <int N> __device__ static inline void wgmma_wait(void) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
/* wgmma runs on after the instruction. The compiler does not know: accumulators pass through here after the wait that
 * makes them valid (and operands after the wait that frees them), so that no use of theirs moves across it. */
template <int N> __device__ static inline void wgmma_settle(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <int N> __device__ static inline void wgmma_settle(uint32_t (&a)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(a[i])::"memory");
}

/* Thread t of the warpgroup holds of d: d[4 j + 2 i + c] at row 16 (t / 32) + t % 32 / 4 + 8 i, column 8 j + 2 (t % 4) + c;
 * of a: pairs of columns, a[2 k + i] at the same rows, columns 8 k + 2 (t % 4) and the next.
 * ss: a and b in shared memory, both with lines along k. rs: a in registers; ALONG_N is 1 where b's lines are along n. */
#define WGMMA_D32                                                                                                      \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                          \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define WGMMA_D64                                                                                                      \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                          \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                 \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define WGMMA_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_F8(d, i)                                                                                                 \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]),        \
        "+f"(d[i + 7])
#define WGMMA_F32(d, i) WGMMA_F8(d, i), WGMMA_F8(d, i + 8), WGMMA_F8(d, i + 16), WGMMA_F8(d, i + 24)

#define WGMMA_SS(shape, format, list, a, b, p, ...)                                                                    \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p ", 0;\n"                                                        \
                 "wgmma.mma_async.sync.aligned." shape ".f32." format "." format " " list ", " a ", " b                \
                 ", p, 1, 1, 0, 0;\n}"                                                                                 \
                 : __VA_ARGS__                                                                                         \
                 : "l"(a_operand), "l"(b_operand), "r"(accumulate)                                                     \
                 : "memory")
#define WGMMA_RS(shape, format, list, a, b, p, along_n, ...)                                                           \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p ", 0;\n"                                                        \
                 "wgmma.mma_async.sync.aligned." shape ".f32." format "." format " " list ", {" a "}, " b              \
                 ", p, 1, 1, " along_n ";\n}"                                                                          \
                 : __VA_ARGS__                                                                                         \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b_operand), "r"(accumulate), "n"(ALONG_N)                   \
                 : "memory")

/* N is 128 where d has 64 elements, 64 where it has 32. d = a b' + (accumulate ? d : 0). */
template <typename A>
__device__ static inline void wgmma_ss(float (&d)[64], uint64_t a_operand, uint64_t b_operand, int accumulate) {
    if constexpr (__is_same(A, __half))
        WGMMA_SS("m64n128k16", "f16", WGMMA_D64, "%64", "%65", "%66", WGMMA_F32(d, 0), WGMMA_F32(d, 32));
    else
        WGMMA_SS("m64n128k16", "bf16", WGMMA_D64, "%64", "%65", "%66", WGMMA_F32(d, 0), WGMMA_F32(d, 32));
}
template <typename A>
__device__ static inline void wgmma_ss(float (&d)[32], uint64_t a_operand, uint64_t b_operand, int accumulate) {
    if constexpr (__is_same(A, __half))
        WGMMA_SS("m64n64k16", "f16", WGMMA_D32, "%32", "%33", "%34", WGMMA_F32(d, 0));
    else
        WGMMA_SS("m64n64k16", "bf16", WGMMA_D32, "%32", "%33", "%34", WGMMA_F32(d, 0));
}
template <typename A, int ALONG_N>
__device__ static inline void wgmma_rs(float (&d)[64], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                       uint64_t b_operand, int accumulate) {
    if constexpr (__is_same(A, __half))
        WGMMA_RS("m64n128k16", "f16", WGMMA_D64, "%64, %65, %66, %67", "%68", "%69", "%70", WGMMA_F32(d, 0),
                 WGMMA_F32(d, 32));
    else
        WGMMA_RS("m64n128k16", "bf16", WGMMA_D64, "%64, %65, %66, %67", "%68", "%69", "%70", WGMMA_F32(d, 0),
                 WGMMA_F32(d, 32));
}
template <typename A, int ALONG_N>
__device__ static inline void wgmma_rs(float (&d)[32], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                       uint64_t b_operand, int accumulate) {
    if constexpr (__is_same(A, __half))
        WGMMA_RS("m64n64k16", "f16", WGMMA_D32, "%32, %33, %34, %35", "%36", "%37", "%38", WGMMA_F32(d, 0));
    else
        WGMMA_RS("m64n64k16", "bf16", WGMMA_D32, "%32, %33, %34, %35", "%36", "%37", "%38", WGMMA_F32(d, 0));
}

/* wgmma_rs of f16 with both operands' lines along k, in more widths: N is twice the elements of d. */
__device__ static inline void wgmma_rs_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           uint64_t b_operand, int accumulate) {
    constexpr int ALONG_N = 0;
    WGMMA_RS("m64n8k16", "f16", "{%0, %1, %2, %3}", "%4, %5, %6, %7", "%8", "%9", "%10", WGMMA_F4(d, 0));
}
__device__ static inline void wgmma_rs_f16(float (&d)[8], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           uint64_t b_operand, int accumulate) {
    constexpr int ALONG_N = 0;
    WGMMA_RS("m64n16k16", "f16", "{%0, %1, %2, %3, %4, %5, %6, %7}", "%8, %9, %10, %11", "%12", "%13", "%14",
             WGMMA_F8(d, 0));
}
__device__ static inline void wgmma_rs_f16(float (&d)[16], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           uint64_t b_operand, int accumulate) {
    constexpr int ALONG_N = 0;
    WGMMA_RS("m64n32k16", "f16", "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}",
             "%16, %17, %18, %19", "%20", "%21", "%22", WGMMA_F8(d, 0), WGMMA_F8(d, 8));
}
#define WGMMA_R48                                                                                                      \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                           \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define WGMMA_R64                                                                                                      \
    WGMMA_R48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_R80                                                                                                      \
    WGMMA_R64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define WGMMA_R88                                                                                                      \
    WGMMA_R80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define WGMMA_R96                                                                                                      \
    WGMMA_R80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_R112                                                                                                     \
    WGMMA_R96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define WGMMA_R128                                                                                                     \
    WGMMA_R112 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
__device__ static inline void wgmma_rs_f16(float (&d)[48], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           uint64_t b_operand, int accumulate) {
    constexpr int ALONG_N = 0;
    WGMMA_RS("m64n96k16", "f16", "{" WGMMA_R48 "}", "%48, %49, %50, %51", "%52", "%53", "%54",
             WGMMA_F32(d, 0), WGMMA_F8(d, 32), WGMMA_F8(d, 40));
}
__device__ static inline void wgmma_rs_f16(float (&d)[80], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           uint64_t b_operand, int accumulate) {
    constexpr int ALONG_N = 0;
    WGMMA_RS("m64n160k16", "f16", "{" WGMMA_R80 "}", "%80, %81, %82, %83", "%84", "%85", "%86",
             WGMMA_F32(d, 0), WGMMA_F32(d, 32), WGMMA_F8(d, 64), WGMMA_F8(d, 72));
}
__device__ static inline void wgmma_rs_f16(float (&d)[88], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           uint64_t b_operand, int accumulate) {
    constexpr int ALONG_N = 0;
    WGMMA_RS("m64n176k16", "f16", "{" WGMMA_R88 "}", "%88, %89, %90, %91", "%92", "%93", "%94",
             WGMMA_F32(d, 0), WGMMA_F32(d, 32), WGMMA_F8(d, 64), WGMMA_F8(d, 72), WGMMA_F8(d, 80));
}
__device__ static inline void wgmma_rs_f16(float (&d)[96], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           uint64_t b_operand, int accumulate) {
    constexpr int ALONG_N = 0;
    WGMMA_RS("m64n192k16", "f16", "{" WGMMA_R96 "}", "%96, %97, %98, %99", "%100", "%101", "%102",
             WGMMA_F32(d, 0), WGMMA_F32(d, 32), WGMMA_F32(d, 64));
}
__device__ static inline void wgmma_rs_f16(float (&d)[128], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           uint64_t b_operand, int accumulate) {
    constexpr int ALONG_N = 0;
    WGMMA_RS("m64n256k16", "f16", "{" WGMMA_R128 "}", "%128, %129, %130, %131", "%132", "%133", "%134",
             WGMMA_F32(d, 0), WGMMA_F32(d, 32), WGMMA_F32(d, 64), WGMMA_F32(d, 96));
}
template <int N>
__device__ static inline void wgmma_rs_f16(float (&d)[N], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                           uint64_t b_operand, int accumulate) {
    wgmma_rs<__half, 0>(d, a0, a1, a2, a3, b_operand, accumulate);
}

#endif
