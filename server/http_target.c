/* http_target.c - the request target (RFC 9112, 3.2): which forms there are, and percent-decoding. */
#include "server/http_parse.h"

#include <string.h>
#include <strings.h>

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Decodes in place. Escaped control characters are refused with NUL: no path here has them, and logs and headers that
 * repeat a path must not be split by one. */
static const char *decode(char *s) {
    char *out = s;
    for (; *s; s++) {
        if (*s != '%') {
            *out++ = *s;
            continue;
        }
        int high = hex_digit(s[1]), low = high < 0 ? -1 : hex_digit(s[2]);
        if (low < 0) return "invalid percent-escape in the path";
        int c = high * 16 + low;
        if (c < ' ' || c == 127) return "escaped control character in the path";
        *out++ = (char)c;
        s += 2;
    }
    *out = '\0';
    return NULL;
}

static bool host_char(char c) { /* reg-name: unreserved, sub-delims, "%" of an escape */
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("-._~!$&'()*+,;=%", c));
}

bool http_authority_ok(const char *s, size_t bytes) {
    size_t i = 0;
    if (i < bytes && s[i] == '[') {
        for (i++; i < bytes && (hex_digit(s[i]) >= 0 || s[i] == ':' || s[i] == '.'); i++) {
        }
        if (i < 4 || i >= bytes || s[i] != ']') return false;
        i++;
    } else {
        for (; i < bytes && host_char(s[i]); i++) {
        }
        if (i == 0 && bytes > 0) return false;
    }
    if (i == bytes) return true;
    if (s[i++] != ':' || bytes - i > 5) return false;
    for (; i < bytes; i++)
        if (s[i] < '0' || s[i] > '9') return false;
    return true;
}

const char *http_target_split(char *target, bool asterisk, const char **path, const char **query) {
    *query = "";
    if (strcmp(target, "*") == 0) {
        *path = "*";
        return asterisk ? NULL : "the target * belongs to OPTIONS";
    }
    target[strcspn(target, "#")] = '\0';
    char *mark = strchr(target, '?');
    if (mark) {
        *mark = '\0';
        *query = mark + 1;
    }
    if (target[0] != '/') {
        size_t scheme = strncasecmp(target, "http://", 7) == 0 ? 7 : strncasecmp(target, "https://", 8) == 0 ? 8 : 0;
        if (!scheme) return "the target is neither a path nor an http URL";
        size_t authority = strcspn(target + scheme, "/");
        if (!authority || !http_authority_ok(target + scheme, authority)) return "invalid authority in the target";
        target += scheme + authority;
        if (!*target) {
            *path = "/";
            return NULL;
        }
    }
    *path = target;
    return decode(target);
}
