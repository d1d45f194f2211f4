/* pdf_bidi.c - see pdf_bidi.h. */
#include "rag/pdf_bidi.h"

#include "kernels/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <utf8proc.h>

enum direction { NEUTRAL, LEFT_TO_RIGHT, RIGHT_TO_LEFT };

static enum direction direction_of(int32_t c) {
    if (c < 0x80 && !((c | 32) >= 'a' && (c | 32) <= 'z') && !(c >= '0' && c <= '9')) return NEUTRAL;
    switch (utf8proc_get_property(c)->bidi_class) {
    case UTF8PROC_BIDI_CLASS_R:
    case UTF8PROC_BIDI_CLASS_AL:
    case UTF8PROC_BIDI_CLASS_NSM:
        return c < 0x590 ? NEUTRAL : RIGHT_TO_LEFT; /* marks of those scripts */
    case UTF8PROC_BIDI_CLASS_L:
    case UTF8PROC_BIDI_CLASS_EN:
    case UTF8PROC_BIDI_CLASS_AN:
        return LEFT_TO_RIGHT; /* numbers run from left to right everywhere */
    default:
        return NEUTRAL;
    }
}

static void reverse(int32_t *c, size_t n) {
    for (size_t i = 0; i < n / 2; i++) {
        int32_t other = c[i];
        c[i] = c[n - 1 - i];
        c[n - 1 - i] = other;
    }
}

static int32_t mirror(int32_t c) {
    static const char pairs[] = "()[]{}<>";
    for (size_t i = 0; i + 1 < sizeof pairs; i++)
        if (c == pairs[i]) return pairs[i ^ 1];
    return c;
}

/* Reverses the runs of one direction, with the neutral characters within them. */
static void reverse_runs(int32_t *c, size_t n, enum direction direction, bool mirrored) {
    for (size_t i = 0; i < n;) {
        if (direction_of(c[i]) != direction) {
            i++;
            continue;
        }
        size_t end = i + 1;
        for (size_t k = end; k < n && (direction_of(c[k]) == direction || direction_of(c[k]) == NEUTRAL); k++)
            if (direction_of(c[k]) == direction) end = k + 1;
        reverse(c + i, end - i);
        for (size_t k = i; k < end && mirrored; k++) c[k] = mirror(c[k]);
        i = end;
    }
}

void pdf_bidi_line(char *text, size_t bytes) {
    size_t n = 0, right = 0, left = 0, at = 0;
    bool any = false; /* the scripts in question begin at U+0590, with a first byte of 0xD6 or more */
    for (size_t i = 0; i < bytes; i++) any |= (unsigned char)text[i] >= 0xD6;
    if (!any) return;
    int32_t *c = malloc(bytes * sizeof *c);
    CHECK(c);
    for (size_t i = 0; i < bytes;) {
        utf8proc_ssize_t step = utf8proc_iterate((utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(bytes - i), &c[n]);
        if (step < 1) goto done; /* as it is: it becomes U+FFFD later */
        enum direction d = direction_of(c[n++]);
        right += d == RIGHT_TO_LEFT;
        left += d == LEFT_TO_RIGHT;
        i += (size_t)step;
    }
    if (!right) goto done;
    if (right >= left) {
        for (size_t i = 0; i < n; i++) c[i] = mirror(c[i]);
        reverse(c, n);
        reverse_runs(c, n, LEFT_TO_RIGHT, true);
    } else {
        reverse_runs(c, n, RIGHT_TO_LEFT, true);
    }
    for (size_t i = 0; i < n; i++) at += (size_t)utf8proc_encode_char(c[i], (utf8proc_uint8_t *)text + at);
done:
    free(c);
}
