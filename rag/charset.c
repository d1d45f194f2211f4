/* charset.c - see charset.h. Not iconv: its tables are files, which the sandbox does not open. */
#include "rag/charset.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <utf8proc.h>

/* Windows-1252 from 0x80 on, as WHATWG's Encoding Standard has it. */
static const uint16_t WINDOWS_1252[32] = {
    0x20AC, 0x0081, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160,
    0x2039, 0x0152, 0x008D, 0x017D, 0x008F, 0x0090, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022,
    0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x009D, 0x017E, 0x0178,
};

bool charset_valid_utf8(const char *p, size_t n) {
    for (size_t i = 0; i < n;) {
        if ((unsigned char)p[i] < 0x80) {
            i++;
            continue;
        }
        utf8proc_int32_t c;
        utf8proc_ssize_t step = utf8proc_iterate((const utf8proc_uint8_t *)p + i, (utf8proc_ssize_t)(n - i), &c);
        if (step < 1) return false;
        i += (size_t)step;
    }
    return true;
}

static bool single_bytes(struct decoded *out, const char *p, size_t n, bool latin9) {
    uint8_t *to = malloc(3 * n + 1);
    if (!to) return false;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t c = (unsigned char)p[i];
        if (c >= 0x80 && c < 0xA0) c = WINDOWS_1252[c - 0x80];
        if (latin9 && c == 0xA4) c = 0x20AC;
        at += (size_t)utf8proc_encode_char(c, to + at);
    }
    out->data = (char *)to;
    out->bytes = at;
    return true;
}

static bool utf16(struct decoded *out, const char *p, size_t n, bool big) {
    uint8_t *to = malloc(3 * (n / 2) + 4);
    if (!to) return false;
    size_t at = 0;
    for (size_t i = 0; i + 1 < n; i += 2) {
        const uint8_t *b = (const uint8_t *)p + i;
        int32_t c = big ? b[0] << 8 | b[1] : b[1] << 8 | b[0];
        if (c >= 0xD800 && c < 0xDC00 && i + 3 < n) {
            int32_t low = big ? b[2] << 8 | b[3] : b[3] << 8 | b[2];
            if (low >= 0xDC00 && low < 0xE000) {
                c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
                i += 2;
            }
        }
        if (c >= 0xD800 && c < 0xE000) c = 0xFFFD;
        at += (size_t)utf8proc_encode_char(c, to + at);
    }
    out->data = (char *)to;
    out->bytes = at;
    return true;
}

bool charset_decode(struct decoded *out, const char *p, size_t n, const char *charset, size_t charset_bytes) {
    char name[24] = "";
    *out = (struct decoded){.bytes = n};
    if (charset && charset_bytes < sizeof name) memcpy(name, charset, charset_bytes);
    bool known = charset && charset_bytes;
    if (n >= 3 && !memcmp(p, "\xEF\xBB\xBF", 3)) {
        out->skip = 3;
        out->bytes = n - 3;
        return true;
    }
    if (n >= 2 && (!memcmp(p, "\xFF\xFE", 2) || !memcmp(p, "\xFE\xFF", 2))) {
        out->skip = 2;
        return utf16(out, p + 2, n - 2, p[0] == '\xFE');
    }
    if (!known) return charset_valid_utf8(p, n) || single_bytes(out, p, n, false);
    if (!strcasecmp(name, "utf-8") || !strcasecmp(name, "utf8") || !strcasecmp(name, "us-ascii") ||
        !strcasecmp(name, "ascii"))
        return true;
    if (!strcasecmp(name, "iso-8859-1") || !strcasecmp(name, "windows-1252") || !strcasecmp(name, "cp1252") ||
        !strcasecmp(name, "latin1"))
        return single_bytes(out, p, n, false);
    if (!strcasecmp(name, "iso-8859-15")) return single_bytes(out, p, n, true);
    if (!strcasecmp(name, "utf-16le") || !strcasecmp(name, "utf-16")) return utf16(out, p, n, false);
    if (!strcasecmp(name, "utf-16be")) return utf16(out, p, n, true);
    return false;
}
