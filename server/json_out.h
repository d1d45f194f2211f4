/* json_out.h - a growing buffer and the JSON that is written into it.
 *
 * Answers are written once, front to back, in the order of their fields: no tree. The caller writes the punctuation;
 * strings and numbers are escaped here. Running out of memory aborts: the buffers are bounded by what a request may
 * generate. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct out {    /* zero-initialise */
    char *data; /* owned; zero-terminated once anything was written */
    size_t bytes, capacity;
};
void out_deinit(struct out *o);
void out_clear(struct out *o); /* empty, the memory stays */

void out_bytes(struct out *o, const void *data, size_t bytes);
void out_text(struct out *o, const char *text); /* zero-terminated, as it is */
void out_char(struct out *o, char c);
void out_format(struct out *o, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A JSON string with its quotes. Any bytes: what is not well-formed UTF-8 becomes U+FFFD, control characters are
 * escaped, and U+2028/2029 too, because some readers of event streams take them for line ends. */
void json_out_string(struct out *o, const char *text, size_t bytes);
void json_out_cstring(struct out *o, const char *text); /* NULL gives null */
void json_out_int(struct out *o, int64_t value);
/* The shortest decimal that reads back as the same float; a number that JSON lacks becomes the largest of its sign. */
void json_out_float(struct out *o, float value);

/* Bytes of the well-formed UTF-8 character at text (1..4), 0 if there is none. */
size_t utf8_char_bytes(const char *text, size_t bytes);
/* Whether all of it is well-formed UTF-8. */
bool utf8_valid(const char *text, size_t bytes);
