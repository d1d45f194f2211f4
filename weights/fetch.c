/* fetch.c - see fetch.h. Protocol: RFC 9110 (Range, Content-Range, 206, 416).
 *
 * The digest runs along with the bytes, so a large file is read twice only where a download was resumed. What the
 * server answers is judged before the first byte of a body is kept: 206 must begin where we asked, 200 after a Range
 * request means that the server starts over, and so do we. */
#include "weights/fetch.h"

#include "kernels/status.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_REDIRECTS     8
#define CONNECT_SECONDS   30L
#define STALL_SECONDS     60L /* without a byte: the connection is dead */
#define MAX_FAILURES      6   /* in a row without a byte; waits of 0.25, 0.5, 1, 2, 4 seconds between them */
#define FIRST_WAIT_MS     250
#define CHUNK_BYTES       (1 << 20)
#define CANCELLED_MESSAGE "stopped; the same command continues where it was"

struct fetcher {
    CURL *curl;                 /* owned */
    struct curl_slist *headers; /* owned */
    struct fetcher_options options;
    char curl_error[CURL_ERROR_SIZE];
};

/* One body on its way to memory or to a file. */
struct transfer {
    struct fetcher *f;
    int fd;             /* -1: to memory */
    EVP_MD_CTX *digest; /* of the first `done` bytes of the file; NULL: none */
    const struct fetch_target *target;
    int64_t start;       /* what the Range request asked for; 0: no Range */
    int64_t done;        /* bytes in the file, or in memory */
    int64_t range_start; /* what Content-Range said; -1: nothing */
    bool has_begun;      /* the response was judged */
    char *memory;        /* owned until handed over */
    size_t max_bytes;    /* of memory */
    int status;          /* why the write callback stopped, with its sentence: */
    char sentence[ERR_BYTES];
};

/* ---- digests ---------------------------------------------------------------------------------------------------- */

static bool has_digest(const struct fetch_target *target) {
    return target->sha256 || (target->git_sha1 && target->size >= 0);
}

/* Git's id of a blob is the SHA-1 of "blob SIZE\0" and the bytes. */
static bool digest_start(EVP_MD_CTX *digest, const struct fetch_target *target) {
    char prefix[40];
    if (target->sha256) return EVP_DigestInit_ex(digest, EVP_sha256(), NULL);
    int n = snprintf(prefix, sizeof prefix, "blob %lld", (long long)target->size);
    return EVP_DigestInit_ex(digest, EVP_sha1(), NULL) && EVP_DigestUpdate(digest, prefix, (size_t)n + 1);
}

/* Ends the digest; says whether it is the expected one and writes it in hexadecimal. */
static bool digest_matches(EVP_MD_CTX *digest, const struct fetch_target *target, char hex[2 * EVP_MAX_MD_SIZE + 1]) {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    hex[0] = 0;
    if (!EVP_DigestFinal_ex(digest, bytes, &n)) return false;
    for (unsigned i = 0; i < n; i++) sprintf(hex + 2 * i, "%02x", bytes[i]);
    return !strcmp(hex, target->sha256 ? target->sha256 : target->git_sha1);
}

static int report(const struct fetcher *f, int64_t done) {
    return f->options.progress ? f->options.progress(f->options.user, done) : 0;
}

