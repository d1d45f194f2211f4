/* test_filter.c - attributes and filters: what passes, and the sentence for each thing that is refused. */
#include "kernels/status.h"
#include "rag/filter.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool passes(const char *filter, const char *attributes) {
    char err[ERR_BYTES] = "";
    struct filter *f = NULL;
    struct arena arena = {0};
    struct attributes a;
    cr_assert_eq(filter_parse_text(&f, filter, err, sizeof err), 0, "%s: %s", filter, err);
    cr_assert_eq(attributes_parse(&a, &arena, attributes, err, sizeof err), 0, "%s: %s", attributes, err);
    const bool pass = filter_pass(f, &a);
    filter_close(f);
    arena_deinit(&arena);
    return pass;
}

#define KEYED(type, value) "{\"type\":\"" type "\",\"key\":\"k\",\"value\":" value "}"

Test(filter, comparisons) {
    static const struct {
        const char *filter, *attributes;
        bool pass;
    } cases[] = {
        {KEYED("eq", "1"), "{\"k\":1}", true},
        {KEYED("eq", "1"), "{\"k\":1.0}", true},
        {KEYED("eq", "1"), "{\"k\":2}", false},
        {KEYED("eq", "1"), "{\"k\":\"1\"}", false},
        {KEYED("eq", "1"), "{\"k\":true}", false},
        {KEYED("eq", "true"), "{\"k\":true}", true},
        {KEYED("eq", "true"), "{\"k\":false}", false},
        {KEYED("eq", "\"x\""), "{\"k\":\"x\"}", true},
        {KEYED("eq", "\"x\""), "{\"K\":\"x\"}", false},
        {KEYED("eq", "\"x\""), "{}", false},
        {KEYED("ne", "1"), "{\"k\":1}", false},
        {KEYED("ne", "1"), "{\"k\":2}", true},
        {KEYED("ne", "1"), "{\"k\":\"1\"}", true},
        {KEYED("ne", "1"), "{}", true},
        {KEYED("gt", "1"), "{\"k\":1}", false},
        {KEYED("gt", "1"), "{\"k\":1.5}", true},
        {KEYED("gt", "1"), "{}", false},
        {KEYED("gte", "1"), "{\"k\":1}", true},
        {KEYED("gte", "1"), "{\"k\":\"2\"}", false},
        {KEYED("lt", "-1"), "{\"k\":-1.5}", true},
        {KEYED("lt", "1"), "{\"k\":1}", false},
        {KEYED("lte", "1"), "{\"k\":1}", true},
        {KEYED("lte", "1"), "{\"k\":true}", false},
        {KEYED("gte", "\"2024-03\""), "{\"k\":\"2024-03-05\"}", true},
        {KEYED("lt", "\"2024-03\""), "{\"k\":\"2024-02-28\"}", true},
        {KEYED("in", "[1,\"a\",true]"), "{\"k\":\"a\"}", true},
        {KEYED("in", "[1,\"a\",true]"), "{\"k\":true}", true},
        {KEYED("in", "[1,\"a\",true]"), "{\"k\":false}", false},
        {KEYED("in", "[]"), "{\"k\":1}", false},
        {KEYED("nin", "[]"), "{\"k\":1}", true},
        {KEYED("nin", "[1,2]"), "{\"k\":2}", false},
        {KEYED("nin", "[1,2]"), "{}", true},
        {"null", "{\"k\":1}", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_assert_eq(passes(cases[i].filter, cases[i].attributes), cases[i].pass, "%s of %s", cases[i].filter,
                     cases[i].attributes);
}

#define A "{\"type\":\"eq\",\"key\":\"a\",\"value\":1}"
#define B "{\"type\":\"eq\",\"key\":\"b\",\"value\":1}"
#define C "{\"type\":\"eq\",\"key\":\"c\",\"value\":1}"

/* All truth tables of nested groups against the expression itself. */
Test(filter, groups) {
    for (int bits = 0; bits < 8; bits++) {
        const bool a = bits & 1, b = bits & 2, c = bits & 4;
        char attributes[64];
        snprintf(attributes, sizeof attributes, "{\"a\":%d,\"b\":%d,\"c\":%d}", a, b, c);
        cr_assert_eq(passes("{\"type\":\"and\",\"filters\":[" A "," B "," C "]}", attributes), a && b && c);
        cr_assert_eq(passes("{\"type\":\"or\",\"filters\":[" A "," B "," C "]}", attributes), a || b || c);
        cr_assert_eq(
            passes("{\"type\":\"or\",\"filters\":[{\"type\":\"and\",\"filters\":[" A "," B "]}," C "]}", attributes),
            (a && b) || c);
        cr_assert_eq(
            passes("{\"type\":\"and\",\"filters\":[{\"type\":\"or\",\"filters\":[" A "," B "]}," C "]}", attributes),
            (a || b) && c);
        cr_assert_eq(passes("{\"type\":\"and\",\"filters\":[" C
                            ",{\"type\":\"or\",\"filters\":[{\"type\":\"and\",\"filters\":[" A "]}," B "]}]}",
                            attributes),
                     c && (a || b));
    }
}

static void refused(const char *filter, const char *part) {
    char err[ERR_BYTES] = "";
    struct filter *f = NULL;
    int status = filter_parse_text(&f, filter, err, sizeof err);
    cr_assert(status == STATUS_INVALID || status == STATUS_TOO_LARGE, "%.100s: %s", filter, status_text(status));
    cr_assert_null(f);
    cr_assert(strstr(err, part), "%.100s: expected a sentence with \"%s\", found \"%s\"", filter, part, err);
}

Test(filter, what_is_refused) {
    refused("[]", "expected an object, found an array");
    refused("{}", "found nothing");
    refused("{\"type\":1}", "type: expected a string");
    refused("{\"type\":\"like\",\"key\":\"k\",\"value\":1}", "found like");
    refused("{\"type\":\"eq\",\"value\":1}", "needs a key");
    refused("{\"type\":\"eq\",\"key\":\"\",\"value\":1}", "1 to 64 characters, found 0");
    refused("{\"type\":\"eq\",\"key\":\"k\"}", "found nothing");
    refused("{\"type\":\"eq\",\"key\":\"k\",\"value\":null}", "found null");
    refused("{\"type\":\"eq\",\"key\":\"k\",\"value\":[1]}", "found an array");
    refused("{\"type\":\"in\",\"key\":\"k\",\"value\":1}", "\"in\" expects an array, found a number");
    refused("{\"type\":\"in\",\"key\":\"k\",\"value\":[{}]}", "found an object");
    refused("{\"type\":\"gt\",\"key\":\"k\",\"value\":true}", "found a boolean");
    refused("{\"type\":\"eq\",\"key\":\"k\",\"value\":1,\"values\":2}", "no field \"values\"");
    refused("{\"type\":\"and\",\"filters\":[]}", "an empty one");
    refused("{\"type\":\"and\",\"key\":\"k\",\"value\":1}", "no field \"key\"");
    refused("{\"type\":\"or\",\"filters\":{}}", "found an object");
    refused("{\"type\":\"or\",\"filters\":[1]}", "found a number");
    refused("{\"type\":\"eq\",\"key\":\"k\",\"value\":\"\xff\"}", "UTF-8");
    char deep[4096] = "", wide[40000] = "{\"type\":\"in\",\"key\":\"k\",\"value\":[1";
    for (int i = 0; i < FILTER_MAX_DEPTH; i++) strcat(deep, "{\"type\":\"and\",\"filters\":[");
    strcat(deep, A);
    for (int i = 0; i < FILTER_MAX_DEPTH; i++) strcat(deep, "]}");
    refused(deep, "depth of at most 16");
    for (int i = 0; i < FILTER_MAX_NODES; i++) strcat(wide, ",1");
    strcat(wide, "]}");
    refused(wide, "at most 512");
}

Test(filter, attributes_have_bounds) {
    char err[ERR_BYTES] = "", text[2048], *compact = NULL;
    char long_key[256] = "{\"", long_value[2048] = "{\"k\":\"", many[512] = "{";
    for (int i = 0; i < 65; i++) strcat(long_key, "\xC3\xA4");
    strcat(long_key, "\":1}");
    cr_assert_eq(attributes_check(long_key, NULL, err, sizeof err), STATUS_INVALID);
    memmove(long_key + 2, long_key + 4, strlen(long_key + 4) + 1); /* 64 characters of two bytes */
    cr_assert_eq(attributes_check(long_key, NULL, err, sizeof err), 0, "%s", err);
    for (int i = 0; i < 513; i++) strcat(long_value, "x");
    strcat(long_value, "\"}");
    cr_assert_eq(attributes_check(long_value, NULL, err, sizeof err), STATUS_INVALID);
    memmove(long_value + 6, long_value + 7, strlen(long_value + 7) + 1);
    cr_assert_eq(attributes_check(long_value, NULL, err, sizeof err), 0, "%s", err);
    for (int i = 0; i < 17; i++) {
        snprintf(text, sizeof text, "%s\"k%d\":%d", i ? "," : "", i, i);
        strcat(many, text);
        if (i < 15) continue;
        snprintf(text, sizeof text, "%s}", many);
        cr_assert_eq(attributes_check(text, NULL, err, sizeof err), i == 16 ? STATUS_INVALID : 0);
    }
    cr_assert_eq(attributes_check("{ \"a\" : \"\\u00e4\" }", &compact, err, sizeof err), 0);
    cr_assert_str_eq(compact, "{\"a\":\"\xC3\xA4\"}");
    free(compact);
    cr_assert_eq(attributes_check(NULL, &compact, err, sizeof err), 0);
    cr_assert_str_eq(compact, "{}");
    free(compact);
}
