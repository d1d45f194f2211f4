/* checkpoint.c - a folder's safetensors files as one set of tensors, and the check that they are the model's.
 *
 * A checkpoint is model.safetensors, or the shards that model.safetensors.index.json names:
 *     {"metadata": {...}, "weight_map": {"TENSOR": "model-00001-of-00003.safetensors", ...}}
 * Files are mapped, not read: opening 30 GB touches the headers' pages only. */
#include "weights/json.h"
#include "weights/tensor_table.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE  "model.safetensors.index.json"
#define MAX_SHARDS  4096
#define SHOW_BYTES  160 /* of a tensor's name in a sentence */

static const struct json_limits INDEX_LIMITS = {.max_bytes = 64 << 20, .max_depth = 32};

struct mapping {
    void *data; /* owned: munmap */
    size_t bytes;
};

/* One line of the index. */
struct place {
    const char *tensor, *file; /* borrowed from the index's tree */
    bool seen;                 /* the file does hold it */
};

struct checkpoint {
    struct mapping *files;  /* owned [n_files] */
    struct tensor *tensors; /* owned [n_tensors], in name order, with names; data are views of files */
    size_t n_files, n_tensors;
};

/* ---- files ------------------------------------------------------------------------------------------------------ */

static int map_file(struct mapping *m, const char *path, char *err, size_t err_bytes) {
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail(err, err_bytes, errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_IO,
                    "%s: cannot be opened: %s%s", path, strerror(errno),
                    errno == ENOENT ? "; download the model again" : "");
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return fail(err, err_bytes, STATUS_IO, "%s: expected a regular file, found something else", path);
    }
    m->bytes = (size_t)st.st_size;
    m->data = m->bytes ? mmap(NULL, m->bytes, PROT_READ, MAP_SHARED, fd, 0) : NULL;
    int error = errno;
    close(fd);
    if (m->data == MAP_FAILED) {
        m->data = NULL;
        return fail(err, err_bytes, STATUS_IO, "%s: cannot be mapped: %s", path, strerror(error));
    }
    return 0;
}

/* Maps one file and appends its tensors. *first gets the position of the first of them. */
static int add_file(struct checkpoint *c, const char *folder, const char *name, size_t *first, char *err,
                    size_t err_bytes) {
    char path[PATH_MAX];
    struct tensor *tensors, *all;
    size_t n;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "the checkpoint's path is longer than %zu bytes", sizeof path);
    int status = map_file(&c->files[c->n_files], path, err, err_bytes);
    if (status) return status;
    struct mapping *m = &c->files[c->n_files++];
    status = safetensors_parse(&tensors, &n, m->data ? m->data : "", m->bytes, path, err, err_bytes);
    if (status) return status;
    all = realloc(c->tensors, (c->n_tensors + n + 1) * sizeof *all);
    if (!all) {
        safetensors_free(tensors, n);
        return fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory", path);
    }
    memcpy(all + c->n_tensors, tensors, n * sizeof *all); /* the names move along */
    free(tensors);
    *first = c->n_tensors;
    c->tensors = all;
    c->n_tensors += n;
    return 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

/* The bare decoder's names get the prefix that they have inside the causal language model. */
static int add_prefix(struct checkpoint *c) {
    if (!checkpoint_find(c, "embed_tokens.weight") || checkpoint_find(c, "model.embed_tokens.weight")) return 0;
    for (size_t i = 0; i < c->n_tensors; i++) {
        char *name;
        if (!strncmp(c->tensors[i].name, "lm_head.", 8)) continue;
        if (asprintf(&name, "model.%s", c->tensors[i].name) < 0) return STATUS_NO_MEMORY;
        free((void *)c->tensors[i].name);
        c->tensors[i].name = name;
    }
    qsort(c->tensors, c->n_tensors, sizeof *c->tensors, by_name);
    return 0;
}

