/* store.h - what retrieval keeps: documents, chunks with their vectors, collections, jobs, feedback, settings.
 *
 * One interface over two databases. A path names an SQLite file, the default; postgresql://... a PostgreSQL database
 * with pgvector. Statements and order of rows are the same; what differs is in store_sqlite.c and store_postgres.c.
 *
 * Tenants. Every row carries its tenant's name, every call takes one, and an id that belongs to another tenant is
 * STATUS_NOT_FOUND, exactly like an id that does not exist. Foreign keys are over (tenant, id), so the database refuses
 * rows that would join two tenants. "" is the tenant of a server without keys. store_job_claim alone looks across
 * tenants: a worker serves them all, and learns whose job it got.
 *
 * Ids are positive, unguessable in number but not secret, and grow with time: lists by id are lists by age. They do not
 * fit a double: write them in hexadecimal.
 *
 * Writing. Each call is one transaction: it has happened, or it has not. A document is pending, or it is ready with
 * all of its chunks (store_document_publish). SQLite writes ahead (WAL): readers never wait; what was committed
 * survives the process's death, and a power cut may take back the last moments, never more.
 *
 * Following. What changes the searchable content of a collection is logged (store_changes), so that an index in memory
 * keeps in step with whatever process wrote.
 *
 * A store belongs to one thread at a time; open it once per thread. Functions return 0 or STATUS_* with a sentence in
 * err. Text must be valid UTF-8 without zero bytes: STATUS_INVALID. Lists are the caller's: `data`, `n`, and everything
 * they point to live until the list's deinit; before the call a list is zeroed or in use (then it is emptied first). */
#pragma once

#include "kernels/dtype.h"
#include "kernels/status.h"
#include "rag/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    STORE_SCHEMA = 3,           /* version of the tables that this build makes and reads */
    STORE_MAX_TENANT = 63,      /* bytes */
    STORE_MAX_NAME = 1024,      /* bytes of a document's or collection's name */
    STORE_MAX_HASH = 128,       /* bytes of a content hash */
    STORE_MAX_TEXT = 16 << 20,  /* bytes of any other text: a chunk, a reason, a question */
    STORE_MAX_CHUNKS = 1000000, /* of a document */
    STORE_MAX_DIM = 4096,       /* of vectors */
    STORE_MAX_SIGNATURE = 256,  /* words of a near-duplicate signature */
    STORE_MAX_LIST = 10000,     /* rows of a list that is paged */
};

struct store; /* owned: a connection */

struct store_options {
    const char *url;  /* see above; ":memory:" is a store of this connection alone */
    bool create;      /* make it where there is none; else STATUS_NOT_FOUND */
    int dim;          /* of vectors; a new store takes it, an old one must have it. 0: whatever the store has */
    enum dtype dtype; /* of a new store's vectors: f16 or f32 */
    const char *embedder; /* what makes the vectors: taken and compared like dim. NULL: whatever the store has */
    int64_t (*now)(void); /* seconds since 1970; NULL: the clock */
};

int store_open(struct store **out, const struct store_options *options, char *err, size_t err_bytes);
void store_close(struct store *s);             /* NULL is fine */
const char *store_kind(const struct store *s); /* "sqlite", "postgresql" */
int store_dim(const struct store *s);          /* 0: not settled yet */
enum dtype store_dtype(const struct store *s);
const char *store_embedder(const struct store *s); /* "": not settled yet */
/* Settles what a store without vectors has left open. STATUS_INVALID where it is settled otherwise. */
int store_settle(struct store *s, int dim, const char *embedder, char *err, size_t err_bytes);

/* A copy of an SQLite store into a new file at `path`, while others read and write: the state of one moment. Written
 * beside and renamed, so a file at `path` is whole. PostgreSQL has its own tools: STATUS_UNSUPPORTED says so. */
int store_backup(struct store *s, const char *path, char *err, size_t err_bytes);

/* ---- documents --------------------------------------------------------------------------------------------------- */

#define DOCUMENT_STATUS_TABLE(X)                                                                                       \
    X(DOCUMENT_PENDING, "pending") /* no chunks yet */                                                                 \
    X(DOCUMENT_READY, "ready")     /* all chunks are there */                                                          \
    X(DOCUMENT_FAILED, "failed")   /* `reason` says why */                                                             \
    X(DOCUMENT_CANCELLED, "cancelled")
enum document_status {
#define X(name, text) name,
    DOCUMENT_STATUS_TABLE(X)
#undef X
        DOCUMENT_STATUS_COUNT
};
const char *document_status_name(enum document_status status);

