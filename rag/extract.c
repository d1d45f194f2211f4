/* extract.c - the door: which children read a file, and what their end means. See extract.h. */
#include "rag/extract.h"

#include "kernels/status.h"
#include "rag/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SNIFF_BYTES 1024

/* ---- within the child -------------------------------------------------------------------------------------------- */

/* All of standard input: mapped if it is a file, else read. */
static int take_input(struct extract_input *in, char *err, size_t err_bytes) {
    const struct extract_limits *l = in->limits;
    struct stat st;
    if (fstat(0, &st)) return fail(err, err_bytes, STATUS_IO, "it cannot be read: %s", strerror(errno));
    if (S_ISREG(st.st_mode)) {
        in->bytes = (size_t)st.st_size;
        if (!in->bytes) return 0;
        in->data = mmap(NULL, in->bytes, PROT_READ, MAP_PRIVATE, 0, 0);
        if (in->data == MAP_FAILED) return fail(err, err_bytes, STATUS_IO, "it cannot be read: %s", strerror(errno));
        return 0;
    }
    size_t capacity = 0;
    char *data = NULL;
    for (ssize_t got = 1; got > 0; in->bytes += (size_t)got) {
        if (in->bytes == capacity) {
            capacity = 2 * capacity + (1 << 20);
            data = realloc(data, capacity);
            if (!data) return fail(err, err_bytes, STATUS_NO_MEMORY, "memory ran out while it was read");
        }
        got = read(0, data + in->bytes, capacity - in->bytes);
        if (got < 0) return fail(err, err_bytes, STATUS_IO, "it cannot be read: %s", strerror(errno));
        if (in->bytes > l->total_bytes)
            return fail(err, err_bytes, STATUS_TOO_LARGE, "its words take more than %zu MB", l->total_bytes >> 20);
    }
    in->data = data;
    return 0;
}

void sandbox__extract(const struct sandbox_job *job) {
    struct extract_input in = {.data = "", .name = job->name, .limits = &job->limits};
    struct document d;
    char err[ERR_BYTES];
    int format = job->format, status = take_input(&in, err, sizeof err);
    document_init(&d, job->limits.text_bytes);
    if (!status && format == FORMAT_UNKNOWN && !(format = extract_sniff(&in, err, sizeof err)))
        status = STATUS_UNSUPPORTED;
    if (!status) status = extract_parse(&d, format, &in, err, sizeof err);
    /* the format goes first, so that a failure says what it was taken for */
    int32_t word = format;
    if (write(1, &word, sizeof word) == sizeof word) document_write(&d, status, err, 1);
}

/* ---- the parent -------------------------------------------------------------------------------------------------- */

/* pdftotext's path, by PATH. */
static int find_pdftotext(char *path, size_t bytes, char *err, size_t err_bytes) {
    const char *at = getenv("PATH");
    while (at && *at) {
        size_t n = strcspn(at, ":");
        if (n && *at == '/' && snprintf(path, bytes, "%.*s/pdftotext", (int)n, at) < (int)bytes && !access(path, X_OK))
            return 0;
        at += n + (at[n] == ':');
    }
    return fail(err, err_bytes, STATUS_UNSUPPORTED,
                "PDF needs pdftotext, which is not in PATH: install poppler-utils (apt-get install poppler-utils)");
}

static int child_failed(const struct sandbox_result *r, int i, const struct sandbox_job *job, char *err,
                        size_t err_bytes) {
    int code = r->exit_status[i];
    const char *who = job->task == SANDBOX_PDFTOTEXT ? "pdftotext" : "its reader";
    if (WIFEXITED(code) && WEXITSTATUS(code) == SANDBOX_EXIT_UNAVAILABLE)
        return fail(err, err_bytes, STATUS_UNSUPPORTED, "%.400s",
                    r->errors[i][0] ? r->errors[i] : "the sandbox failed");
    if (WIFSIGNALED(code) && (WTERMSIG(code) == SIGXCPU || WTERMSIG(code) == SIGKILL))
        return fail(err, err_bytes, STATUS_TOO_LARGE,
                    "reading it took more than %d s of processor time, or too much memory", job->limits.seconds);
    if (WIFSIGNALED(code) && WTERMSIG(code) == SIGSYS)
        return fail(err, err_bytes, STATUS_INVALID, "%s did what the sandbox forbids, and was ended", who);
    if (WIFSIGNALED(code))
        return fail(err, err_bytes, STATUS_INVALID,
                    "%s broke off (%s): it needs more than %zu MB of memory, or it is broken in an unforeseen way", who,
                    strsignal(WTERMSIG(code)), job->limits.memory_bytes >> 20);
    return 0;
}

/* pdftotext's complaints are many; its first line that is about the whole file. */
static int pdf_failed(const struct sandbox_result *r, char *err, size_t err_bytes) {
    const char *errors = r->errors[0];
    int code = WEXITSTATUS(r->exit_status[0]);
    if (!code) return 0;
    if (strstr(errors, "ncorrect password") || strstr(errors, "ncrypt"))
        return fail(err, err_bytes, STATUS_INVALID, "it is encrypted: it can be read with its password only");
    if (code == 3) return fail(err, err_bytes, STATUS_INVALID, "its author forbids taking text out of it");
    size_t n = strcspn(errors, "\n");
    return fail(err, err_bytes, STATUS_INVALID, "it is broken; pdftotext says: %.*s", (int)(n < 300 ? n : 300),
                n ? errors : "no reason given");
}

