/* json.c - a strict RFC 8259 checker in front of cJSON.
 *
 * cJSON accepts more than JSON (control characters in strings, invalid UTF-8, "01", bytes after the value) and
 * truncates strings at \u0000; older releases cannot read a number of more than 63 bytes (CVE-2023-26819). So
 * one pass over the text decides, without recursion and without memory: a loop over tokens whose state is what may come
 * next, and one flag per open level (array or object). Only a text that passed reaches cJSON; where it holds one of the
 * two things that cJSON cannot read, cJSON gets a copy in which they are rewritten in place. */
#include "weights/json.h"

#include "kernels/status.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CJSON_NUMBER_BYTES 63                 /* what cJSON's parse_number copies in old releases */
#define JSON_MAX_NUMBER    1024               /* the shortest exact form of any double has 767 digits */
#define JSON_EXCERPT_BYTES 48                 /* of a value shown in a sentence */
#define JSON_MAX_EXACT     9007199254740992.0 /* 2^53 */

_Static_assert(CJSON_NESTING_LIMIT >= JSON_MAX_DEPTH, "cJSON must accept every depth that we accept");

struct scan {
    const unsigned char *text; /* borrowed from the caller */
    size_t at, bytes;
    bool has_zero;        /* a \u0000 escape was seen */
    bool has_long_number; /* a number longer than CJSON_NUMBER_BYTES was seen */
    char *err;
    size_t err_bytes;
};

/* ---- the syntax check ------------------------------------------------------------------------------------------- */

/* The sentence for a fault at s->at. */
static int scan_fail(struct scan *s, const char *expected) {
    char found[32];
    if (s->at >= s->bytes)
        snprintf(found, sizeof found, "the end of the text");
    else if (s->text[s->at] >= 0x20 && s->text[s->at] < 0x7f)
        snprintf(found, sizeof found, "'%c'", s->text[s->at]);
    else
        snprintf(found, sizeof found, "byte 0x%02x", s->text[s->at]);
    return fail(s->err, s->err_bytes, STATUS_INVALID, "invalid JSON at byte %zu: expected %s, found %s", s->at,
                expected, found);
}

static int peek(const struct scan *s) {
    return s->at < s->bytes ? s->text[s->at] : -1;
}

static bool is_digit(int c) {
    return c >= '0' && c <= '9';
}

static void skip_space(struct scan *s) {
    while (peek(s) == ' ' || peek(s) == '\t' || peek(s) == '\n' || peek(s) == '\r') s->at++;
}

/* Length of the well-formed UTF-8 character at s->at (Unicode, table 3-7), 0 if there is none. */
static size_t utf8_length(const struct scan *s) {
    const unsigned char *p = s->text + s->at;
    size_t left = s->bytes - s->at, n;
    unsigned char low = 0x80, high = 0xbf;
    if (p[0] < 0x80) return 1;
    if (p[0] < 0xc2) return 0;
    if (p[0] < 0xe0)
        n = 2;
    else if (p[0] < 0xf0)
        n = 3;
    else if (p[0] < 0xf5)
        n = 4;
    else
        return 0;
    if (p[0] == 0xe0) low = 0xa0;  /* overlong */
    if (p[0] == 0xed) high = 0x9f; /* surrogates */
    if (p[0] == 0xf0) low = 0x90;  /* overlong */
    if (p[0] == 0xf4) high = 0x8f; /* above U+10FFFF */
    if (left < n || p[1] < low || p[1] > high) return 0;
    for (size_t i = 2; i < n; i++)
        if (p[i] < 0x80 || p[i] > 0xbf) return 0;
    return n;
}

