/* sandbox.c - starting confined children and waiting for them; see sandbox.h. What they give up: sandbox_confine.c. */
#include "rag/sandbox.h"

#include "kernels/status.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define JOB_FD   3
#define FIRST_FD 16 /* the parent's ends lie above what a child gets, so that no dup2 meets another */

/* ---- the child --------------------------------------------------------------------------------------------------- */

/* Tells builds apart whose messages differ: after an upgrade, an old server may find a new child. */
static uint64_t build(void) {
    static const char version[] = TANDEM_VERSION " 1";
    uint64_t sizes[] = {sizeof(struct sandbox_job), sizeof(struct doc_block), sizeof(struct doc_cell),
                        sizeof(struct doc_origin)};
    return XXH3_64bits(version, sizeof version) ^ XXH3_64bits(sizes, sizeof sizes);
}

void sandbox__child(void) {
    struct sandbox_job job;
    char err[ERR_BYTES] = "";
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(JOB_FD, &job, sizeof job) != sizeof job) _exit(SANDBOX_EXIT_UNAVAILABLE);
    close(JOB_FD);
    if (job.build != build()) {
        dprintf(2, "this program and its %s are of different builds: start it again", SANDBOX_CHILD_NAME);
        _exit(SANDBOX_EXIT_UNAVAILABLE);
    }
    job.name[sizeof job.name - 1] = job.program[sizeof job.program - 1] = 0;
    if (sandbox__confine(&job, err, sizeof err)) {
        dprintf(2, "%s", err);
        _exit(SANDBOX_EXIT_UNAVAILABLE);
    }
    if (job.task == SANDBOX_PDFTOTEXT) {
        char last[16];
        snprintf(last, sizeof last, "%d", job.limits.pages + 1); /* one more, so that too many are noticed */
        char *argv[] = {"pdftotext", "-bbox-layout", "-enc", "UTF-8", "-l", last, "-", "-", NULL};
        char *envp[] = {"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=/", NULL};
        execve(job.program, argv, envp);
        dprintf(2, "%s: %s", job.program, strerror(errno));
        _exit(SANDBOX_EXIT_UNAVAILABLE);
    }
    sandbox__extract(&job);
    _exit(0);
}

/* Runs before main in every program with this library, so that any of them can be started anew as a child. glibc hands
 * constructors what main gets. */
static void __attribute__((constructor)) become_child(int argc, char **argv) {
    if (argc == 1 && !strcmp(argv[0], SANDBOX_CHILD_NAME)) sandbox__child();
}

/* ---- the parent -------------------------------------------------------------------------------------------------- */

struct running {
    pid_t pid; /* 0: not started */
    int error; /* its standard error; -1: closed */
};

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* A pipe whose ends are above FIRST_FD and are not inherited. */
static int make_pipe(int ends[2]) {
    int raw[2];
    if (pipe2(raw, O_CLOEXEC)) return -1;
    for (int i = 0; i < 2; i++) {
        ends[i] = fcntl(raw[i], F_DUPFD_CLOEXEC, FIRST_FD);
        close(raw[i]);
    }
    if (ends[0] >= 0 && ends[1] >= 0) return 0;
    close_fd(&ends[0]);
    close_fd(&ends[1]);
    return -1;
}

/* The program to start: the extractor beside this one, or else this one. */
static void child_program(char *path, size_t bytes) {
    ssize_t n = readlink("/proc/self/exe", path, bytes - 1);
    char *slash = n > 0 ? memrchr(path, '/', (size_t)n) : NULL;
    if (slash && (size_t)(slash + 1 - path) + sizeof SANDBOX_CHILD_NAME <= bytes) {
        memcpy(slash + 1, SANDBOX_CHILD_NAME, sizeof SANDBOX_CHILD_NAME);
        if (!access(path, X_OK)) return;
    }
    snprintf(path, bytes, "/proc/self/exe");
}