/* Digest of the first `bytes` bytes of a file. */
static int digest_file(struct fetcher *f, EVP_MD_CTX *digest, const struct fetch_target *target, int fd, int64_t bytes,
                       const char *path, char *err, size_t err_bytes) {
    int status = 0;
    int64_t at = 0;
    char *chunk = malloc(CHUNK_BYTES);
    if (!chunk || !digest_start(digest, target)) {
        free(chunk);
        return fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory", path);
    }
    while (at < bytes && !status) {
        size_t want = bytes - at < CHUNK_BYTES ? (size_t)(bytes - at) : CHUNK_BYTES;
        ssize_t got = pread(fd, chunk, want, at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            status = fail(err, err_bytes, STATUS_IO, "%s: cannot be read: %s", path,
                          got ? strerror(errno) : "it became shorter");
        else if (!EVP_DigestUpdate(digest, chunk, (size_t)got))
            status = fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory", path);
        else if (report(f, at += got))
            status = fail(err, err_bytes, STATUS_CANCELLED, "%s: " CANCELLED_MESSAGE, path);
    }
    free(chunk);
    return status;
}

/* ---- what libcurl calls ----------------------------------------------------------------------------------------- */

static size_t on_header(char *line, size_t size, size_t n, void *user) {
    static const char name[] = "content-range: bytes ";
    struct transfer *t = user;
    size_t bytes = size * n;
    char number[24] = "";
    if (bytes >= 5 && !strncasecmp(line, "HTTP/", 5)) t->range_start = -1; /* a redirect's headers are over */
    if (bytes > sizeof name - 1 && !strncasecmp(line, name, sizeof name - 1)) {
        size_t left = bytes - (sizeof name - 1);
        memcpy(number, line + sizeof name - 1, left < sizeof number - 1 ? left : sizeof number - 1);
        t->range_start = strtoll(number, NULL, 10);
    }
    return bytes;
}

static int on_progress(void *user, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up_now) {
    struct transfer *t = user;
    (void)total, (void)now, (void)up_total, (void)up_now;
    return t->fd < 0 ? 0 : report(t->f, t->done);
}

/* The file begins anew. */
static bool start_over(struct transfer *t) {
    t->done = 0;
    return !ftruncate(t->fd, 0) && (!t->digest || digest_start(t->digest, t->target));
}

/* Before the first byte of a body: does it begin where our file ends? */
static bool begin_body(struct transfer *t) {
    long code = 0;
    curl_easy_getinfo(t->f->curl, CURLINFO_RESPONSE_CODE, &code);
    t->has_begun = true;
    if (t->fd < 0 || t->start == 0) return true;
    if (code == 206 && t->range_start == t->start) return true;
    if (code == 200) {
        if (start_over(t)) return true;
        t->status = fail(t->sentence, sizeof t->sentence, STATUS_IO, "%s: cannot be written: %s", t->target->path,
                         strerror(errno));
        return false;
    }
    t->status = fail(t->sentence, sizeof t->sentence, STATUS_IO,
                     "%s: expected HTTP 206 with the bytes from %lld on, found HTTP %ld with bytes from %lld",
                     t->target->path, (long long)t->start, code, (long long)t->range_start);
    return false;
}

static bool append_to_memory(struct transfer *t, const char *data, size_t bytes) {
    if (bytes > t->max_bytes - (size_t)t->done) {
        t->status = fail(t->sentence, sizeof t->sentence, STATUS_TOO_LARGE, "expected at most %zu bytes, found more",
                         t->max_bytes);
        return false;
    }
    char *memory = realloc(t->memory, (size_t)t->done + bytes + 1);
    if (!memory) {
        t->status = fail(t->sentence, sizeof t->sentence, STATUS_NO_MEMORY, "out of memory");
        return false;
    }
    memcpy(memory + t->done, data, bytes);
    t->memory = memory;
    t->done += (int64_t)bytes;
    return true;
}

static bool append_to_file(struct transfer *t, const char *data, size_t bytes) {
    if (t->target->size >= 0 && (int64_t)bytes > t->target->size - t->done) {
        t->status = fail(t->sentence, sizeof t->sentence, STATUS_INVALID, "%s: expected %lld bytes, found more",
                         t->target->path, (long long)t->target->size);
        return false;
    }
    for (size_t at = 0; at < bytes;) {
        ssize_t n = pwrite(t->fd, data + at, bytes - at, t->done + (int64_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            t->status = fail(t->sentence, sizeof t->sentence, STATUS_IO, "%s: cannot be written: %s", t->target->path,
                             strerror(errno));
            return false;
        }
        at += (size_t)n;
    }
    if (t->digest && !EVP_DigestUpdate(t->digest, data, bytes)) {
        t->status = fail(t->sentence, sizeof t->sentence, STATUS_NO_MEMORY, "%s: out of memory", t->target->path);
        return false;
    }
    t->done += (int64_t)bytes;
    return true;
}

static size_t on_body(char *data, size_t size, size_t n, void *user) {
    struct transfer *t = user;
    size_t bytes = size * n;
    if (!t->has_begun && !begin_body(t)) return 0;
    bool ok = t->fd < 0 ? append_to_memory(t, data, bytes) : append_to_file(t, data, bytes);
    return ok ? bytes : 0;
}

/* ---- one request ------------------------------------------------------------------------------------------------ */

static int http_fail(long code, const char *url, char *err, size_t err_bytes) {
    const char *hint = "";
    int status = STATUS_IO;
    if (code == 401 || code == 403)
        hint = "; the model does not exist or is not public: check its name, or set HF_TOKEN";
    if (code == 404) hint = "; check the model's name and revision";
    if (code == 404) status = STATUS_NOT_FOUND;
    if (code == 429) hint = "; the server wants fewer requests: try again later";
    return fail(err, err_bytes, status, "%.300s: expected HTTP 200, found %ld%s", url, code, hint);
}

/* Transport faults that another attempt may not meet. */
static bool is_transient(CURLcode code) {
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return true;
    default:
        return false;
    }
}

/* Runs one request. *retry says whether trying again makes sense. */
static int perform(struct transfer *t, const char *url, bool *retry, char *err, size_t err_bytes) {
    CURL *curl = t->f->curl;
    char range[32];
    long code = 0;
    *retry = false;
    t->has_begun = false;
    t->range_start = -1;
    t->start = t->fd < 0 ? 0 : t->done;
    snprintf(range, sizeof range, "%lld-", (long long)t->start);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_RANGE, t->start ? range : NULL);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, t);
    t->f->curl_error[0] = 0;
    CURLcode result = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    if (t->status) return fail(err, err_bytes, t->status, "%s", t->sentence);
    if (result == CURLE_OK) return 0;
    if (result == CURLE_ABORTED_BY_CALLBACK)
        return fail(err, err_bytes, STATUS_CANCELLED, "%s: " CANCELLED_MESSAGE, t->target->path);
    if (result == CURLE_HTTP_RETURNED_ERROR) {
        *retry = code == 408 || code == 429 || code >= 500;
        if (code == 416 && t->start) *retry = start_over(t); /* what we have is no part of this file */
        return http_fail(code, url, err, err_bytes);
    }
    *retry = is_transient(result);
    return fail(err, err_bytes, STATUS_IO, "%.300s: cannot be fetched: %s", url,
                t->f->curl_error[0] ? t->f->curl_error : curl_easy_strerror(result));
}

