/* tokenizer_utf8.c - validation and repair of UTF-8, and the byte buffer that the tokenizer's files share. */
#include "engine/tokenizer_utf8.h"

#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>

size_t utf8_valid_bytes(const uint8_t *p, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        while (n - i >= sizeof eight) {
            memcpy(&eight, p + i, sizeof eight);
            if (eight & 0x8080808080808080u) break;
            i += sizeof eight;
        }
        if (i == n) break;
        int32_t c;
        size_t step = utf8_decode(p + i, n - i, &c);
        if (c < 0) return i;
        i += step;
    }
    return n;
}

uint8_t *bytes_reserve(struct bytes *b, size_t more) {
    if (b->capacity - b->n < more) {
        size_t capacity = b->capacity + b->capacity / 2 + more + 64;
        b->data = realloc(b->data, capacity);
        CHECK(b->data);
        b->capacity = capacity;
    }
    return b->data;
}

void bytes_append(struct bytes *b, const void *data, size_t n) {
    if (!n) return;
    bytes_reserve(b, n);
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

void utf8_append_lossy(struct bytes *b, const uint8_t *p, size_t n) {
    while (n) {
        size_t good = utf8_valid_bytes(p, n);
        bytes_append(b, p, good);
        p += good, n -= good;
        if (!n) break;
        int32_t c;
        size_t bad = utf8_decode(p, n, &c);
        bytes_append(b, UTF8_REPLACEMENT, UTF8_REPLACEMENT_BYTES);
        p += bad, n -= bad;
    }
}