static int spawn(struct running *r, const struct sandbox_job *job, int input, int output) {
    char *argv[] = {SANDBOX_CHILD_NAME, NULL}, *envp[8] = {"LC_ALL=C.UTF-8"}, library_path[4096], program[PATH_MAX];
    int n_env = 1, error[2] = {-1, -1}, order[2] = {-1, -1}, status = -1;
    const char *path = getenv("LD_LIBRARY_PATH"); /* where this program's own libraries may be */
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;

    if (path && snprintf(library_path, sizeof library_path, "LD_LIBRARY_PATH=%s", path) < (int)sizeof library_path)
        envp[n_env++] = library_path;
    envp[n_env++] = "ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1"; /* its leak check needs more than the
                                                                                  sandbox allows */
    child_program(program, sizeof program);
    if (posix_spawn_file_actions_init(&actions)) return -1;
    if (posix_spawnattr_init(&attributes)) {
        posix_spawn_file_actions_destroy(&actions);
        return -1;
    }
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (make_pipe(error) || make_pipe(order)) goto done;
    struct sandbox_job sent = *job;
    sent.build = build();
    if (write(order[1], &sent, sizeof sent) != sizeof sent) goto done; /* fits into an empty pipe */
    if (posix_spawn_file_actions_adddup2(&actions, input, 0) || posix_spawn_file_actions_adddup2(&actions, output, 1) ||
        posix_spawn_file_actions_adddup2(&actions, error[1], 2) ||
        posix_spawn_file_actions_adddup2(&actions, order[0], JOB_FD) ||
        posix_spawn_file_actions_addclosefrom_np(&actions, JOB_FD + 1))
        goto done;
    pid_t pid;
    if ((errno = posix_spawn(&pid, program, &actions, &attributes, argv, envp))) goto done;
    r->pid = pid;
    r->error = error[0];
    error[0] = -1;
    status = 0;
done:
    for (int i = 0; i < 2; i++) {
        close_fd(&error[i]);
        close_fd(&order[i]);
    }
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return status;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Takes what is there into result->bytes; false at its end. */
static bool take_output(struct sandbox_result *result, size_t *capacity, int fd, size_t max_bytes) {
    if (*capacity - result->n < 1 << 16) {
        size_t more = 2 * *capacity + (1 << 17);
        uint8_t *bytes = realloc(result->bytes, more);
        CHECK(bytes);
        result->bytes = bytes;
        *capacity = more;
    }
    ssize_t got = read(fd, result->bytes + result->n, *capacity - result->n);
    if (got < 0 && errno == EINTR) return true;
    if (got <= 0) return false;
    result->n += (size_t)got;
    result->too_much = result->n > max_bytes;
    return !result->too_much;
}

/* Keeps the beginning of what a child complains about; false at the end. */
static bool take_errors(char *errors, size_t bytes, int fd) {
    char more[4096];
    ssize_t got = read(fd, more, sizeof more);
    if (got < 0 && errno == EINTR) return true;
    if (got <= 0) return false;
    size_t have = strlen(errors), n = (size_t)got < bytes - 1 - have ? (size_t)got : bytes - 1 - have;
    for (size_t i = 0; i < n; i++) errors[have + i] = more[i] ? more[i] : ' ';
    errors[have + n] = 0;
    return true;
}

/* Reads until all have closed their ends, or time is up. */
static void collect(struct sandbox_result *result, struct running *running, int n, int *output, size_t max_bytes,
                    double deadline) {
    size_t capacity = 0;
    for (;;) {
        struct pollfd fds[1 + SANDBOX_MAX_CHILDREN] = {{.fd = *output, .events = POLLIN}};
        bool open = *output >= 0;
        for (int i = 0; i < n; i++) {
            fds[1 + i] = (struct pollfd){.fd = running[i].error, .events = POLLIN};
            open |= running[i].error >= 0;
        }
        if (!open) return;
        double left = deadline - now();
        if (left <= 0) {
            result->timed_out = true;
            return;
        }
        if (poll(fds, 1 + (nfds_t)n, (int)(1000 * left) + 1) < 0 && errno != EINTR) continue;
        if (fds[0].revents && !take_output(result, &capacity, *output, max_bytes)) close_fd(output);
        for (int i = 0; i < n; i++)
            if (fds[1 + i].revents && !take_errors(result->errors[i], sizeof result->errors[i], running[i].error))
                close_fd(&running[i].error);
        if (result->too_much) return;
    }
}

/* Takes a child's exit status. One that has closed its ends and still does not go is killed when time is up. */
static void await(pid_t pid, int *status, double deadline) {
    struct timespec pause = {.tv_nsec = 100000};
    for (bool killed = false;;) {
        pid_t ended = waitpid(pid, status, killed ? 0 : WNOHANG);
        if (ended == pid || (ended < 0 && errno != EINTR)) return;
        if (!killed && now() > deadline) killed = !kill(pid, SIGKILL);
        if (!killed) nanosleep(&pause, NULL);
        if (pause.tv_nsec < 5000000) pause.tv_nsec *= 2;
    }
}

int sandbox_run(struct sandbox_result *result, const struct sandbox_job *jobs, int n_jobs, int input, size_t max_bytes,
                char *err, size_t err_bytes) {
    struct running running[SANDBOX_MAX_CHILDREN] = {{.error = -1}, {.error = -1}};
    int from = fcntl(input, F_DUPFD_CLOEXEC, FIRST_FD), status = 0;
    double deadline = now() + jobs[0].limits.seconds;
    CHECK(n_jobs >= 1 && n_jobs <= SANDBOX_MAX_CHILDREN);
    *result = (struct sandbox_result){0};
    for (int i = 0; i < n_jobs && !status; i++) {
        int ends[2] = {-1, -1};
        if (from < 0 || make_pipe(ends) || spawn(&running[i], &jobs[i], from, ends[1]))
            status = fail(err, err_bytes, STATUS_IO, "no process could be started to read it: %s", strerror(errno));
        close_fd(&from);
        close_fd(&ends[1]);
        from = ends[0];
    }
    if (!status) collect(result, running, n_jobs, &from, max_bytes, deadline);
    for (int i = 0; i < n_jobs; i++) {
        if (!running[i].pid) continue;
        if (status || result->timed_out || result->too_much) kill(running[i].pid, SIGKILL);
        await(running[i].pid, &result->exit_status[i], deadline);
        close_fd(&running[i].error);
    }
    close_fd(&from);
    return status;
}
