/* store_jobs.c - durable jobs.
 *
 *     queued --claim--> running --finish--> done | failed | queued again (due later)
 *       |                  |  lease runs out: may be claimed again
 *       +----- cancel -----+--------------> cancelled          failed, cancelled --retry--> queued
 *
 * `due` is when a queued job may be claimed, and when the lease of a running one ends. A worker proves that a job is
 * still its own by its name, with each heartbeat and at the end. */
#include "rag/store_internal.h"

#include <stdlib.h>
#include <string.h>

enum { DEFAULT_ATTEMPTS = 3, MAX_LEASE_S = 86400, MAX_WORKER = 200 };

static const char *const state_names[JOB_STATE_COUNT] = {
#define X(name, text) text,
    JOB_STATE_TABLE(X)
#undef X
};

const char *job_state_name(enum job_state state) {
    CHECK_LT((unsigned)state, JOB_STATE_COUNT);
    return state_names[state];
}

void store_jobs_deinit(struct store_jobs *list) {
    arena_deinit(&list->arena);
    free(list->data);
    *list = (struct store_jobs){0};
}

static enum job_state state_of(const char *text) {
    int i = 0;
    while (i < JOB_STATE_COUNT && strcmp(text, state_names[i])) i++;
    return i < JOB_STATE_COUNT ? (enum job_state)i : JOB_FAILED;
}

#define JOB_COLUMNS                                                                                                    \
    "id, tenant, document, kind, payload, state, stage, progress, error, attempts, max_attempts, created, updated, "   \
    "worker "
#define ONE_JOB "SELECT " JOB_COLUMNS "FROM jobs WHERE tenant = ?1 AND id = ?2"

static int read_jobs(struct store *s, struct db_cursor *c, struct store_jobs *out) {
    size_t capacity = 0;
    int status;
    store_jobs_deinit(out);
    while ((status = s->db->step(s, c)) == 1) {
        out->data = array_reserve(out->data, &capacity, out->n + 1, sizeof *out->data);
        out->data[out->n++] = (struct store_job){
            .id = s->db->integer(c, 0),
            .tenant = store__column(s, c, 1, &out->arena),
            .document = s->db->integer(c, 2),
            .kind = store__column(s, c, 3, &out->arena),
            .payload = store__column(s, c, 4, &out->arena),
            .state = state_of(store__column(s, c, 5, &out->arena)),
            .stage = store__column(s, c, 6, &out->arena),
            .progress = s->db->real(c, 7),
            .error = store__column(s, c, 8, &out->arena),
            .attempts = s->db->integer(c, 9),
            .max_attempts = s->db->integer(c, 10),
            .created = s->db->integer(c, 11),
            .updated = s->db->integer(c, 12),
            .worker = store__column(s, c, 13, &out->arena),
        };
    }
    if (status < 0) store_jobs_deinit(out);
    return status;
}

/* One job, locked where others could change it meanwhile. */
static int read_job(struct store *s, const char *tenant, int64_t id, struct store_jobs *out) {
    struct db_cursor c;
    const char *sql = s->db->is_postgres && s->in_transaction ? ONE_JOB " FOR UPDATE" : ONE_JOB;
    int status = s->db->query(s, &c, sql, VALUES(V_TEXT(tenant), V_INT(id)));
    if (!status) status = read_jobs(s, &c, out);
    if (!status && !out->n) status = store__fail(s, STATUS_NOT_FOUND, "there is no job %llx", (long long)id);
    return status;
}

static int end_job(struct store *s, const struct store_job *job, enum job_state state, const char *error) {
    int status = store__exec(
        s, NULL,
        "UPDATE jobs SET state = ?3, error = ?4, updated = ?5, worker = '' "
        "WHERE tenant = ?1 AND id = ?2",
        VALUES(V_TEXT(job->tenant), V_INT(job->id), V_TEXT(state_names[state]), V_TEXT(error), V_INT(s->now())));
    if (!status && job->document && state != JOB_DONE)
        status = store__end_pending(s, job->tenant, job->document,
                                    state == JOB_CANCELLED ? DOCUMENT_CANCELLED : DOCUMENT_FAILED, error);
    return status;
}

