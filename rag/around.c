/* around.c - what stands around a chunk in its document. */
#include "rag/search.h"

#include <stdlib.h>
#include <string.h>

enum { REACH = 64 /* chunks read in either direction: with no limit a section of a long book would be read whole */ };

static bool same_context(const struct store_chunk *a, const struct store_chunk *b) {
    return !strcmp(a->context ? a->context : "", b->context ? b->context : "");
}

int search_around(struct store *store, const char *tenant, int64_t chunk, enum surroundings kind, size_t max_bytes,
                  struct store_chunks *out, char *err, size_t err_bytes) {
    struct store_chunks one = {0};
    int status = store_chunk_get(store, tenant, &chunk, 1, &one, err, err_bytes);
    if (!status) {
        const int64_t at = one.data->ordinal;
        status = store_chunk_range(store, tenant, one.data->document, at > REACH ? at - REACH : 0, at + REACH, false,
                                   out, err, err_bytes);
    }
    store_chunks_deinit(&one);
    if (status) return status;
    size_t first = 0;
    while (first < out->n && out->data[first].id != chunk) first++;
    if (first == out->n) /* replaced between the two questions */
        return fail(err, err_bytes, STATUS_NOT_FOUND, "there is no chunk %lld", (long long)chunk);
    size_t last = first, bytes = strlen(out->data[first].text);
    bool more[2] = {true, true}; /* after it, before it */
    for (int side = 0; more[0] || more[1]; side = !side) {
        if (!more[side]) continue;
        const bool is_end = side ? first == 0 : last + 1 == out->n;
        const struct store_chunk *next = is_end ? NULL : &out->data[side ? first - 1 : last + 1];
        more[side] = next && bytes + strlen(next->text) <= max_bytes &&
                     (kind == NEIGHBOURS || same_context(next, &out->data[first]));
        if (!more[side]) continue;
        bytes += strlen(next->text);
        if (side)
            first--;
        else
            last++;
    }
    out->n = last - first + 1;
    memmove(out->data, out->data + first, out->n * sizeof *out->data);
    return 0;
}
