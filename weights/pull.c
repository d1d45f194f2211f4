/* pull.c - downloads a model in Hugging Face layout: the file list, which files, where to.
 *
 *     GET {endpoint}/api/models/{repo}/revision/{revision}?blobs=true
 *         {"siblings": [{"rfilename": "config.json", "size": 726, "blobId": SHA-1 of the git blob,
 *                        "lfs": {"sha256": ..., "size": ...} for large files}, ...], ...}
 *     GET {endpoint}/{repo}/resolve/{revision}/{file}   (large files: a redirect to their storage)
 *
 * Source: https://huggingface.co/docs/hub/api. The list is from outside: a name that would leave the folder ends the
 * download before it begins, and every file is held to the size and digest that the list gives. */
#include "kernels/status.h"
#include "weights/fetch.h"
#include "weights/json.h"
#include "weights/model_name.h"
#include "weights/weights.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_FILES    4096
#define MAX_NAME     255
#define URL_BYTES    2048
#define SHA256_CHARS 64
#define SHA1_CHARS   40

static const struct json_limits LIST_LIMITS = {.max_bytes = 16 << 20, .max_depth = 64};
static const char LIST_QUERY[] = "?blobs=true";
static const char DEFAULT_ENDPOINT[] = "https://huggingface.co";

struct remote_file {
    const char *name;     /* these three: borrowed from the list's tree */
    const char *sha256;   /* or NULL */
    const char *git_sha1; /* or NULL */
    int64_t size;         /* -1: unknown */
};

struct pull {
    const struct pull_options *options;
    const char *endpoint, *revision;
    struct fetcher *fetcher;   /* owned */
    cJSON *list;               /* owned */
    struct remote_file *files; /* owned [n_files] */
    int n_files, file_id;      /* file_id: the one that is being fetched */
    char *err;
    size_t err_bytes;
};

/* ---- the options ------------------------------------------------------------------------------------------------ */

static bool host_is(const char *host, const char *name) {
    size_t n = strlen(name);
    return !strncmp(host, name, n) && (host[n] == 0 || host[n] == ':' || host[n] == '/');
}

static bool is_loopback(const char *url) {
    const char *host = strstr(url, "://") + 3;
    return host_is(host, "localhost") || host_is(host, "127.0.0.1") || host_is(host, "[::1]");
}

/* Letters, digits, '.', '_', '-' and '/': branches, tags, commits, refs/pr/1. */
static bool revision_is_valid(const char *revision) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/";
    size_t n = strlen(revision);
    return n > 0 && n <= MAX_NAME && strspn(revision, allowed) == n && !strstr(revision, "..");
}

static bool token_is_valid(const char *token) {
    for (const char *p = token; *p; p++)
        if (*p <= ' ' || *p > '~') return false;
    return *token != 0;
}

static int check_options(const struct pull *p) {
    const struct pull_options *o = p->options;
    char shown[100];
    bool http = !strncmp(p->endpoint, "http://", 7);
    CHECK(o->folder && *o->folder);
    if (!model__name_is_valid(o->repo))
        return fail(p->err, p->err_bytes, STATUS_INVALID, "expected a model name like Qwen/Qwen3-0.6B, found \"%s\"",
                    json_quote(o->repo, shown, sizeof shown));
    if (!revision_is_valid(p->revision))
        return fail(p->err, p->err_bytes, STATUS_INVALID, "expected a branch, tag or commit, found revision \"%s\"",
                    json_quote(p->revision, shown, sizeof shown));
    if (!http && strncmp(p->endpoint, "https://", 8))
        return fail(p->err, p->err_bytes, STATUS_INVALID, "expected an endpoint like %s, found \"%s\"",
                    DEFAULT_ENDPOINT, json_quote(p->endpoint, shown, sizeof shown));
    if (o->token && !token_is_valid(o->token))
        return fail(p->err, p->err_bytes, STATUS_INVALID,
                    "expected a token of printable characters, found others; check HF_TOKEN");
    if (o->token && http && !is_loopback(p->endpoint))
        return fail(
            p->err, p->err_bytes, STATUS_INVALID,
            "expected https for an endpoint that gets the token, found \"%s\"; a token is not sent in the clear",
            json_quote(p->endpoint, shown, sizeof shown));
    return 0;
}

/* ---- the list --------------------------------------------------------------------------------------------------- */

