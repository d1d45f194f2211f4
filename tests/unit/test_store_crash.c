/* test_store_crash.c - a process that is killed while it writes: afterwards each document is wholly there or wholly
 * pending, and its job goes on.
 *
 * Each round forks a worker that adds documents with jobs, claims them, publishes and finishes, until it is killed with
 * SIGKILL at a random moment; then everything that it left behind is examined by another process, the next round goes
 * on in the same store, and in the end one worker that is not killed finishes all jobs. */
#include "rag/store_internal.h"
#include "tests/unit/store_fixture.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

enum { ROUNDS = 50, MOST_MS = 50, LEASE_S = 5 };

static int n_chunks_of(const char *name) {
    return 1 + atoi(name) % 37;
}

/* Never returns. Names are numbers: of the round, and within it. Writes a byte to `started` before the first change. */
static void work_until_killed(const struct fixture *f, int round, bool to_the_end, int started) {
    char err[ERR_BYTES] = "";
    struct store *s = NULL;
    struct store_jobs jobs = {0};
    struct store_documents documents = {0};
    char url[sizeof f->url + 32];
    snprintf(url, sizeof url, "%s%s", f->url, on_postgres() ? "&application_name=killed" : "");
    const struct store_options options = {
        .url = url, .create = true, .dim = DIM, .dtype = DTYPE_F16, .now = fixture_clock};
    int status = store_open(&s, &options, ERR);
    if (started >= 0 && write(started, "", 1) != 1) status = STATUS_IO;
    for (int i = 0; !status; i++) {
        char name[32];
        int64_t id, job;
        snprintf(name, sizeof name, "%d", round * 10000 + i);
        const struct store_document d = {.name = name, .hash = name};
        if (!to_the_end) {
            status = store_job_submit(s, "alice", &d, 0, "ingest", name, 1000, &id, &job, ERR);
        }
        if (!status) status = store_job_claim(s, NULL, "worker", LEASE_S, &jobs, ERR);
        if (status || !jobs.n) break;
        status = store_job_heartbeat(s, "alice", jobs.data->id, "worker", LEASE_S, "embed", 0.5, ERR);
        if (!status)
            status = publish_chunks(s, "alice", jobs.data->document, jobs.data->payload,
                                    n_chunks_of(jobs.data->payload), ERR);
        if (!status) status = store_job_finish(s, "alice", jobs.data->id, "worker", NULL, 0, ERR);
    }
    store_jobs_deinit(&jobs);
    store_documents_deinit(&documents);
    store_close(s);
    if (status) fprintf(stderr, "the worker stopped by itself: %s\n", err);
    _exit(status ? 1 : 0);
}

/* PostgreSQL goes on with what a killed client had sent, such as COMMIT: waits until it has let go of that client. */
static void wait_for_server(struct store *s) {
    int64_t n = on_postgres();
    while (n) {
        cr_assert_eq(
            store__integer(s, &n, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'killed'", NULL, 0),
            0);
        usleep(1000);
    }
}

static void examine(struct store *s, int *n_ready, int *n_pending) {
    struct store_documents list = {0};
    struct store_chunks chunks = {0};
    *n_ready = *n_pending = 0;
    OK(store_document_list(s, "alice", 0, DOCUMENT_STATUS_COUNT, (struct store_page){.limit = STORE_MAX_LIST}, &list,
                           ERR));
    for (size_t i = 0; i < list.n; i++) {
        const struct store_document *d = &list.data[i];
        const int n = n_chunks_of(d->name);
        OK(store_chunk_range(s, "alice", d->id, 0, INT64_MAX, true, &chunks, ERR));
        if (d->status == DOCUMENT_PENDING) {
            cr_assert(chunks.n == 0 && d->n_chunks == 0, "a pending document has chunks");
            ++*n_pending;
            continue;
        }
        cr_assert_eq(d->status, DOCUMENT_READY);
        cr_assert(chunks.n == (size_t)n && d->n_chunks == n, "%s has %zu of %d chunks", d->name, chunks.n, n);
        for (int j = 0; j < n; j++) {
            char text[64];
            snprintf(text, sizeof text, "%s chunk %d", d->name, j);
            cr_assert_str_eq(chunks.data[j].text, text);
        }
        ++*n_ready;
    }
    store_chunks_deinit(&chunks);
    store_documents_deinit(&list);
}

Test(store_crash, documents_are_whole_or_pending) {
    struct fixture fixture;
    int n_ready = 0, n_pending = 0, most_pending = 0, status = 0;
    uint64_t state = (uint64_t)time(NULL) * 2654435761u;
    fixture_init(&fixture);
    store_close(fixture_open(&fixture));
    for (int round = 0; round < ROUNDS; round++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        int started[2];
        char byte;
        cr_assert_eq(pipe(started), 0);
        pid_t child = fork();
        cr_assert_geq(child, 0);
        if (!child) work_until_killed(&fixture, round, false, started[1]);
        close(started[1]);
        cr_assert_eq(read(started[0], &byte, 1), 1);
        close(started[0]);
        usleep((useconds_t)((state >> 33) % (MOST_MS * 1000)));
        kill(child, SIGKILL);
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the worker stopped by itself");
        struct store *s = fixture_open(&fixture);
        wait_for_server(s);
        examine(s, &n_ready, &n_pending);
        if (n_pending > most_pending) most_pending = n_pending;
        store_close(s);
        fixture_now += LEASE_S + 1;
    }
    cr_assert_gt(n_ready, ROUNDS / 2, "the moments were too early: %d documents", n_ready);
    const int before = n_ready + n_pending;
    pid_t child = fork();
    if (!child) work_until_killed(&fixture, ROUNDS, true, -1);
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    struct store *s = fixture_open(&fixture);
    struct store_jobs jobs = {0};
    examine(s, &n_ready, &n_pending);
    cr_assert_eq(n_ready + n_pending, before);
    OK(store_job_list(s, "alice", 0, JOB_QUEUED, (struct store_page){0}, &jobs, ERR));
    cr_assert_eq(jobs.n, 0);
    OK(store_job_list(s, "alice", 0, JOB_RUNNING, (struct store_page){0}, &jobs, ERR));
    cr_assert_eq(jobs.n, 0);
    cr_assert_eq(n_pending, 0, "a document is pending that nobody works on");
    printf("%d kills: %d documents whole, up to %d pending at a kill\n", (int)ROUNDS, n_ready, most_pending);
    store_jobs_deinit(&jobs);
    store_close(s);
    fixture_deinit(&fixture);
}
