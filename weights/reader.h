/* reader.h - private to weights/: reading a JSON file field by field.
 *
 * A reader latches its first fault, so that loading is a list of fields and the status is looked at once. */
#pragma once

#include "kernels/status.h"
#include "weights/json.h"
#include "weights/weights.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

/* What a configuration may ask for. */
#define MAX_COUNT  (1 << 20)
#define MAX_VOCAB  (1 << 22)
#define MAX_LAYERS 1024
#define MAX_HEAD   256

struct reader {
    const char *path;    /* borrowed */
    const cJSON *object; /* borrowed */
    int status;          /* the first fault's */
    char *err;
    size_t err_bytes;
};

/* Latches the first fault; the sentence gets the path in front. */
static inline void refuse(struct reader *r, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));
static inline void refuse(struct reader *r, int status, const char *format, ...) {
    char sentence[ERR_BYTES];
    va_list args;
    if (r->status) return;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    r->status = fail(r->err, r->err_bytes, status, "%s: %s", r->path, sentence);
}

static inline int64_t read_int(struct reader *r, const char *name, int64_t low, int64_t high, int64_t fallback) {
    char sentence[ERR_BYTES];
    int64_t value = fallback;
    if (json_get_int(r->object, name, low, high, &value, sentence, sizeof sentence))
        refuse(r, STATUS_INVALID, "%s", sentence);
    return value;
}

/* A count that must be there. */
static inline int read_count(struct reader *r, const char *name, int high) {
    int64_t value = read_int(r, name, 1, high, 0);
    if (value == 0) refuse(r, STATUS_INVALID, "%s: expected an integer from 1 to %d, found nothing", name, high);
    return (int)value;
}

static inline double read_double(struct reader *r, const char *name, double low, double high, double fallback) {
    char sentence[ERR_BYTES];
    double value = fallback;
    if (json_get_double(r->object, name, low, high, &value, sentence, sizeof sentence))
        refuse(r, STATUS_INVALID, "%s", sentence);
    return value;
}

static inline bool read_bool(struct reader *r, const char *name, bool fallback) {
    char sentence[ERR_BYTES];
    bool value = fallback;
    if (json_get_bool(r->object, name, &value, sentence, sizeof sentence)) refuse(r, STATUS_INVALID, "%s", sentence);
    return value;
}

static inline const char *read_string(struct reader *r, const char *name, const char *fallback) {
    char sentence[ERR_BYTES];
    const char *value = fallback;
    if (json_get_string(r->object, name, &value, sentence, sizeof sentence)) refuse(r, STATUS_INVALID, "%s", sentence);
    return value;
}

/* Opens a JSON file whose value is an object. The caller deletes *root. */
static inline int open_object(struct reader *r, cJSON **root, const char *path, char *err, size_t err_bytes) {
    static const struct json_limits limits = {.max_bytes = 4 << 20, .max_depth = 32};
    char found[64];
    *r = (struct reader){.path = path, .err = err, .err_bytes = err_bytes};
    r->status = json_parse_file(root, path, limits, err, err_bytes);
    r->object = *root;
    if (!r->status && !cJSON_IsObject(*root))
        refuse(r, STATUS_INVALID, "expected an object, found %s", json_show(*root, found, sizeof found));
    return r->status;
}

/* FOLDER/NAME, or `folder` itself where it is a file. Returns false if that is too long for a path. */
static inline bool config_path(char path[PATH_MAX], const char *folder, const char *name, bool *is_file) {
    struct stat st;
    *is_file = !stat(folder, &st) && S_ISREG(st.st_mode);
    return snprintf(path, PATH_MAX, *is_file ? "%s" : "%s/%s", folder, name) < PATH_MAX;
}

/* config.c: dtype, else torch_dtype, else that of the checkpoint's tensor `embedding`, else float32. */
enum dtype config__dtype(struct reader *r, const char *folder, const char *embedding);