/* BERT's names lose the prefix that they have inside a larger model. */
static void drop_prefix(struct checkpoint *c) {
    static const char word[] = "embeddings.word_embeddings.weight", prefix[] = "bert.";
    const size_t n = sizeof prefix - 1;
    if (checkpoint_find(c, word) || !checkpoint_find(c, "bert.embeddings.word_embeddings.weight")) return;
    for (size_t i = 0; i < c->n_tensors; i++) {
        char *name = (char *)c->tensors[i].name; /* owned here */
        if (!strncmp(name, prefix, n)) memmove(name, name + n, strlen(name + n) + 1);
    }
    qsort(c->tensors, c->n_tensors, sizeof *c->tensors, by_name);
}

/* ---- the index -------------------------------------------------------------------------------------------------- */

static int by_tensor(const void *a, const void *b) {
    return strcmp(((const struct place *)a)->tensor, ((const struct place *)b)->tensor);
}

static int by_file(const void *a, const void *b) {
    return strcmp(((const struct place *)a)->file, ((const struct place *)b)->file);
}

/* A plain file name: nothing that could leave the folder. */
static bool shard_name_is_valid(const char *name) {
    size_t n = strlen(name);
    return n > 12 && n <= NAME_MAX && name[0] != '.' && !strchr(name, '/') && !strcmp(name + n - 12, ".safetensors");
}

/* *places (malloc'ed, sorted by file) points into `root`. */
static int read_index(struct place **places, size_t *n, const cJSON *root, const char *path, char *err,
                      size_t err_bytes) {
    char shown[SHOW_BYTES], found[64];
    const cJSON *item, *map = json_find(root, "weight_map");
    *n = 0;
    *places = NULL;
    if (!cJSON_IsObject(map) || !map->child)
        return fail(err, err_bytes, STATUS_INVALID, "%s: weight_map: expected an object with tensors, found %s", path,
                    cJSON_IsObject(map) ? "an empty one" : json_show(map, found, sizeof found));
    *places = calloc((size_t)cJSON_GetArraySize(map), sizeof **places);
    if (!*places) return fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory", path);
    cJSON_ArrayForEach(item, map) {
        if (!cJSON_IsString(item) || !shard_name_is_valid(item->valuestring))
            return fail(err, err_bytes, STATUS_INVALID,
                        "%s: tensor %s: expected the name of a .safetensors file in this folder, found %s", path,
                        json_quote(item->string, shown, sizeof shown), json_show(item, found, sizeof found));
        (*places)[(*n)++] = (struct place){.tensor = item->string, .file = item->valuestring};
    }
    qsort(*places, *n, sizeof **places, by_tensor);
    for (size_t i = 1; i < *n; i++)
        if (!strcmp((*places)[i - 1].tensor, (*places)[i].tensor))
            return fail(err, err_bytes, STATUS_INVALID, "%s: tensor %s: expected one entry, found two", path,
                        json_quote((*places)[i].tensor, shown, sizeof shown));
    qsort(*places, *n, sizeof **places, by_file);
    return 0;
}

/* Opens the file of places[0..n) and checks that it holds exactly these tensors. */
static int add_shard(struct checkpoint *c, struct place *places, size_t n, const char *folder, const char *index,
                     char *err, size_t err_bytes) {
    char shown[SHOW_BYTES];
    const char *file = places[0].file;
    size_t first;
    int status = add_file(c, folder, file, &first, err, err_bytes);
    if (status) return status;
    qsort(places, n, sizeof *places, by_tensor);
    for (size_t i = first; i < c->n_tensors; i++) {
        struct place key = {.tensor = c->tensors[i].name};
        struct place *place = bsearch(&key, places, n, sizeof *places, by_tensor);
        if (!place)
            return fail(err, err_bytes, STATUS_INVALID,
                        "%s: tensor %s: expected an entry for %s, which holds it, found none", index,
                        json_quote(c->tensors[i].name, shown, sizeof shown), file);
        place->seen = true;
    }
    for (size_t i = 0; i < n; i++)
        if (!places[i].seen)
            return fail(err, err_bytes, STATUS_INVALID,
                        "%s/%s: tensor %s: expected here by the index, found no such tensor; download the file again",
                        folder, file, json_quote(places[i].tensor, shown, sizeof shown));
    return 0;
}

