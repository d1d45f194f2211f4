/* safetensors.c - one file of the safetensors format: parsing an image in memory, writing a file.
 *
 *     u64 little-endian: N | N bytes of JSON | data
 *     {"NAME": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ..., "__metadata__": {...}}
 *
 * Offsets count from the first byte of the data. The JSON begins with '{' and may be filled up with blanks. Source:
 * https://github.com/huggingface/safetensors#format. We hold a file to what the format promises, because everything
 * after this trusts it: each offset pair is exactly shape x dtype, and together they cover the data without gap or
 * overlap. Alignment is of the place in the file; a mapping begins on a page, so it is that of the pointer too. */
#include "kernels/status.h"
#include "weights/json.h"
#include "weights/weights.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX_BYTES     8
#define MAX_HEADER_BYTES 100000000 /* the reference implementation's bound */
#define DATA_ALIGNMENT   64        /* of the data in files that we write: what kernels like */
#define SHOW_BYTES       160       /* of a tensor's name in a sentence */

/* Names in the file. There are more in the format; these are the ones that we can read. */
static const char *const DTYPE_NAMES[DTYPE_COUNT] = {
    [DTYPE_F32] = "F32", [DTYPE_BF16] = "BF16", [DTYPE_F16] = "F16", [DTYPE_I32] = "I32", [DTYPE_I64] = "I64"};

/* What every sentence needs. */
struct parser {
    const char *label; /* the file, borrowed */
    const char *base;  /* of the image */
    size_t data_at, data_bytes;
    char *err;
    size_t err_bytes;
};

/* ---- one entry of the header ------------------------------------------------------------------------------------ */

static int parse_dtype(const struct parser *p, enum dtype *dtype, const cJSON *item, const char *shown) {
    char found[64];
    for (int i = 0; i < DTYPE_COUNT && cJSON_IsString(item); i++) {
        if (!DTYPE_NAMES[i] || strcmp(item->valuestring, DTYPE_NAMES[i])) continue;
        *dtype = (enum dtype)i;
        return 0;
    }
    return fail(p->err, p->err_bytes, cJSON_IsString(item) ? STATUS_UNSUPPORTED : STATUS_INVALID,
                "%s: tensor %s: expected dtype F32, BF16, F16, I32 or I64, found %s", p->label, shown,
                json_show(item, found, sizeof found));
}

/* A non-negative integer, exact in a double. */
static bool get_size(const cJSON *item, int64_t *value) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= 0x1p53)) return false;
    *value = (int64_t)item->valuedouble;
    return (double)*value == item->valuedouble;
}

/* Fills dims and bytes. */
static int parse_shape(const struct parser *p, struct tensor *t, const cJSON *item, const char *shown) {
    char found[64];
    const cJSON *dim;
    int64_t bytes = (int64_t)dtype_bytes(t->dtype), n;
    if (!cJSON_IsArray(item))
        return fail(p->err, p->err_bytes, STATUS_INVALID, "%s: tensor %s: expected shape to be an array, found %s",
                    p->label, shown, json_show(item, found, sizeof found));
    cJSON_ArrayForEach(dim, item) {
        if (t->n_dims == TENSOR_MAX_DIMS)
            return fail(p->err, p->err_bytes, STATUS_TOO_LARGE,
                        "%s: tensor %s: expected at most %d dimensions, found more", p->label, shown, TENSOR_MAX_DIMS);
        if (!get_size(dim, &n))
            return fail(p->err, p->err_bytes, STATUS_INVALID,
                        "%s: tensor %s: expected a shape of non-negative integers, found %s", p->label, shown,
                        json_show(dim, found, sizeof found));
        t->dims[t->n_dims++] = n;
    }
    /* A zero anywhere would hide an overflow that depends on the order of multiplication: judge without zeros. */
    bool is_empty = false;
    for (int i = 0; i < t->n_dims; i++) {
        if (t->dims[i] == 0)
            is_empty = true;
        else if (__builtin_mul_overflow(bytes, t->dims[i], &bytes))
            return fail(p->err, p->err_bytes, STATUS_TOO_LARGE,
                        "%s: tensor %s: expected a shape whose bytes fit 63 bits, found one that overflows", p->label,
                        shown);
    }
    t->bytes = is_empty ? 0 : (size_t)bytes;
    return 0;
}

