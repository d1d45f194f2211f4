/* Filters and attributes from any bytes: the text up to the first zero byte is a filter, what follows are attributes.
 *
 * Besides not crashing: what attributes_check accepts, it accepts again in its compact form, unchanged; a filter that
 * is parsed gives the same verdict twice, and within `and` and `or` by itself. */
#include "kernels/status.h"
#include "rag/filter.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static bool verdict(const char *filter, const struct attributes *a) {
    char err[ERR_BYTES] = "";
    struct filter *f = NULL;
    CHECK_EQ(filter_parse_text(&f, filter, err, sizeof err), 0);
    const bool pass = filter_pass(f, a);
    filter_close(f);
    return pass;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    char err[ERR_BYTES] = "", *compact = NULL, *again = NULL;
    struct arena arena = {0};
    struct attributes a = {0};
    struct filter *f = NULL;
    char *text = malloc(2 * bytes + 64);
    CHECK(text);
    const size_t n = strnlen((const char *)data, bytes);
    memcpy(text, data, n);
    text[n] = 0;
    char *attributes = text + n + 1;
    const size_t n_attributes = bytes > n ? bytes - n - 1 : 0;
    memcpy(attributes, data + n + (bytes > n), n_attributes);
    attributes[n_attributes] = 0;
    if (attributes_check(attributes, &compact, err, sizeof err)) {
        CHECK(*err);
        compact = NULL;
    } else {
        CHECK_EQ(attributes_check(compact, &again, err, sizeof err), 0);
        CHECK(!strcmp(compact, again));
        CHECK_EQ(attributes_parse(&a, &arena, compact, err, sizeof err), 0);
    }
    if (filter_parse_text(&f, text, err, sizeof err)) {
        CHECK(*err && !f);
    } else {
        const bool pass = filter_pass(f, &a);
        CHECK_EQ(verdict(text, &a), pass);
        char *group = malloc(n + 64);
        CHECK(group);
        for (int i = 0; f && i < 2; i++) {
            sprintf(group, "{\"type\":\"%s\",\"filters\":[%s]}", i ? "or" : "and", text);
            struct filter *g = NULL;
            if (filter_parse_text(&g, group, err, sizeof err)) continue; /* too deep, or too large, by one */
            CHECK_EQ(filter_pass(g, &a), pass);
            filter_close(g);
        }
        free(group);
    }
    filter_close(f);
    free(again);
    free(compact);
    arena_deinit(&arena);
    free(text);
    return 0;
}
