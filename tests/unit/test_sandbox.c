/* sandbox.h: what a confined child can no longer do, that limits end it with a reason, that the parent believes
 * nothing, and the whole way of a file through extract_file and extract_bytes. */
#include "rag/sandbox.h"
#include "tests/unit/documents.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Confines a fork of this process and lets it try something: its wait status. The try returns what _exit gets. */
static int confined(int task, int (*attempt)(void)) {
    struct sandbox_job job = {.task = task, .limits = extract_default_limits()};
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (!pid) {
        char reason[ERR_BYTES];
        if (sandbox__confine(&job, reason, sizeof reason)) _exit(99);
        _exit(attempt());
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(!(WIFEXITED(status) && WEXITSTATUS(status) == 99), "this system has no seccomp: nothing can be tested");
    return status;
}

static int nothing(void) {
    char *p = malloc(1 << 22); /* memory is there */
    if (!p) return 1;
    memset(p, 1, 1 << 22);
    free(p);
    return 0;
}
static int open_for_reading(void) {
    int fd = open("/etc/passwd", O_RDONLY);
    return fd >= 0 ? 1 : errno == EPERM || errno == EACCES ? 0 : 2;
}
static int open_for_writing(void) {
    return open("/tmp/tandem-sandbox-test", O_WRONLY | O_CREAT, 0600) >= 0 ? 1
           : errno == EPERM || errno == EACCES                             ? 0
                                                                           : 2;
}
static int connect_somewhere(void) {
    return socket(AF_INET, SOCK_STREAM, 0) >= 0 ? 1 : errno == EPERM ? 0 : 2;
}
static int start_a_process(void) {
    pid_t pid = fork();
    if (!pid) _exit(0);
    return pid > 0 ? 1 : errno == EPERM ? 0 : 2;
}
static int kill_somebody(void) {
    return kill(getppid(), 0) == 0 ? 1 : errno == EPERM ? 0 : 2;
}
static int map_code(void) {
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p != MAP_FAILED;
}
static int read_library(void) {
    int fd = open("/usr/bin/pdftotext", O_RDONLY);
    return fd >= 0 || access("/usr/bin/pdftotext", F_OK) ? 0 : 1;
}

#if defined(__SANITIZE_ADDRESS__)
#define KILLS 0 /* the sanitizer's own calls must fail, not kill: see sandbox_confine.c */
#else
#define KILLS 1
#endif

static void expect_forbidden(int task, int (*attempt)(void), const char *what) {
    int status = confined(task, attempt);
    if (KILLS && task == SANDBOX_EXTRACT)
        cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS, "%s: status %x", what, status);
    else
        cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: status %x", what, status);
}

Test(sandbox, readers_can_do_nothing_but_read_and_write) {
    int status = confined(SANDBOX_EXTRACT, nothing);
    cr_expect(WIFEXITED(status) && !WEXITSTATUS(status), "status %x", status);
    expect_forbidden(SANDBOX_EXTRACT, open_for_reading, "open");
    expect_forbidden(SANDBOX_EXTRACT, open_for_writing, "create");
    expect_forbidden(SANDBOX_EXTRACT, connect_somewhere, "socket");
    expect_forbidden(SANDBOX_EXTRACT, start_a_process, "fork");
    expect_forbidden(SANDBOX_EXTRACT, kill_somebody, "kill");
    if (KILLS) expect_forbidden(SANDBOX_EXTRACT, map_code, "executable memory");
}

Test(sandbox, pdftotext_reads_the_system_alone) {
    expect_forbidden(SANDBOX_PDFTOTEXT, open_for_writing, "create");
    expect_forbidden(SANDBOX_PDFTOTEXT, connect_somewhere, "socket");
    expect_forbidden(SANDBOX_PDFTOTEXT, start_a_process, "fork");
    expect_forbidden(SANDBOX_PDFTOTEXT, kill_somebody, "kill");
    int status = confined(SANDBOX_PDFTOTEXT, read_library);
    cr_expect(WIFEXITED(status) && !WEXITSTATUS(status), "its own program: status %x", status);
    status = confined(SANDBOX_PDFTOTEXT, open_for_reading);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 1)
        cr_log_warn("no Landlock here: pdftotext may read what this user may");
    else
        cr_expect(WIFEXITED(status) && !WEXITSTATUS(status), "other files: status %x", status);
}

