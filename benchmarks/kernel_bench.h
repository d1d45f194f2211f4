/* kernel_bench.h - how a kernel is benchmarked: one file in benchmarks/kernels/ per kernel, found by CMake.
 *
 * A file NAME.c defines `const struct kernel_bench bench_NAME`. It lists cases (sizes, and what a call has to move and
 * to compute), makes one set of operands, and calls the op once. All the rest is done here: `tandem bench kernels`
 * makes as many sets as it takes to get past the caches, warms up, records the calls into a graph where the device has
 * graphs, takes medians, and puts the time beside the limit that binds it: bytes over the read bandwidth or FLOPs over
 * the speed of a large matrix product, both measured in the same run. README.md has an example.
 *
 * Letters are those of kernels.h. Only kernels.h and probe.h are used: whatever backend the exec has is what is
 * measured. */
#pragma once

#include "kernels/kernels.h"
#include "kernels/probe.h"
#include "weights/weights.h"

#include <limits.h>

/* ---- the model whose sizes are used ------------------------------------------------------------------------------ */

struct bench_model {
    char name[64];       /* for people */
    char path[PATH_MAX]; /* of its folder or shape file */
    struct model_config config;
    enum dtype act; /* of activations, and of dense weights */
    int group;      /* AWQ: inputs per scale; 0: dense */
};

/* The four matrices of a layer. */
enum { BENCH_QKV, BENCH_O, BENCH_GATE_UP, BENCH_DOWN, BENCH_MATRICES, BENCH_ALL = (1 << BENCH_MATRICES) - 1 };
struct bench_matrix_size {
    const char *name;
    int rows, cols;
};
void bench_matrix_sizes(struct bench_matrix_size sizes[BENCH_MATRICES], const struct bench_model *m);

/* ---- cases ------------------------------------------------------------------------------------------------------- */

struct bench_case {
    const struct kernel_bench *kernel; /* set by bench_case_add, like model and shape */
    const char *model;
    char shape[48];
    enum dtype act;   /* of the exec: preset to the model's */
    int T;            /* tokens, or rows of logits: the column that tables have */
    int n[8];         /* the kernel's own sizes */
    double bytes;     /* that one call must read and write, each once */
    double flops;     /* that one call computes on the matrix unit; 0: the kernel is bound by memory */
    bool no_graph;    /* the op cannot be recorded */
    char same_as[48]; /* cases of other kernels that compute the same have the same text here, and are compared */
};

struct bench_list; /* the plan of a run */

/* Token counts to be covered: a few for most kernels, more for matrix products. */
const int *bench_tokens(const struct bench_list *list, int *n);
const int *bench_gemm_tokens(const struct bench_list *list, int *n);

/* Adds a case, unless one of the same kernel, dtype, T and n is there already. `shape` is for people. */
void bench_case_add(struct bench_list *list, const struct bench_model *m, const struct bench_case *c, const char *shape,
                    ...) __attribute__((format(printf, 4, 5)));

/* ---- operands ---------------------------------------------------------------------------------------------------- */

/* One set of operands is made at a time. Memory comes from an arena and is freed after the case; NULL when there is no
 * more, which ends the making of sets. */
struct bench {
    struct exec *e;
    bool is_gpu;
    int copy;          /* of the set that is being made: 0, 1, ... */
    const void *first; /* the operands of set 0, whose memory later sets may share */
    int n_copies;      /* sets that are wanted; a kernel that places all of them at once (a KV pool) plans with it */
    /* private */
    char *arena;
    size_t arena_bytes, arena_used;
    bool is_full;
    uint64_t seed;
    double sample_seconds;
    int n_samples;
};

void *bench_memory(struct bench *b, size_t bytes); /* 256-byte aligned, content undefined */
void *bench_random(struct bench *b, enum dtype dtype, size_t n, float mean, float spread); /* see fill_random */
void *bench_upload(struct bench *b, const void *host, size_t bytes);
/* n int32: first, first + step, ... modulo `modulus`. */
void *bench_indices(struct bench *b, size_t n, int first, int step, int modulus);
/* A random weight: dense in dtype where group is 0, else AWQ. data is NULL when there is no memory. */
struct matrix bench_matrix(struct bench *b, enum dtype dtype, int rows, int cols, int group);
/* Bytes of it that a product reads: AWQ has 4 bits per weight, and an f16 scale and a 4-bit zero per group. */
double bench_matrix_bytes(enum dtype dtype, int rows, int cols, int group);

/* ---- matrix products --------------------------------------------------------------------------------------------- */

/* Cases of y [T, rows] = x [T, cols] W' with n = {rows, cols, group, has_bias}, for kernels that are such a product. */
struct bench_products {
    unsigned matrices; /* 1 << BENCH_QKV | ..., or BENCH_ALL */
    double y_moves;    /* how often an element of y is moved. 1: it is written; 2: it is added to what is there */
    bool has_bias;     /* for the kernel to know; its bytes are not counted */
    bool is_bf16;      /* dense bf16, whatever the model's weights are */
    bool is_compared;  /* with another kernel's, at more token counts than most */
};
void bench_product_cases(struct bench_list *list, const struct bench_model *m, const struct bench_products *p);

/* The operands of a plain one, and a kernel_bench.make of them. */
struct bench_product {
    void *y, *x;
    struct matrix w;
};
void bench_product_make(struct bench *b, const struct bench_case *c, void *operands);

/* ---- a kernel ---------------------------------------------------------------------------------------------------- */

struct kernel_bench {
    const char *name;     /* as in --only: "silu_mul" */
    const char *summary;  /* the formula, for --list */
    size_t operand_bytes; /* sizeof the struct that `make` fills */
    void (*cases)(struct bench_list *list, const struct bench_model *m);
    /* Fills one set of operands (zeroed). */
    void (*make)(struct bench *b, const struct bench_case *c, void *operands);
    /* One call of the op. False: not for these sizes on this backend, the case is left out. */
    bool (*run)(struct exec *e, const struct bench_case *c, void *operands);
    bool is_reference;       /* others are compared with it, through same_as */
    int compared_tokens_max; /* up to this T, the summary takes the mean gain over the reference; 0: no summary */
};

/* The table that CMake makes of benchmarks/kernels/ (NULL-terminated). */
extern const struct kernel_bench *const kernel_benches[];