int fetch__text(struct fetcher *f, const char *url, size_t max_bytes, char **text, size_t *bytes, char *err,
                size_t err_bytes) {
    struct transfer t = {.f = f, .fd = -1, .max_bytes = max_bytes};
    bool retry;
    int status = perform(&t, url, &retry, err, err_bytes);
    if (status) {
        free(t.memory);
        return status;
    }
    *text = t.memory;
    *bytes = (size_t)t.done;
    return 0;
}

/* ---- one file --------------------------------------------------------------------------------------------------- */

/* Waits before the next attempt; nonzero when the user wants to stop. */
static int pause_between(const struct transfer *t, int n_failures) {
    for (int ms = FIRST_WAIT_MS << n_failures; ms > 0; ms -= 50) {
        struct timespec slice = {.tv_nsec = 50000000};
        if (report(t->f, t->done)) return 1;
        nanosleep(&slice, NULL);
    }
    return 0;
}

/* Until all bytes are there, or nothing comes any more. */
static int download(struct transfer *t, const char *url, char *err, size_t err_bytes) {
    int n_failures = 0;
    int64_t furthest = t->done;
    while (t->target->size < 0 || t->done < t->target->size) {
        bool retry;
        curl_off_t announced = -1;
        int status = perform(t, url, &retry, err, err_bytes);
        if (!status) {
            curl_easy_getinfo(t->f->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &announced);
            if (t->target->size < 0 || t->done == t->target->size) return 0;
            /* Too few bytes. Where the server announced them they are all that it has; else the connection broke. */
            status = fail(err, err_bytes, STATUS_INVALID, "%s: expected %lld bytes, found %lld", t->target->path,
                          (long long)t->target->size, (long long)t->done);
            retry = announced < 0;
        }
        if (!retry) return status;
        if (t->done > furthest) {
            furthest = t->done;
            n_failures = 0;
        }
        if (++n_failures == MAX_FAILURES) return status;
        if (pause_between(t, n_failures - 1))
            return fail(err, err_bytes, STATUS_CANCELLED, "%s: " CANCELLED_MESSAGE, t->target->path);
    }
    return 0;
}