static int open_shards(struct checkpoint *c, const cJSON *root, const char *folder, const char *index, char *err,
                       size_t err_bytes) {
    struct place *places;
    size_t n, n_files = 0, next;
    int status = read_index(&places, &n, root, index, err, err_bytes);
    for (size_t i = 0; i < n; i++) n_files += i == 0 || strcmp(places[i - 1].file, places[i].file);
    if (!status && n_files > MAX_SHARDS)
        status = fail(err, err_bytes, STATUS_TOO_LARGE, "%s: expected at most %d files, found %zu", index, MAX_SHARDS,
                      n_files);
    if (!status) {
        c->files = calloc(n_files, sizeof *c->files);
        if (!c->files) status = fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory", index);
    }
    for (size_t i = 0; i < n && !status; i = next) {
        for (next = i + 1; next < n && !strcmp(places[i].file, places[next].file);) next++;
        status = add_shard(c, places + i, next - i, folder, index, err, err_bytes);
    }
    free(places);
    return status;
}

/* ---- opening ---------------------------------------------------------------------------------------------------- */

int checkpoint_open(struct checkpoint **out, const char *folder, char *err, size_t err_bytes) {
    char single[PATH_MAX], index[PATH_MAX];
    cJSON *root = NULL;
    int status;
    size_t first;
    *out = NULL;
    struct checkpoint *c = calloc(1, sizeof *c);
    if (!c) return fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory", folder);
    if (snprintf(single, sizeof single, "%s/" SINGLE_FILE, folder) >= (int)sizeof single ||
        snprintf(index, sizeof index, "%s/" INDEX_FILE, folder) >= (int)sizeof index) {
        status = fail(err, err_bytes, STATUS_TOO_LARGE, "the checkpoint's path is longer than %zu bytes", sizeof index);
    } else if (access(single, F_OK) == 0) { /* it wins over an index, as with Hugging Face */
        c->files = calloc(1, sizeof *c->files);
        status = c->files ? add_file(c, folder, SINGLE_FILE, &first, err, err_bytes)
                          : fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory", folder);
    } else if (access(index, F_OK) == 0) {
        status = json_parse_file(&root, index, INDEX_LIMITS, err, err_bytes);
        if (!status) status = open_shards(c, root, folder, index, err, err_bytes);
        cJSON_Delete(root);
    } else {
        status =
            fail(err, err_bytes, STATUS_NOT_FOUND,
                 "%s: expected " SINGLE_FILE " or " INDEX_FILE ", found neither; other formats are not read", folder);
    }
    if (!status) {
        qsort(c->tensors, c->n_tensors, sizeof *c->tensors, by_name);
        status = add_prefix(c);
        drop_prefix(c);
        if (status) fail(err, err_bytes, status, "%s: out of memory", folder);
    }
    if (status) {
        checkpoint_close(c);
        return status;
    }
    *out = c;
    return 0;
}

void checkpoint_close(struct checkpoint *c) {
    if (!c) return;
    safetensors_free(c->tensors, c->n_tensors);
    for (size_t i = 0; i < c->n_files; i++)
        if (c->files[i].data) munmap(c->files[i].data, c->files[i].bytes);
    free(c->files);
    free(c);
}

const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name) {
    struct tensor key = {.name = name};
    return c->n_tensors ? bsearch(&key, c->tensors, c->n_tensors, sizeof key, by_name) : NULL;
}

size_t checkpoint_n_tensors(const struct checkpoint *c) {
    return c->n_tensors;
}

const struct tensor *checkpoint_tensor(const struct checkpoint *c, size_t i) {
    CHECK_LT(i, c->n_tensors);
    return &c->tensors[i];
}

