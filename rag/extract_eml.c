/* extract_eml.c - a mail (RFC 5322) and its MIME parts (RFC 2045..2047): who, what about, and the text.
 *
 * Of alternatives the plain one is read, else the last that is text. Attachments are named, not read; mails within a
 * mail are read. Parts, their nesting, and what base64 makes of them are bounded. */
#include "rag/charset.h"
#include "rag/extract_html.h"
#include "rag/mime.h"

#include "kernels/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct mail {
    struct document *d;
    const struct extract_input *in;
    int parts;
};

static void put_entity(struct mail *m, struct mime_part part, int depth, bool message);

static void put_header(struct mail *m, const struct mime_part *part, const char *name) {
    char value[MIME_VALUE_BYTES], text[MIME_VALUE_BYTES];
    if (!mime_header(part, name, value, sizeof value) || !*value) return;
    size_t n = mime_decode_words(value, text, sizeof text);
    if (!strcmp(name, "Subject")) {
        doc_title(m->d, text, n);
        doc_begin(m->d, BLOCK_HEADING, 1);
        doc_text(m->d, text, n, DOC_NO_SOURCE);
        doc_end(m->d);
        return;
    }
    doc_text(m->d, name, strlen(name), DOC_NO_SOURCE);
    doc_text(m->d, ": ", 2, DOC_NO_SOURCE);
    doc_text(m->d, text, n, DOC_NO_SOURCE);
    doc_text(m->d, "\n", 1, DOC_NO_SOURCE);
}

static void put_text(struct mail *m, const struct mime_part *part, const char *type) {
    char value[MIME_VALUE_BYTES] = "", encoding[MIME_VALUE_BYTES] = "", charset[64] = "";
    struct decoded text = {0};
    char *raw = NULL;
    size_t n = part->body_bytes;
    mime_header(part, "Content-Type", value, sizeof value);
    mime_header(part, "Content-Transfer-Encoding", encoding, sizeof encoding);
    mime_parameter(value, "charset", charset, sizeof charset);
    if (!mime_decode(part->body, part->body_bytes, encoding, &raw, &n)) {
        doc_fail(m->d, STATUS_NO_MEMORY, "memory ran out while a part was decoded");
        return;
    }
    const char *bytes = raw ? raw : part->body;
    if (!charset_decode(&text, bytes, n, charset, strlen(charset))) {
        doc_begin(m->d, BLOCK_PARAGRAPH, 0);
        doc_text(m->d, "[text in a charset that is not read: ", 37, DOC_NO_SOURCE);
        doc_text(m->d, charset, strlen(charset), DOC_NO_SOURCE);
        doc_text(m->d, "]", 1, DOC_NO_SOURCE);
        doc_end(m->d);
    } else {
        const char *p = text.data ? text.data : bytes + text.skip;
        struct extract_input in = {.data = p, .bytes = text.bytes, .limits = m->in->limits, .source = DOC_NO_SOURCE};
        if (!raw && !text.data && m->in->source != DOC_NO_SOURCE)
            in.source = m->in->source + (uint64_t)(p - m->in->data);
        if (!strcasecmp(type, "text/html"))
            extract__html_fragment(m->d, p, text.bytes, m->in->limits);
        else
            extract__txt(m->d, &in);
    }
    free(text.data);
    free(raw);
}

static void put_attachment(struct mail *m, const struct mime_part *part, const char *type) {
    char value[MIME_VALUE_BYTES] = "", name[256] = "", line[400];
    if (mime_header(part, "Content-Disposition", value, sizeof value))
        mime_parameter(value, "filename", name, sizeof name);
    if (!*name && mime_header(part, "Content-Type", value, sizeof value))
        mime_parameter(value, "name", name, sizeof name);
    int n = snprintf(line, sizeof line, "Attachment: %.200s (%.100s, not read)", *name ? name : "without a name", type);
    doc_begin(m->d, BLOCK_PARAGRAPH, 0);
    doc_text(m->d, line, (size_t)n, DOC_NO_SOURCE);
    doc_end(m->d);
}

