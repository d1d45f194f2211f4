/* folder.c - a new checkpoint's folder: made empty, and completed once its tensors are there.
 *
 * config.json comes last and by a rename, so a run that was interrupted leaves nothing that looks like a model. */
#include "kernels/status.h"
#include "weights/json.h"
#include "weights/weights.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct json_limits LIMITS = {.max_bytes = 4 << 20, .max_depth = 32}; /* config.c's */

static int join(char path[PATH_MAX], const char *folder, const char *name, char *err, size_t err_bytes) {
    if (snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX) return 0;
    return fail(err, err_bytes, STATUS_TOO_LARGE, "%s: the path of a file in it is longer than %d bytes", folder,
                PATH_MAX);
}

/* ---- made empty ------------------------------------------------------------------------------------------------- */

int model_folder_create(const char *folder, char *err, size_t err_bytes) {
    char found[64] = "";
    if (!mkdir(folder, 0777)) return 0;
    if (errno != EEXIST)
        return fail(err, err_bytes, STATUS_IO, "%s: the folder cannot be made: %s", folder, strerror(errno));
    DIR *d = opendir(folder);
    if (!d)
        return fail(err, err_bytes, STATUS_IO, "%s: expected a new or an empty folder, found one that cannot be read: %s",
                    folder, strerror(errno));
    for (const struct dirent *entry; !*found && (entry = readdir(d));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) json_quote(entry->d_name, found, sizeof found);
    closedir(d);
    if (!*found) return 0;
    return fail(err, err_bytes, STATUS_INVALID,
                "%s: expected a new or an empty folder, found \"%s\" in it; name another, or remove it", folder, found);
}

/* ---- completed -------------------------------------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *end) {
    const size_t n = strlen(name), m = strlen(end);
    return n > m && !strcmp(name + n - m, end);
}

/* What a checkpoint needs beside tensors and config.json; the same patterns that a download takes. */
static bool is_companion(const char *name) {
    if (name[0] == '.' || !strcmp(name, "config.json") || ends_with(name, ".safetensors.index.json")) return false;
    return ends_with(name, ".json") || ends_with(name, ".txt") || ends_with(name, ".jinja");
}

static int copy_file(const char *to, const char *from, char *err, size_t err_bytes) {
    char block[1 << 16];
    size_t n;
    int error = 0; /* the first one's errno */
    FILE *in = fopen(from, "rb");
    if (!in) return fail(err, err_bytes, STATUS_IO, "%s: cannot be opened: %s", from, strerror(errno));
    FILE *out = fopen(to, "wb");
    if (!out) error = errno;
    while (!error && (n = fread(block, 1, sizeof block, in)) > 0)
        if (fwrite(block, 1, n, out) != n) error = errno;
    if (!error && ferror(in)) error = EIO;
    fclose(in);
    if (out && fclose(out) && !error) error = errno;
    return error ? fail(err, err_bytes, STATUS_IO, "%s: cannot be written: %s", to, strerror(error)) : 0;
}

static int copy_companions(const char *folder, const char *source, char *err, size_t err_bytes) {
    char from[PATH_MAX], to[PATH_MAX];
    struct stat st;
    int status = 0;
    DIR *d = opendir(source);
    if (!d) return fail(err, err_bytes, STATUS_IO, "%s: cannot be read: %s", source, strerror(errno));
    for (const struct dirent *entry; !status && (entry = readdir(d));) {
        if (!is_companion(entry->d_name)) continue;
        status = join(from, source, entry->d_name, err, err_bytes);
        if (!status) status = join(to, folder, entry->d_name, err, err_bytes);
        if (!status && !stat(from, &st) && S_ISREG(st.st_mode)) status = copy_file(to, from, err, err_bytes);
    }
    closedir(d);
    return status;
}

/* source's config.json with the two changes; NULL when out of memory. */
static char *config_text(cJSON *root, const struct model_quantization *quantization) {
    static const char *const replaced[] = {"dtype", "torch_dtype", "quantization_config"};
    /* The name of transformers 5 where the file is in its form; older versions and AutoAWQ read the other. */
    const char *dtype = cJSON_GetObjectItemCaseSensitive(root, "dtype") ? "dtype" : "torch_dtype";
    for (size_t i = 0; i < sizeof replaced / sizeof *replaced; i++)
        while (cJSON_GetObjectItemCaseSensitive(root, replaced[i]))
            cJSON_DeleteItemFromObjectCaseSensitive(root, replaced[i]);
    cJSON *q = cJSON_AddObjectToObject(root, "quantization_config");
    const bool ok = cJSON_AddStringToObject(root, dtype, dtype_name(DTYPE_F16)) &&
                    cJSON_AddStringToObject(q, "quant_method", "awq") && cJSON_AddStringToObject(q, "version", "gemm") &&
                    cJSON_AddNumberToObject(q, "bits", 4) &&
                    cJSON_AddNumberToObject(q, "group_size", quantization->group) &&
                    cJSON_AddBoolToObject(q, "zero_point", true) && cJSON_AddNullToObject(q, "modules_to_not_convert");
    return ok ? cJSON_Print(root) : NULL;
}

/* By way of another name, so that it is there whole or not at all. */
static int write_config(const char *folder, const char *text, char *err, size_t err_bytes) {
    char path[PATH_MAX], part[PATH_MAX];
    int status = join(path, folder, "config.json", err, err_bytes);
    if (!status) status = join(part, folder, "config.json.part", err, err_bytes);
    if (status) return status;
    FILE *f = fopen(part, "wb");
    bool ok = f && fprintf(f, "%s\n", text) > 0 && !fflush(f) && !fsync(fileno(f));
    if (f && fclose(f)) ok = false;
    if (ok && !rename(part, path)) return 0;
    return fail(err, err_bytes, STATUS_IO, "%s: cannot be written: %s", path, strerror(errno));
}

int model_folder_finish(const char *folder, const char *source, const struct model_quantization *quantization, char *err,
                        size_t err_bytes) {
    char path[PATH_MAX];
    cJSON *root = NULL;
    char *text = NULL;
    int status = join(path, source, "config.json", err, err_bytes);
    if (!status) status = copy_companions(folder, source, err, err_bytes);
    if (!status) status = json_parse_file(&root, path, LIMITS, err, err_bytes);
    if (!status && !(text = config_text(root, quantization)))
        status = fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory", path);
    if (!status) status = write_config(folder, text, err, err_bytes);
    cJSON_free(text);
    cJSON_Delete(root);
    return status;
}