/* Fills data; shape and dtype are known. */
static int parse_offsets(const struct parser *p, struct tensor *t, const cJSON *item, const char *shown) {
    int64_t begin, end;
    const cJSON *second = cJSON_IsArray(item) && item->child ? item->child->next : NULL;
    if (!second || second->next || !get_size(item->child, &begin) || !get_size(second, &end))
        return fail(p->err, p->err_bytes, STATUS_INVALID,
                    "%s: tensor %s: expected data_offsets to be two non-negative integers, found something else",
                    p->label, shown);
    if (begin > end)
        return fail(p->err, p->err_bytes, STATUS_INVALID,
                    "%s: tensor %s: expected data_offsets in ascending order, found [%lld, %lld]", p->label, shown,
                    (long long)begin, (long long)end);
    if ((uint64_t)end > p->data_bytes)
        return fail(p->err, p->err_bytes, STATUS_INVALID,
                    "%s: tensor %s: expected its data inside the %zu bytes after the header, found bytes %lld to %lld; "
                    "the file is cut short: download it again",
                    p->label, shown, p->data_bytes, (long long)begin, (long long)end);
    if ((uint64_t)(end - begin) != t->bytes)
        return fail(p->err, p->err_bytes, STATUS_INVALID,
                    "%s: tensor %s: expected %zu bytes of data for its shape and dtype, found %lld", p->label, shown,
                    t->bytes, (long long)(end - begin));
    if ((p->data_at + (size_t)begin) % dtype_bytes(t->dtype))
        return fail(p->err, p->err_bytes, STATUS_INVALID,
                    "%s: tensor %s: expected data aligned to the %zu bytes of its dtype, found it at byte %zu of the "
                    "file; save the model again with a current safetensors",
                    p->label, shown, dtype_bytes(t->dtype), p->data_at + (size_t)begin);
    t->data = p->base + p->data_at + begin;
    return 0;
}

/* On failure too, t->name is owned by the caller. */
static int parse_tensor(const struct parser *p, struct tensor *t, const cJSON *entry) {
    char shown[SHOW_BYTES], found[64];
    json_quote(entry->string, shown, sizeof shown);
    t->name = strdup(entry->string);
    if (!t->name) return fail(p->err, p->err_bytes, STATUS_NO_MEMORY, "%s: out of memory", p->label);
    if (!cJSON_IsObject(entry))
        return fail(p->err, p->err_bytes, STATUS_INVALID, "%s: tensor %s: expected an object, found %s", p->label,
                    shown, json_show(entry, found, sizeof found));
    const cJSON *field, *dtype = NULL, *shape = NULL, *offsets = NULL;
    cJSON_ArrayForEach(field, entry) {
        const cJSON **slot = !strcmp(field->string, "dtype")          ? &dtype
                             : !strcmp(field->string, "shape")        ? &shape
                             : !strcmp(field->string, "data_offsets") ? &offsets
                                                                      : NULL;
        if (!slot || *slot)
            return fail(p->err, p->err_bytes, STATUS_INVALID,
                        "%s: tensor %s: expected dtype, shape and data_offsets once each, found \"%s\"", p->label,
                        shown, json_quote(field->string, found, sizeof found));
        *slot = field;
    }
    int status = parse_dtype(p, &t->dtype, dtype, shown);
    if (!status) status = parse_shape(p, t, shape, shown);
    if (!status) status = parse_offsets(p, t, offsets, shown);
    return status;
}

/* ---- all of them ------------------------------------------------------------------------------------------------ */

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

