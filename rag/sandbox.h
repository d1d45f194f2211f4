/* sandbox.h - processes that read hostile files.
 *
 * A child is a program of its own (extractor/, which lies beside this one), so it shares no memory with whoever holds
 * keys and other people's documents. Where that program is not there, this one is started anew, and finds in argv[0]
 * that it is a child, before main; that is the same, but takes longer to start. A child becomes:
 *   SANDBOX_EXTRACT    our own readers, from a file to the message of document_write;
 *   SANDBOX_PDFTOTEXT  poppler's pdftotext, from a PDF to its words with their places.
 * Before any byte of the file is read, the child gives up: new privileges, the network, other processes; memory,
 * processor time and files beyond the limits; all system calls but those on a list (seccomp). Our readers may not open
 * anything; pdftotext may open files for reading, and where the kernel has Landlock only those of the system.
 *
 * The parent waits no longer than the limit of wall time and then kills. Where the kernel has no seccomp, nothing is
 * read: STATUS_UNSUPPORTED. */
#pragma once

#include "rag/extract.h"

#include <stddef.h>
#include <stdint.h>

enum sandbox_task { SANDBOX_EXTRACT, SANDBOX_PDFTOTEXT };

#define SANDBOX_NAME_BYTES   256
#define SANDBOX_MAX_CHILDREN 2

#define SANDBOX_CHILD_NAME "tandem-extractor" /* its argv[0], and the program's file */

struct sandbox_job { /* crosses to the child as it is */
    uint64_t build;  /* sandbox_run sets it: the child must be of the same build */
    int32_t task;    /* enum sandbox_task */
    int32_t format;  /* enum extract_format; FORMAT_UNKNOWN: the child finds out */
    struct extract_limits limits;
    char name[SANDBOX_NAME_BYTES];    /* of the file, for ties; "" if there is none */
    char program[SANDBOX_NAME_BYTES]; /* pdftotext's path */
};

struct sandbox_result {
    uint8_t *bytes; /* owned: what the last child wrote to its standard output */
    size_t n;
    bool timed_out, too_much;                /* the children were killed: out of time, or beyond max_bytes */
    int exit_status[SANDBOX_MAX_CHILDREN];   /* as waitpid gives them */
    char errors[SANDBOX_MAX_CHILDREN][1024]; /* the beginning of what each wrote to standard error */
};

/* Runs jobs[0] on the file `input` (its offset at 0), and each further one on the output of the one before it. Returns
 * 0 when all have ended, whatever they said; the caller frees result->bytes. STATUS_IO with a sentence if they could
 * not be started. */
int sandbox_run(struct sandbox_result *result, const struct sandbox_job *jobs, int n_jobs, int input, size_t max_bytes,
                char *err, size_t err_bytes);

/* ---- within the child -------------------------------------------------------------------------------------------- */

#define SANDBOX_EXIT_UNAVAILABLE 97 /* the reason is on standard error */

/* What a child is, from its first instruction to its last. */
void __attribute__((noreturn)) sandbox__child(void);
/* Gives up all but what the task needs. 0, or what could not be given up. */
int sandbox__confine(const struct sandbox_job *job, char *err, size_t err_bytes);
/* What a child does after that for SANDBOX_EXTRACT: reads standard input, answers on standard output (extract.c). */
void sandbox__extract(const struct sandbox_job *job);
