/* shapes.c - the sizes of a model: from a shape file or a folder. */
#include "benchmarks/measure.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *const bench_model_names[] = {"Qwen2.5-3B-Instruct", "Qwen3-0.6B",    "Qwen3-8B", "Qwen3-14B",
                                         "Qwen3-14B-AWQ",       "Qwen3-32B-AWQ", NULL};

/* Where NAME.json may lie: in the current folder's checkout, or beside the program (in a bundle, or up from
 * build/PRESET). */
static bool find_shape(char path[PATH_MAX], const char *name) {
    char program[PATH_MAX];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = 0;
    char *slash = strrchr(program, '/');
    if (slash) *slash = 0;
    const char *const folders[] = {"benchmarks/configs", "configs", "../../benchmarks/configs"};
    for (int i = 0; i < 3; i++) {
        const int length = i ? snprintf(path, PATH_MAX, "%s/%s/%s.json", program, folders[i], name)
                             : snprintf(path, PATH_MAX, "%s/%s.json", folders[i], name);
        if (length < PATH_MAX && !access(path, R_OK)) return true;
    }
    return false;
}

/* The last part of a path, without .json. */
static void name_of(struct bench_model *m, const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t first = n;
    while (first > 0 && path[first - 1] != '/') first--;
    snprintf(m->name, sizeof m->name, "%.*s", (int)(n - first), path + first);
    char *end = strrchr(m->name, '.');
    if (end && !strcmp(end, ".json")) *end = 0;
}

int bench_model_open(struct bench_model *m, const char *name, char *err, size_t err_bytes) {
    int status = 0;
    *m = (struct bench_model){0};
    if (strchr(name, '/') || access(name, R_OK) == 0 || !find_shape(m->path, name))
        status = model_find(name, m->path, sizeof m->path, err, err_bytes);
    if (status && !strchr(name, '/'))
        return fail(err, err_bytes, status,
                    "%s: expected a folder, a shape file, a model in the Hugging Face cache or a name that "
                    "benchmarks/configs has (such as %s), found none of them",
                    name, bench_model_names[1]);
    if (!status) status = model_config_load(&m->config, m->path, err, err_bytes);
    name_of(m, name);
    m->group = m->config.quantization.group;
    m->act = m->group ? DTYPE_F16 : m->config.dtype;
    return status;
}

void bench_matrix_sizes(struct bench_matrix_size sizes[BENCH_MATRICES], const struct bench_model *m) {
    const struct model_config *c = &m->config;
    const int q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    sizes[BENCH_QKV] = (struct bench_matrix_size){"qkv", q + 2 * kv, c->hidden};
    sizes[BENCH_O] = (struct bench_matrix_size){"o", c->hidden, q};
    sizes[BENCH_GATE_UP] = (struct bench_matrix_size){"gate_up", 2 * c->ffn, c->hidden};
    sizes[BENCH_DOWN] = (struct bench_matrix_size){"down", c->hidden, c->ffn};
}
