/* sandbox_confine.c - what a child gives up before it reads a hostile file: rlimits, Landlock, seccomp.
 *
 * Our own readers get a list of system calls for memory and for the three descriptors that are open; any other one ends
 * the process. pdftotext must be started and must find its libraries and tables, so it gets a longer list, without
 * anything that writes, connects or starts a process; what is not on it fails with EPERM, as programs expect. */
#include "rag/sandbox.h"

#include "kernels/status.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* ---- rlimits ----------------------------------------------------------------------------------------------------- */

/* Address space in use, in bytes. */
static size_t mapped_bytes(void) {
    size_t pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f) return 0;
    if (fscanf(f, "%zu", &pages) != 1) pages = 0;
    fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static int limit(int resource, size_t value) {
    struct rlimit l = {value, value};
    return setrlimit((__rlimit_resource_t)resource, &l);
}

static int set_limits(const struct sandbox_job *job) {
    size_t memory = job->limits.memory_bytes;
    /* what this program has mapped already (a CUDA library is half a GB) does not count; exec begins anew */
    if (job->task == SANDBOX_EXTRACT) memory += mapped_bytes();
    if (!SANITIZED && limit(RLIMIT_AS, memory)) return -1; /* the sanitizers map terabytes of shadow */
    return limit(RLIMIT_CPU, (size_t)job->limits.seconds) || limit(RLIMIT_FSIZE, 0) || limit(RLIMIT_CORE, 0) ||
           limit(RLIMIT_NOFILE, 32);
}

/* ---- Landlock ---------------------------------------------------------------------------------------------------- */

/* Lets this process read the system's files and nothing else. Kernels without Landlock (before 5.13, or where it is
 * turned off) are left as they are: seccomp still allows reading only, and no way to send anything but the text. */
static void restrict_files(const char *program) {
    static const char *const readable[] = {
        "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/fonts", "/etc/alternatives"};
    struct landlock_ruleset_attr all = {.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE |
                                                             LANDLOCK_ACCESS_FS_READ_DIR |
                                                             LANDLOCK_ACCESS_FS_WRITE_FILE};
    int rules = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof all, 0);
    if (rules < 0) return;
    for (size_t i = 0; i <= sizeof readable / sizeof *readable; i++) {
        bool file = i == 3 || i == sizeof readable / sizeof *readable;
        struct landlock_path_beneath_attr rule = {
            .allowed_access =
                LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_EXECUTE | (file ? 0 : LANDLOCK_ACCESS_FS_READ_DIR),
            .parent_fd = open(i < sizeof readable / sizeof *readable ? readable[i] : program, O_PATH | O_CLOEXEC),
        };
        if (rule.parent_fd < 0) continue;
        syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
        close(rule.parent_fd);
    }
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    syscall(SYS_landlock_restrict_self, rules, 0);
    close(rules);
}

/* ---- seccomp ----------------------------------------------------------------------------------------------------- */

/* Memory, the open descriptors, the end. */
static const int always[] = {
    SCMP_SYS(read),       SCMP_SYS(write),        SCMP_SYS(writev),          SCMP_SYS(close),
    SCMP_SYS(fstat),      SCMP_SYS(newfstatat),   SCMP_SYS(lseek),           SCMP_SYS(munmap),
    SCMP_SYS(mremap),     SCMP_SYS(brk),          SCMP_SYS(madvise),         SCMP_SYS(exit),
    SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigprocmask),  SCMP_SYS(rt_sigaction),
    SCMP_SYS(getpid),     SCMP_SYS(gettid),       SCMP_SYS(clock_gettime),   SCMP_SYS(futex),
    SCMP_SYS(getrandom),  SCMP_SYS(sched_yield),  SCMP_SYS(restart_syscall), SCMP_SYS(getrusage),
};

/* Starting a program, finding its libraries, reading files. */
static const int for_programs[] = {
    SCMP_SYS(execve),
    SCMP_SYS(access),
    SCMP_SYS(faccessat),
    SCMP_SYS(faccessat2),
    SCMP_SYS(stat),
    SCMP_SYS(lstat),
    SCMP_SYS(statx),
    SCMP_SYS(fstatfs),
    SCMP_SYS(readlink),
    SCMP_SYS(readlinkat),
    SCMP_SYS(getdents64),
    SCMP_SYS(pread64),
    SCMP_SYS(readv),
    SCMP_SYS(mprotect),
    SCMP_SYS(mmap),
    SCMP_SYS(arch_prctl),
    SCMP_SYS(set_tid_address),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(getcwd),
    SCMP_SYS(uname),
    SCMP_SYS(sysinfo),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(fcntl),
    SCMP_SYS(dup),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(fadvise64),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(time),
};

/* What the sanitizers' runtimes need beyond that. */
static const int for_sanitizers[] = {
    SCMP_SYS(sigaltstack), SCMP_SYS(mmap),      SCMP_SYS(mprotect),
    SCMP_SYS(prctl),       SCMP_SYS(getrlimit), SCMP_SYS(prlimit64),
};

static int allow(scmp_filter_ctx filter, const int *calls, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0) < 0) return -1;
    return 0;
}

/* 0, or what is wrong as errno has it. */
static int restrict_calls(const struct sandbox_job *job) {
    bool program = job->task == SANDBOX_PDFTOTEXT;
    uint32_t otherwise = program || SANITIZED ? SCMP_ACT_ERRNO(EPERM) : SCMP_ACT_KILL_PROCESS;
    const scmp_datum_t writes = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND;
    scmp_filter_ctx filter = seccomp_init(otherwise);
    int wrong = !filter;
    if (!wrong) wrong = allow(filter, always, sizeof always / sizeof *always);
    if (!wrong) /* abort(), to this process alone */
        wrong = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                                 SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
    if (!wrong && SANITIZED) wrong = allow(filter, for_sanitizers, sizeof for_sanitizers / sizeof *for_sanitizers);
    if (!wrong && program) {
        wrong = allow(filter, for_programs, sizeof for_programs / sizeof *for_programs) ||
                seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, writes, 0)) ||
                seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(open), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, writes, 0));
    } else if (!wrong && !SANITIZED) { /* no code but what is there */
        wrong =
            seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)) ||
            seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    }
    if (wrong) wrong = ENOMEM;
    if (!wrong) wrong = -seccomp_load(filter);
    if (filter) seccomp_release(filter);
    return wrong;
}

int sandbox__confine(const struct sandbox_job *job, char *err, size_t err_bytes) {
    if (set_limits(job))
        return fail(err, err_bytes, STATUS_IO, "the limits of the sandbox cannot be set: %s", strerror(errno));
    if (job->task == SANDBOX_PDFTOTEXT) restrict_files(job->program);
    int wrong = restrict_calls(job);
    if (wrong)
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    "this system has no seccomp filters (%s), without which no document is read: run on a kernel with "
                    "CONFIG_SECCOMP_FILTER, in a container that allows it",
                    strerror(wrong));
    return 0;
}
