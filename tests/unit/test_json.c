/* json.h: the JSONTestSuite, the bounds, the sentences, and that reading is linear. */
#include "kernels/status.h"
#include "weights/json.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SUITE "../shared/data/json/JSONTestSuite/test_parsing"

static const struct json_limits LIMITS = {.max_bytes = 1 << 24, .max_depth = 1000};
static char err[ERR_BYTES];

static cJSON *parse(const char *text) {
    cJSON *root;
    cr_assert_eq(json_parse(&root, text, strlen(text), LIMITS, err, sizeof err), 0, "%s", err);
    cr_assert_not_null(root);
    return root;
}

static void refused_bytes(const char *text, size_t bytes, int status, const char *sentence) {
    cJSON *root = (cJSON *)text;
    cr_expect_eq(json_parse(&root, text, bytes, LIMITS, err, sizeof err), status, "%s", text);
    cr_expect_null(root);
    cr_expect_str_eq(err, sentence);
}

static void refused(const char *text, const char *sentence) {
    refused_bytes(text, strlen(text), STATUS_INVALID, sentence);
}

Test(json, test_suite) {
    int n[3] = {0};
    struct dirent *entry;
    DIR *dir = opendir(SUITE);
    if (!dir) cr_skip_test("the JSONTestSuite is not at " SUITE);
    while ((entry = readdir(dir))) {
        char path[1024];
        if (!strstr(entry->d_name, ".json")) continue;
        snprintf(path, sizeof path, SUITE "/%s", entry->d_name);
        cJSON *root;
        int status = json_parse_file(&root, path, LIMITS, err, sizeof err);
        switch (entry->d_name[0]) {
        case 'y':
            n[0]++;
            cr_expect_eq(status, 0, "%s", err);
            break;
        case 'n':
            n[1]++;
            cr_expect(status == STATUS_INVALID || status == STATUS_TOO_LARGE, "%s was accepted", path);
            break;
        case 'i':
            n[2]++;
            break;
        default:
            cr_expect_fail("%s has an unknown prefix", path);
        }
        cr_expect_eq(status == 0, root != NULL);
        cJSON_Delete(root);
    }
    closedir(dir);
    cr_expect(n[0] >= 95 && n[1] >= 188 && n[2] >= 35, "found %d + %d + %d files", n[0], n[1], n[2]);
}

Test(json, values) {
    cJSON *root = parse(" {\"a\": [1, -2.5e3, true, false, null, \"\\u20ac\\ud83d\\ude00\\n\"], \"\": {}}\r\n\t ");
    const cJSON *a = json_find(root, "a");
    cr_assert_eq(cJSON_GetArraySize(a), 6);
    cr_expect_eq(cJSON_GetArrayItem(a, 1)->valuedouble, -2500);
    cr_expect_str_eq(cJSON_GetArrayItem(a, 5)->valuestring, "\xe2\x82\xac\xf0\x9f\x98\x80\n");
    cr_expect_not_null(json_find(root, ""));
    cr_expect_null(json_find(root, "A"), "names count with their case");
    cJSON_Delete(root);

    /* the parser must not read past its bytes: there is no terminator */
    char *text = malloc(4);
    memcpy(text, "true", 4);
    cr_assert_eq(json_parse(&root, text, 4, LIMITS, err, sizeof err), 0);
    cr_expect(cJSON_IsTrue(root));
    cJSON_Delete(root);
    cr_expect_neq(json_parse(&root, text, 3, LIMITS, err, sizeof err), 0);
    free(text);
}

Test(json, zero_escape_is_not_cut) {
    cJSON *root = parse("{\"a\\u0000b\": \"x\\u0000y\\\\u0000\"}");
    cr_expect_str_eq(root->child->string, "a\xef\xbf\xbd"
                                          "b");
    cr_expect_str_eq(root->child->valuestring, "x\xef\xbf\xbdy\\u0000", "an escaped backslash starts no escape");
    cJSON_Delete(root);
}