/* Empty tensors before the one that begins where they stand. */
static int by_place(const void *a, const void *b) {
    const struct tensor *x = a, *y = b;
    uintptr_t i = (uintptr_t)x->data, j = (uintptr_t)y->data;
    if (i != j) return i < j ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* That the tensors cover the data, one after the other. Sorts them by place. */
static int check_cover(const struct parser *p, struct tensor *tensors, size_t n) {
    char shown[SHOW_BYTES], before[SHOW_BYTES];
    size_t at = 0;
    qsort(tensors, n, sizeof *tensors, by_place);
    for (size_t i = 0; i < n; i++) {
        size_t begin = (size_t)((const char *)tensors[i].data - p->base) - p->data_at;
        json_quote(tensors[i].name, shown, sizeof shown);
        json_quote(i ? tensors[i - 1].name : "", before, sizeof before);
        if (begin < at)
            return fail(
                p->err, p->err_bytes, STATUS_INVALID,
                "%s: tensor %s: expected data from byte %zu on, where tensor %s ends, found it at byte %zu: they "
                "overlap",
                p->label, shown, at, before, begin);
        if (begin > at)
            return fail(
                p->err, p->err_bytes, STATUS_INVALID,
                "%s: tensor %s: expected data from byte %zu on, found it at byte %zu: there is a hole before it",
                p->label, shown, at, begin);
        at = begin + tensors[i].bytes;
    }
    if (at != p->data_bytes)
        return fail(p->err, p->err_bytes, STATUS_INVALID,
                    "%s: expected %zu bytes of data, as many as its tensors have, found %zu", p->label, at,
                    p->data_bytes);
    return 0;
}

/* Sorts by name. */
static int check_unique(const struct parser *p, struct tensor *tensors, size_t n) {
    char shown[SHOW_BYTES];
    qsort(tensors, n, sizeof *tensors, by_name);
    for (size_t i = 1; i < n; i++)
        if (!strcmp(tensors[i - 1].name, tensors[i].name))
            return fail(p->err, p->err_bytes, STATUS_INVALID, "%s: tensor %s: expected one of that name, found two",
                        p->label, json_quote(tensors[i].name, shown, sizeof shown));
    return 0;
}

/* Reads the prefix and the JSON; the caller deletes *root. */
static int parse_header(struct parser *p, cJSON **root, size_t bytes) {
    char sentence[ERR_BYTES / 2];
    uint64_t header_bytes = 0;
    *root = NULL;
    if (bytes < PREFIX_BYTES)
        return fail(p->err, p->err_bytes, STATUS_INVALID,
                    "%s: expected a safetensors file of at least %d bytes, found %zu", p->label, PREFIX_BYTES, bytes);
    for (int i = PREFIX_BYTES - 1; i >= 0; i--) header_bytes = header_bytes << 8 | (unsigned char)p->base[i];
    if (header_bytes > MAX_HEADER_BYTES)
        return fail(p->err, p->err_bytes, STATUS_TOO_LARGE,
                    "%s: expected a header of at most %d bytes, found %llu; is this a safetensors file?", p->label,
                    MAX_HEADER_BYTES, (unsigned long long)header_bytes);
    if (header_bytes > bytes - PREFIX_BYTES)
        return fail(
            p->err, p->err_bytes, STATUS_INVALID,
            "%s: expected a header of %llu bytes, found %zu bytes left in the file; it is cut short: download it "
            "again",
            p->label, (unsigned long long)header_bytes, bytes - PREFIX_BYTES);
    p->data_at = PREFIX_BYTES + (size_t)header_bytes;
    p->data_bytes = bytes - p->data_at;
    if (header_bytes == 0 || p->base[PREFIX_BYTES] != '{')
        return fail(p->err, p->err_bytes, STATUS_INVALID, "%s: expected a header that begins with '{', found another",
                    p->label);
    int status =
        json_parse(root, p->base + PREFIX_BYTES, (size_t)header_bytes,
                   (struct json_limits){.max_bytes = MAX_HEADER_BYTES, .max_depth = 3}, sentence, sizeof sentence);
    if (status) return fail(p->err, p->err_bytes, status, "%s: header: %s", p->label, sentence);
    return 0;
}

int safetensors_parse(struct tensor **tensors, size_t *n, const void *image, size_t bytes, const char *label, char *err,
                      size_t err_bytes) {
    struct parser p = {.label = label, .base = image, .err = err, .err_bytes = err_bytes};
    struct tensor *list = NULL;
    size_t count = 0;
    cJSON *root;
    *tensors = NULL;
    *n = 0;
    int status = parse_header(&p, &root, bytes);
    if (status) goto done;
    list = calloc((size_t)cJSON_GetArraySize(root) + 1, sizeof *list);
    if (!list) {
        status = fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory", label);
        goto done;
    }
    const cJSON *entry;
    cJSON_ArrayForEach(entry, root) {
        if (!strcmp(entry->string, "__metadata__")) continue;
        status = parse_tensor(&p, &list[count++], entry);
        if (status) goto done;
    }
    status = check_unique(&p, list, count);
    if (!status) status = check_cover(&p, list, count);
    qsort(list, count, sizeof *list, by_name);
done:
    cJSON_Delete(root);
    if (status) {
        safetensors_free(list, count);
        return status;
    }
    *tensors = list;
    *n = count;
    return 0;
}

void safetensors_free(struct tensor *tensors, size_t n) {
    for (size_t i = 0; i < n; i++) free((void *)tensors[i].name);
    free(tensors);
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* Wide dtypes first, so that each tensor is aligned without holes; then by name, as the reference does. */
static int by_width_and_name(const void *a, const void *b) {
    const struct tensor *const *x = a, *const *y = b;
    size_t i = dtype_bytes((*x)->dtype), j = dtype_bytes((*y)->dtype);
    if (i != j) return i > j ? -1 : 1;
    return strcmp((*x)->name, (*y)->name);
}

static void check_tensor(const struct tensor *t) {
    size_t bytes = dtype_bytes(t->dtype);
    CHECK(DTYPE_NAMES[t->dtype]);
    CHECK_LE(0, t->n_dims);
    CHECK_LE(t->n_dims, TENSOR_MAX_DIMS);
    for (int i = 0; i < t->n_dims; i++) bytes *= (size_t)t->dims[i];
    CHECK_EQ(t->bytes, bytes);
}

/* The header's JSON (the caller frees it with cJSON_free), NULL when out of memory. */
static char *header_text(const struct tensor *const *order, size_t n) {
    cJSON *root = cJSON_CreateObject(), *metadata = cJSON_AddObjectToObject(root, "__metadata__");
    bool ok = cJSON_AddStringToObject(metadata, "format", "pt");
    size_t at = 0;
    for (size_t i = 0; i < n && ok; i++) {
        const struct tensor *t = order[i];
        cJSON *entry = cJSON_CreateObject(), *shape, *offsets;
        ok = cJSON_AddItemToObject(root, t->name, entry) &&
             cJSON_AddStringToObject(entry, "dtype", DTYPE_NAMES[t->dtype]);
        shape = cJSON_AddArrayToObject(entry, "shape");
        for (int d = 0; d < t->n_dims && ok; d++)
            ok = cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)t->dims[d]));
        offsets = cJSON_AddArrayToObject(entry, "data_offsets");
        ok = ok && cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)at));
        at += t->bytes;
        ok = ok && cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)at));
    }
    char *text = ok ? cJSON_PrintUnformatted(root) : NULL;
    cJSON_Delete(root);
    return text;
}

