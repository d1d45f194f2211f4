/* extract_json.c - JSON, and one JSON value per line. What people ask for is in the values, and what a value means is
 * in the names above it: so a leaf becomes a line "order.items.0.price: 12.5", the members of the outermost value are
 * paragraphs, and an array of flat records is a table. */
#include "rag/extract.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 512

static void put(struct document *d, const char *text) {
    doc_text(d, text, strlen(text), DOC_NO_SOURCE);
}

static bool is_scalar(const cJSON *v) {
    return !cJSON_IsArray(v) && !cJSON_IsObject(v);
}

static void put_scalar(struct document *d, const cJSON *v) {
    char number[32];
    if (cJSON_IsString(v)) {
        put(d, v->valuestring);
    } else if (cJSON_IsNumber(v)) {
        snprintf(number, sizeof number, "%.17g", v->valuedouble);
        for (int digits = 1; digits < 17; digits++) { /* the shortest one that is this number */
            snprintf(number, sizeof number, "%.*g", digits, v->valuedouble);
            if (strtod(number, NULL) == v->valuedouble) break;
        }
        put(d, number);
    } else {
        put(d, cJSON_IsTrue(v) ? "true" : cJSON_IsFalse(v) ? "false" : "null");
    }
}

/* Lines of all leaves below v, whose path is path[0, n). Recursion is bounded by the depth of the JSON. */
static void put_leaves(struct document *d, const cJSON *v, char *path, size_t n) {
    if (d->status) return;
    if (is_scalar(v)) {
        doc_text(d, path, n, DOC_NO_SOURCE);
        if (n) put(d, ": ");
        put_scalar(d, v);
        put(d, "\n");
        return;
    }
    const cJSON *item;
    int i = 0;
    cJSON_ArrayForEach(item, v) {
        char index[16];
        snprintf(index, sizeof index, "%d", i++);
        const char *name = cJSON_IsObject(v) ? item->string : index;
        int more = snprintf(path + n, PATH_BYTES - n, "%s%s", n ? "." : "", name ? name : "");
        size_t at = n + (more < 0 ? 0 : (size_t)more);
        put_leaves(d, item, path, at < PATH_BYTES ? at : PATH_BYTES - 1);
        path[n] = 0;
    }
}

/* An array of two or more objects whose members are scalars, named like the first one's. */
static bool is_records(const cJSON *v) {
    if (!cJSON_IsArray(v) || !v->child || !v->child->next || !cJSON_IsObject(v->child)) return false;
    const cJSON *record, *a, *b;
    cJSON_ArrayForEach(record, v) {
        if (!cJSON_IsObject(record) || !record->child) return false;
        for (a = record->child, b = v->child->child; a || b; a = a->next, b = b->next)
            if (!a || !b || !is_scalar(a) || strcmp(a->string, b->string)) return false;
    }
    return true;
}

static void put_records(struct document *d, const cJSON *v) {
    const cJSON *record, *item;
    uint32_t row = 1, column = 0;
    doc_begin(d, BLOCK_TABLE, 1);
    cJSON_ArrayForEach(item, v->child) {
        doc_cell(d, 0, column++, 1, 1);
        put(d, item->string);
    }
    cJSON_ArrayForEach(record, v) {
        column = 0;
        cJSON_ArrayForEach(item, record) {
            doc_cell(d, row, column++, 1, 1);
            put_scalar(d, item);
        }
        row++;
        if (d->status) return;
    }
    doc_end(d);
}

static void put_value(struct document *d, const cJSON *v) {
    char path[PATH_BYTES] = "";
    if (is_records(v)) {
        put_records(d, v);
        return;
    }
    if (is_scalar(v)) {
        doc_begin(d, BLOCK_PARAGRAPH, 0);
        put_leaves(d, v, path, 0);
        doc_end(d);
        return;
    }
    const cJSON *item;
    int i = 0;
    bool open = false;
    cJSON_ArrayForEach(item, v) {
        if (d->status) return;
        snprintf(path, sizeof path, "%s", cJSON_IsObject(v) ? item->string : "");
        if (cJSON_IsArray(v)) snprintf(path, sizeof path, "%d", i++);
        if (is_records(item)) {
            doc_begin(d, BLOCK_PARAGRAPH, 0);
            put(d, path);
            put(d, ":");
            put_records(d, item);
            open = false;
            continue;
        }
        /* scalars that follow each other share a paragraph */
        if (!open || !is_scalar(item)) doc_begin(d, BLOCK_PARAGRAPH, 0);
        put_leaves(d, item, path, strlen(path));
        open = is_scalar(item);
    }
    doc_end(d);
}

void extract__json(struct document *d, const struct extract_input *in) {
    char err[ERR_BYTES];
    cJSON *root;
    struct json_limits limits = {.max_bytes = in->limits->total_bytes, .max_depth = in->limits->depth};
    size_t skip = in->bytes >= 3 && !memcmp(in->data, "\xEF\xBB\xBF", 3) ? 3 : 0;
    int status = json_parse(&root, in->data + skip, in->bytes - skip, limits, err, sizeof err);
    if (status) {
        doc_fail(d, status, "JSON: %s", err);
        return;
    }
    put_value(d, root);
    cJSON_Delete(root);
}

void extract__jsonl(struct document *d, const struct extract_input *in) {
    size_t line = 1;
    struct json_limits limits = {.max_bytes = in->limits->entry_bytes, .max_depth = in->limits->depth};
    for (size_t at = 0; at < in->bytes && !d->status; line++) {
        char err[ERR_BYTES], path[PATH_BYTES] = "";
        const char *newline = memchr(in->data + at, '\n', in->bytes - at);
        size_t end = newline ? (size_t)(newline - in->data) : in->bytes, first = at;
        at = end + 1;
        while (first < end && (unsigned char)in->data[first] <= ' ') first++;
        if (first == end) continue;
        cJSON *root;
        int status = json_parse(&root, in->data + first, end - first, limits, err, sizeof err);
        if (status) {
            doc_fail(d, status, "JSON in line %zu: %s", line, err);
            return;
        }
        doc_begin(d, BLOCK_PARAGRAPH, 0);
        put_leaves(d, root, path, 0);
        doc_end(d);
        cJSON_Delete(root);
    }
}
