/* json.h - strict JSON in, over cJSON. Owns: the syntax check that cJSON lacks, bounds, and typed field access.
 * Used by whatever reads JSON from outside: checkpoints, tokenizers, HTTP bodies.
 *
 * json_parse accepts exactly RFC 8259 in valid UTF-8 (no BOM, no trailing bytes, no lone surrogate escapes) within the
 * caller's bounds, then hands the text to cJSON. Two things differ from the text in the tree:
 *   - \u0000 becomes U+FFFD, because cJSON's strings end at a zero byte: nothing is ever cut short;
 *   - numbers are doubles; one that overflows to infinity is refused, as are numbers of more than 1024 bytes.
 *
 * For callers: members are a linked list. Look a few fields up with json_get_*; walk everything else with
 * cJSON_ArrayForEach (cJSON_GetArrayItem in a loop is quadratic, and so is a look-up per entry of a vocabulary), and
 * compare names with strcmp (cJSON_GetObjectItem ignores case). */
#pragma once

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_MAX_DEPTH 1000 /* cJSON recurses that deep and no deeper */

struct json_limits {
    size_t max_bytes; /* of the text */
    int max_depth;    /* of nested arrays and objects: 1..JSON_MAX_DEPTH */
};

/* Parses `bytes` bytes at `text` (no terminator needed). Returns 0 and a tree in *out (caller: cJSON_Delete), or
 * STATUS_INVALID / STATUS_TOO_LARGE / STATUS_NO_MEMORY with *out = NULL and a sentence in err that names the byte
 * offset of the fault, what was expected there and what was found. Time is linear in `bytes`. */
int json_parse(cJSON **out, const char *text, size_t bytes, struct json_limits limits, char *err, size_t err_bytes);

/* Reads a whole file and parses it. err names the path. STATUS_NOT_FOUND where there is no such file. */
int json_parse_file(cJSON **out, const char *path, struct json_limits limits, char *err, size_t err_bytes);

/* Typed access to a member of an object. An absent member, or null, leaves *out as it is and returns 0, so a caller
 * presets the default; a member of another type or out of [low, high] is STATUS_INVALID and a sentence
 * "NAME: expected an integer from LOW to HIGH, found ...". Integers are exact to 2^53. Of members with the same name
 * the last one counts, as in Python. */
int json_get_int(const cJSON *object, const char *name, int64_t low, int64_t high, int64_t *out, char *err,
                 size_t err_bytes);
int json_get_double(const cJSON *object, const char *name, double low, double high, double *out, char *err,
                    size_t err_bytes);
int json_get_bool(const cJSON *object, const char *name, bool *out, char *err, size_t err_bytes);
/* *out points into the tree. */
int json_get_string(const cJSON *object, const char *name, const char **out, char *err, size_t err_bytes);

/* The member of that exact name (case counts; the last of several), or NULL: absent, or `object` is no object. */
const cJSON *json_find(const cJSON *object, const char *name);

/* "null", "a boolean", "a number", "a string", "an array", "an object", and "nothing" for NULL: for error sentences. */
const char *json_kind(const cJSON *item);

/* What an error sentence shows of an item: "a boolean" and so on by kind, but numbers and strings by value. Writes to
 * buffer and returns it. */
const char *json_show(const cJSON *item, char *buffer, size_t buffer_bytes);

/* Copies untrusted text for an error sentence: cut to the buffer (an ellipsis marks that, whole UTF-8 characters stay),
 * control characters become '?'. Returns buffer. */
const char *json_quote(const char *text, char *buffer, size_t buffer_bytes);
