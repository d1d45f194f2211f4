/* charset.h - bytes of a text file or of a mail's part to UTF-8. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Bytes that are owned by whoever holds the struct: free(data). */
struct decoded {
    char *data; /* owned; NULL when the bytes are UTF-8 as they are (then nothing was copied) */
    size_t bytes;
    size_t skip; /* of the original: a byte order mark */
};

/* Decodes by `charset` (NULL or "": by byte order mark, else UTF-8 if it is valid, else Windows-1252). Known: utf-8,
 * us-ascii, utf-16 (le, be), iso-8859-1, iso-8859-15, windows-1252. False for another one, or without memory. */
bool charset_decode(struct decoded *out, const char *p, size_t n, const char *charset, size_t charset_bytes);
bool charset_valid_utf8(const char *p, size_t n);
