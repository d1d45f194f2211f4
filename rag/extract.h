/* extract.h - the door of the first stage: a file of any kind in, a document (document.h) out, or the reason why not.
 *
 *     txt, md (CommonMark with GitHub's tables), html, csv, json (also one value per line), eml   their own readers
 *     docx                                                                                      zlib + expat
 *     pdf                                                                                       poppler's pdftotext
 *
 * The kind is read off the bytes; the name only breaks ties between txt, md and csv. Every reader runs in a process of
 * its own (sandbox.h) under seccomp, without network or files, within limits of memory, processor time and wall time.
 * What that process says is checked before it is used, so a file can make its own extraction fail and nothing else.
 *
 * The calls are safe from any number of threads at once; each waits for its own processes. */
#pragma once

#include "rag/document.h"

#include <stddef.h>
#include <stdint.h>

enum extract_format {
    FORMAT_UNKNOWN,
    FORMAT_TXT,
    FORMAT_MD,
    FORMAT_HTML,
    FORMAT_CSV,
    FORMAT_JSON,
    FORMAT_JSONL,
    FORMAT_EML,
    FORMAT_DOCX,
    FORMAT_PDF,
    FORMATS,
};
const char *extract_format_name(int format); /* "txt", ...; "unknown" */

/* What one file may cost. Counted while reading and inflating, never believed from a header. */
struct extract_limits {
    size_t file_bytes;   /* of the file itself */
    size_t entry_bytes;  /* of one inflated entry of an archive */
    size_t total_bytes;  /* of all inflated entries together, and of what pdftotext prints */
    size_t text_bytes;   /* of extracted text; below 1 GiB */
    size_t memory_bytes; /* address space of a reader */
    int entries;         /* in an archive; parts in a mail */
    int ratio;           /* inflated bytes per packed byte, once past the first MB */
    int pages;
    int depth;   /* nesting of elements, arrays; mails nest EXTRACT_MAIL_DEPTH deep */
    int seconds; /* of wall time; as much of processor time */
};
struct extract_limits extract_default_limits(void);
#define EXTRACT_MAIL_DEPTH 10

/* Reads a file. `name` (its last part) breaks ties; NULL is fine. On success *d is filled and *format says what it was.
 * Otherwise a status and a sentence without the path: STATUS_UNSUPPORTED (a kind that is not read; no seccomp or no
 * pdftotext here), STATUS_INVALID (broken, encrypted), STATUS_TOO_LARGE (a limit: which one), STATUS_IO,
 * STATUS_NOT_FOUND. *d is left zeroed then; *format says what it was taken for as far as that was known. */
int extract_file(struct document *d, int *format, const char *path, const struct extract_limits *limits, char *err,
                 size_t err_bytes);
int extract_bytes(struct document *d, int *format, const void *data, size_t bytes, const char *name,
                  const struct extract_limits *limits, char *err, size_t err_bytes);

/* ---- within the sandbox, and for tests and fuzzing: pure functions of the bytes ------------------------------------
 */

struct extract_input {
    const char *data; /* borrowed */
    size_t bytes;
    const char *name; /* or NULL */
    const struct extract_limits *limits;
    uint64_t source; /* offset of data in the file (a part of a mail), or DOC_NO_SOURCE: it was decoded */
};

/* The kind by content. FORMAT_UNKNOWN with a sentence when it is none of ours. */
int extract_sniff(const struct extract_input *in, char *err, size_t err_bytes);
/* Runs the reader of a format in this process. FORMAT_PDF takes what `pdftotext -bbox-layout` prints. d: initialised.
 */
int extract_parse(struct document *d, int format, const struct extract_input *in, char *err, size_t err_bytes);

/* The readers. Each fills the document and latches what is wrong in it. */
void extract__txt(struct document *d, const struct extract_input *in);
void extract__md(struct document *d, const struct extract_input *in);
void extract__html(struct document *d, const struct extract_input *in);
void extract__csv(struct document *d, const struct extract_input *in);
void extract__json(struct document *d, const struct extract_input *in);
void extract__jsonl(struct document *d, const struct extract_input *in);
void extract__eml(struct document *d, const struct extract_input *in);
void extract__docx(struct document *d, const struct extract_input *in);
void extract__pdf(struct document *d, const struct extract_input *in);

/* Do these first bytes of a file begin a PDF? */
bool extract__is_pdf(const char *start, size_t bytes);

/* The delimiter of a CSV file, by the lines at its start; 0 if these bytes are not plainly a table. With `named`, a
 * file that is called so is believed: one column is enough. */
char extract__csv_delimiter(const char *data, size_t bytes, bool named);