Test(json, long_numbers) {
    char text[1200] = "[0.", zeros[901];
    memset(zeros, '0', 900);
    zeros[900] = 0;
    strcat(text, zeros);
    strcat(text, "25e900, 7, \"1234567890123456789012345678901234567890123456789012345678901234567890\"]");
    cJSON *root = parse(text);
    cr_expect_eq(root->child->valuedouble, 0.25);
    cr_expect_eq(root->child->next->valuedouble, 7);
    cr_expect_eq(strlen(root->child->next->next->valuestring), 70);
    cJSON_Delete(root);

    refused_bytes("[1e999]", 7, STATUS_TOO_LARGE,
                  "JSON at byte 1: expected a number within +-1.8e308, found a larger one");
    zeros[0] = '9';
    refused_bytes(zeros, 400, STATUS_TOO_LARGE,
                  "JSON at byte 0: expected a number within +-1.8e308, found a larger one");
    char longest[1025];
    memset(longest, '1', 1025);
    longest[1] = '.';
    refused_bytes(longest, 1025, STATUS_TOO_LARGE,
                  "JSON at byte 0: expected a number of at most 1024 bytes, found one of 1025");
    cr_expect_eq(json_parse(&root, longest, 1024, LIMITS, err, sizeof err), 0);
    cJSON_Delete(root);
}

Test(json, sentences) {
    refused("", "invalid JSON at byte 0: expected a value, found the end of the text");
    refused("\xef\xbb\xbf{}", "invalid JSON at byte 0: expected a value, found byte 0xef");
    refused("{}x", "invalid JSON at byte 2: expected the end of the text after the value, found 'x'");
    refused("[1,]", "invalid JSON at byte 3: expected a value, found ']'");
    refused("[,", "invalid JSON at byte 1: expected a value or ']', found ','");
    refused("[1 2", "invalid JSON at byte 3: expected ',' or ']', found '2'");
    refused("{1", "invalid JSON at byte 1: expected a member name or '}', found '1'");
    refused("{\"a\" 1", "invalid JSON at byte 5: expected ':' after a member name, found '1'");
    refused("{\"a\":1]", "invalid JSON at byte 6: expected ',' or '}', found ']'");
    refused("{\"a\":1,}", "invalid JSON at byte 7: expected a member name, found '}'");
    refused("trUe", "invalid JSON at byte 2: expected true, false or null, found 'U'");
    refused("01", "invalid JSON at byte 1: expected no digit after a leading zero, found '1'");
    refused("-x", "invalid JSON at byte 1: expected a digit after '-', found 'x'");
    refused("1.", "invalid JSON at byte 2: expected a digit after the decimal point, found the end of the text");
    refused("1e+", "invalid JSON at byte 3: expected a digit in the exponent, found the end of the text");
    refused("\"a\nb\"",
            "invalid JSON at byte 2: expected a character of a string or its closing quote, found byte 0x0a");
    refused("\"\\x\"", "invalid JSON at byte 2: expected one of \"\\/bfnrtu after a backslash, found 'x'");
    refused("\"\\u12g4\"", "invalid JSON at byte 5: expected four hexadecimal digits after \\u, found 'g'");
    refused("\"\\ud800\"",
            "invalid JSON at byte 7: expected the \\u escape of a low surrogate after a high one, found '\"'");
    refused("\"\\ud800\\ud800\"",
            "invalid JSON at byte 7: expected the \\u escape of a low surrogate after a high one, found '\\'");
    refused("\"\\udc00\"",
            "invalid JSON at byte 1: expected no low surrogate without the high one before it, found '\\'");
    refused("\"\xc0\x80\"", "invalid JSON at byte 1: expected valid UTF-8, found byte 0xc0");
    refused_bytes("[\0]", 3, STATUS_INVALID, "invalid JSON at byte 1: expected a value or ']', found byte 0x00");
}