struct safetensors_file {
    char path[PATH_MAX], temporary[PATH_MAX];
    int fd;
    struct piece {
        char *name; /* owned */
        size_t at, bytes;
        bool written;
    } * pieces; /* owned [n], by name */
    size_t n;
};

static int by_piece_name(const void *a, const void *b) {
    return strcmp(((const struct piece *)a)->name, ((const struct piece *)b)->name);
}

static bool write_at(int fd, const void *data, size_t bytes, size_t at) {
    for (const char *p = data; bytes;) {
        const ssize_t n = pwrite(fd, p, bytes, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        p += n, at += (size_t)n, bytes -= (size_t)n;
    }
    return true;
}

/* The prefix, the header's text and blanks up to where the data begins. */
static bool write_header(int fd, const char *text, size_t data_at) {
    const size_t text_bytes = strlen(text);
    unsigned char prefix[PREFIX_BYTES];
    for (int i = 0; i < PREFIX_BYTES; i++) prefix[i] = (unsigned char)((data_at - PREFIX_BYTES) >> (8 * i));
    bool ok = write_at(fd, prefix, PREFIX_BYTES, 0) && write_at(fd, text, text_bytes, PREFIX_BYTES);
    for (size_t at = PREFIX_BYTES + text_bytes; ok && at < data_at; at++) ok = write_at(fd, " ", 1, at);
    return ok;
}

int safetensors_create(struct safetensors_file **out, const char *path, const struct tensor *tensors, size_t n,
                       char *err, size_t err_bytes) {
    int status = 0;
    char *text = NULL;
    const struct tensor **order = malloc((n + 1) * sizeof *order);
    struct safetensors_file *f = *out = calloc(1, sizeof *f);
    if (f) f->fd = -1, f->pieces = calloc(n + 1, sizeof *f->pieces);
    if (!order || !f || !f->pieces) goto no_memory;
    for (size_t i = 0; i < n; i++) {
        check_tensor(&tensors[i]);
        order[i] = &tensors[i];
    }
    qsort(order, n, sizeof *order, by_width_and_name);
    text = header_text(order, n);
    if (!text) goto no_memory;
    const size_t data_at = (PREFIX_BYTES + strlen(text) + DATA_ALIGNMENT - 1) / DATA_ALIGNMENT * DATA_ALIGNMENT;
    size_t at = data_at;
    for (; f->n < n; at += f->pieces[f->n++].bytes) {
        struct piece *piece = &f->pieces[f->n];
        *piece = (struct piece){.name = strdup(order[f->n]->name), .at = at, .bytes = order[f->n]->bytes};
        if (!piece->name) goto no_memory;
    }
    qsort(f->pieces, n, sizeof *f->pieces, by_piece_name);
    for (size_t i = 1; i < n; i++) CHECK(strcmp(f->pieces[i - 1].name, f->pieces[i].name));

    if (snprintf(f->path, sizeof f->path, "%s", path) >= (int)sizeof f->path ||
        snprintf(f->temporary, sizeof f->temporary, "%s.%ld.part", path, (long)getpid()) >= (int)sizeof f->temporary) {
        status = fail(err, err_bytes, STATUS_TOO_LARGE, "the path to write to is longer than %zu bytes", sizeof f->path);
        goto done;
    }
    f->fd = open(f->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd < 0)
        status = fail(err, err_bytes, STATUS_IO, "%s: cannot be created: %s", f->temporary, strerror(errno));
    else if (!write_header(f->fd, text, data_at) || ftruncate(f->fd, (off_t)at))
        status = fail(err, err_bytes, STATUS_IO, "%s: cannot be written: %s", path, strerror(errno));
    goto done;
no_memory:
    status = fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory", path);
done:
    cJSON_free(text);
    free(order);
    if (status) {
        safetensors_discard(f);
        *out = NULL;
    }
    return status;
}

int safetensors_put(struct safetensors_file *f, const char *name, const void *data, char *err, size_t err_bytes) {
    const struct piece key = {.name = (char *)name};
    struct piece *piece = bsearch(&key, f->pieces, f->n, sizeof key, by_piece_name);
    CHECK(piece && !piece->written);
    piece->written = true;
    if (write_at(f->fd, data, piece->bytes, piece->at)) return 0;
    return fail(err, err_bytes, STATUS_IO, "%s: cannot be written: %s", f->path, strerror(errno));
}

int safetensors_commit(struct safetensors_file *f, char *err, size_t err_bytes) {
    for (size_t i = 0; i < f->n; i++) CHECK(f->pieces[i].written);
    int status = 0;
    if (fsync(f->fd) || rename(f->temporary, f->path))
        status = fail(err, err_bytes, STATUS_IO, "%s: cannot be written: %s", f->path, strerror(errno));
    else
        *f->temporary = 0; /* it is no more */
    safetensors_discard(f);
    return status;
}

void safetensors_discard(struct safetensors_file *f) {
    if (!f) return;
    if (f->fd >= 0) {
        close(f->fd);
        if (*f->temporary) unlink(f->temporary);
    }
    for (size_t i = 0; f->pieces && i < f->n; i++) free(f->pieces[i].name);
    free(f->pieces);
    free(f);
}

int safetensors_write(const char *path, const struct tensor *tensors, size_t n, char *err, size_t err_bytes) {
    struct safetensors_file *f;
    int status = safetensors_create(&f, path, tensors, n, err, err_bytes);
    if (status) return status;
    for (size_t i = 0; i < n && !status; i++)
        status = safetensors_put(f, tensors[i].name, tensors[i].data, err, err_bytes);
    if (!status) return safetensors_commit(f, err, err_bytes);
    safetensors_discard(f);
    return status;
}