/* The type of a part, without parameters, lower case. */
static void type_of(const struct mime_part *part, char *type, size_t bytes) {
    char value[MIME_VALUE_BYTES];
    if (!mime_header(part, "Content-Type", value, sizeof value) || !*value) snprintf(value, sizeof value, "text/plain");
    size_t n = strcspn(value, "; \t");
    snprintf(type, bytes, "%.*s", (int)n, value);
    for (char *c = type; *c; c++) *c = *c >= 'A' && *c <= 'Z' ? (char)(*c | 32) : *c;
}

static void put_multipart(struct mail *m, const struct mime_part *part, const char *type, int depth) {
    char value[MIME_VALUE_BYTES], boundary[128] = "";
    struct mime_part child, chosen = {0};
    size_t at = 0;
    bool alternative = !strcmp(type, "multipart/alternative"), plain = false;
    mime_header(part, "Content-Type", value, sizeof value);
    if (!mime_parameter(value, "boundary", boundary, sizeof boundary) || !*boundary) {
        put_text(m, part, "text/plain"); /* broken: read as it is */
        return;
    }
    while (!m->d->status && mime_next(part, boundary, &at, &child)) {
        char child_type[128];
        if (!alternative) {
            put_entity(m, child, depth + 1, false);
            continue;
        }
        type_of(&child, child_type, sizeof child_type);
        bool text = !strncmp(child_type, "text/", 5), nested = !strncmp(child_type, "multipart/", 10);
        if (plain || !(text || nested)) continue;
        plain = !strcmp(child_type, "text/plain") && child.body_bytes > 2;
        chosen = child;
    }
    if (chosen.body) put_entity(m, chosen, depth + 1, false);
}

static void put_entity(struct mail *m, struct mime_part part, int depth, bool message) {
    static const char *const headers[] = {"From", "To", "Cc", "Date"};
    char type[128], disposition[MIME_VALUE_BYTES] = "";
    if (m->d->status) return;
    if (depth > EXTRACT_MAIL_DEPTH) {
        doc_fail(m->d, STATUS_TOO_LARGE, "its parts nest more than %d deep", EXTRACT_MAIL_DEPTH);
        return;
    }
    if (++m->parts > m->in->limits->entries) {
        doc_fail(m->d, STATUS_TOO_LARGE, "it has more than %d parts", m->in->limits->entries);
        return;
    }
    if (message) {
        put_header(m, &part, "Subject");
        doc_begin(m->d, BLOCK_PARAGRAPH, 0);
        for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) put_header(m, &part, headers[i]);
        doc_end(m->d);
    }
    type_of(&part, type, sizeof type);
    mime_header(&part, "Content-Disposition", disposition, sizeof disposition);
    if (!strncmp(type, "multipart/", 10)) {
        put_multipart(m, &part, type, depth);
    } else if (!strcmp(type, "message/rfc822")) {
        put_entity(m, mime_split(part.body, part.body_bytes), depth + 1, true);
    } else if (!strncasecmp(disposition, "attachment", 10) ||
               (strcmp(type, "text/plain") && strcmp(type, "text/html"))) {
        put_attachment(m, &part, type);
    } else {
        put_text(m, &part, type);
    }
}

void extract__eml(struct document *d, const struct extract_input *in) {
    struct mail m = {.d = d, .in = in};
    const char *p = in->data;
    size_t n = in->bytes;
    if (n > 5 && !memcmp(p, "From ", 5)) { /* the line that mailboxes put before a mail */
        const char *newline = memchr(p, '\n', n);
        size_t line = newline ? (size_t)(newline - p) + 1 : n;
        p += line;
        n -= line;
    }
    put_entity(&m, mime_split(p, n), 0, true);
    doc_end(d);
}