Test(json, utf8) {
    /* first and last of each length are fine; overlong forms, surrogates, what is beyond U+10FFFF and cut ones are not
     */
    static const char *const good[] = {"\x7f",         "\xc2\x80",         "\xdf\xbf",
                                       "\xe0\xa0\x80", "\xed\x9f\xbf",     "\xee\x80\x80",
                                       "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {
        "\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
        "\xff", "\xe2\x82", "\xf0\x9f\x98", "\xc2"};
    char text[16];
    cJSON *root;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        snprintf(text, sizeof text, "\"%s\"", good[i]);
        cr_expect_eq(json_parse(&root, text, strlen(text), LIMITS, err, sizeof err), 0, "good[%zu]: %s", i, err);
        cJSON_Delete(root);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(text, sizeof text, "\"%s\"", bad[i]);
        cr_expect_eq(json_parse(&root, text, strlen(text), LIMITS, err, sizeof err), STATUS_INVALID, "bad[%zu]", i);
        cr_expect_eq(json_parse(&root, text, strlen(text) - 1, LIMITS, err, sizeof err), STATUS_INVALID, "bad[%zu]", i);
    }
}

Test(json, bounds) {
    cJSON *root;
    struct json_limits limits = {.max_bytes = 6, .max_depth = 3};
    cr_assert_eq(json_parse(&root, "[[[]]]", 6, limits, err, sizeof err), 0);
    cJSON_Delete(root);
    cr_expect_eq(json_parse(&root, "[[[]]] ", 7, limits, err, sizeof err), STATUS_TOO_LARGE);
    cr_expect_str_eq(err, "expected JSON of at most 6 bytes, found 7");
    cr_expect_eq(json_parse(&root, "[[{\"a\"", 6, (struct json_limits){100, 2}, err, sizeof err), STATUS_TOO_LARGE);
    cr_expect_str_eq(err, "JSON at byte 2: expected at most 2 nested arrays and objects, found more");
    /* depth is of what is open, not of what was */
    limits.max_bytes = 100;
    cr_expect_eq(json_parse(&root, "[[[]],[[]],{\"a\":{}}]", 20, limits, err, sizeof err), 0, "%s", err);
    cJSON_Delete(root);

    char deep[2002];
    memset(deep, '[', 1001);
    memset(deep + 1001, ']', 1001);
    cr_expect_eq(json_parse(&root, deep, 2002, LIMITS, err, sizeof err), STATUS_TOO_LARGE);
    cr_expect_eq(json_parse(&root, deep + 1, 2000, LIMITS, err, sizeof err), 0, "%s", err);
    cJSON_Delete(root);
}

Test(json, fields) {
    cJSON *root =
        parse("{\"n\":7,\"f\":0.5,\"b\":true,\"s\":\"text\",\"z\":null,\"big\":9007199254740993e3,"
              "\"twice\":1,\"twice\":2,\"evil\":\"a\\u001b[31m\\nb, and a text that goes on and on and on, and on\"}");
    int64_t n = -1;
    double f = -1;
    bool b = false;
    const char *s = "default";
    cr_expect_eq(json_get_int(root, "n", 7, 7, &n, err, sizeof err), 0);
    cr_expect_eq(n, 7);
    cr_expect_eq(json_get_double(root, "f", 0, 1, &f, err, sizeof err), 0);
    cr_expect_eq(f, 0.5);
    cr_expect_eq(json_get_bool(root, "b", &b, err, sizeof err), 0);
    cr_expect(b);
    cr_expect_eq(json_get_string(root, "s", &s, err, sizeof err), 0);
    cr_expect_str_eq(s, "text");
    cr_expect_eq(json_get_int(root, "twice", 0, 9, &n, err, sizeof err), 0);
    cr_expect_eq(n, 2, "the last of two members with one name counts, as in Python");

    n = -1, s = "default"; /* absent and null keep the default */
    cr_expect_eq(json_get_int(root, "absent", 0, 9, &n, err, sizeof err), 0);
    cr_expect_eq(json_get_string(root, "z", &s, err, sizeof err), 0);
    cr_expect_eq(json_get_int(NULL, "n", 0, 9, &n, err, sizeof err), 0);
    cr_expect(n == -1 && !strcmp(s, "default"));

    cr_expect_eq(json_get_int(root, "n", 8, 9, &n, err, sizeof err), STATUS_INVALID);
    cr_expect_str_eq(err, "n: expected an integer from 8 to 9, found 7");
    cr_expect_eq(json_get_int(root, "f", 0, 9, &n, err, sizeof err), STATUS_INVALID);
    cr_expect_str_eq(err, "f: expected an integer from 0 to 9, found 0.5");
    cr_expect_eq(json_get_int(root, "s", 0, 9, &n, err, sizeof err), STATUS_INVALID);
    cr_expect_str_eq(err, "s: expected an integer from 0 to 9, found \"text\"");
    cr_expect_eq(json_get_int(root, "big", 0, INT64_MAX, &n, err, sizeof err), STATUS_INVALID, "beyond 2^53");
    cr_expect_eq(json_get_double(root, "n", -1, 1.5, &f, err, sizeof err), STATUS_INVALID);
    cr_expect_str_eq(err, "n: expected a number from -1 to 1.5, found 7");
    cr_expect_eq(json_get_bool(root, "n", &b, err, sizeof err), STATUS_INVALID);
    cr_expect_str_eq(err, "n: expected true or false, found 7");
    cr_expect_eq(json_get_string(root, "b", &s, err, sizeof err), STATUS_INVALID);
    cr_expect_str_eq(err, "b: expected a string, found true");
    cr_expect_eq(json_get_bool(root, "evil", &b, err, sizeof err), STATUS_INVALID);
    cr_expect_str_eq(err, "evil: expected true or false, found \"a?[31m?b, and a text that goes on and on and...\"",
                     "no control character of a file reaches the terminal");
    cJSON_Delete(root);
}

