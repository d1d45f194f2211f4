/* tool_calls.c - <tool_call> blocks; see tool_calls.h. */
#include "server/tool_calls.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <stdlib.h>
#include <string.h>

static const char open_tag[] = "<tool_call>", close_tag[] = "</tool_call>";

#define BLOCK_MAX_BYTES ((size_t)4 << 20)
#define BLOCK_MAX_DEPTH 128

void tool_calls_deinit(struct tool_calls *t) {
    for (int i = 0; i < t->n_calls; i++) {
        free(t->calls[i].name);
        free(t->calls[i].arguments);
    }
    free(t->calls);
    out_deinit(&t->spaces);
    out_deinit(&t->block);
    *t = (struct tool_calls){0};
}

/* ---- one block --------------------------------------------------------------------------------------------------- */

static bool is_space(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static const char *skip_spaces(const char *p) {
    while (is_space(*p)) p++;
    return p;
}

/* The end of the string that begins at p. The text is valid JSON, here and below. */
static const char *skip_string(const char *p) {
    for (p++; *p != '"'; p++)
        if (*p == '\\') p++;
    return p + 1;
}

static const char *skip_value(const char *p) {
    int depth = 0;
    do {
        if (*p == '"')
            p = skip_string(p);
        else {
            depth += (*p == '{' || *p == '[') - (*p == '}' || *p == ']');
            p++;
        }
    } while (depth > 0 || (*p && !is_space(*p) && *p != ',' && *p != '}' && *p != ']'));
    return p;
}

/* The text of the last member `name` of the object at p; its length in *bytes. */
static const char *member_text(const char *p, const char *name, size_t *bytes) {
    const char *found = NULL;
    p = skip_spaces(p + 1);
    while (*p != '}') {
        const char *key = p + 1, *key_end = skip_string(p) - 1;
        const char *value = skip_spaces(skip_spaces(key_end + 1) + 1), *value_end = skip_value(value);
        if ((size_t)(key_end - key) == strlen(name) && !memcmp(key, name, strlen(name))) {
            found = value;
            *bytes = (size_t)(value_end - value);
        }
        p = skip_spaces(value_end);
        if (*p == ',') p = skip_spaces(p + 1);
    }
    return found;
}

static char *copy(const char *text, size_t bytes) {
    char *c = malloc(bytes + 1);
    CHECK(c);
    memcpy(c, text, bytes);
    c[bytes] = 0;
    return c;
}

/* Adds the call that a block's text holds; false if it holds none. */
static bool add_call(struct tool_calls *t, const struct out *block) {
    struct json_limits limits = {.max_bytes = BLOCK_MAX_BYTES, .max_depth = BLOCK_MAX_DEPTH};
    char err[ERR_BYTES];
    cJSON *tree;
    if (!block->bytes || t->n_calls == TOOL_CALLS_MAX) return false;
    if (json_parse(&tree, block->data, block->bytes, limits, err, sizeof err)) return false;
    const cJSON *name = json_find(tree, "name"), *arguments = json_find(tree, "arguments");
    bool found = cJSON_IsObject(tree) && cJSON_IsString(name) && name->valuestring[0];
    if (found) {
        struct tool_call *calls = realloc(t->calls, (size_t)(t->n_calls + 1) * sizeof *calls);
        CHECK(calls);
        t->calls = calls;
        size_t bytes = 0;
        const char *text = arguments ? member_text(skip_spaces(block->data), "arguments", &bytes) : NULL;
        struct tool_call *call = &t->calls[t->n_calls++];
        call->name = copy(name->valuestring, strlen(name->valuestring));
        if (cJSON_IsString(arguments)) /* some models write the object as a string */
            call->arguments = copy(arguments->valuestring, strlen(arguments->valuestring));
        else
            call->arguments = text ? copy(text, bytes) : copy("{}", 2);
    }
    cJSON_Delete(tree);
    return found;
}

/* ---- the stream -------------------------------------------------------------------------------------------------- */

/* What was held back outside a block is content after all. */
static void release(struct tool_calls *t, struct out *content) {
    out_bytes(content, t->spaces.data, t->spaces.bytes);
    out_clear(&t->spaces);
    out_bytes(content, open_tag, t->n_matched);
    t->n_matched = 0;
}

static void push_outside(struct tool_calls *t, char c, struct out *content) {
    if (c == open_tag[t->n_matched]) {
        if (!open_tag[++t->n_matched]) {
            t->inside = true;
            t->n_matched = 0;
        }
        return;
    }
    if (t->n_matched) release(t, content); /* '<' stands only at the tag's head: no overlap to look for */
    if (c == open_tag[0])
        t->n_matched = 1;
    else if (is_space(c))
        out_char(&t->spaces, c);
    else {
        release(t, content);
        out_char(content, c);
    }
}

/* The block is over. Spaces held back in front of it go with it if it was a call. */
static void end_block(struct tool_calls *t, const char *tag, struct out *content) {
    if (add_call(t, &t->block))
        out_clear(&t->spaces);
    else {
        release(t, content);
        out_text(content, open_tag);
        out_bytes(content, t->block.data, t->block.bytes);
        out_text(content, tag);
    }
    out_clear(&t->block);
    t->inside = false;
    t->n_matched = 0;
}

static void push_inside(struct tool_calls *t, char c, struct out *content) {
    if (c == close_tag[t->n_matched]) {
        if (!close_tag[++t->n_matched]) {
            t->n_matched = 0;
            end_block(t, close_tag, content);
        }
        return;
    }
    out_bytes(&t->block, close_tag, t->n_matched);
    t->n_matched = c == close_tag[0];
    if (!t->n_matched) out_char(&t->block, c);
}

void tool_calls_push(struct tool_calls *t, const char *text, size_t bytes, struct out *content) {
    for (size_t i = 0; i < bytes; i++) {
        if (t->inside)
            push_inside(t, text[i], content);
        else
            push_outside(t, text[i], content);
    }
}

void tool_calls_finish(struct tool_calls *t, struct out *content) {
    if (t->inside) {
        out_bytes(&t->block, close_tag, t->n_matched);
        t->n_matched = 0;
        end_block(t, "", content);
    } else if (t->n_matched)
        release(t, content);
    if (t->n_calls)
        out_clear(&t->spaces);
    else
        release(t, content);
}
