/* zip.c - see zip.h. The format: PKWARE's APPNOTE; without ZIP64, splitting and encryption, which no document needs. */
#include "rag/zip.h"

#include "kernels/status.h"

#include <string.h>
#include <zlib.h>

#define END_BYTES       22 /* of the end-of-directory record, before its comment */
#define DIRECTORY_BYTES 46 /* of a directory entry, before its name */
#define LOCAL_BYTES     30
#define FREE_BYTES      (1 << 20) /* up to here any ratio will do: small XML packs very well */

static unsigned u16(const uint8_t *p) {
    return p[0] | (unsigned)p[1] << 8;
}
static size_t u32(const uint8_t *p) {
    return u16(p) | (size_t)u16(p + 2) << 16;
}

int zip_open(struct zip *z, const struct extract_input *in, char *err, size_t err_bytes) {
    *z = (struct zip){.data = (const uint8_t *)in->data, .bytes = in->bytes, .limits = in->limits};
    if (z->bytes < END_BYTES) return fail(err, err_bytes, STATUS_INVALID, "the ZIP archive is truncated");
    size_t at = z->bytes - END_BYTES, stop = at > 65535 ? at - 65535 : 0;
    while (memcmp(z->data + at, "PK\5\6", 4))
        if (at-- == stop)
            return fail(err, err_bytes, STATUS_INVALID, "the ZIP archive is truncated: it has no directory at its end");
    const uint8_t *end = z->data + at;
    z->n_entries = (int)u16(end + 10);
    z->directory_bytes = u32(end + 12);
    z->directory = u32(end + 16);
    if (z->n_entries == 0xFFFF || z->directory == 0xFFFFFFFF)
        return fail(err, err_bytes, STATUS_UNSUPPORTED, "the ZIP archive is a ZIP64 one, which is not read");
    if (z->n_entries > z->limits->entries)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "the ZIP archive has %d entries, more than %d", z->n_entries,
                    z->limits->entries);
    if (z->directory > at || z->directory_bytes > at - z->directory)
        return fail(err, err_bytes, STATUS_INVALID, "the ZIP archive's directory lies outside of it: it is truncated");
    return 0;
}

int zip_find(struct zip *z, struct zip_entry *entry, const char *name, char *err, size_t err_bytes) {
    size_t at = z->directory, end = z->directory + z->directory_bytes, name_bytes = strlen(name);
    for (int i = 0; i < z->n_entries; i++) {
        const uint8_t *p = z->data + at;
        if (end - at < DIRECTORY_BYTES || memcmp(p, "PK\1\2", 4))
            return fail(err, err_bytes, STATUS_INVALID, "the ZIP archive's directory is broken at entry %d", i);
        size_t bytes = u16(p + 28), rest = bytes + u16(p + 30) + u16(p + 32);
        if (end - at - DIRECTORY_BYTES < rest)
            return fail(err, err_bytes, STATUS_INVALID, "the ZIP archive's directory is broken at entry %d", i);
        at += DIRECTORY_BYTES + rest;
        if (bytes != name_bytes || memcmp(p + DIRECTORY_BYTES, name, bytes)) continue;
        size_t local = u32(p + 42);
        *entry = (struct zip_entry){
            .name = (const char *)p + DIRECTORY_BYTES,
            .name_bytes = bytes,
            .method = (int)u16(p + 10),
            .packed = u32(p + 20),
            .encrypted = u16(p + 8) & 1,
        };
        if (local > z->bytes || z->bytes - local < LOCAL_BYTES || memcmp(z->data + local, "PK\3\4", 4))
            return fail(err, err_bytes, STATUS_INVALID, "the ZIP archive has no entry where \"%s\" should be", name);
        entry->data = local + LOCAL_BYTES + u16(z->data + local + 26) + u16(z->data + local + 28);
        if (entry->data > z->bytes || entry->packed > z->bytes - entry->data)
            return fail(err, err_bytes, STATUS_INVALID, "the ZIP archive is truncated within \"%s\"", name);
        return 0;
    }
    return fail(err, err_bytes, STATUS_NOT_FOUND, "the ZIP archive has no \"%s\"", name);
}

