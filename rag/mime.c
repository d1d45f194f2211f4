/* mime.c - see mime.h. */
#include "rag/mime.h"

#include "rag/charset.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The end of the line at `at`, behind its '\n'. */
static size_t line_end(const char *p, size_t n, size_t at) {
    const char *newline = memchr(p + at, '\n', n - at);
    return newline ? (size_t)(newline - p) + 1 : n;
}

struct mime_part mime_split(const char *p, size_t n) {
    size_t at = 0;
    while (at < n) {
        size_t end = line_end(p, n, at);
        bool empty = p[at] == '\n' || (p[at] == '\r' && end == at + 2);
        if (empty) return (struct mime_part){p, p + end, at, n - end};
        at = end;
    }
    return (struct mime_part){p, p + n, n, 0};
}

bool mime_header(const struct mime_part *part, const char *name, char *value, size_t bytes) {
    const char *p = part->headers;
    size_t n = part->headers_bytes, name_bytes = strlen(name);
    *value = 0;
    for (size_t at = 0; at < n;) {
        size_t end = line_end(p, n, at);
        while (end < n && (p[end] == ' ' || p[end] == '\t')) end = line_end(p, n, end); /* folded lines */
        if (end - at > name_bytes && p[at + name_bytes] == ':' && !strncasecmp(p + at, name, name_bytes)) {
            size_t to = 0;
            for (size_t i = at + name_bytes + 1; i < end && to + 1 < bytes; i++) {
                char c = (unsigned char)p[i] <= ' ' ? ' ' : p[i];
                if (c != ' ' || (to && value[to - 1] != ' ')) value[to++] = c;
            }
            while (to && value[to - 1] == ' ') to--;
            value[to] = 0;
            return true;
        }
        at = end;
    }
    return false;
}

bool mime_parameter(const char *value, const char *name, char *out, size_t bytes) {
    size_t name_bytes = strlen(name), n = 0;
    *out = 0;
    for (const char *p = strchr(value, ';'); p; p = strchr(p, ';')) {
        p++;
        while (*p == ' ') p++;
        if (strncasecmp(p, name, name_bytes) || p[name_bytes] != '=') continue;
        p += name_bytes + 1;
        bool quoted = *p == '"';
        for (p += quoted; *p && n + 1 < bytes && (quoted ? *p != '"' : *p != ';' && *p != ' '); p++) {
            if (quoted && *p == '\\' && p[1]) p++;
            out[n++] = *p;
        }
        out[n] = 0;
        return true;
    }
    return false;
}

/* ---- encodings --------------------------------------------------------------------------------------------------- */

static int base64_value(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' || c == '-' ? 62 : c == '/' || c == '_' ? 63 : -1;
}

static size_t base64(const char *p, size_t n, char *to) {
    unsigned bits = 0, have = 0;
    size_t at = 0;
    for (size_t i = 0; i < n && p[i] != '='; i++) {
        int v = base64_value(p[i]);
        if (v < 0) continue;
        bits = bits << 6 | (unsigned)v;
        have += 6;
        if (have < 8) continue;
        have -= 8;
        to[at++] = (char)(bits >> have & 0xFF);
    }
    return at;
}

static int hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* With `word`, as in headers: '_' is a space. */
static size_t quoted_printable(const char *p, size_t n, char *to, bool word) {
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '=' && i + 2 < n + 0 && hex(p[i + 1]) >= 0 && hex(p[i + 2]) >= 0) {
            to[at++] = (char)(hex(p[i + 1]) << 4 | hex(p[i + 2]));
            i += 2;
        } else if (p[i] == '=' && i + 1 < n && p[i + 1] == '\n') {
            i++;
        } else if (p[i] == '=' && i + 2 < n && p[i + 1] == '\r' && p[i + 2] == '\n') {
            i += 2;
        } else {
            to[at++] = word && p[i] == '_' ? ' ' : p[i];
        }
    }
    return at;
}

bool mime_decode(const char *p, size_t n, const char *encoding, char **out, size_t *out_bytes) {
    bool is_base64 = !strcasecmp(encoding, "base64"), is_quoted = !strcasecmp(encoding, "quoted-printable");
    *out = NULL;
    *out_bytes = n;
    if (!is_base64 && !is_quoted) return true;
    *out = malloc(n + 1);
    if (!*out) return false;
    *out_bytes = is_base64 ? base64(p, n, *out) : quoted_printable(p, n, *out, false);
    return true;
}

/* One word "=?charset?B?text?=" at p: appends it to out, and returns its length; 0 if it is none. */
static size_t decode_word(const char *p, char *out, size_t *at, size_t bytes) {
    if (strncmp(p, "=?", 2)) return 0;
    const char *charset = p + 2, *kind = strchr(charset, '?');
    if (!kind || !kind[1] || kind[2] != '?') return 0;
    const char *text = kind + 3, *end = strstr(text, "?=");
    if (!end) return 0;
    char *raw = malloc((size_t)(end - text) + 1);
    struct decoded decoded = {0};
    if (!raw) return 0;
    size_t n = (kind[1] | 32) == 'b' ? base64(text, (size_t)(end - text), raw)
                                     : quoted_printable(text, (size_t)(end - text), raw, true);
    if (charset_decode(&decoded, raw, n, charset, (size_t)(kind - charset))) {
        const char *from = decoded.data ? decoded.data : raw + decoded.skip;
        size_t take = decoded.bytes < bytes - 1 - *at ? decoded.bytes : bytes - 1 - *at;
        memcpy(out + *at, from, take);
        *at += take;
    }
    free(decoded.data);
    free(raw);
    return (size_t)(end + 2 - p);
}

size_t mime_decode_words(const char *value, char *out, size_t bytes) {
    size_t at = 0;
    bool after_word = false;
    while (*value && at + 1 < bytes) {
        size_t n = decode_word(value, out, &at, bytes);
        if (n) {
            value += n;
            after_word = true;
            continue;
        }
        size_t spaces = strspn(value, " ");
        if (after_word && spaces && !strncmp(value + spaces, "=?", 2)) { /* between two words: not part of the text */
            value += spaces;
            continue;
        }
        after_word = false;
        out[at++] = *value++;
    }
    out[at] = 0;
    return at;
}

/* ---- parts ------------------------------------------------------------------------------------------------------- */

/* The line "--boundary" at or after `at`: its offset, n if there is none. *last: it ends with "--". */
static size_t find_boundary(const char *p, size_t n, size_t at, const char *boundary, bool *last) {
    size_t bytes = strlen(boundary);
    while (at < n) {
        if (n - at >= bytes + 2 && p[at] == '-' && p[at + 1] == '-' && !memcmp(p + at + 2, boundary, bytes)) {
            size_t behind = at + 2 + bytes;
            *last = n - behind >= 2 && p[behind] == '-' && p[behind + 1] == '-';
            if (*last || behind == n || isspace((unsigned char)p[behind])) return at;
        }
        at = line_end(p, n, at);
    }
    return n;
}

bool mime_next(const struct mime_part *part, const char *boundary, size_t *at, struct mime_part *out) {
    const char *p = part->body;
    size_t n = part->body_bytes;
    bool last = false;
    size_t begin = find_boundary(p, n, *at, boundary, &last);
    if (begin == n || last) return false;
    begin = line_end(p, n, begin);
    size_t end = find_boundary(p, n, begin, boundary, &last);
    *at = end;
    *out = mime_split(p + begin, end - begin);
    return true;
}
