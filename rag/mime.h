/* mime.h - the pieces of a mail: headers and their parameters, encodings, the parts of a multipart. Views of the mail's
 * bytes; nothing is copied but into the caller's bounded buffers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define MIME_VALUE_BYTES 2048 /* a longer header is cut */

struct mime_part {
    const char *headers, *body; /* views */
    size_t headers_bytes, body_bytes;
};

/* Headers, up to the first empty line, and what follows. */
struct mime_part mime_split(const char *p, size_t n);
/* The value of a header, unfolded, without white space around it. False if there is none. */
bool mime_header(const struct mime_part *part, const char *name, char *value, size_t bytes);
/* A parameter of a header's value: charset="utf-8". False if there is none. */
bool mime_parameter(const char *value, const char *name, char *out, size_t bytes);
/* Decodes "=?utf-8?B?...?=" words to UTF-8. The length; out is zero-terminated. */
size_t mime_decode_words(const char *value, char *out, size_t bytes);
/* Decodes base64 and quoted-printable: *out is owned by the caller; NULL where the bytes are as they are. False without
 * memory. */
bool mime_decode(const char *p, size_t n, const char *encoding, char **out, size_t *out_bytes);
/* The next part between boundaries, from *at in the body on (0 at first). False after the last. */
bool mime_next(const struct mime_part *part, const char *boundary, size_t *at, struct mime_part *out);
