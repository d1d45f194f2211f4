/* zip.h - reading ZIP archives that may be hostile: what the directory says is checked against the bytes, and what is
 * inflated is counted while it comes. */
#pragma once

#include "rag/extract.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct zip { /* a view of the archive's bytes */
    const uint8_t *data;
    size_t bytes;
    size_t directory, directory_bytes; /* the central directory */
    int n_entries;
    const struct extract_limits *limits; /* borrowed */
    size_t inflated;                     /* of all entries so far */
};

struct zip_entry {
    const char *name; /* view, name_bytes long */
    size_t name_bytes;
    size_t data, packed; /* where its bytes are */
    int method;          /* 0 stored, 8 deflated */
    bool encrypted;
};

/* 0, or a status with a sentence. */
int zip_open(struct zip *z, const struct extract_input *in, char *err, size_t err_bytes);
/* The entry of that name: STATUS_NOT_FOUND if there is none. */
int zip_find(struct zip *z, struct zip_entry *entry, const char *name, char *err, size_t err_bytes);

/* Takes the next bytes of an entry; false to stop (zip_read then returns 0). */
typedef bool zip_sink(void *arg, const char *p, size_t n, bool last);
/* Inflates an entry piece by piece, within the limits. */
int zip_read(struct zip *z, const struct zip_entry *entry, zip_sink *sink, void *arg, char *err, size_t err_bytes);

/* FORMAT_DOCX, or FORMAT_UNKNOWN with what the archive is. Broken archives are taken for docx, whose reader says why.
 */
int zip_sniff(const struct extract_input *in, char *err, size_t err_bytes);