/* The four digits of a \u escape, of which s->at is the first. */
static int scan_hex4(struct scan *s, unsigned *code) {
    *code = 0;
    for (int i = 0; i < 4; i++, s->at++) {
        int c = peek(s);
        if (is_digit(c))
            *code = *code << 4 | (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            *code = *code << 4 | (unsigned)(c - 'a' + 10);
        else if (c >= 'A' && c <= 'F')
            *code = *code << 4 | (unsigned)(c - 'A' + 10);
        else
            return scan_fail(s, "four hexadecimal digits after \\u");
    }
    return 0;
}

/* s->at is the 'u' of an escape. Surrogates must come as a pair. */
static int scan_unicode_escape(struct scan *s) {
    unsigned code;
    s->at++;
    int status = scan_hex4(s, &code);
    if (status) return status;
    if (code == 0) s->has_zero = true;
    if (code < 0xd800 || code > 0xdfff) return 0;
    if (code >= 0xdc00) {
        s->at -= 6;
        return scan_fail(s, "no low surrogate without the high one before it");
    }
    if (s->bytes - s->at < 2 || s->text[s->at] != '\\' || s->text[s->at + 1] != 'u')
        return scan_fail(s, "the \\u escape of a low surrogate after a high one");
    s->at += 2;
    status = scan_hex4(s, &code);
    if (status) return status;
    if (code >= 0xdc00 && code <= 0xdfff) return 0;
    s->at -= 6;
    return scan_fail(s, "the \\u escape of a low surrogate after a high one");
}

/* s->at is the opening quote; leaves s->at after the closing one. */
static int scan_string(struct scan *s) {
    s->at++;
    for (;;) {
        int c = peek(s);
        if (c == '"') {
            s->at++;
            return 0;
        }
        if (c < 0x20) return scan_fail(s, "a character of a string or its closing quote");
        if (c == '\\') {
            s->at++;
            int status = 0;
            c = peek(s);
            if (c == 'u')
                status = scan_unicode_escape(s);
            else if (c > 0 && strchr("\"\\/bfnrt", c))
                s->at++;
            else
                status = scan_fail(s, "one of \"\\/bfnrtu after a backslash");
            if (status) return status;
        } else {
            size_t n = utf8_length(s);
            if (!n) return scan_fail(s, "valid UTF-8");
            s->at += n;
        }
    }
}

static bool number_is_finite(const char *text, size_t bytes) {
    char buffer[JSON_MAX_NUMBER + 1];
    memcpy(buffer, text, bytes);
    buffer[bytes] = 0;
    return isfinite(strtod(buffer, NULL));
}

/* s->at is '-' or a digit. */
static int scan_number(struct scan *s) {
    size_t start = s->at;
    bool has_exponent = false;
    if (peek(s) == '-') s->at++;
    if (!is_digit(peek(s))) return scan_fail(s, "a digit after '-'");
    if (peek(s) == '0')
        s->at++;
    else
        while (is_digit(peek(s))) s->at++;
    if (is_digit(peek(s))) return scan_fail(s, "no digit after a leading zero");
    if (peek(s) == '.') {
        s->at++;
        if (!is_digit(peek(s))) return scan_fail(s, "a digit after the decimal point");
        while (is_digit(peek(s))) s->at++;
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        has_exponent = true;
        s->at++;
        if (peek(s) == '+' || peek(s) == '-') s->at++;
        if (!is_digit(peek(s))) return scan_fail(s, "a digit in the exponent");
        while (is_digit(peek(s))) s->at++;
    }
    size_t bytes = s->at - start;
    if (bytes > JSON_MAX_NUMBER)
        return fail(s->err, s->err_bytes, STATUS_TOO_LARGE,
                    "JSON at byte %zu: expected a number of at most %d bytes, found one of %zu", start, JSON_MAX_NUMBER,
                    bytes);
    if (bytes > CJSON_NUMBER_BYTES) s->has_long_number = true;
    if ((has_exponent || bytes > CJSON_NUMBER_BYTES) && !number_is_finite((const char *)s->text + start, bytes))
        return fail(s->err, s->err_bytes, STATUS_TOO_LARGE,
                    "JSON at byte %zu: expected a number within +-1.8e308, found a larger one", start);
    return 0;
}

static int scan_word(struct scan *s, const char *word) {
    for (; *word; word++, s->at++)
        if (peek(s) != *word) return scan_fail(s, "true, false or null");
    return 0;
}

static int scan_scalar(struct scan *s, const char *expected) {
    int c = peek(s);
    if (c == '"') return scan_string(s);
    if (c == '-' || is_digit(c)) return scan_number(s);
    if (c == 't') return scan_word(s, "true");
    if (c == 'f') return scan_word(s, "false");
    if (c == 'n') return scan_word(s, "null");
    return scan_fail(s, expected);
}

/* The whole text: one value with white space around it. */
static int scan_text(struct scan *s, int max_depth) {
    enum { VALUE, FIRST_VALUE, NAME, FIRST_NAME, AFTER_VALUE } next = VALUE;
    bool in_object[JSON_MAX_DEPTH];
    int depth = 0, status = 0;

    for (;;) {
        skip_space(s);
        int c = peek(s);
        switch (next) {
        case FIRST_VALUE:
        case VALUE:
            if (c == '{' || c == '[') {
                if (depth == max_depth)
                    return fail(s->err, s->err_bytes, STATUS_TOO_LARGE,
                                "JSON at byte %zu: expected at most %d nested arrays and objects, found more", s->at,
                                max_depth);
                in_object[depth++] = c == '{';
                s->at++;
                next = c == '{' ? FIRST_NAME : FIRST_VALUE;
                break;
            }
            if (c == ']' && next == FIRST_VALUE) {
                s->at++;
                depth--;
            } else {
                status = scan_scalar(s, next == FIRST_VALUE ? "a value or ']'" : "a value");
                if (status) return status;
            }
            next = AFTER_VALUE;
            break;
        case FIRST_NAME:
        case NAME:
            if (c == '}' && next == FIRST_NAME) {
                s->at++;
                depth--;
                next = AFTER_VALUE;
                break;
            }
            if (c != '"') return scan_fail(s, next == FIRST_NAME ? "a member name or '}'" : "a member name");
            status = scan_string(s);
            if (status) return status;
            skip_space(s);
            if (peek(s) != ':') return scan_fail(s, "':' after a member name");
            s->at++;
            next = VALUE;
            break;
        case AFTER_VALUE:
            if (depth == 0) return s->at == s->bytes ? 0 : scan_fail(s, "the end of the text after the value");
            if (c == ',') {
                s->at++;
                next = in_object[depth - 1] ? NAME : VALUE;
            } else if (c == (in_object[depth - 1] ? '}' : ']')) {
                s->at++;
                depth--;
            } else
                return scan_fail(s, in_object[depth - 1] ? "',' or '}'" : "',' or ']'");
            break;
        }
    }
}

/* ---- parsing ---------------------------------------------------------------------------------------------------- */

/* In a checked, zero-terminated text: \u0000 becomes \ufffd, and a number that is too long for cJSON becomes its
 * shortest exact form, filled up with blanks. */
static void rewrite_for_cjson(char *text, size_t bytes) {
    for (size_t i = 0; i < bytes;) {
        if (text[i] == '"') {
            for (i++; text[i] != '"'; i++) {
                if (text[i] != '\\') continue;
                i++;
                if (text[i] == 'u' && !memcmp(text + i + 1, "0000", 4)) memcpy(text + i + 1, "fffd", 4);
            }
            i++;
        } else if (text[i] == '-' || is_digit(text[i])) {
            size_t n = strspn(text + i, "+-.eE0123456789");
            if (n > CJSON_NUMBER_BYTES) {
                char shortest[32];
                int length = snprintf(shortest, sizeof shortest, "%.17g", strtod(text + i, NULL));
                memset(text + i, ' ', n);
                memcpy(text + i, shortest, (size_t)length);
            }
            i += n;
        } else
            i++;
    }
}

int json_parse(cJSON **out, const char *text, size_t bytes, struct json_limits limits, char *err, size_t err_bytes) {
    CHECK_LE(1, limits.max_depth);
    CHECK_LE(limits.max_depth, JSON_MAX_DEPTH);
    *out = NULL;
    if (bytes > limits.max_bytes)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "expected JSON of at most %zu bytes, found %zu", limits.max_bytes,
                    bytes);
    struct scan s = {.text = (const unsigned char *)text, .bytes = bytes, .err = err, .err_bytes = err_bytes};
    int status = scan_text(&s, limits.max_depth);
    if (status) return status;

    char *copy = NULL;
    if (s.has_zero || s.has_long_number) {
        copy = malloc(bytes + 1);
        if (!copy) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for %zu bytes of JSON", bytes);
        memcpy(copy, text, bytes);
        copy[bytes] = 0;
        rewrite_for_cjson(copy, bytes);
    }
    *out = cJSON_ParseWithLength(copy ? copy : text, bytes);
    free(copy);
    if (!*out) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the tree of %zu bytes of JSON", bytes);
    return 0;
}