static int extract(const char *data, size_t bytes, const char *name, const struct extract_limits *limits, int *format) {
    struct document d;
    int status = extract_bytes(&d, format, data, bytes, name, limits, err, sizeof err);
    cr_expect((status != 0) == (d.text == NULL));
    if (!status) cr_expect_null(document_check(&d));
    document_deinit(&d);
    return status;
}

Test(sandbox, a_file_s_way) {
    struct extract_limits limits = extract_default_limits();
    struct document d;
    int format;
    cr_assert_eq(extract_bytes(&d, &format, "# A\n\ntext", 9, "x/y.md", &limits, err, sizeof err), 0, "%s", err);
    cr_expect_eq(format, FORMAT_MD);
    cr_expect_eq(d.n_blocks, 2u);
    cr_expect_str_eq(d.text, "Atext");
    document_deinit(&d);
    cr_expect_eq(extract("\x89PNG\r\n\x1a\n", 8, "a.txt", &limits, &format), STATUS_UNSUPPORTED);
    cr_expect_str_eq(err, "it is an image (PNG)");
    cr_expect_eq(extract("", 0, "a.txt", &limits, &format), STATUS_INVALID);
    cr_expect_str_eq(err, "it is empty");
    cr_expect_eq(extract(" \n", 2, "a.txt", &limits, &format), STATUS_INVALID);
    cr_expect_str_eq(err, "there is no text in it");
    limits.file_bytes = 1 << 20;
    char *big = calloc(1, 3 << 20);
    cr_expect_eq(extract(big, 3 << 20, "a.txt", &limits, &format), STATUS_TOO_LARGE);
    cr_expect_str_eq(err, "it has 3 MB, more than 1");
    free(big);
    cr_expect_eq(extract_file(&d, &format, "/nowhere/at-all", &limits, err, sizeof err), STATUS_NOT_FOUND);
    cr_expect_str_eq(err, "it cannot be opened: No such file or directory");
    cr_expect_eq(extract_file(&d, &format, "/dev/zero", &limits, err, sizeof err), STATUS_INVALID);
    cr_expect_str_eq(err, "it is no regular file");
    cr_expect_eq(extract_file(&d, &format, "/tmp", &limits, err, sizeof err), STATUS_INVALID);
}

Test(sandbox, without_pdftotext) {
    struct extract_limits limits = extract_default_limits();
    int format;
    char *path = strdup(getenv("PATH"));
    setenv("PATH", "/nowhere", 1);
    cr_expect_eq(extract("%PDF-1.4\n", 9, NULL, &limits, &format), STATUS_UNSUPPORTED);
    cr_expect(strstr(err, "install poppler-utils"), "%s", err);
    cr_expect_eq(format, FORMAT_PDF);
    setenv("PATH", path, 1);
    free(path);
}

/* A page whose paragraphs reopen all the formatting before them, so that it costs a square of its size. */
static char *quadratic_page(int n) {
    char *page = malloc((size_t)n * 24 + 64);
    size_t at = (size_t)sprintf(page, "<html><body>");
    for (int i = 0; i < n; i++) at += (size_t)sprintf(page + at, "<p><b id=%d>x", i);
    return page;
}

static double seconds_since(const struct timespec *start) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)(t.tv_sec - start->tv_sec) + 1e-9 * (double)(t.tv_nsec - start->tv_nsec);
}

Test(sandbox, time_ends_it) {
    struct extract_limits limits = extract_default_limits();
    struct timespec start;
    int format;
    char *page = quadratic_page(20000);
    limits.seconds = 1;
    limits.depth = 1000000;
    limits.memory_bytes = (size_t)64 << 30;
    limits.text_bytes = 1 << 29;
    clock_gettime(CLOCK_MONOTONIC, &start);
    cr_expect_eq(extract(page, strlen(page), NULL, &limits, &format), STATUS_TOO_LARGE, "%s", err);
    cr_expect(strstr(err, "reading it took more than 1 s"), "%s", err);
    cr_expect_lt(seconds_since(&start), 15.0);
    free(page);
}