/* Whether PATH is complete already. A fault in reading it is none: it is fetched again. */
static bool is_complete(struct fetcher *f, const struct fetch_target *target, EVP_MD_CTX *digest, int *status,
                        char *err, size_t err_bytes) {
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    struct stat st;
    *status = 0;
    if (!has_digest(target)) return false;
    int fd = open(target->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    bool complete = !fstat(fd, &st) && S_ISREG(st.st_mode) && (target->size < 0 || st.st_size == target->size);
    if (complete) {
        int read_status = digest_file(f, digest, target, fd, st.st_size, target->path, err, err_bytes);
        if (read_status == STATUS_CANCELLED) *status = read_status;
        complete = !read_status && digest_matches(digest, target, hex);
    }
    close(fd);
    return complete;
}

/* Opens PATH.part, locked, and takes what is in it into the digest. */
static int open_part(struct transfer *t, const char *part, char *err, size_t err_bytes) {
    struct stat st;
    t->fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (t->fd < 0 || fstat(t->fd, &st))
        return fail(err, err_bytes, STATUS_IO, "%s: cannot be created: %s", part, strerror(errno));
    if (flock(t->fd, LOCK_EX | LOCK_NB))
        return fail(err, err_bytes, STATUS_BUSY, "%s: another download is writing it", part);
    t->done = st.st_size;
    if (t->target->size >= 0 && t->done > t->target->size) t->done = 0;
    if (t->done == 0 && ftruncate(t->fd, 0))
        return fail(err, err_bytes, STATUS_IO, "%s: cannot be written: %s", part, strerror(errno));
    if (!t->digest) return 0;
    return digest_file(t->f, t->digest, t->target, t->fd, t->done, part, err, err_bytes);
}

int fetch__file(struct fetcher *f, const char *url, const struct fetch_target *target, char *err, size_t err_bytes) {
    char part[PATH_MAX], hex[2 * EVP_MAX_MD_SIZE + 1];
    struct transfer t = {.f = f, .fd = -1, .target = target};
    int status;
    if (snprintf(part, sizeof part, "%s.part", target->path) >= (int)sizeof part)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "the path to write to is longer than %zu bytes", sizeof part);
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    if (!digest) return fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory", target->path);
    t.digest = has_digest(target) ? digest : NULL;
    if (is_complete(f, target, digest, &status, err, err_bytes) || status) goto done;

    status = open_part(&t, part, err, err_bytes);
    if (!status) status = download(&t, url, err, err_bytes);
    if (!status && t.digest && !digest_matches(digest, target, hex))
        status = fail(err, err_bytes, STATUS_INVALID,
                      "%s: expected %s %s, found %s; it was thrown away: download it again", target->path,
                      target->sha256 ? "SHA-256" : "git blob", target->sha256 ? target->sha256 : target->git_sha1, hex);
    if (status == STATUS_INVALID) unlink(part); /* wrong bytes are no good beginning */
    if (!status && (fsync(t.fd) || rename(part, target->path)))
        status = fail(err, err_bytes, STATUS_IO, "%s: cannot be written: %s", target->path, strerror(errno));
    if (!status && report(f, t.done))
        status = fail(err, err_bytes, STATUS_CANCELLED, "%s: " CANCELLED_MESSAGE, target->path);
done:
    if (t.fd >= 0) close(t.fd);
    EVP_MD_CTX_free(digest);
    return status;
}

/* ---- the handle ------------------------------------------------------------------------------------------------- */

static void restrict_protocols(CURL *curl, bool allow_http) {
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, allow_http ? "http,https" : "https");
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, allow_http ? "http,https" : "https");
#else
    long protocols = CURLPROTO_HTTPS | (allow_http ? CURLPROTO_HTTP : 0);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS, protocols);
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS, protocols);
#endif
}

int fetch__open(struct fetcher **out, const struct fetcher_options *options, char *err, size_t err_bytes) {
    *out = NULL;
    struct fetcher *f = calloc(1, sizeof *f);
    if (!f || curl_global_init(CURL_GLOBAL_DEFAULT)) {
        free(f);
        return fail(err, err_bytes, STATUS_NO_MEMORY, "libcurl cannot be started");
    }
    f->options = *options;
    f->curl = curl_easy_init();
    if (!f->curl) goto fail;
    if (options->token) {
        char *line;
        if (asprintf(&line, "Authorization: Bearer %s", options->token) < 0) goto fail;
        f->headers = curl_slist_append(NULL, line);
        free(line);
        if (!f->headers) goto fail;
    }
    curl_easy_setopt(f->curl, CURLOPT_HTTPHEADER, f->headers);
    curl_easy_setopt(f->curl, CURLOPT_USERAGENT, "tandem/" TANDEM_VERSION);
    curl_easy_setopt(f->curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(f->curl, CURLOPT_MAXREDIRS, (long)MAX_REDIRECTS);
    restrict_protocols(f->curl, options->allow_http);
    curl_easy_setopt(f->curl, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(f->curl, CURLOPT_CONNECTTIMEOUT, CONNECT_SECONDS);
    curl_easy_setopt(f->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(f->curl, CURLOPT_LOW_SPEED_TIME, STALL_SECONDS);
    curl_easy_setopt(f->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(f->curl, CURLOPT_ERRORBUFFER, f->curl_error);
    curl_easy_setopt(f->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(f->curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(f->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(f->curl, CURLOPT_NOPROGRESS, 0L);
    *out = f;
    return 0;
fail:
    fetch__close(f);
    return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for a download");
}

void fetch__close(struct fetcher *f) {
    if (!f) return;
    curl_easy_cleanup(f->curl);
    curl_slist_free_all(f->headers);
    free(f);
    curl_global_cleanup();
}