/* Relative, and no part of it is empty, "." or "..". */
static bool file_name_is_safe(const char *name) {
    size_t n = strlen(name);
    if (n == 0 || n > MAX_NAME) return false;
    for (const char *p = name; *p; p++)
        if (*p == '\\' || (unsigned char)*p < ' ' || *p == 0x7f) return false;
    for (const char *part = name;;) {
        size_t length = strcspn(part, "/");
        if (length == 0 || (length == 1 && part[0] == '.') || (length == 2 && part[0] == '.' && part[1] == '.'))
            return false;
        if (!part[length]) return true;
        part += length + 1;
    }
}

static bool is_wanted(const char *name) {
    static const char *const endings[] = {".json", ".safetensors", ".txt", ".jinja"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t m = strlen(endings[i]);
        if (n > m && !strcmp(name + n - m, endings[i])) return true;
    }
    return false;
}

/* The member where it is a string of that many lower-case hexadecimal digits, else NULL. */
static const char *hex_member(const cJSON *object, const char *name, size_t n_chars) {
    const cJSON *item = json_find(object, name);
    if (!cJSON_IsString(item) || strlen(item->valuestring) != n_chars) return NULL;
    return strspn(item->valuestring, "0123456789abcdef") == n_chars ? item->valuestring : NULL;
}

static int read_entry(const struct pull *p, struct remote_file *file, const cJSON *entry) {
    char shown[100], sentence[ERR_BYTES / 2];
    const cJSON *lfs = json_find(entry, "lfs");
    const char *name = "";
    if (json_get_string(entry, "rfilename", &name, sentence, sizeof sentence))
        return fail(p->err, p->err_bytes, STATUS_INVALID, "%s: file list: %s", p->options->repo, sentence);
    if (!file_name_is_safe(name))
        return fail(p->err, p->err_bytes, STATUS_INVALID,
                    "%s: file list: expected names inside the model's folder, found \"%s\"; nothing was downloaded",
                    p->options->repo, json_quote(name, shown, sizeof shown));
    *file = (struct remote_file){.name = name, .size = -1};
    if (json_get_int(entry, "size", 0, INT64_MAX, &file->size, sentence, sizeof sentence) ||
        json_get_int(lfs, "size", 0, INT64_MAX, &file->size, sentence, sizeof sentence))
        return fail(p->err, p->err_bytes, STATUS_INVALID, "%s: file list: %s: %s", p->options->repo,
                    json_quote(name, shown, sizeof shown), sentence);
    if (!cJSON_IsObject(lfs)) {
        file->git_sha1 = hex_member(entry, "blobId", SHA1_CHARS);
        return 0;
    }
    file->sha256 = hex_member(lfs, "sha256", SHA256_CHARS);
    if (!file->sha256) file->sha256 = hex_member(lfs, "oid", SHA256_CHARS);
    if (!file->sha256)
        return fail(p->err, p->err_bytes, STATUS_INVALID,
                    "%s: file list: %s: expected the SHA-256 of a large file, found none", p->options->repo,
                    json_quote(name, shown, sizeof shown));
    return 0;
}

/* Fills p->files with the wanted files. */
static int read_list(struct pull *p, const char *text, size_t bytes) {
    char sentence[ERR_BYTES / 2], found[64];
    int status = json_parse(&p->list, text, bytes, LIST_LIMITS, sentence, sizeof sentence);
    if (status) return fail(p->err, p->err_bytes, status, "%s: file list: %s", p->options->repo, sentence);
    const cJSON *entry, *siblings = json_find(p->list, "siblings");
    int n = cJSON_GetArraySize(siblings);
    if (!cJSON_IsArray(siblings) || n > MAX_FILES)
        return fail(p->err, p->err_bytes, STATUS_INVALID,
                    "%s: file list: siblings: expected an array of at most %d files, found %s", p->options->repo,
                    MAX_FILES, n > MAX_FILES ? "more" : json_show(siblings, found, sizeof found));
    p->files = calloc((size_t)n + 1, sizeof *p->files);
    if (!p->files) return fail(p->err, p->err_bytes, STATUS_NO_MEMORY, "out of memory for the file list");
    cJSON_ArrayForEach(entry, siblings) {
        status = read_entry(p, &p->files[p->n_files], entry);
        if (status) return status;
        if (is_wanted(p->files[p->n_files].name)) p->n_files++;
    }
    if (p->n_files == 0)
        return fail(p->err, p->err_bytes, STATUS_NOT_FOUND,
                    "%s: expected *.json, *.safetensors, *.txt or *.jinja in its %d files, found none",
                    p->options->repo, n);
    return 0;
}