Test(sandbox, memory_ends_it) {
    if (!KILLS) cr_skip_test("the sanitizers need more memory than any limit allows");
    struct extract_limits limits = extract_default_limits();
    int format;
    char *page = quadratic_page(20000);
    limits.depth = 1000000;
    limits.memory_bytes = (size_t)64 << 20;
    cr_expect_eq(extract(page, strlen(page), NULL, &limits, &format), STATUS_INVALID, "%s", err);
    cr_expect(strstr(err, "its reader broke off") && strstr(err, "more than 64 MB of memory"), "%s", err);
    free(page);
}

static void *read_often(void *arg) {
    struct extract_limits limits = extract_default_limits();
    for (int i = 0; i < 10; i++) {
        char data[64], reason[ERR_BYTES];
        struct document d;
        int format, n = snprintf(data, sizeof data, "text %d of %p", i, arg);
        int status = extract_bytes(&d, &format, data, (size_t)n, NULL, &limits, reason, sizeof reason);
        if (status || strcmp(d.text, data)) return "wrong";
        document_deinit(&d);
    }
    return NULL;
}

static int open_descriptors(void) {
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) n++;
    if (dir) closedir(dir);
    return n;
}

Test(sandbox, many_threads_and_nothing_left_open) {
    pthread_t threads[4];
    static int ids[4];
    read_often(NULL);
    int before = open_descriptors();
    for (int i = 0; i < 4; i++) cr_assert_eq(pthread_create(&threads[i], NULL, read_often, &ids[i]), 0);
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        cr_expect_null(wrong);
    }
    cr_expect_eq(open_descriptors(), before);
    cr_expect_eq(waitpid(-1, NULL, WNOHANG), -1, "a child is left");
}

/* ---- the message of a child that lies ---------------------------------------------------------------------------- */

static size_t message(uint8_t *to, size_t capacity, const struct document *d, int status, const char *reason) {
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    cr_assert(document_write(d, status, reason, ends[1])); /* small enough for the pipe */
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(ends[0], to + n, capacity - n)) > 0;) n += (size_t)got;
    close(ends[0]);
    return n;
}

Test(sandbox, messages_are_checked) {
    static uint8_t bytes[1 << 16], copy[1 << 16];
    struct document d, read;
    int sent, accepted = 0, refused = 0;
    const char *page = "<h1>T\u00E9</h1><p>one &amp; two<ul><li>x</ul><table><tr><th>a<th>b<tr><td>c<td>d</table>";
    cr_assert_eq(parse(&d, FORMAT_HTML, page, strlen(page), NULL), 0);
    size_t n = message(bytes, sizeof bytes, &d, 0, NULL);
    read = (struct document){0};
    cr_assert_eq(document_read(&read, bytes, n, 1 << 20, &sent, err, sizeof err), 0, "%s", err);
    cr_expect(sent && read.text_bytes == d.text_bytes && !strcmp(read.text, d.text) && read.n_cells == 4);
    document_deinit(&read);
    for (size_t i = 0; i < n; i++) { /* cut anywhere, and every byte changed */
        static const uint8_t values[] = {0x00, 0xFF, 0x7F, 0x80, 0x01};
        cr_expect_neq(document_read(&read, bytes, i, 1 << 20, &sent, err, sizeof err), 0, "cut at %zu", i);
        cr_expect_not(sent);
        for (size_t k = 0; k < sizeof values; k++) {
            memcpy(copy, bytes, n);
            copy[i] ^= values[k];
            int status = document_read(&read, copy, n, 1 << 20, &sent, err, sizeof err);
            if (!status) cr_expect_null(document_check(&read));
            status ? refused++ : accepted++;
            document_deinit(&read);
        }
    }
    cr_expect(refused > 500 && accepted > 0, "%d refused, %d accepted", refused, accepted);
    document_deinit(&d);
    n = message(bytes, sizeof bytes, &d, STATUS_TOO_LARGE, "a reason");
    cr_expect_eq(document_read(&read, bytes, n, 1 << 20, &sent, err, sizeof err), STATUS_TOO_LARGE);
    cr_expect(sent && !strcmp(err, "a reason"));
    bytes[4] = 5; /* a status that is none */
    bytes[5] = bytes[6] = bytes[7] = 0;
    cr_expect_eq(document_read(&read, bytes, n, 1 << 20, &sent, err, sizeof err), STATUS_INVALID);
}