/* Counts what came out; 0, or which limit it broke. */
static int count(struct zip *z, const struct zip_entry *entry, size_t out, size_t more, char *err, size_t err_bytes) {
    const struct extract_limits *l = z->limits;
    z->inflated += more;
    if (out > l->entry_bytes)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "\"%.*s\" inflates to more than %zu MB", (int)entry->name_bytes,
                    entry->name, l->entry_bytes >> 20);
    if (z->inflated > l->total_bytes)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "the ZIP archive inflates to more than %zu MB",
                    l->total_bytes >> 20);
    if (out > FREE_BYTES && out / (size_t)l->ratio > entry->packed)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "\"%.*s\" inflates to more than %d times its size",
                    (int)entry->name_bytes, entry->name, l->ratio);
    return 0;
}

int zip_read(struct zip *z, const struct zip_entry *entry, zip_sink *sink, void *arg, char *err, size_t err_bytes) {
    char buffer[1 << 15];
    const uint8_t *data = z->data + entry->data;
    int status = 0;
    if (entry->encrypted)
        return fail(err, err_bytes, STATUS_INVALID, "\"%.*s\" in the ZIP archive is encrypted", (int)entry->name_bytes,
                    entry->name);
    if (entry->method == 0) {
        if ((status = count(z, entry, entry->packed, entry->packed, err, err_bytes))) return status;
        sink(arg, (const char *)data, entry->packed, true);
        return 0;
    }
    if (entry->method != Z_DEFLATED)
        return fail(err, err_bytes, STATUS_UNSUPPORTED, "\"%.*s\" is packed by method %d; deflate is read",
                    (int)entry->name_bytes, entry->name, entry->method);
    z_stream s = {.next_in = (Bytef *)data, .avail_in = (uInt)entry->packed};
    CHECK_EQ(inflateInit2(&s, -MAX_WBITS), Z_OK);
    for (size_t out = 0;;) {
        s.next_out = (Bytef *)buffer;
        s.avail_out = sizeof buffer;
        int code = inflate(&s, Z_NO_FLUSH);
        size_t more = sizeof buffer - s.avail_out;
        out += more;
        if (code != Z_OK && code != Z_STREAM_END) {
            status = fail(err, err_bytes, STATUS_INVALID, "\"%.*s\" in the ZIP archive is broken: %s",
                          (int)entry->name_bytes, entry->name,
                          code == Z_BUF_ERROR ? "it ends too early" : "its packed data are invalid");
            break;
        }
        if ((status = count(z, entry, out, more, err, err_bytes))) break;
        if (!sink(arg, buffer, more, code == Z_STREAM_END) || code == Z_STREAM_END) break;
    }
    inflateEnd(&s);
    return status;
}

int zip_sniff(const struct extract_input *in, char *err, size_t err_bytes) {
    static const struct {
        const char *entry, *what;
    } others[] = {
        {"xl/workbook.xml", "an Excel workbook (xlsx): save its sheets as csv"},
        {"ppt/presentation.xml", "a PowerPoint presentation (pptx): save it as pdf"},
        {"META-INF/container.xml", "an EPUB book"},
        {"content.xml", "an OpenDocument file: save it as docx"},
    };
    struct zip z;
    struct zip_entry entry;
    char unused[ERR_BYTES];
    if (zip_open(&z, in, unused, sizeof unused)) return FORMAT_DOCX;
    int status = zip_find(&z, &entry, "[Content_Types].xml", unused, sizeof unused);
    if (status && status != STATUS_NOT_FOUND) return FORMAT_DOCX;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!zip_find(&z, &entry, others[i].entry, unused, sizeof unused)) {
            fail(err, err_bytes, 0, "it is %s", others[i].what);
            return FORMAT_UNKNOWN;
        }
    if (!status || !zip_find(&z, &entry, "word/document.xml", unused, sizeof unused)) return FORMAT_DOCX;
    fail(err, err_bytes, 0, "it is a ZIP archive: unpack it first");
    return FORMAT_UNKNOWN;
}