struct store_document {
    int64_t id;
    const char *name;
    const char *hash; /* of the content, hexadecimal or whatever the caller compares by */
    enum document_status status;
    const char *reason;     /* "" unless failed */
    const char *attributes; /* JSON, see filter.h; listed by collection: that membership's where it has its own */
    int64_t bytes, pages;   /* of the source */
    int64_t created;        /* seconds since 1970 */
    int64_t n_chunks;       /* 0 unless ready */
};
struct store_documents {
    struct store_document *data;
    size_t n;
    struct arena arena;
};
void store_documents_deinit(struct store_documents *list);

/* Adds a pending document from name, hash, attributes (NULL: none), bytes and pages, and puts it into `collection`
 * (0: none). A tenant has each hash once: where it is pending or ready already, *id is that document, *existed is true
 * and only the membership is new; one that failed or was cancelled starts anew under its id. existed may be NULL. */
int store_document_add(struct store *s, const char *tenant, const struct store_document *document, int64_t collection,
                       int64_t *id, bool *existed, char *err, size_t err_bytes);
int store_document_get(struct store *s, const char *tenant, int64_t id, struct store_documents *out, char *err,
                       size_t err_bytes);

struct store_page { /* which rows of a list */
    int64_t after;  /* ids behind this one; 0: from the start */
    bool newest_first;
    int limit; /* 1..STORE_MAX_LIST; 0: 100 */
};
/* Of a collection, or all of the tenant's (0); with one status, or any (DOCUMENT_STATUS_COUNT). */
int store_document_list(struct store *s, const char *tenant, int64_t collection, enum document_status status,
                        struct store_page page, struct store_documents *out, char *err, size_t err_bytes);

struct store_chunk;
/* The chunks of a pending document, which is ready with that; of a ready one they replace those it had. ids, document
 * and ordinals are set here: chunk i has ordinal i. pages: of the source, known by now. STATUS_CANCELLED where the
 * document was cancelled meanwhile. */
int store_document_publish(struct store *s, const char *tenant, int64_t id, struct store_chunk *chunks, size_t n,
                           int64_t pages, char *err, size_t err_bytes);
/* Ends a pending document: failed with a reason, or cancelled. STATUS_INVALID where it is ready. */
int store_document_end(struct store *s, const char *tenant, int64_t id, enum document_status status, const char *reason,
                       char *err, size_t err_bytes);
int store_document_set_attributes(struct store *s, const char *tenant, int64_t id, const char *attributes, char *err,
                                  size_t err_bytes);
/* With its chunks, memberships, signature and jobs. */
int store_document_delete(struct store *s, const char *tenant, int64_t id, char *err, size_t err_bytes);

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

struct store_chunk {
    int64_t id, document;
    int64_t ordinal; /* 0, 1, ... within the document */
    const char *text;
    const char *context;           /* headings above it, outermost first, one per line; NULL: none */
    int64_t start, end;            /* bytes of the document's normalised text */
    int64_t page_first, page_last; /* from 1; 0: no pages */
    const float *vector;           /* [dim], finite; NULL: none, the chunk is found by its words alone */
};
struct store_chunks {
    struct store_chunk *data;
    size_t n;
    struct arena arena;
};
void store_chunks_deinit(struct store_chunks *list);

/* These chunks, in the order of ids; each must be the tenant's. Without vectors. */
int store_chunk_get(struct store *s, const char *tenant, const int64_t *ids, size_t n, struct store_chunks *out,
                    char *err, size_t err_bytes);
/* Those of a document with ordinals first .. last, in order. Without vectors unless asked for. */
int store_chunk_range(struct store *s, const char *tenant, int64_t document, int64_t first, int64_t last, bool vectors,
                      struct store_chunks *out, char *err, size_t err_bytes);

/* ---- collections: a document may be in several ------------------------------------------------------------------- */

struct store_collection {
    int64_t id;
    const char *name;       /* need not be unique */
    const char *attributes; /* JSON, as a document's */
    int64_t created;
    int64_t counts[DOCUMENT_STATUS_COUNT];
    int64_t bytes; /* of its documents' sources */
};
struct store_collections {
    struct store_collection *data;
    size_t n;
    struct arena arena;
};
void store_collections_deinit(struct store_collections *list);

int store_collection_add(struct store *s, const char *tenant, const char *name, const char *attributes, int64_t *id,
                         char *err, size_t err_bytes);