/* Appends a URL-escaped part to `url`, keeping '/' where asked. False when it does not fit. */
static bool append_escaped(char *url, size_t url_bytes, const char *part, bool keep_slashes) {
    size_t at = strlen(url);
    for (const char *p = part; *p; p++) {
        bool plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
                     strchr("-._~", *p) || (keep_slashes && *p == '/');
        if (url_bytes - at < 4) return false;
        at += (size_t)sprintf(url + at, plain ? "%c" : "%%%02X", (unsigned char)*p);
    }
    return true;
}

/* ENDPOINT/before/REPO/after/REVISION + rest (escaped) */
static bool make_url(const struct pull *p, char url[URL_BYTES], const char *before, const char *after,
                     const char *rest) {
    size_t n = strlen(p->endpoint);
    while (n && p->endpoint[n - 1] == '/') n--;
    return snprintf(url, URL_BYTES, "%.*s/%s%s/%s/", (int)n, p->endpoint, before, p->options->repo, after) <
               URL_BYTES &&
           append_escaped(url, URL_BYTES, p->revision, false) && append_escaped(url, URL_BYTES, rest, true);
}

static int fetch_list(struct pull *p) {
    char url[URL_BYTES + sizeof LIST_QUERY];
    char *text = NULL;
    size_t bytes = 0;
    if (!make_url(p, url, "api/models/", "revision", ""))
        return fail(p->err, p->err_bytes, STATUS_TOO_LARGE, "the endpoint's address is longer than %d bytes",
                    URL_BYTES);
    strcat(url, LIST_QUERY);
    int status = fetch__text(p->fetcher, url, LIST_LIMITS.max_bytes, &text, &bytes, p->err, p->err_bytes);
    if (!status) status = read_list(p, text ? text : "", bytes);
    free(text);
    return status;
}

/* ---- the files -------------------------------------------------------------------------------------------------- */

/* Makes every folder on the way to `path`, which names a file. */
static int make_folders(const struct pull *p, const char *path) {
    char folder[PATH_MAX];
    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
        if (mkdir(folder, 0755) && errno != EEXIST)
            return fail(p->err, p->err_bytes, STATUS_IO, "%s: cannot be created: %s", folder, strerror(errno));
    }
    return 0;
}

static int on_progress(void *user, int64_t done) {
    const struct pull *p = user;
    const struct remote_file *file = &p->files[p->file_id];
    if (!p->options->progress) return 0;
    return p->options->progress(p->options->user, file->name, done, file->size > 0 ? file->size : 0, p->file_id,
                                p->n_files);
}

static int fetch_one(struct pull *p, const struct remote_file *file) {
    char path[PATH_MAX], url[URL_BYTES], rest[MAX_NAME + 2];
    snprintf(rest, sizeof rest, "/%s", file->name);
    if (!make_url(p, url, "", "resolve", rest) ||
        snprintf(path, sizeof path, "%s/%s", p->options->folder, file->name) >= (int)sizeof path)
        return fail(p->err, p->err_bytes, STATUS_TOO_LARGE, "%s: its address or path is too long", file->name);
    int status = make_folders(p, path);
    if (status) return status;
    struct fetch_target target = {.path = path, .size = file->size, .sha256 = file->sha256, .git_sha1 = file->git_sha1};
    return fetch__file(p->fetcher, url, &target, p->err, p->err_bytes);
}

int model_pull(const struct pull_options *options, char *err, size_t err_bytes) {
    struct pull p = {.options = options,
                     .endpoint = options->endpoint ? options->endpoint : DEFAULT_ENDPOINT,
                     .revision = options->revision ? options->revision : "main",
                     .err = err,
                     .err_bytes = err_bytes};
    int status = check_options(&p);
    if (status) return status;
    struct fetcher_options fetcher = {
        .token = options->token, .allow_http = !strncmp(p.endpoint, "http://", 7), .progress = on_progress, .user = &p};
    status = fetch__open(&p.fetcher, &fetcher, err, err_bytes);
    if (!status) status = fetch_list(&p);
    for (; !status && p.file_id < p.n_files; p.file_id++) status = fetch_one(&p, &p.files[p.file_id]);
    fetch__close(p.fetcher);
    cJSON_Delete(p.list);
    free(p.files);
    return status;
}
