/* arena.c - a chain of growing blocks. */
#include "rag/arena.h"

#include "kernels/status.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BYTES = 1024, MOST_BYTES = 1 << 20 };

struct arena_block {
    struct arena_block *before;
    alignas(16) char data[];
};

void *arena_take(struct arena *a, size_t bytes) {
    CHECK(bytes <= SIZE_MAX / 4);
    bytes = (bytes + 15) / 16 * 16;
    if (!a->last || a->capacity - a->used < bytes) {
        size_t capacity = a->capacity ? 2 * a->capacity : FIRST_BYTES;
        if (capacity > MOST_BYTES) capacity = MOST_BYTES;
        if (capacity < bytes) capacity = bytes;
        struct arena_block *block = malloc(sizeof *block + capacity);
        CHECK(block);
        block->before = a->last;
        *a = (struct arena){.last = block, .capacity = capacity, .bytes = a->bytes + sizeof *block + capacity};
    }
    char *p = a->last->data + a->used;
    a->used += bytes;
    return p;
}

char *arena_text(struct arena *a, const char *text, size_t n) {
    if (!text) return NULL;
    char *copy = arena_take(a, n + 1);
    memcpy(copy, text, n);
    copy[n] = 0;
    return copy;
}

void arena_deinit(struct arena *a) {
    while (a->last) {
        struct arena_block *before = a->last->before;
        free(a->last);
        a->last = before;
    }
    *a = (struct arena){0};
}

void *array_reserve(void *array, size_t *capacity, size_t n, size_t size) {
    if (n <= *capacity) return array;
    size_t more = *capacity ? *capacity : 16;
    while (more < n) more *= 2;
    CHECK(more <= SIZE_MAX / size);
    array = realloc(array, more * size);
    CHECK(array);
    *capacity = more;
    return array;
}