int store_collection_get(struct store *s, const char *tenant, int64_t id, struct store_collections *out, char *err,
                         size_t err_bytes);
/* The oldest of that name. */
int store_collection_find(struct store *s, const char *tenant, const char *name, int64_t *id, char *err,
                          size_t err_bytes);
int store_collection_list(struct store *s, const char *tenant, struct store_page page, struct store_collections *out,
                          char *err, size_t err_bytes);
/* Name and attributes; NULL leaves one as it is. */
int store_collection_update(struct store *s, const char *tenant, int64_t id, const char *name, const char *attributes,
                            char *err, size_t err_bytes);
/* Its documents stay. */
int store_collection_delete(struct store *s, const char *tenant, int64_t id, char *err, size_t err_bytes);
/* Puts a document in (again: sets the attributes). attributes NULL: those of the document. */
int store_collection_put(struct store *s, const char *tenant, int64_t id, int64_t document, const char *attributes,
                         char *err, size_t err_bytes);
int store_collection_remove(struct store *s, const char *tenant, int64_t id, int64_t document, char *err,
                            size_t err_bytes);

/* ---- following a collection -------------------------------------------------------------------------------------- */

enum change_kind {
    CHANGE_PUT,        /* load the document's chunks anew */
    CHANGE_ATTRIBUTES, /* its attributes */
    CHANGE_REMOVE,     /* it is no longer in the collection */
    CHANGE_DROP,       /* the collection is gone */
};
struct store_change {
    int64_t seq; /* grows by at least one; in commit order */
    enum change_kind kind;
    int64_t document;
};
struct store_change_list {
    struct store_change *data;
    size_t n;
    struct arena arena;
};
void store_change_list_deinit(struct store_change_list *list);

/* The number of the last change of all collections: cheap to ask. */
int store_change_last(struct store *s, int64_t *seq, char *err, size_t err_bytes);
/* Up to `limit` changes of a collection behind `after`, oldest first. The log keeps the last 100,000 of all;
 * STATUS_TOO_LARGE when what follows `after` is no longer complete: load the collection anew. */
int store_changes(struct store *s, const char *tenant, int64_t collection, int64_t after, int limit,
                  struct store_change_list *out, char *err, size_t err_bytes);
/* The ready documents of a collection with ids first .. last, without name, hash and reason, in the order of ids. */
int store_members(struct store *s, const char *tenant, int64_t collection, int64_t first, int64_t last,
                  struct store_documents *out, char *err, size_t err_bytes);
/* The chunks of these documents, with vectors, by document and ordinal. */
int store_member_chunks(struct store *s, const char *tenant, int64_t collection, int64_t first, int64_t last,
                        struct store_chunks *out, char *err, size_t err_bytes);

/* ---- near-duplicates --------------------------------------------------------------------------------------------- */

struct store_similar {
    int64_t document;
    double similarity; /* share of equal words: MinHash's estimate of the Jaccard index */
};
/* A MinHash signature of n words, n a multiple of 4 up to STORE_MAX_SIGNATURE, the same n for all of a tenant. */
int store_signature_put(struct store *s, const char *tenant, int64_t document, const uint32_t *signature, int n,
                        char *err, size_t err_bytes);
/* The tenant's documents whose signature agrees in at least the share `least`, most similar first, up to `limit`. Only
 * those are looked at that agree in four words in a row at one of n / 4 places: with 128 words 98.8% of pairs with a
 * similarity of 0.6 do, and all but one in ten million of those with 0.8. */
int store_signature_find(struct store *s, const char *tenant, const uint32_t *signature, int n, double least,
                         struct store_similar *out, int limit, int *n_found, char *err, size_t err_bytes);

/* ---- jobs: work that survives the process ------------------------------------------------------------------------ */

#define JOB_STATE_TABLE(X)                                                                                             \
    X(JOB_QUEUED, "queued")                                                                                            \
    X(JOB_RUNNING, "running")                                                                                          \
    X(JOB_DONE, "done")                                                                                                \
    X(JOB_FAILED, "failed")                                                                                            \
    X(JOB_CANCELLED, "cancelled")
enum job_state {
#define X(name, text) name,
    JOB_STATE_TABLE(X)
#undef X
        JOB_STATE_COUNT
};
const char *job_state_name(enum job_state state);

