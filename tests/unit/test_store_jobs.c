/* test_store_jobs.c - rag/store.h's jobs: claimed by one worker, taken over from a dead one, tried again, cancelled. */
#include "tests/unit/store_fixture.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>

static struct fixture fixture;
static struct store *s;

static void set_up(void) {
    signal(SIGPIPE, SIG_IGN);
    fixture_now = 1000;
    fixture_init(&fixture);
    s = fixture_open(&fixture);
}

static void tear_down(void) {
    store_close(s);
    fixture_deinit(&fixture);
}

TestSuite(store_jobs, .init = set_up, .fini = tear_down);

static int64_t claim(const char *worker) {
    struct store_jobs jobs = {0};
    OK(store_job_claim(s, NULL, worker, 60, &jobs, ERR));
    int64_t id = jobs.n ? jobs.data->id : 0;
    if (id) {
        cr_assert_eq(jobs.data->state, JOB_RUNNING);
        cr_assert_str_eq(jobs.data->worker, worker);
        cr_assert_str_eq(jobs.data->payload, "/path");
    }
    store_jobs_deinit(&jobs);
    return id;
}

Test(store_jobs, a_job_from_claim_to_done) {
    int64_t d = add_document(s, "alice", "d", 0), a = add_job(s, "alice", d, 0), b = add_job(s, "bob", 0, 0);
    struct store_jobs jobs = {0};
    cr_assert_eq(claim("w1"), a);
    cr_assert_eq(claim("w2"), b);
    cr_assert_eq(claim("w3"), 0);
    OK(store_job_heartbeat(s, "alice", a, "w1", 60, "embed", 0.5, ERR));
    FAILS(STATUS_NOT_FOUND, store_job_heartbeat(s, "alice", a, "w2", 60, "embed", 0.5, ERR));
    FAILS(STATUS_INVALID, store_job_heartbeat(s, "alice", a, "w1", 60, "embed", NAN, ERR));
    OK(store_job_get(s, "alice", a, &jobs, ERR));
    cr_assert_str_eq(jobs.data->stage, "embed");
    cr_assert(jobs.data->progress == 0.5 && jobs.data->document == d && jobs.data->max_attempts == 3);
    OK(store_job_finish(s, "alice", a, "w1", NULL, 0, ERR));
    expect_job(s, "alice", a, JOB_DONE, 1, "");
    FAILS(STATUS_NOT_FOUND, store_job_finish(s, "alice", a, "w1", NULL, 0, ERR));
    FAILS(STATUS_INVALID, store_job_cancel(s, "alice", a, ERR));
    FAILS(STATUS_INVALID, store_job_retry(s, "alice", a, ERR));
    OK(store_job_list(s, "alice", d, JOB_DONE, (struct store_page){0}, &jobs, ERR));
    cr_assert(jobs.n == 1 && jobs.data->id == a);
    OK(store_job_list(s, "alice", 0, JOB_QUEUED, (struct store_page){.newest_first = true}, &jobs, ERR));
    cr_assert_eq(jobs.n, 0);
    store_jobs_deinit(&jobs);
}

Test(store_jobs, a_document_and_its_job_are_submitted_together) {
    int64_t id = 0, job = 0, again = 0, c = add_collection(s, "alice", "c");
    const struct store_document d = {.name = "d", .hash = "d"};
    OK(store_job_submit(s, "alice", &d, c, "ingest", "/path", 1, &id, &job, ERR));
    cr_assert_eq(claim("w"), job);
    OK(store_job_submit(s, "alice", &d, c, "ingest", "/path", 1, &again, &job, ERR));
    cr_assert(again == id && job == 0, "it is being worked on");
    OK(store_document_end(s, "alice", id, DOCUMENT_FAILED, "", ERR));
    OK(store_job_submit(s, "alice", &d, c, "ingest", "/path", 1, &again, &job, ERR));
    cr_assert(again == id && job != 0, "it failed, so it starts anew");
    FAILS(STATUS_INVALID, store_job_submit(s, "alice", &d, 0, "", "/path", 1, &again, &job, ERR));
    FAILS(STATUS_NOT_FOUND, store_job_submit(s, "bob", &d, c, "ingest", "/path", 1, &again, &job, ERR));
    struct store_documents list = {0};
    OK(store_document_list(s, "bob", 0, DOCUMENT_STATUS_COUNT, (struct store_page){0}, &list, ERR));
    cr_assert_eq(list.n, 0);
    store_documents_deinit(&list);
}

Test(store_jobs, a_dead_workers_job_is_taken_over) {
    int64_t d = add_document(s, "alice", "d", 0), id = add_job(s, "alice", d, 2);
    cr_assert_eq(claim("w1"), id);
    fixture_now += 59;
    cr_assert_eq(claim("w2"), 0, "the lease still runs");
    OK(store_job_heartbeat(s, "alice", id, "w1", 60, NULL, 0, ERR));
    fixture_now += 59;
    cr_assert_eq(claim("w2"), 0, "the heartbeat made it longer");
    fixture_now += 1;
    cr_assert_eq(claim("w2"), id);
    FAILS(STATUS_NOT_FOUND, store_job_heartbeat(s, "alice", id, "w1", 60, NULL, 0, ERR));
    FAILS(STATUS_NOT_FOUND, store_job_finish(s, "alice", id, "w1", NULL, 0, ERR));
    expect_job(s, "alice", id, JOB_RUNNING, 2, "");
    fixture_now += 60;
    cr_assert_eq(claim("w3"), 0, "it has no attempt left");
    expect_job(s, "alice", id, JOB_FAILED, 2, "the worker died in the last attempt");
    cr_assert_eq(status_of(s, "alice", d), DOCUMENT_FAILED);
    OK(store_job_retry(s, "alice", id, ERR));
    cr_assert_eq(status_of(s, "alice", d), DOCUMENT_PENDING);
    cr_assert_eq(claim("w3"), id);
}

