/* tokenizer_nfc.c - normalization form C (Unicode Standard Annex 15), by utf8proc, as Hugging Face's tables have it.
 *
 * Text is cut into segments: one leading character that NFC leaves alone by itself, then the NFC_ACTIVE ones that may
 * move or fuse. A character that is not active is stable: nothing on its left reaches across it, so segments are
 * normalized one by one, and those without active characters (nearly all) are copied. A leading character that
 * Hugging Face's older tables do not know (NFC_INERT) is copied, whatever the installed utf8proc knows of it.
 *
 * utf8proc's own ordering of combining marks is an insertion sort, quadratic in a run of hostile marks. So a segment is
 * decomposed character by character, ordered here by counting, and utf8proc composes it. */
#include "engine/tokenizer_internal.h"

#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Code points under work: the segment, and room for the sort. */
struct points {
    int32_t *data; /* owned */
    size_t n, capacity;
};

static void points_reserve(struct points *p, size_t more) {
    if (p->capacity - p->n >= more) return;
    p->capacity = 2 * p->capacity + more + 64;
    p->data = realloc(p->data, p->capacity * sizeof *p->data);
    CHECK(p->data);
}

static unsigned combining_class(int32_t c) {
    return (unsigned)utf8proc_get_property(c)->combining_class;
}

/* Sorts marks[0..n), whose combining classes are all above 0, by class; equal classes keep their order. */
static void order_marks(int32_t *marks, size_t n) {
    if (n < 16) {
        for (size_t i = 1; i < n; i++) {
            int32_t c = marks[i];
            size_t at = i;
            for (; at > 0 && combining_class(marks[at - 1]) > combining_class(c); at--) marks[at] = marks[at - 1];
            marks[at] = c;
        }
        return;
    }
    size_t start[257] = {0};
    int32_t *sorted = malloc(n * sizeof *sorted);
    CHECK(sorted);
    for (size_t i = 0; i < n; i++) start[combining_class(marks[i]) + 1]++;
    for (int k = 0; k < 256; k++) start[k + 1] += start[k];
    for (size_t i = 0; i < n; i++) sorted[start[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, sorted, n * sizeof *sorted);
    free(sorted);
}

void tokenizer__order(int32_t *points, size_t n) {
    for (size_t i = 0; i < n;) {
        if (!combining_class(points[i])) {
            i++;
            continue;
        }
        size_t end = i + 1;
        while (end < n && combining_class(points[end])) end++;
        order_marks(points + i, end - i);
        i = end;
    }
}

size_t tokenizer__decompose(int32_t c, int32_t parts[MAX_DECOMPOSITION]) {
    int unused = 0;
    utf8proc_ssize_t wrote = utf8proc_decompose_char(c, parts, MAX_DECOMPOSITION, UTF8PROC_DECOMPOSE, &unused);
    CHECK_LE(0, wrote);
    CHECK_LE(wrote, MAX_DECOMPOSITION);
    return (size_t)wrote;
}

/* Normalizes p[0..n), one segment. */
static void append_segment(struct points *points, const uint8_t *p, size_t n, struct bytes *out) {
    points->n = 0;
    for (size_t i = 0; i < n;) {
        int32_t c;
        i += utf8_decode_valid(p + i, &c);
        points_reserve(points, MAX_DECOMPOSITION);
        points->n += tokenizer__decompose(c, points->data + points->n);
    }
    tokenizer__order(points->data, points->n);
    utf8proc_ssize_t left =
        utf8proc_normalize_utf32(points->data, (utf8proc_ssize_t)points->n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    CHECK_LE(0, left);
    bytes_reserve(out, 4 * (size_t)left);
    for (utf8proc_ssize_t i = 0; i < left; i++) out->n += utf8_encode(out->data + out->n, points->data[i]);
}

bool tokenizer__needs_nfc(const uint8_t *unicode, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n;) {
        if (p[i] < 0x80) {
            i++;
            continue;
        }
        int32_t c;
        i += utf8_decode_valid(p + i, &c);
        if (unicode[c] & NFC_ACTIVE) return true;
    }
    return false;
}

void tokenizer__nfc(const uint8_t *unicode, const uint8_t *p, size_t n, struct bytes *out) {
    struct points points = {0};
    size_t done = 0; /* p[0..done) is in out */
    size_t lead = 0; /* start of the last character that was not active */
    for (size_t i = 0; i < n;) {
        int32_t c;
        size_t step = utf8_decode_valid(p + i, &c);
        if (!(unicode[c] & NFC_ACTIVE)) {
            /* An inert one leads no segment: what follows is normalized as if nothing were before it. */
            lead = unicode[c] & NFC_INERT ? i + step : i;
            i += step;
            continue;
        }
        size_t end = i + step;
        while (end < n) {
            step = utf8_decode_valid(p + end, &c);
            if (!(unicode[c] & NFC_ACTIVE)) break;
            end += step;
        }
        bytes_append(out, p + done, lead - done);
        append_segment(&points, p + lead, end - lead, out);
        done = lead = i = end;
    }
    bytes_append(out, p + done, n - done);
    free(points.data);
}