static int check_job(struct store *s, const char *kind, const char *payload, int max_attempts) {
    int status = store__check_text(s, "kind", kind, 1, STORE_MAX_NAME);
    if (!status) status = store__check_text(s, "payload", payload, 0, STORE_MAX_TEXT);
    if (!status && (max_attempts < 0 || max_attempts > 1000))
        status = store__fail(s, STATUS_INVALID, "expected 1 to 1000 attempts, found %d", max_attempts);
    return status;
}

static int insert_job(struct store *s, const char *tenant, int64_t document, const char *kind, const char *payload,
                      int max_attempts, int64_t *id) {
    const int64_t now = s->now();
    *id = store__new_id(s);
    return store__exec(s, NULL,
                       "INSERT INTO jobs (id, tenant, document, kind, payload, state, stage, progress, error, "
                       "attempts, max_attempts, created, updated, worker, due) VALUES (?1, ?2, NULLIF(?3, 0), ?4, ?5, "
                       "'queued', '', 0, '', 0, ?6, ?7, ?7, '', ?7)",
                       VALUES(V_INT(*id), V_TEXT(tenant), V_INT(document), V_TEXT(kind), V_TEXT(payload),
                              V_INT(max_attempts ? max_attempts : DEFAULT_ATTEMPTS), V_INT(now)));
}