/* Reads a regular file into *text (malloc'ed). */
static int read_file(char **text, size_t *bytes, const char *path, size_t max_bytes, char *err, size_t err_bytes) {
    int status = 0;
    struct stat st;
    char *buffer = NULL;
    size_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail(err, err_bytes, errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_IO,
                    "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        status = fail(err, err_bytes, STATUS_IO, "%s: expected a regular file, found something else", path);
        goto done;
    }
    if ((uint64_t)st.st_size > max_bytes) {
        status = fail(err, err_bytes, STATUS_TOO_LARGE, "%s: expected at most %zu bytes, found %lld", path, max_bytes,
                      (long long)st.st_size);
        goto done;
    }
    buffer = malloc((size_t)st.st_size + 1);
    if (!buffer) {
        status =
            fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory for %lld bytes", path, (long long)st.st_size);
        goto done;
    }
    while (n < (size_t)st.st_size) {
        ssize_t got = read(fd, buffer + n, (size_t)st.st_size - n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            status = fail(err, err_bytes, STATUS_IO, "%s: cannot be read: %s", path, strerror(errno));
            goto done;
        }
        if (got == 0) break; /* it shrank: what is there decides */
        n += (size_t)got;
    }
done:
    close(fd);
    if (status) {
        free(buffer);
        return status;
    }
    *text = buffer;
    *bytes = n;
    return 0;
}