static int no_text(int format, uint32_t pages, char *err, size_t err_bytes) {
    if (format == FORMAT_PDF)
        return fail(
            err, err_bytes, STATUS_UNSUPPORTED,
            "there is no text on its %u page%s: scanned pages need character recognition, which is not done here",
            pages, pages == 1 ? "" : "s");
    return fail(err, err_bytes, STATUS_INVALID, "there is no text in it");
}

static int read_answer(struct document *d, int *format, const struct sandbox_result *r, const struct sandbox_job *job,
                       int *sent, char *err, size_t err_bytes) {
    int32_t word;
    *sent = 0;
    if (r->n < sizeof word) /* a bug of ours; what it said last tells which */
        return fail(err, err_bytes, STATUS_INVALID, "its reader gave no answer: %.300s",
                    r->errors[job->format == FORMAT_PDF]);
    memcpy(&word, r->bytes, sizeof word);
    if (word < 0 || word >= FORMATS) return fail(err, err_bytes, STATUS_INVALID, "its reader named no format");
    *format = word;
    return document_read(d, r->bytes + sizeof word, r->n - sizeof word, job->limits.text_bytes, sent, err, err_bytes);
}

/* The file behind `fd`, at offset 0, of `bytes` bytes. */
static int extract_fd(struct document *d, int *format, int fd, size_t bytes, const char *name,
                      const struct extract_limits *limits, char *err, size_t err_bytes) {
    struct sandbox_job jobs[2] = {{.task = SANDBOX_EXTRACT, .limits = *limits}};
    struct sandbox_result r;
    char start[SNIFF_BYTES];
    int n_jobs = 1, sent, status;
    if (bytes > limits->file_bytes)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "it has %zu MB, more than %zu", bytes >> 20,
                    limits->file_bytes >> 20);
    ssize_t got = pread(fd, start, sizeof start, 0);
    if (got < 0) return fail(err, err_bytes, STATUS_IO, "it cannot be read: %s", strerror(errno));
    if (got == 0) return fail(err, err_bytes, STATUS_INVALID, "it is empty");
    if (extract__is_pdf(start, (size_t)got)) {
        *format = FORMAT_PDF;
        jobs[1] = jobs[0];
        jobs[0].task = SANDBOX_PDFTOTEXT;
        jobs[1].format = FORMAT_PDF;
        n_jobs = 2;
        if ((status = find_pdftotext(jobs[0].program, sizeof jobs[0].program, err, err_bytes))) return status;
    }
    if (name) snprintf(jobs[0].name, sizeof jobs[0].name, "%s", name);
    size_t most = limits->text_bytes +
                  (size_t)DOC_MAX_BLOCKS * (sizeof *d->blocks + sizeof *d->cells + sizeof *d->origins) + (1 << 16);
    if ((status = sandbox_run(&r, jobs, n_jobs, fd, most, err, err_bytes))) return status;
    if (r.timed_out)
        status = fail(err, err_bytes, STATUS_TOO_LARGE, "reading it took more than %d s", limits->seconds);
    else if (r.too_much)
        status = fail(err, err_bytes, STATUS_INVALID, "its reader answered more than it may");
    else
        status = read_answer(d, format, &r, &jobs[n_jobs - 1], &sent, err, err_bytes);
    if (!r.timed_out && !r.too_much) { /* what went wrong first says most */
        char reason[ERR_BYTES];
        int failed = 0;
        /* pdftotext dies by SIGPIPE where the reader of its words has stopped: then that one knows why */
        bool stopped = n_jobs == 2 && sent && status;
        for (int i = stopped ? 1 : 0; i < n_jobs && !failed; i++)
            if (!(failed = child_failed(&r, i, &jobs[i], reason, sizeof reason)) && jobs[i].task == SANDBOX_PDFTOTEXT)
                failed = pdf_failed(&r, reason, sizeof reason);
        if (failed) {
            if (!status) document_deinit(d);
            status = fail(err, err_bytes, failed, "%s", reason);
        }
    }
    free(r.bytes);
    if (!status && !d->n_blocks) status = no_text(*format, d->n_pages, err, err_bytes);
    if (status) document_deinit(d);
    return status;
}

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

int extract_file(struct document *d, int *format, const char *path, const struct extract_limits *limits, char *err,
                 size_t err_bytes) {
    struct stat st;
    *d = (struct document){0};
    *format = FORMAT_UNKNOWN;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), status; /* a named pipe must not keep us waiting */
    if (fd < 0)
        return fail(err, err_bytes, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "it cannot be opened: %s",
                    strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        status = fail(err, err_bytes, STATUS_INVALID, "it is no regular file");
    else
        status = extract_fd(d, format, fd, (size_t)st.st_size, last_part(path), limits, err, err_bytes);
    close(fd);
    return status;
}

int extract_bytes(struct document *d, int *format, const void *data, size_t bytes, const char *name,
                  const struct extract_limits *limits, char *err, size_t err_bytes) {
    *d = (struct document){0};
    *format = FORMAT_UNKNOWN;
    int fd = memfd_create("document", MFD_CLOEXEC), status = 0;
    if (fd < 0) return fail(err, err_bytes, STATUS_IO, "no memory file could be made: %s", strerror(errno));
    for (size_t done = 0; done < bytes && !status;) {
        ssize_t wrote = write(fd, (const char *)data + done, bytes - done);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0)
            status = fail(err, err_bytes, STATUS_IO, "no memory file could be written: %s", strerror(errno));
        done += wrote > 0 ? (size_t)wrote : 0;
    }
    if (!status) lseek(fd, 0, SEEK_SET);
    if (!status) status = extract_fd(d, format, fd, bytes, name ? last_part(name) : NULL, limits, err, err_bytes);
    close(fd);
    return status;
}
