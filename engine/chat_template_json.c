/* chat_template_json.c - JSON as Python's json.dumps(..., ensure_ascii=False) prints it, which is what `tojson` means
 * in Hugging Face's templates: ", " and ": " between, keys in the order of their first occurrence and with their last
 * value, integers with all their digits, floats as the shortest text that reads back (repr). */
#include "engine/chat_template_internal.h"

#include "engine/chat_template.h"
#include "kernels/status.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EXACT 9007199254740992.0 /* 2^53 */

static void append(struct bytes *out, const char *text) {
    bytes_append(out, text, strlen(text));
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

/* Python's repr(float): the fewest digits that read back, as 0.001 or 1e-05, as 1234.0 or 1e+16. */
static void append_float(struct bytes *out, double value) {
    char text[40], digits[32];
    int precision = 0;
    do snprintf(text, sizeof text, "%.*e", precision++, value);
    while (precision < 17 && strtod(text, NULL) != value);

    char *p = text, *e = strchr(text, 'e');
    int exponent = atoi(e + 1), n = 0;
    if (*p == '-') append(out, "-"), p++;
    for (; p < e; p++)
        if (*p != '.') digits[n++] = *p;
    while (n > 1 && digits[n - 1] == '0') n--;
    if (exponent < -4 || exponent >= 16) {
        bytes_append(out, digits, 1);
        if (n > 1) append(out, "."), bytes_append(out, digits + 1, (size_t)n - 1);
        snprintf(text, sizeof text, "e%+03d", exponent);
        append(out, text);
    } else if (exponent < 0) {
        append(out, "0.");
        for (int i = -1; i > exponent; i--) append(out, "0");
        bytes_append(out, digits, (size_t)n);
    } else {
        int whole = exponent + 1;
        for (int i = 0; i < whole; i++) bytes_append(out, i < n ? &digits[i] : "0", 1);
        append(out, ".");
        if (n > whole)
            bytes_append(out, digits + whole, (size_t)(n - whole));
        else
            append(out, "0");
    }
}

static void append_number(struct bytes *out, const cJSON *item) {
    const char *kept = item->valuestring;
    char text[40];
    if (kept && !strpbrk(kept, ".eE")) {
        append(out, strcmp(kept, "-0") ? kept : "0"); /* an int in Python */
    } else if (kept || item->valuedouble != floor(item->valuedouble) || fabs(item->valuedouble) > MAX_EXACT) {
        append_float(out, item->valuedouble);
    } else {
        snprintf(text, sizeof text, "%.0f", item->valuedouble == 0 ? 0.0 : item->valuedouble);
        append(out, text);
    }
}

/* The next number in valid JSON at or after p, and its end. */
static const char *next_number(const char *p, const char *end, const char **number_end) {
    for (; p < end; p++) {
        if (*p == '"') {
            for (p++; p < end && *p != '"'; p++) p += *p == '\\';
        } else if (*p == '-' || (*p >= '0' && *p <= '9')) {
            const char *q = p + 1;
            while (q < end && (strchr("+-.eE", *q) ? *q != 0 : *q >= '0' && *q <= '9')) q++;
            *number_end = q;
            return p;
        }
    }
    return NULL;
}

/* Walks the tree in the order of its text. */
static void keep_numbers(cJSON *item, const char **at, const char *end) {
    if (cJSON_IsNumber(item)) {
        const char *number_end, *number = next_number(*at, end, &number_end);
        if (!number) return;
        *at = number_end;
        size_t n = (size_t)(number_end - number);
        bool is_float = false;
        for (size_t i = 0; i < n; i++) is_float |= number[i] == '.' || number[i] == 'e' || number[i] == 'E';
        if (!item->valuestring && (is_float || n > 15)) item->valuestring = strndup(number, n);
        return;
    }
    for (cJSON *child = item->child; child; child = child->next) keep_numbers(child, at, end);
}

void chat_keep_numbers(cJSON *tree, const char *json, size_t bytes) {
    keep_numbers(tree, &json, json + bytes);
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

static void append_string(struct bytes *out, const char *text) {
    append(out, "\"");
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        static const char named[] = "\"\\\n\r\t\f\b", letters[] = "\"\\nrtfb";
        const char *found = strchr(named, c);
        if (found) {
            char escape[2] = {'\\', letters[found - named]};
            bytes_append(out, escape, 2);
        } else if (c < 0x20) {
            char escape[8];
            snprintf(escape, sizeof escape, "\\u%04x", c);
            append(out, escape);
        } else {
            bytes_append(out, p, 1);
        }
    }
    append(out, "\"");
}

struct member {
    const cJSON *item;
    size_t place;
};

static int by_name(const void *a, const void *b) {
    const struct member *x = a, *y = b;
    int order = strcmp(x->item->string, y->item->string);
    return order ? order : x->place < y->place ? -1 : x->place > y->place;
}

/* A Python dict has each key once, where it came first, with the value that came last. */
static void append_object(struct bytes *out, const cJSON *object) {
    size_t n = 0;
    for (const cJSON *item = object->child; item; item = item->next) n++;
    struct member *sorted = malloc((n + 1) * sizeof *sorted);
    const cJSON **values = malloc((n + 1) * sizeof *values);
    CHECK(sorted && values);
    n = 0;
    for (const cJSON *item = object->child; item; item = item->next, n++) {
        sorted[n] = (struct member){item, n};
        values[n] = item;
    }
    qsort(sorted, n, sizeof *sorted, by_name);
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && !strcmp(sorted[end].item->string, sorted[i].item->string); end++)
            values[sorted[end].place] = NULL;
        values[sorted[i].place] = sorted[end - 1].item;
    }
    append(out, "{");
    bool first = true;
    for (size_t i = 0; i < n; i++) {
        if (!values[i]) continue;
        if (!first) append(out, ", ");
        first = false;
        append_string(out, values[i]->string);
        append(out, ": ");
        chat__json(out, values[i]);
    }
    append(out, "}");
    free(sorted);
    free(values);
}

void chat__json(struct bytes *out, const cJSON *item) {
    if (cJSON_IsString(item)) {
        append_string(out, item->valuestring);
    } else if (cJSON_IsNumber(item)) {
        append_number(out, item);
    } else if (cJSON_IsObject(item)) {
        append_object(out, item);
    } else if (cJSON_IsArray(item)) {
        append(out, "[");
        for (const cJSON *child = item->child; child; child = child->next) {
            if (child != item->child) append(out, ", ");
            chat__json(out, child);
        }
        append(out, "]");
    } else {
        append(out, cJSON_IsTrue(item) ? "true" : cJSON_IsFalse(item) ? "false" : "null");
    }
}
