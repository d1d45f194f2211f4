/* filter.h - attributes of documents, and filters over them in the form of OpenAI's vector stores.
 *
 * Attributes are a JSON object of up to 16 pairs: keys of 1..64 characters, values strings of up to 512 characters,
 * finite numbers, or booleans. A filter is
 *     {"type": "eq" | "ne" | "gt" | "gte" | "lt" | "lte", "key": KEY, "value": VALUE}
 *     {"type": "in" | "nin", "key": KEY, "value": [VALUE, ...]}
 *     {"type": "and" | "or", "filters": [FILTER, ...]}
 * Values of different kinds are never equal and never ordered; booleans have no order. A document without the key
 * passes ne and nin and nothing else. Both are untrusted: a fault is STATUS_INVALID and a sentence that says where. */
#pragma once

#include "rag/arena.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ATTRIBUTES_MAX_PAIRS = 16,
    ATTRIBUTES_MAX_KEY = 64,      /* characters */
    ATTRIBUTES_MAX_VALUE = 512,   /* likewise, of a string */
    ATTRIBUTES_MAX_BYTES = 65536, /* of the JSON text */
    FILTER_MAX_NODES = 512,       /* conditions, and values of in and nin, in all */
    FILTER_MAX_DEPTH = 16,
};

enum value_kind { VALUE_NUMBER, VALUE_STRING, VALUE_BOOLEAN };
struct value {
    enum value_kind kind;
    double number;    /* or 0, 1 */
    const char *text; /* of a string */
};
struct attribute {
    const char *key;
    struct value value;
};
struct attributes { /* view of the arena that attributes_parse was given */
    const struct attribute *data;
    int n;
};

/* text: a JSON object, or NULL: none. Strings and array are put into `arena`. */
int attributes_parse(struct attributes *out, struct arena *arena, const char *text, char *err, size_t err_bytes);
/* That text is an object of attributes; *compact (NULL: not wanted) is it without spaces, the caller's to free. */
int attributes_check(const char *text, char **compact, char *err, size_t err_bytes);

struct filter; /* owned */

/* Of a parsed JSON tree (not kept). NULL or JSON's null: *out = NULL, the filter that everything passes. */
int filter_parse(struct filter **out, const cJSON *json, char *err, size_t err_bytes);
/* The same from text. */
int filter_parse_text(struct filter **out, const char *text, char *err, size_t err_bytes);
void filter_close(struct filter *f);                                           /* NULL is fine */
bool filter_pass(const struct filter *f, const struct attributes *attributes); /* f NULL: true */
