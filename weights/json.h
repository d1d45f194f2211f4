/* json.h - strict JSON in, over cJSON. Owns: the syntax check that cJSON lacks, bounds, and typed field access.
 * Used by whatever reads JSON from outside: checkpoints, tokenizers, HTTP bodies.
 *
 * json_parse accepts exactly RFC 8259 in valid UTF-8 (no BOM, no trailing bytes, no lone surrogate escapes, no
 * duplicate limits beyond the bounds), then hands the text to cJSON. A string that holds \u0000 is refused, because
 * cJSON's strings end there. Numbers are doubles; one that overflows to infinity is refused. */
#pragma once

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_limits {
    size_t max_bytes; /* of the text */
    int max_depth;    /* of nested arrays and objects */
};

/* Parses `bytes` bytes at `text` (no terminator needed). Returns 0 and a tree in *out (caller: cJSON_Delete), or
 * STATUS_INVALID / STATUS_TOO_LARGE / STATUS_NO_MEMORY and a sentence in err with the byte offset of the fault. */
int json_parse(cJSON **out, const char *text, size_t bytes, struct json_limits limits, char *err, size_t err_bytes);

/* Reads a whole file and parses it. err names the path. */
int json_parse_file(cJSON **out, const char *path, struct json_limits limits, char *err, size_t err_bytes);

/* Typed access to a member of an object. An absent member, or null, leaves *out as it is and returns 0, so a caller
 * presets the default; a member of another type or out of [low, high] is STATUS_INVALID and a sentence
 * "NAME: expected an integer from LOW to HIGH, found ...". Integers are exact to 2^53. */
int json_get_int(const cJSON *object, const char *name, int64_t low, int64_t high, int64_t *out, char *err,
                 size_t err_bytes);
int json_get_double(const cJSON *object, const char *name, double low, double high, double *out, char *err,
                    size_t err_bytes);
int json_get_bool(const cJSON *object, const char *name, bool *out, char *err, size_t err_bytes);
/* *out points into the tree. */
int json_get_string(const cJSON *object, const char *name, const char **out, char *err, size_t err_bytes);

/* "null", "a boolean", "a number", "a string", "an array", "an object": for error sentences. */
const char *json_kind(const cJSON *item);
