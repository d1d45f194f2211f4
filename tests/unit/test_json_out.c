/* JSON as it is written: escaping of arbitrary bytes, numbers that read back, growth. */
#include "server/json_out.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LITERAL(s) (s), sizeof(s) - 1

static void check_string(const char *text, size_t bytes, const char *expected) {
    struct out o = {0};
    json_out_string(&o, text, bytes);
    cr_assert_str_eq(o.data, expected);
    cr_assert_eq(o.bytes, strlen(expected));
    out_deinit(&o);
}

Test(json_out, strings) {
    check_string(LITERAL(""), "\"\"");
    check_string(LITERAL("a\"b\\c\n\r\t/"), "\"a\\\"b\\\\c\\n\\r\\t/\"");
    check_string(LITERAL("\0\x01\x1f\x7f"), "\"\\u0000\\u0001\\u001f\\u007f\"");
    check_string(LITERAL("gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80"), "\"gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80\"");
    check_string(LITERAL("\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa"), "\"\\u2028\\u2029\xe2\x80\xaa\"");
    check_string(LITERAL("x\xff\xc3"), "\"x\xef\xbf\xbd\xef\xbf\xbd\"");
    check_string(LITERAL("\xed\xa0\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""); /* a surrogate */
    check_string(LITERAL("\xe2\x80"), "\"\xef\xbf\xbd\xef\xbf\xbd\"");
}

/* Whatever the bytes, the string is valid JSON, and what was valid UTF-8 comes back as it was. */
Test(json_out, random_bytes_read_back) {
    char text[64], err[ERR_BYTES];
    srand(1);
    for (int round = 0; round < 20000; round++) {
        size_t n = (size_t)rand() % sizeof text;
        for (size_t i = 0; i < n; i++) text[i] = (char)(rand() % 4 ? rand() % 256 : rand() % 128 + 1);
        struct out o = {0};
        json_out_string(&o, text, n);
        cJSON *tree;
        cr_assert_eq(json_parse(&tree, o.data, o.bytes, (struct json_limits){1 << 20, 4}, err, sizeof err), 0, "%s",
                     err);
        if (utf8_valid(text, n) && !memchr(text, 0, n)) {
            cr_assert_eq(strlen(tree->valuestring), n);
            cr_assert_arr_eq(tree->valuestring, text, n);
        }
        cJSON_Delete(tree);
        out_deinit(&o);
    }
}

Test(json_out, floats) {
    static const float values[] = {0, -0.1f, 1e-30f, 3.14159274f, -12.3456789f, 16777216, FLT_MAX, FLT_MIN, 0x1p-149f};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        struct out o = {0};
        json_out_float(&o, values[i]);
        cr_assert_eq(strtof(o.data, NULL), values[i], "%s", o.data);
        out_deinit(&o);
    }
    struct out o = {0};
    json_out_float(&o, -INFINITY);
    cr_assert_eq(strtof(o.data, NULL), -FLT_MAX);
    out_clear(&o);
    json_out_float(&o, 0.5f);
    cr_assert_str_eq(o.data, "0.5");
    out_deinit(&o);
}

Test(json_out, integers) {
    struct out o = {0};
    static const int64_t values[] = {0, 7, -1, 10, 151935, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        json_out_int(&o, values[i]);
        out_char(&o, ' ');
    }
    cr_assert_str_eq(o.data, "0 7 -1 10 151935 9223372036854775807 -9223372036854775808 ");
    out_deinit(&o);
}

Test(json_out, growth) {
    struct out o = {0};
    for (int i = 0; i < 10000; i++) out_format(&o, "%d,", i % 10);
    cr_assert_eq(o.bytes, 20000);
    out_format(&o, "%0500d", 1);
    cr_assert_eq(o.bytes, 20500);
    cr_assert_eq(o.data[20499], '1');
    cr_assert_eq(o.data[20500], 0);
    out_deinit(&o);
}