Test(store_jobs, a_process_that_starts_again_gives_its_jobs_back) {
    int64_t id = add_job(s, "alice", 0, 1);
    cr_assert_eq(claim("host"), id);
    OK(store_job_release(s, "other", ERR));
    cr_assert_eq(claim("host"), 0);
    OK(store_job_release(s, "host", ERR));
    expect_job(s, "alice", id, JOB_QUEUED, 0, "");
    cr_assert_eq(claim("host"), id);
}

Test(store_jobs, errors_are_tried_again_until_attempts_run_out) {
    int64_t d = add_document(s, "alice", "d", 0), id = add_job(s, "alice", d, 2);
    cr_assert_eq(claim("w"), id);
    OK(store_job_finish(s, "alice", id, "w", "no disk", 30, ERR));
    expect_job(s, "alice", id, JOB_QUEUED, 1, "no disk");
    cr_assert_eq(claim("w"), 0, "not due yet");
    fixture_now += 30;
    cr_assert_eq(claim("w"), id);
    OK(store_job_finish(s, "alice", id, "w", "still no disk", 30, ERR));
    expect_job(s, "alice", id, JOB_FAILED, 2, "still no disk");
    struct store_documents list = {0};
    OK(store_document_get(s, "alice", d, &list, ERR));
    cr_assert_eq(list.data->status, DOCUMENT_FAILED);
    cr_assert_str_eq(list.data->reason, "still no disk");
    store_documents_deinit(&list);
    int64_t hopeless = add_job(s, "alice", 0, 5);
    cr_assert_eq(claim("w"), hopeless);
    OK(store_job_finish(s, "alice", hopeless, "w", "encrypted", -1, ERR));
    expect_job(s, "alice", hopeless, JOB_FAILED, 1, "encrypted");
}

Test(store_jobs, a_cancelled_job_stops_its_worker) {
    int64_t d = add_document(s, "alice", "d", 0), id = add_job(s, "alice", d, 0);
    cr_assert_eq(claim("w"), id);
    OK(store_job_cancel(s, "alice", id, ERR));
    FAILS(STATUS_CANCELLED, store_job_heartbeat(s, "alice", id, "w", 60, NULL, 0, ERR));
    FAILS(STATUS_CANCELLED, publish_chunks(s, "alice", d, "d", 2, ERR));
    FAILS(STATUS_CANCELLED, store_job_finish(s, "alice", id, "w", NULL, 0, ERR));
    cr_assert_eq(status_of(s, "alice", d), DOCUMENT_CANCELLED);
    cr_assert_eq(claim("w"), 0);
    OK(store_job_retry(s, "alice", id, ERR));
    cr_assert_eq(claim("w"), id);
    OK(publish_chunks(s, "alice", d, "d", 2, ERR));
    OK(store_document_delete(s, "alice", d, ERR));
    FAILS(STATUS_NOT_FOUND, store_job_heartbeat(s, "alice", id, "w", 60, NULL, 0, ERR));
}

/* Workers with connections of their own: every job runs exactly once. */
enum { N_WORKERS = 4, N_JOBS = 60 };
struct worker {
    pthread_t thread;
    int n, n_failed;
    char name[8];
};

static void *work(void *arg) {
    struct worker *w = arg;
    struct store_jobs jobs = {0};
    char err[ERR_BYTES];
    struct store *mine = NULL;
    const struct store_options options = {.url = fixture.url, .dtype = DTYPE_F16, .now = fixture_clock};
    if (store_open(&mine, &options, ERR)) w->n_failed++;
    while (mine) {
        if (store_job_claim(mine, NULL, w->name, 60, &jobs, ERR)) w->n_failed++;
        if (!jobs.n) break;
        if (store_job_finish(mine, jobs.data->tenant, jobs.data->id, w->name, NULL, 0, ERR)) w->n_failed++;
        w->n++;
    }
    store_jobs_deinit(&jobs);
    store_close(mine);
    return NULL;
}

Test(store_jobs, each_job_goes_to_one_worker) {
    struct worker workers[N_WORKERS] = {0};
    struct store_jobs jobs = {0};
    int n = 0;
    for (int i = 0; i < N_JOBS; i++) add_job(s, i % 2 ? "alice" : "bob", 0, 1);
    for (int i = 0; i < N_WORKERS; i++) {
        snprintf(workers[i].name, sizeof workers[i].name, "w%d", i);
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    }
    for (int i = 0; i < N_WORKERS; i++) {
        pthread_join(workers[i].thread, NULL);
        cr_assert_eq(workers[i].n_failed, 0);
        n += workers[i].n;
    }
    cr_assert_eq(n, N_JOBS);
    OK(store_job_list(s, "alice", 0, JOB_DONE, (struct store_page){0}, &jobs, ERR));
    cr_assert_eq(jobs.n, N_JOBS / 2);
    for (size_t i = 0; i < jobs.n; i++) cr_assert_eq(jobs.data[i].attempts, 1);
    store_jobs_deinit(&jobs);
}