struct store_job {
    int64_t id;
    const char *tenant;
    int64_t document;    /* 0: of none */
    const char *kind;    /* "ingest", ...: what the worker switches by */
    const char *payload; /* what it needs, such as a path: the worker's own form */
    enum job_state state;
    const char *stage; /* "extract", "embed", ...: for people */
    double progress;   /* 0..1 within all stages */
    const char *error; /* of the last attempt */
    int64_t attempts, max_attempts;
    int64_t created, updated;
    const char *worker; /* who has it, while running */
};
struct store_jobs {
    struct store_job *data;
    size_t n;
    struct arena arena;
};
void store_jobs_deinit(struct store_jobs *list);

/* max_attempts: claims before it fails for good, 0: 3. */
int store_job_add(struct store *s, const char *tenant, int64_t document, const char *kind, const char *payload,
                  int max_attempts, int64_t *id, char *err, size_t err_bytes);
/* A document and the job that will make it ready, both or neither: nothing stays pending that nobody works on. Where
 * the document existed there is no job: *job is 0. Arguments as in store_document_add and store_job_add. */
int store_job_submit(struct store *s, const char *tenant, const struct store_document *document, int64_t collection,
                     const char *kind, const char *payload, int max_attempts, int64_t *id, int64_t *job, char *err,
                     size_t err_bytes);
/* Takes the oldest job that is due: queued, or running with a lease that ran out (its worker died). The lease lasts
 * `lease_s` from now and from each heartbeat. Nothing due: 0 and out->n == 0. A job that dies with its worker for the
 * last time fails here, and its pending document with it. tenant NULL: of any. */
int store_job_claim(struct store *s, const char *tenant, const char *worker, int lease_s, struct store_jobs *out,
                    char *err, size_t err_bytes);
/* Still at it. STATUS_CANCELLED: stop, the job was cancelled. STATUS_NOT_FOUND: stop, it is no longer this worker's. */
int store_job_heartbeat(struct store *s, const char *tenant, int64_t id, const char *worker, int lease_s,
                        const char *stage, double progress, char *err, size_t err_bytes);
/* Done, when error is NULL. Else it is queued again, due in `retry_s` seconds; without attempts left or with retry_s
 * below 0 it fails, and its pending document with it. STATUS as with a heartbeat. */
int store_job_finish(struct store *s, const char *tenant, int64_t id, const char *worker, const char *error,
                     int retry_s, char *err, size_t err_bytes);
/* Gives back what a worker of this name held, at no cost in attempts: for a process that starts again. */
int store_job_release(struct store *s, const char *worker, char *err, size_t err_bytes);
/* Cancels what is queued or running, and its pending document. STATUS_INVALID where it has ended. */
int store_job_cancel(struct store *s, const char *tenant, int64_t id, char *err, size_t err_bytes);
/* Queues a job that failed or was cancelled once more, with fresh attempts; its document is pending again. */
int store_job_retry(struct store *s, const char *tenant, int64_t id, char *err, size_t err_bytes);
int store_job_get(struct store *s, const char *tenant, int64_t id, struct store_jobs *out, char *err, size_t err_bytes);
/* Of a document (0: all), in one state (JOB_STATE_COUNT: any). */
int store_job_list(struct store *s, const char *tenant, int64_t document, enum job_state state, struct store_page page,
                   struct store_jobs *out, char *err, size_t err_bytes);

/* ---- feedback and settings --------------------------------------------------------------------------------------- */

struct store_feedback {
    int64_t id;
    int64_t collection;                      /* where the answer came from; 0: unknown */
    int rating;                              /* -1, 0, 1 */
    const char *question, *answer, *comment; /* NULL: "" */
    const int64_t *chunks;                   /* those the answer stood on; they may be gone by now */
    size_t n_chunks;
    int64_t created;
};
struct store_feedbacks {
    struct store_feedback *data;
    size_t n;
    struct arena arena;
};
void store_feedbacks_deinit(struct store_feedbacks *list);

/* Collection and chunks must be the tenant's. */
int store_feedback_add(struct store *s, const char *tenant, const struct store_feedback *feedback, int64_t *id,
                       char *err, size_t err_bytes);
int store_feedback_list(struct store *s, const char *tenant, struct store_page page, struct store_feedbacks *out,
                        char *err, size_t err_bytes);

/* Small named texts of a collection (0: of the tenant), such as a calibration. value NULL removes it. */
int store_setting_set(struct store *s, const char *tenant, int64_t collection, const char *key, const char *value,
                      char *err, size_t err_bytes);
/* *value is the caller's to free; NULL where there is none. */
int store_setting_get(struct store *s, const char *tenant, int64_t collection, const char *key, char **value, char *err,
                      size_t err_bytes);
