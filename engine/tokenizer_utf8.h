/* tokenizer_utf8.h - UTF-8 as the Unicode standard's table 3-7 has it.
 *
 * Invalid bytes follow Unicode's practice of "substitution of maximal subparts" (chapter 3.9), which is also what
 * Python's errors="replace" and Rust's from_utf8_lossy do: the longest prefix of a well-formed character counts as one
 * U+FFFD, any other byte as one each. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define UTF8_REPLACEMENT       "\xEF\xBF\xBD" /* U+FFFD */
#define UTF8_REPLACEMENT_BYTES 3

enum { UTF8_INVALID = -1, UTF8_TRUNCATED = -2 };

/* Bytes of the character at p[0..n), n > 0; *c is the code point, or UTF8_INVALID for a maximal subpart that can never
 * become a character, or UTF8_TRUNCATED for one that the end of the buffer cuts. */
static inline size_t utf8_decode(const uint8_t *p, size_t n, int32_t *c) {
    if (p[0] < 0x80) {
        *c = p[0];
        return 1;
    }
    uint8_t low = 0x80, high = 0xBF;
    size_t need;
    if (p[0] >= 0xC2 && p[0] < 0xE0) {
        need = 2;
        *c = p[0] & 0x1F;
    } else if (p[0] >= 0xE0 && p[0] < 0xF0) {
        need = 3;
        *c = p[0] & 0x0F;
        if (p[0] == 0xE0) low = 0xA0;  /* overlong */
        if (p[0] == 0xED) high = 0x9F; /* surrogates */
    } else if (p[0] >= 0xF0 && p[0] < 0xF5) {
        need = 4;
        *c = p[0] & 0x07;
        if (p[0] == 0xF0) low = 0x90;  /* overlong */
        if (p[0] == 0xF4) high = 0x8F; /* above U+10FFFF */
    } else {
        *c = UTF8_INVALID;
        return 1;
    }
    for (size_t i = 1; i < need; i++) {
        if (i == n) {
            *c = UTF8_TRUNCATED;
            return i;
        }
        if (p[i] < low || p[i] > high) {
            *c = UTF8_INVALID;
            return i;
        }
        *c = *c << 6 | (p[i] & 0x3F);
        low = 0x80, high = 0xBF;
    }
    return need;
}

/* The same for text that is known to be valid. */
static inline size_t utf8_decode_valid(const uint8_t *p, int32_t *c) {
    if (p[0] < 0x80) {
        *c = p[0];
        return 1;
    }
    if (p[0] < 0xE0) {
        *c = (p[0] & 0x1F) << 6 | (p[1] & 0x3F);
        return 2;
    }
    if (p[0] < 0xF0) {
        *c = (p[0] & 0x0F) << 12 | (p[1] & 0x3F) << 6 | (p[2] & 0x3F);
        return 3;
    }
    *c = (p[0] & 0x07) << 18 | (p[1] & 0x3F) << 12 | (p[2] & 0x3F) << 6 | (p[3] & 0x3F);
    return 4;
}

/* Writes 1..4 bytes. c is a Unicode scalar value. */
static inline size_t utf8_encode(uint8_t *p, int32_t c) {
    if (c < 0x80) {
        p[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        p[0] = (uint8_t)(0xC0 | c >> 6);
        p[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        p[0] = (uint8_t)(0xE0 | c >> 12);
        p[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        p[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    p[0] = (uint8_t)(0xF0 | c >> 18);
    p[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    p[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    p[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

/* Length of the longest prefix of p[0..n) that is valid UTF-8: n if all of it is. */
size_t utf8_valid_bytes(const uint8_t *p, size_t n);

/* A growing byte buffer: zero-initialise, free(data). Running out of memory aborts. */
struct bytes {
    uint8_t *data; /* owned */
    size_t n, capacity;
};
/* Makes room for `more` bytes beyond n, and returns data. */
uint8_t *bytes_reserve(struct bytes *b, size_t more);
void bytes_append(struct bytes *b, const void *data, size_t n);
/* Appends p[0..n) with U+FFFD for each invalid sequence. */
void utf8_append_lossy(struct bytes *b, const uint8_t *p, size_t n);
