/* Documents of any kind, from bytes to chunks, in this process; and the message by which a document crosses a pipe. The
 * first byte says what the rest is: a format, one that is to be found out, the document.xml of a Word file, a message.
 * Besides not crashing: what comes out is a valid document, its text has the promised form, each chunk's body lies in
 * it, within the cap, and all of it lies in chunks. */
#include "kernels/status.h"
#include "rag/chunk.h"
#include "rag/extract.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { WORD_PART = FORMATS, MESSAGE, KINDS };

static size_t count(void *arg, const char *text, size_t bytes) {
    size_t n = 0;
    (void)arg;
    for (size_t i = 0; i < bytes; i++) n += (unsigned char)text[i] > ' ' && (i % 3 == 0 || text[i] == '.');
    return n;
}

static void check_chunks(const struct document *d) {
    struct text t = {0};
    struct outline o = {0};
    struct chunks c = {0};
    struct chunk_options options = {.max_tokens = 40, .overlap_tokens = 8, .count = count};
    normalise(&t, d);
    CHECK_EQ(t.text[t.bytes], 0);
    for (size_t i = 0; i < t.n_blocks; i++) {
        CHECK_LT(t.blocks[i].start, t.blocks[i].end);
        CHECK_LE(i ? t.blocks[i - 1].end : 0, t.blocks[i].start);
        CHECK_LE(t.blocks[i].end, t.bytes);
    }
    for (size_t i = 0; i < t.n_runs; i++) CHECK_LE(t.runs[i].at + t.runs[i].bytes, t.bytes);
    outline_make(&o, &t);
    chunks_make(&c, &t, &o, &options);
    for (size_t i = 0, end = 0; i < c.n; i++) {
        CHECK_LT(c.items[i].start, c.items[i].end);
        CHECK_LT(end, c.items[i].end);
        for (; end < c.items[i].start; end++) CHECK_LE((unsigned char)t.text[end], ' ');
        end = c.items[i].end;
        CHECK_LE(end, t.bytes);
        CHECK_LE(c.items[i].n_tokens, options.max_tokens);
    }
    chunks_deinit(&c);
    outline_deinit(&o);
    text_deinit(&t);
}

/* An archive with one stored entry, word/document.xml. */
static char *word_file(const char *part, size_t n, size_t *bytes) {
    static const char name[] = "word/document.xml";
    enum { NAME = sizeof name - 1 };
    unsigned char local[30] = "PK\3\4", entry[46] = "PK\1\2", end[22] = "PK\5\6";
    size_t directory = sizeof local + NAME + n;
    local[26] = entry[28] = NAME;
    end[10] = 1;
    end[12] = sizeof entry + NAME;
    for (int i = 0; i < 4; i++)
        entry[20 + i] = (unsigned char)(n >> 8 * i), end[16 + i] = (unsigned char)(directory >> 8 * i);
    *bytes = directory + sizeof entry + NAME + sizeof end;
    char *file = malloc(*bytes), *to = file;
    CHECK(file);
    memcpy(to, local, sizeof local), to += sizeof local;
    memcpy(to, name, NAME), to += NAME;
    memcpy(to, part, n), to += n;
    memcpy(to, entry, sizeof entry), to += sizeof entry;
    memcpy(to, name, NAME), to += NAME;
    memcpy(to, end, sizeof end);
    return file;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct extract_limits limits = extract_default_limits();
    struct document d = {0};
    char err[ERR_BYTES], *file = NULL;
    if (!bytes) return 0;
    int kind = data[0] % KINDS, sent, status = 0;
    struct extract_input in = {.data = (const char *)data + 1, .bytes = bytes - 1, .limits = &limits};
    limits.entry_bytes = limits.total_bytes = 1 << 20;
    limits.text_bytes = 1 << 18;
    limits.depth = 200;
    if (kind == MESSAGE) {
        status = document_read(&d, data + 1, bytes - 1, limits.text_bytes, &sent, err, sizeof err);
        CHECK(status || sent);
    } else {
        if (kind == WORD_PART) in.data = file = word_file(in.data, in.bytes, &in.bytes), kind = FORMAT_DOCX;
        document_init(&d, limits.text_bytes);
        if (kind == FORMAT_UNKNOWN) kind = extract_sniff(&in, err, sizeof err);
        status = kind == FORMAT_UNKNOWN ? STATUS_UNSUPPORTED : extract_parse(&d, kind, &in, err, sizeof err);
    }
    if (!status) {
        CHECK(!document_check(&d));
        check_chunks(&d);
    }
    document_deinit(&d);
    free(file);
    return 0;
}