Test(json, files) {
    char path[] = "/tmp/test_json_XXXXXX", expected[ERR_BYTES];
    cJSON *root;
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, "[1,2", 4) == 4);
    cr_expect_eq(json_parse_file(&root, path, LIMITS, err, sizeof err), STATUS_INVALID);
    snprintf(expected, sizeof expected, "%s: invalid JSON at byte 4: expected ',' or ']', found the end of the text",
             path);
    cr_expect_str_eq(err, expected);
    cr_expect_eq(json_parse_file(&root, path, (struct json_limits){3, 1}, err, sizeof err), STATUS_TOO_LARGE);
    snprintf(expected, sizeof expected, "%s: expected at most 3 bytes, found 4", path);
    cr_expect_str_eq(err, expected);
    cr_assert_eq(write(fd, "]", 1), 1);
    cr_expect_eq(json_parse_file(&root, path, LIMITS, err, sizeof err), 0, "%s", err);
    cr_expect_eq(cJSON_GetArraySize(root), 2);
    cJSON_Delete(root);
    close(fd);
    unlink(path);
    cr_expect_eq(json_parse_file(&root, path, LIMITS, err, sizeof err), STATUS_NOT_FOUND);
    snprintf(expected, sizeof expected, "%s: cannot be opened: No such file or directory", path);
    cr_expect_str_eq(err, expected);
    cr_expect_eq(json_parse_file(&root, "/tmp", LIMITS, err, sizeof err), STATUS_IO);
    cr_expect_str_eq(err, "/tmp: expected a regular file, found something else");
}

/* A vocabulary of 150,000 entries and 150,000 merges, about 8 MB: what a tokenizer.json holds. */
Test(json, large_file_is_linear, .timeout = 60) {
    size_t capacity = 16 << 20, n = 0;
    char *text = malloc(capacity);
    n += (size_t)sprintf(text + n, "{\"vocab\":{");
    for (int i = 0; i < 150000; i++) n += (size_t)sprintf(text + n, "%s\"\\u0120token%d\":%d", i ? "," : "", i, i);
    n += (size_t)sprintf(text + n, "},\"merges\":[");
    for (int i = 0; i < 150000; i++) n += (size_t)sprintf(text + n, "%s[\"left%d\",\"right%d\"]", i ? "," : "", i, i);
    n += (size_t)sprintf(text + n, "]}");
    cr_assert_lt(n, capacity);
    struct timespec a, b;
    cJSON *root;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    cr_assert_eq(json_parse(&root, text, n, LIMITS, err, sizeof err), 0, "%s", err);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    double seconds = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    cr_expect_lt(seconds, 3.0, "%.1f MB took %.2f s", (double)n / 1e6, seconds);
    int64_t sum = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, json_find(root, "vocab")) sum += item->valueint;
    cr_expect_eq(sum, 150000LL * 149999 / 2);
    cJSON_Delete(root);
    free(text);
}