/* ---- the check -------------------------------------------------------------------------------------------------- */

/* "[151936, 1024]" */
static const char *show_shape(const int64_t *dims, int n_dims, char *buffer, size_t bytes) {
    size_t n = (size_t)snprintf(buffer, bytes, "[");
    for (int i = 0; i < n_dims && n < bytes; i++)
        n += (size_t)snprintf(buffer + n, bytes - n, "%s%lld", i ? ", " : "", (long long)dims[i]);
    if (n < bytes) snprintf(buffer + n, bytes - n, "]");
    return buffer;
}

/* The sentence about the first fault; the others are counted. */
struct faults {
    int n;
    char first[ERR_BYTES - 24]; /* leaves room for ", and N more" */
};

static void add_fault(struct faults *faults, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add_fault(struct faults *faults, const char *format, ...) {
    if (faults->n++) return;
    va_list args;
    va_start(args, format);
    vsnprintf(faults->first, sizeof faults->first, format, args);
    va_end(args);
}

static bool has_suffix(const char *name, const char *suffix) {
    const size_t n = strlen(name), m = strlen(suffix);
    return n >= m && !strcmp(name + n - m, suffix);
}

/* Packed weights and zero points. */
static bool is_integers(const char *name) {
    return has_suffix(name, ".qweight") || has_suffix(name, ".qzeros");
}

static void check_expected(struct faults *faults, const struct checkpoint *c, const struct expectation *x, int i) {
    char name[MODEL_TENSOR_NAME], expected[192], found[192];
    int64_t dims[TENSOR_MAX_DIMS];
    int n_dims = x->tensor(x->config, i, name, dims);
    const struct tensor *t = checkpoint_find(c, name);
    show_shape(dims, n_dims, expected, sizeof expected);
    if (!t)
        add_fault(faults, "tensor %s: expected shape %s, found no tensor of that name", name, expected);
    else if (t->n_dims != n_dims || memcmp(t->dims, dims, (size_t)n_dims * sizeof *dims))
        add_fault(faults, "tensor %s: expected shape %s as config.json implies, found %s", name, expected,
                  show_shape(t->dims, t->n_dims, found, sizeof found));
    else if (is_integers(name) && t->dtype != DTYPE_I32)
        add_fault(faults, "tensor %s: expected dtype int32, found %s", name, dtype_name(t->dtype));
    else if (has_suffix(name, ".scales") && t->dtype != DTYPE_F16)
        add_fault(faults, "tensor %s: expected dtype float16, found %s", name, dtype_name(t->dtype));
    else if (!is_integers(name) && t->dtype != DTYPE_F32 && t->dtype != DTYPE_BF16 && t->dtype != DTYPE_F16)
        add_fault(faults, "tensor %s: expected dtype float32, bfloat16 or float16, found %s", name,
                  dtype_name(t->dtype));
}

int checkpoint__check(const struct checkpoint *c, const struct expectation *x, char *err, size_t err_bytes) {
    struct faults faults = {0};
    char shown[SHOW_BYTES], found[192];
    int64_t dims[TENSOR_MAX_DIMS];
    for (int i = 0; i < x->n; i++) check_expected(&faults, c, x, i);
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct tensor *t = &c->tensors[i];
        if (x->shape(x->config, t->name, dims) || x->is_ignored(x->config, t->name)) continue;
        add_fault(&faults, "tensor %s: expected none of that name in a %s of %d layers, found one of shape %s",
                  json_quote(t->name, shown, sizeof shown), x->arch_name, x->n_layers,
                  show_shape(t->dims, t->n_dims, found, sizeof found));
    }
    if (faults.n == 0) return 0;
    if (faults.n == 1) return fail(err, err_bytes, STATUS_INVALID, "%s", faults.first);
    return fail(err, err_bytes, STATUS_INVALID, "%s, and %d more", faults.first, faults.n - 1);
}