int json_parse_file(cJSON **out, const char *path, struct json_limits limits, char *err, size_t err_bytes) {
    char *text = NULL, sentence[ERR_BYTES];
    size_t bytes = 0;
    *out = NULL;
    int status = read_file(&text, &bytes, path, limits.max_bytes, err, err_bytes);
    if (status) return status;
    status = json_parse(out, text, bytes, limits, sentence, sizeof sentence);
    free(text);
    if (status) return fail(err, err_bytes, status, "%s: %s", path, sentence);
    return 0;
}

/* ---- reading the tree -------------------------------------------------------------------------------------------- */

const char *json_kind(const cJSON *item) {
    if (cJSON_IsNull(item)) return "null";
    if (cJSON_IsBool(item)) return "a boolean";
    if (cJSON_IsNumber(item)) return "a number";
    if (cJSON_IsString(item)) return "a string";
    if (cJSON_IsArray(item)) return "an array";
    if (cJSON_IsObject(item)) return "an object";
    return "nothing";
}

const char *json_quote(const char *text, char *buffer, size_t buffer_bytes) {
    CHECK_LT(3, buffer_bytes);
    size_t n = strlen(text);
    bool cut = n >= buffer_bytes;
    if (cut) {
        n = buffer_bytes - 4; /* "..." and the terminator */
        while (n && ((unsigned char)text[n] & 0xc0) == 0x80) n--;
    }
    for (size_t i = 0; i < n; i++) buffer[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    memcpy(buffer + n, cut ? "..." : "", cut ? 4 : 1);
    return buffer;
}

const char *json_show(const cJSON *item, char *buffer, size_t buffer_bytes) {
    char excerpt[JSON_EXCERPT_BYTES];
    if (cJSON_IsNumber(item))
        snprintf(buffer, buffer_bytes, "%.15g", item->valuedouble);
    else if (cJSON_IsString(item))
        snprintf(buffer, buffer_bytes, "\"%s\"", json_quote(item->valuestring, excerpt, sizeof excerpt));
    else if (cJSON_IsBool(item))
        snprintf(buffer, buffer_bytes, cJSON_IsTrue(item) ? "true" : "false");
    else
        snprintf(buffer, buffer_bytes, "%s", json_kind(item));
    return buffer;
}

const cJSON *json_find(const cJSON *object, const char *name) {
    const cJSON *item, *found = NULL;
    if (!cJSON_IsObject(object)) return NULL;
    cJSON_ArrayForEach(item, object) if (!strcmp(item->string, name)) found = item;
    return found;
}

/* The member, or NULL where it is absent or null. */
static const cJSON *member(const cJSON *object, const char *name) {
    const cJSON *item = json_find(object, name);
    return cJSON_IsNull(item) ? NULL : item;
}

int json_get_int(const cJSON *object, const char *name, int64_t low, int64_t high, int64_t *out, char *err,
                 size_t err_bytes) {
    char found[JSON_EXCERPT_BYTES + 8];
    const cJSON *item = member(object, name);
    if (!item) return 0;
    double v = item->valuedouble;
    if (!cJSON_IsNumber(item) || v != floor(v) || fabs(v) > JSON_MAX_EXACT || (int64_t)v < low || (int64_t)v > high)
        return fail(err, err_bytes, STATUS_INVALID, "%s: expected an integer from %lld to %lld, found %s", name,
                    (long long)low, (long long)high, json_show(item, found, sizeof found));
    *out = (int64_t)v;
    return 0;
}

int json_get_double(const cJSON *object, const char *name, double low, double high, double *out, char *err,
                    size_t err_bytes) {
    char found[JSON_EXCERPT_BYTES + 8];
    const cJSON *item = member(object, name);
    if (!item) return 0;
    if (!cJSON_IsNumber(item) || item->valuedouble < low || item->valuedouble > high)
        return fail(err, err_bytes, STATUS_INVALID, "%s: expected a number from %g to %g, found %s", name, low, high,
                    json_show(item, found, sizeof found));
    *out = item->valuedouble;
    return 0;
}

int json_get_bool(const cJSON *object, const char *name, bool *out, char *err, size_t err_bytes) {
    char found[JSON_EXCERPT_BYTES + 8];
    const cJSON *item = member(object, name);
    if (!item) return 0;
    if (!cJSON_IsBool(item))
        return fail(err, err_bytes, STATUS_INVALID, "%s: expected true or false, found %s", name,
                    json_show(item, found, sizeof found));
    *out = cJSON_IsTrue(item);
    return 0;
}

int json_get_string(const cJSON *object, const char *name, const char **out, char *err, size_t err_bytes) {
    char found[JSON_EXCERPT_BYTES + 8];
    const cJSON *item = member(object, name);
    if (!item) return 0;
    if (!cJSON_IsString(item))
        return fail(err, err_bytes, STATUS_INVALID, "%s: expected a string, found %s", name,
                    json_show(item, found, sizeof found));
    *out = item->valuestring;
    return 0;
}
