/* documents.h - shared by the tests of rag/: documents from strings, read in this process, and ZIP archives. */
#pragma once

#include "kernels/status.h"
#include "rag/extract.h"
#include "rag/normalise.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static char err[ERR_BYTES];

/* Reads bytes of a format with the default limits, outside of any sandbox. */
__attribute__((unused)) static int parse(struct document *d, int format, const char *data, size_t bytes,
                                         const struct extract_limits *limits) {
    struct extract_limits defaults = extract_default_limits();
    struct extract_input in = {.data = data, .bytes = bytes, .limits = limits ? limits : &defaults};
    document_init(d, in.limits->text_bytes);
    int status = extract_parse(d, format, &in, err, sizeof err);
    const char *wrong = status ? NULL : document_check(d);
    cr_expect_null(wrong, "%s", wrong);
    return status;
}

/* The normalised text of a string in some format. */
__attribute__((unused)) static struct text text_of(int format, const char *data) {
    struct document d;
    struct text t = {0};
    cr_assert_eq(parse(&d, format, data, strlen(data), NULL), 0, "%s", err);
    normalise(&t, &d);
    document_deinit(&d);
    return t;
}

__attribute__((unused)) static void expect_text(int format, const char *data, const char *expected) {
    struct text t = text_of(format, data);
    cr_expect_str_eq(t.text, expected, "from:\n%s\nexpected:\n%s\nfound:\n%s", data, expected, t.text);
    text_deinit(&t);
}

/* ---- archives ---------------------------------------------------------------------------------------------------- */

struct archive {                     /* zero-initialise; free(data), free(directory) */
    unsigned char *data, *directory; /* owned */
    size_t n, n_directory;
    int entries;
};

static void archive_put(unsigned char **to, size_t *n, const void *p, size_t bytes) {
    *to = realloc(*to, *n + bytes);
    cr_assert_not_null(*to);
    memcpy(*to + *n, p, bytes);
    *n += bytes;
}

static void archive_number(unsigned char *to, size_t value, int bytes) {
    for (int i = 0; i < bytes; i++) to[i] = (unsigned char)(value >> (8 * i));
}

__attribute__((unused)) static void archive_add(struct archive *a, const char *name, const void *p, size_t bytes) {
    unsigned char local[30] = "PK\3\4", entry[46] = "PK\1\2", *packed = malloc(compressBound(bytes) + 64);
    z_stream s = {.next_in = (Bytef *)p, .avail_in = (uInt)bytes, .next_out = packed};
    s.avail_out = (uInt)compressBound(bytes) + 64;
    cr_assert_eq(deflateInit2(&s, 9, Z_DEFLATED, -MAX_WBITS, 9, Z_DEFAULT_STRATEGY), Z_OK);
    cr_assert_eq(deflate(&s, Z_FINISH), Z_STREAM_END);
    size_t n = s.total_out;
    deflateEnd(&s);
    archive_number(local + 8, 8, 2);
    archive_number(local + 18, n, 4);
    archive_number(local + 22, bytes, 4);
    archive_number(local + 26, strlen(name), 2);
    archive_number(entry + 10, 8, 2);
    archive_number(entry + 20, n, 4);
    archive_number(entry + 24, bytes, 4);
    archive_number(entry + 28, strlen(name), 2);
    archive_number(entry + 42, a->n, 4);
    archive_put(&a->directory, &a->n_directory, entry, sizeof entry);
    archive_put(&a->directory, &a->n_directory, name, strlen(name));
    archive_put(&a->data, &a->n, local, sizeof local);
    archive_put(&a->data, &a->n, name, strlen(name));
    archive_put(&a->data, &a->n, packed, n);
    a->entries++;
    free(packed);
}

__attribute__((unused)) static void archive_end(struct archive *a) {
    unsigned char end[22] = "PK\5\6";
    archive_number(end + 8, (size_t)a->entries, 2);
    archive_number(end + 10, (size_t)a->entries, 2);
    archive_number(end + 12, a->n_directory, 4);
    archive_number(end + 16, a->n, 4);
    archive_put(&a->data, &a->n, a->directory, a->n_directory);
    archive_put(&a->data, &a->n, end, sizeof end);
}

#define WORD_BEGIN                                                                                                     \
    "<?xml version=\"1.0\"?><w:document xmlns:w=\"http://schemas.openxmlformats.org/wordprocessingml/2006/main\" "     \
    "xmlns:mc=\"http://schemas.openxmlformats.org/markup-compatibility/2006\"><w:body>"
#define WORD_END "</w:body></w:document>"
