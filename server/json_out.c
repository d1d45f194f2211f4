/* json_out.c - a growing buffer and JSON into it; see json_out.h. */
#include "server/json_out.h"

#include "kernels/status.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIN_CAPACITY 256

void out_deinit(struct out *o) {
    free(o->data);
    *o = (struct out){0};
}

void out_clear(struct out *o) {
    o->bytes = 0;
    if (o->data) o->data[0] = 0;
}

/* Room for `bytes` more and the zero after them. */
static char *reserve(struct out *o, size_t bytes) {
    size_t need = o->bytes + bytes + 1;
    CHECK(need > bytes);
    if (need > o->capacity) {
        size_t capacity = o->capacity ? o->capacity : MIN_CAPACITY;
        while (capacity < need) capacity *= 2;
        o->data = realloc(o->data, capacity);
        CHECK(o->data);
        o->capacity = capacity;
    }
    return o->data + o->bytes;
}

void out_bytes(struct out *o, const void *data, size_t bytes) {
    char *to = reserve(o, bytes);
    if (bytes) memcpy(to, data, bytes);
    to[bytes] = 0;
    o->bytes += bytes;
}

void out_text(struct out *o, const char *text) {
    out_bytes(o, text, strlen(text));
}

void out_char(struct out *o, char c) {
    out_bytes(o, &c, 1);
}

void out_format(struct out *o, const char *format, ...) {
    va_list args;
    char small[256];
    va_start(args, format);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    CHECK(n >= 0);
    if ((size_t)n < sizeof small) {
        out_bytes(o, small, (size_t)n);
        return;
    }
    va_start(args, format);
    vsnprintf(reserve(o, (size_t)n), (size_t)n + 1, format, args);
    va_end(args);
    o->bytes += (size_t)n;
}

size_t utf8_char_bytes(const char *text, size_t bytes) {
    const unsigned char *p = (const unsigned char *)text;
    unsigned char low = 0x80, high = 0xbf;
    size_t n;
    if (!bytes || p[0] >= 0xf5) return 0;
    if (p[0] < 0x80) return 1;
    if (p[0] < 0xc2) return 0;
    n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (p[0] == 0xe0) low = 0xa0;  /* overlong */
    if (p[0] == 0xed) high = 0x9f; /* surrogates */
    if (p[0] == 0xf0) low = 0x90;  /* overlong */
    if (p[0] == 0xf4) high = 0x8f; /* above U+10FFFF */
    if (bytes < n || p[1] < low || p[1] > high) return 0;
    for (size_t i = 2; i < n; i++)
        if (p[i] < 0x80 || p[i] > 0xbf) return 0;
    return n;
}

bool utf8_valid(const char *text, size_t bytes) {
    for (size_t i = 0, n; i < bytes; i += n)
        if (!(n = utf8_char_bytes(text + i, bytes - i))) return false;
    return true;
}

/* The escape of a character that cannot stand as it is, NULL for all others. */
static const char *escape(unsigned char c, char buffer[8]) {
    switch (c) {
    case '"':
        return "\\\"";
    case '\\':
        return "\\\\";
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    default:
        if (c >= 0x20 && c != 0x7f) return NULL;
        snprintf(buffer, 8, "\\u%04x", c);
        return buffer;
    }
}

void json_out_string(struct out *o, const char *text, size_t bytes) {
    char buffer[8];
    size_t start = 0, i = 0; /* [start, i): bytes that stand as they are */
    reserve(o, bytes + 2);
    out_char(o, '"');
    while (i < bytes) {
        unsigned char c = (unsigned char)text[i];
        size_t n = c < 0x80 ? 1 : utf8_char_bytes(text + i, bytes - i);
        const char *replacement = NULL;
        if (n == 1)
            replacement = escape(c, buffer);
        else if (n == 0) {
            replacement = "\xef\xbf\xbd";
            n = 1;
        } else if (n == 3 && c == 0xe2 && text[i + 1] == '\x80' && (text[i + 2] == '\xa8' || text[i + 2] == '\xa9'))
            replacement = text[i + 2] == '\xa8' ? "\\u2028" : "\\u2029";
        if (replacement) {
            out_bytes(o, text + start, i - start);
            out_text(o, replacement);
            start = i + n;
        }
        i += n;
    }
    out_bytes(o, text + start, bytes - start);
    out_char(o, '"');
}

void json_out_cstring(struct out *o, const char *text) {
    if (text)
        json_out_string(o, text, strlen(text));
    else
        out_text(o, "null");
}

/* By hand: token ids come by the million, and printf takes ten times as long. */
void json_out_int(struct out *o, int64_t value) {
    char digits[24], *p = digits + sizeof digits;
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do *--p = (char)('0' + rest % 10);
    while (rest /= 10);
    if (value < 0) *--p = '-';
    out_bytes(o, p, (size_t)(digits + sizeof digits - p));
}

void json_out_float(struct out *o, float value) {
    char text[32];
    if (isnan(value)) value = -FLT_MAX;
    if (isinf(value)) value = value < 0 ? -FLT_MAX : FLT_MAX;
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) break;
    }
    out_text(o, text);
}
