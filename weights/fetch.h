/* fetch.h - GET over libcurl: a text into memory, or a file that is resumed, verified and put in place whole.
 * Internal to weights/: model_pull is its only caller.
 *
 * A file is written to PATH.part and renamed to PATH when its size and digest are right; a PATH.part that is already
 * there is continued with a Range request. A connection that breaks is taken up again as long as bytes keep coming. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fetcher; /* owned: a curl handle and the policy; one thread */

struct fetcher_options {
    const char *token; /* bearer token or NULL; goes to the first host only, not where it redirects to */
    bool allow_http;   /* otherwise https only, in redirects too */
    /* May be NULL. Called often while a file is fetched or hashed; nonzero stops. */
    int (*progress)(void *user, int64_t done);
    void *user;
};

int fetch__open(struct fetcher **out, const struct fetcher_options *options, char *err, size_t err_bytes);
void fetch__close(struct fetcher *f); /* NULL is fine */

/* *text is malloc'ed. More than max_bytes is STATUS_TOO_LARGE. */
int fetch__text(struct fetcher *f, const char *url, size_t max_bytes, char **text, size_t *bytes, char *err,
                size_t err_bytes);

/* What a file must be. */
struct fetch_target {
    const char *path;
    int64_t size;         /* -1: unknown */
    const char *sha256;   /* 64 lower-case hexadecimal digits, or NULL */
    const char *git_sha1; /* without sha256: git's id of the blob (needs the size), or NULL */
};

/* A PATH that already is what it must be is left alone. STATUS_CANCELLED when progress said so: PATH.part stays. */
int fetch__file(struct fetcher *f, const char *url, const struct fetch_target *target, char *err, size_t err_bytes);