int store_job_add(struct store *s, const char *tenant, int64_t document, const char *kind, const char *payload,
                  int max_attempts, int64_t *id, char *err, size_t err_bytes) {
    int status = store__check_tenant(s, tenant);
    if (!payload) payload = "";
    if (!status) status = check_job(s, kind, payload, max_attempts);
    if (!status) status = store__begin(s);
    if (!status && document) status = store__document(s, tenant, document, NULL);
    if (!status) status = insert_job(s, tenant, document, kind, payload, max_attempts, id);
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_job_submit(struct store *s, const char *tenant, const struct store_document *document, int64_t collection,
                     const char *kind, const char *payload, int max_attempts, int64_t *id, int64_t *job, char *err,
                     size_t err_bytes) {
    char *attributes = NULL;
    bool existed = false;
    *id = *job = 0;
    if (!payload) payload = "";
    int status = store__check_tenant(s, tenant);
    if (!status) status = check_job(s, kind, payload, max_attempts);
    if (!status) status = store__check_document(s, document, &attributes);
    if (!status) status = store__begin(s);
    if (!status) status = store__add_document(s, tenant, document, attributes, collection, id, &existed);
    if (!status && !existed) status = insert_job(s, tenant, *id, kind, payload, max_attempts, job);
    free(attributes);
    return store__done(s, store__end(s, status), err, err_bytes);
}

/* The oldest job that is due, or none. */
static int next_due(struct store *s, const char *tenant, int64_t now, struct store_jobs *out) {
#define NEXT_DUE                                                                                                       \
    "SELECT " JOB_COLUMNS "FROM jobs WHERE (state = 'queued' OR state = 'running') AND due <= ?1 "                     \
    "AND (?2 IS NULL OR tenant = ?2) ORDER BY id LIMIT 1"
    struct db_cursor c;
    int status = s->db->query(s, &c, s->db->is_postgres ? NEXT_DUE " FOR UPDATE SKIP LOCKED" : NEXT_DUE,
                              VALUES(V_INT(now), V_TEXT(tenant)));
    return status ? status : read_jobs(s, &c, out);
}

static int check_worker(struct store *s, const char *worker, int lease_s) {
    int status = store__check_text(s, "worker", worker, 1, MAX_WORKER);
    if (!status && (lease_s < 1 || lease_s > MAX_LEASE_S))
        status = store__fail(s, STATUS_INVALID, "expected a lease of 1 to %d seconds, found %d", MAX_LEASE_S, lease_s);
    return status;
}

int store_job_claim(struct store *s, const char *tenant, const char *worker, int lease_s, struct store_jobs *out,
                    char *err, size_t err_bytes) {
    store_jobs_deinit(out);
    int status = tenant ? store__check_tenant(s, tenant) : 0;
    if (!status) status = check_worker(s, worker, lease_s);
    if (!status) status = store__begin(s);
    const int64_t now = s->now();
    while (!status) {
        status = next_due(s, tenant, now, out);
        if (status || !out->n) break;
        const struct store_job *job = out->data;
        if (job->attempts < job->max_attempts) break;
        status = end_job(s, job, JOB_FAILED, *job->error ? job->error : "the worker died in the last attempt");
    }
    if (!status && out->n) {
        struct store_job *job = out->data;
        status =
            store__exec(s, NULL,
                        "UPDATE jobs SET state = 'running', worker = ?3, attempts = attempts + 1, due = ?4, "
                        "updated = ?5, stage = '', progress = 0 WHERE tenant = ?1 AND id = ?2",
                        VALUES(V_TEXT(job->tenant), V_INT(job->id), V_TEXT(worker), V_INT(now + lease_s), V_INT(now)));
        job->state = JOB_RUNNING;
        job->worker = arena_text(&out->arena, worker, strlen(worker));
        job->stage = "";
        job->progress = 0;
        job->attempts++;
        job->updated = now;
    }
    status = store__end(s, status);
    if (status) store_jobs_deinit(out);
    return store__done(s, status, err, err_bytes);
}

/* That a job is running and this worker's. */
static int held(struct store *s, const char *tenant, int64_t id, const char *worker, struct store_jobs *job) {
    int status = read_job(s, tenant, id, job);
    if (status) return status;
    if (job->data->state == JOB_CANCELLED)
        return store__fail(s, STATUS_CANCELLED, "job %llx was cancelled", (long long)id);
    if (job->data->state != JOB_RUNNING || strcmp(job->data->worker, worker))
        return store__fail(s, STATUS_NOT_FOUND, "job %llx is no longer held by %s", (long long)id, worker);
    return 0;
}

int store_job_heartbeat(struct store *s, const char *tenant, int64_t id, const char *worker, int lease_s,
                        const char *stage, double progress, char *err, size_t err_bytes) {
    struct store_jobs job = {0};
    int status = store__check_tenant(s, tenant);
    if (!stage) stage = "";
    if (!status) status = check_worker(s, worker, lease_s);
    if (!status) status = store__check_text(s, "stage", stage, 0, STORE_MAX_NAME);
    if (!status && !(progress >= 0 && progress <= 1))
        status = store__fail(s, STATUS_INVALID, "expected a progress of 0 to 1, found %g", progress);
    if (!status) status = store__begin(s);
    if (!status) status = held(s, tenant, id, worker, &job);
    const int64_t now = s->now();
    if (!status)
        status = store__exec(
            s, NULL,
            "UPDATE jobs SET due = ?3, updated = ?4, stage = ?5, progress = ?6 "
            "WHERE tenant = ?1 AND id = ?2",
            VALUES(V_TEXT(tenant), V_INT(id), V_INT(now + lease_s), V_INT(now), V_TEXT(stage), V_REAL(progress)));
    store_jobs_deinit(&job);
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_job_finish(struct store *s, const char *tenant, int64_t id, const char *worker, const char *error,
                     int retry_s, char *err, size_t err_bytes) {
    struct store_jobs job = {0};
    int status = store__check_tenant(s, tenant);
    if (!status) status = check_worker(s, worker, 1);
    if (!status && error) status = store__check_text(s, "error", error, 0, STORE_MAX_TEXT);
    if (!status) status = store__begin(s);
    if (!status) status = held(s, tenant, id, worker, &job);
    const int64_t now = s->now();
    if (!status && error && retry_s >= 0 && job.data->attempts < job.data->max_attempts)
        status = store__exec(s, NULL,
                             "UPDATE jobs SET state = 'queued', error = ?3, updated = ?4, worker = '', due = ?5 "
                             "WHERE tenant = ?1 AND id = ?2",
                             VALUES(V_TEXT(tenant), V_INT(id), V_TEXT(error), V_INT(now), V_INT(now + retry_s)));
    else if (!status)
        status = end_job(s, job.data, error ? JOB_FAILED : JOB_DONE, error ? error : "");
    if (!status && !error)
        status = store__exec(s, NULL, "UPDATE jobs SET progress = 1 WHERE tenant = ?1 AND id = ?2",
                             VALUES(V_TEXT(tenant), V_INT(id)));
    store_jobs_deinit(&job);
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_job_release(struct store *s, const char *worker, char *err, size_t err_bytes) {
    int status = check_worker(s, worker, 1);
    if (!status) status = store__begin(s);
    const int64_t now = s->now();
    if (!status)
        status = store__exec(s, NULL,
                             "UPDATE jobs SET state = 'queued', worker = '', attempts = attempts - 1, due = ?2, "
                             "updated = ?2 WHERE state = 'running' AND worker = ?1",
                             VALUES(V_TEXT(worker), V_INT(now)));
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_job_cancel(struct store *s, const char *tenant, int64_t id, char *err, size_t err_bytes) {
    struct store_jobs job = {0};
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__begin(s);
    if (!status) status = read_job(s, tenant, id, &job);
    if (!status && job.data->state != JOB_QUEUED && job.data->state != JOB_RUNNING)
        status = store__fail(s, STATUS_INVALID, "job %llx cannot be cancelled: it is %s", (long long)id,
                             state_names[job.data->state]);
    if (!status) status = end_job(s, job.data, JOB_CANCELLED, "");
    store_jobs_deinit(&job);
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_job_retry(struct store *s, const char *tenant, int64_t id, char *err, size_t err_bytes) {
    struct store_jobs job = {0};
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__begin(s);
    if (!status) status = read_job(s, tenant, id, &job);
    if (!status && job.data->state != JOB_FAILED && job.data->state != JOB_CANCELLED)
        status = store__fail(s, STATUS_INVALID, "job %llx cannot be tried again: it is %s", (long long)id,
                             state_names[job.data->state]);
    const int64_t now = s->now();
    if (!status)
        status = store__exec(s, NULL,
                             "UPDATE jobs SET state = 'queued', stage = '', progress = 0, error = '', attempts = 0, "
                             "updated = ?3, due = ?3 WHERE tenant = ?1 AND id = ?2",
                             VALUES(V_TEXT(tenant), V_INT(id), V_INT(now)));
    if (!status && job.data->document)
        status = store__exec(s, NULL,
                             "UPDATE documents SET status = 'pending', reason = '' WHERE tenant = ?1 AND id = ?2 "
                             "AND status IN ('failed', 'cancelled')",
                             VALUES(V_TEXT(tenant), V_INT(job.data->document)));
    store_jobs_deinit(&job);
    return store__done(s, store__end(s, status), err, err_bytes);
}

int store_job_get(struct store *s, const char *tenant, int64_t id, struct store_jobs *out, char *err,
                  size_t err_bytes) {
    store_jobs_deinit(out);
    int status = store__check_tenant(s, tenant);
    if (!status) status = read_job(s, tenant, id, out);
    return store__done(s, status, err, err_bytes);
}

int store_job_list(struct store *s, const char *tenant, int64_t document, enum job_state state, struct store_page page,
                   struct store_jobs *out, char *err, size_t err_bytes) {
#define JOBS                                                                                                           \
    "SELECT " JOB_COLUMNS                                                                                              \
    "FROM jobs WHERE tenant = ?1 AND (?2 = 0 OR document = ?2) AND (?3 = '' OR state = ?3) AND id "
    struct db_cursor c;
    int limit = 0;
    store_jobs_deinit(out);
    int status = store__check_tenant(s, tenant);
    if (!status) status = store__page_limit(s, page, &limit);
    if (!status && document) status = store__document(s, tenant, document, NULL);
    const int64_t after = !page.after && page.newest_first ? INT64_MAX : page.after;
    if (!status)
        status = s->db->query(
            s, &c, page.newest_first ? JOBS "< ?4 ORDER BY id DESC LIMIT ?5" : JOBS "> ?4 ORDER BY id LIMIT ?5",
            VALUES(V_TEXT(tenant), V_INT(document), V_TEXT(state == JOB_STATE_COUNT ? "" : state_names[state]),
                   V_INT(after), V_INT(limit)));
    if (!status) status = read_jobs(s, &c, out);
    return store__done(s, status, err, err_bytes);
}
