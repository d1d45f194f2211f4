/* arena.h - memory that is given back all at once: the strings of a list that a store returns, the terms of an index.
 *
 * Zero-initialise; arena_deinit frees everything. Running out of memory aborts. */
#pragma once

#include <stddef.h>

struct arena_block;
struct arena {
    struct arena_block *last; /* owned: a chain */
    size_t used, capacity;    /* of the last block */
    size_t bytes;             /* taken from the heap in all */
};

void *arena_take(struct arena *a, size_t bytes); /* 16-byte aligned, not zeroed */
/* A copy of n bytes and a terminating zero. NULL stays NULL. */
char *arena_text(struct arena *a, const char *text, size_t n);
void arena_deinit(struct arena *a); /* back to zero; fine on a zeroed one */

/* Doubles a heap array until it holds n elements of `size` bytes; *capacity counts elements. Returns the array, which
 * may have moved. Aborts without memory. */
void *array_reserve(void *array, size_t *capacity, size_t n, size_t size);
