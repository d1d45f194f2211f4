/* table.c - the CPU backend of one instruction set: its memory, and its table of ops. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define STRING_(x) #x
#define STRING(x)  STRING_(x)

/* Large memory on 2 MB pages where the system gives them: attention jumps from block to block, and with small pages
 * every jump is a miss of the translation cache as well (measured: 16 sequences of 512 tokens took 1.5 times as long). */
static void *aligned_zeroed(size_t bytes) {
    const size_t huge = 2 << 20;
    size_t unit = bytes >= 2 * huge ? huge : 64, size = round_up(bytes ? bytes : 1, unit);
    void *p = aligned_alloc(unit, size);
#ifdef MADV_HUGEPAGE
    if (p && unit == huge) madvise(p, size, MADV_HUGEPAGE);
#endif
    if (p) memset(p, 0, size);
    return p;
}

static void close_cpu(struct exec *e) {
    struct cpu *s = e->state;
    if (!s) return;
    if (!e->options.beside) threads_close(s->threads);
    free(s->x);
    free(s->scratch);
    free(s->units);
    free(s);
    e->state = NULL;
}

static int open_cpu(struct exec *e, char *err, size_t err_bytes) {
    const struct exec_options *o = &e->options;
    struct cpu *s = e->state = calloc(1, sizeof *s);
    if (!s) return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for an exec");
    s->row_floats = ROW_FLOATS(o->max_width);
    s->vocab_floats = ROW_FLOATS(o->vocab);
    /* A thread runs one op at a time: rows of an elementwise op, a panel of linear's 16 bf16 rows behind 4 tiles or of
     * LANES fp32 rows and as many of x, a row of logits with masses and ids, a unit of attention. */
    size_t need[] = {8 * s->row_floats + 1024, 2 * LANES * s->row_floats, 3 * s->vocab_floats, LINEAR_WIDE_FLOATS,
                     CPU(attention_floats)(o->max_head_dim)};
    for (size_t i = 0; i < sizeof need / sizeof *need; i++)
        if (s->scratch_floats < need[i]) s->scratch_floats = need[i];
    s->x = aligned_zeroed(X_ROWS * s->row_floats * sizeof(float));
    s->scratch = aligned_zeroed((size_t)o->n_threads * s->scratch_floats * sizeof(float));
    s->units = calloc((size_t)o->max_tokens + 1, sizeof *s->units);
    if (!s->x || !s->scratch || !s->units)
        return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for %zu MB of scratch: lower max_width or the threads",
                    (X_ROWS * s->row_floats + (size_t)o->n_threads * s->scratch_floats) >> 18);
    s->threads = o->beside ? cpu_of(o->beside)->threads : threads_open(o->n_threads);
    if (!s->threads)
        return fail(err, err_bytes, STATUS_NO_MEMORY, "the system gave no %d threads: use fewer", o->n_threads);
    return 0;
}

static void finish_cpu(struct exec *e) {
    (void)e;
}

/* Large pieces are pages that the system zeroes when they are first touched, so a KV pool of gigabytes costs nothing at
 * start; 2 MB pages where it gives them, because attention jumps from block to block and with small pages every jump
 * misses the translation cache as well. The 64 bytes in front of a piece say how to free it. */
enum { PIECE_HEAD = 64, MAPPED_FROM = 4 << 20, HUGE_PAGE = 2 << 20 };

static void *alloc_cpu(struct exec *e, size_t bytes) {
    (void)e;
    size_t mapped = bytes < MAPPED_FROM ? 0 : round_up(bytes + PIECE_HEAD, HUGE_PAGE);
    char *p = NULL;
    if (!mapped) {
        p = aligned_zeroed(bytes + PIECE_HEAD);
    } else if ((p = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) == MAP_FAILED) {
        p = NULL;
    } else {
#ifdef MADV_HUGEPAGE
        madvise(p, mapped, MADV_HUGEPAGE);
#endif
    }
    if (!p) return NULL;
    memcpy(p, &mapped, sizeof mapped);
    return p + PIECE_HEAD;
}

static void free_cpu(struct exec *e, void *p) {
    (void)e;
    if (!p) return;
    char *head = (char *)p - PIECE_HEAD;
    size_t mapped;
    memcpy(&mapped, head, sizeof mapped);
    if (mapped)
        munmap(head, mapped);
    else
        free(head);
}

static void memory_cpu(const struct exec *e, size_t *free_bytes, size_t *total_bytes) {
    (void)e;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    *free_bytes = (size_t)sysconf(_SC_AVPHYS_PAGES) * page;
    *total_bytes = (size_t)sysconf(_SC_PHYS_PAGES) * page;
}

static void copy_cpu(struct exec *e, void *to, const void *from, size_t bytes) {
    (void)e;
    memcpy(to, from, bytes);
}

const struct kernel_ops CPU(ops) = {
    .name = "cpu " STRING(KERNELS_ISA),
    .open = open_cpu,
    .close = close_cpu,
    .finish = finish_cpu,
    .alloc = alloc_cpu,
    .free = free_cpu,
    .upload = copy_cpu,
    .download = copy_cpu,
    .memory = memory_cpu,
    .embed = CPU(embed),
    .rms_norm = CPU(rms_norm),
    .linear = CPU(linear),
    .linear_f32 = CPU(linear_f32),
    .qk_norm_rope_store = CPU(qk_norm_rope_store),
    .attention = CPU(attention),
    .silu_mul = CPU(silu_mul),
    .add = CPU(add),
    .gather_rows = CPU(gather_rows),
    .embed_sum = CPU(embed_sum),
    .layer_norm = CPU(layer_norm),
    .gelu = CPU(gelu),
    .attention_full = CPU(attention_full),
    .pool_texts = CPU(pool_texts),
    .sample_set = CPU(sample_set),
    .sample = CPU(sample),
    .token_logprobs = CPU(token_logprobs),
    .awq_bytes = CPU(awq_bytes),
    .awq_layout = CPU(awq_layout),
    .awq_pack = CPU(awq_pack),
    .awq_round = CPU(awq_round),
    .awq_quantize = CPU(awq_quantize),
    .awq_clip = CPU(awq_clip),
    .gram_add = CPU(gram_add),
    .column_abs_add = CPU(column_abs_add),
    .row_distance_add = CPU(row_distance_add),
    .fill_random = CPU(fill_random),
    .probe_read = CPU(probe_read),
    .norm_linear = CPU(norm_linear),
    .norm_linear_silu_mul = CPU(norm_linear_silu_mul),
    .linear_add = CPU(linear_add),
};
