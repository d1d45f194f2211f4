/* chat_template_messages.c - OpenAI's messages, checked and in one form: every content one text. */
#include "engine/chat_template_internal.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <stdlib.h>

#define EXCERPT 60 /* bytes of a value shown in a sentence */

static const char *const role_names[] = {
    [ROLE_SYSTEM] = "system", [ROLE_USER] = "user", [ROLE_ASSISTANT] = "assistant", [ROLE_TOOL] = "tool"};
enum { N_ROLES = sizeof role_names / sizeof *role_names };

const char *chat__role_name(enum chat_role role) {
    return role_names[role];
}

static bool is_null(const cJSON *item) {
    return !item || cJSON_IsNull(item);
}

static int join_parts(const cJSON *parts, size_t at, char **joined, char *err, size_t err_bytes) {
    struct bytes text = {0};
    const cJSON *part;
    cJSON_ArrayForEach(part, parts) {
        const cJSON *type = json_find(part, "type"), *piece = json_find(part, "text");
        bool is_text = !type || (cJSON_IsString(type) && !strcmp(type->valuestring, "text"));
        if (!is_text || !cJSON_IsString(piece)) {
            char shown[EXCERPT];
            free(text.data);
            return fail(err, err_bytes, STATUS_INVALID,
                        "messages[%zu].content: expected parts {\"type\": \"text\", \"text\": ...}, found %s", at,
                        json_show(type ? type : part, shown, sizeof shown));
        }
        if (part != parts->child) bytes_append(&text, "\n", 1);
        bytes_append(&text, piece->valuestring, strlen(piece->valuestring));
    }
    bytes_append(&text, "", 1);
    *joined = (char *)text.data;
    return 0;
}

static int read_content(struct chat_message *m, size_t at, const cJSON *content, char *err, size_t err_bytes) {
    m->content = chat_text("");
    if (cJSON_IsArray(content)) {
        int status = join_parts(content, at, &m->joined, err, err_bytes);
        if (!status) m->content = chat_text(m->joined);
        return status;
    }
    if (cJSON_IsString(content)) {
        m->content = chat_text(content->valuestring);
        return 0;
    }
    if (is_null(content) && m->role == ROLE_ASSISTANT) return 0;
    return fail(err, err_bytes, STATUS_INVALID, "messages[%zu].content: expected a string or parts, found %s", at,
                json_kind(content));
}

static int read_reasoning(struct chat_message *m, size_t at, const cJSON *item, char *err, size_t err_bytes) {
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"}; /* Hugging Face's order */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const cJSON *reasoning = json_find(item, names[i]);
        if (is_null(reasoning)) continue;
        if (!cJSON_IsString(reasoning))
            return fail(err, err_bytes, STATUS_INVALID, "messages[%zu].%s: expected a string, found %s", at, names[i],
                        json_kind(reasoning));
        m->has_reasoning = true;
        m->reasoning = chat_text(reasoning->valuestring);
        return 0;
    }
    return 0;
}

static int read_message(struct chat_message *m, size_t at, const cJSON *item, char *err, size_t err_bytes) {
    const cJSON *role = json_find(item, "role"), *calls = json_find(item, "tool_calls");
    int k = 0;
    while (k < N_ROLES && !(cJSON_IsString(role) && !strcmp(role->valuestring, role_names[k]))) k++;
    if (k == N_ROLES) {
        char shown[EXCERPT];
        return fail(err, err_bytes, STATUS_INVALID,
                    "messages[%zu].role: expected \"system\", \"user\", \"assistant\" or \"tool\", found %s", at,
                    json_show(role, shown, sizeof shown));
    }
    m->role = (enum chat_role)k;
    int status = read_content(m, at, json_find(item, "content"), err, err_bytes);
    if (status || m->role != ROLE_ASSISTANT) return status;
    status = read_reasoning(m, at, item, err, err_bytes);
    if (status || is_null(calls)) return status;
    if (!cJSON_IsArray(calls))
        return fail(err, err_bytes, STATUS_INVALID, "messages[%zu].tool_calls: expected an array, found %s", at,
                    json_kind(calls));
    if (calls->child) m->tool_calls = calls;
    return 0;
}

int chat__read_messages(struct chat_messages *out, const cJSON *messages, char *err, size_t err_bytes) {
    *out = (struct chat_messages){0};
    if (!cJSON_IsArray(messages) || !messages->child)
        return fail(err, err_bytes, STATUS_INVALID, "messages: expected an array of messages, found %s",
                    cJSON_IsArray(messages) ? "none" : json_kind(messages));
    out->data = calloc((size_t)cJSON_GetArraySize(messages), sizeof *out->data);
    if (!out->data) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for the messages");
    const cJSON *item;
    cJSON_ArrayForEach(item, messages) {
        int status = read_message(&out->data[out->n], out->n, item, err, err_bytes);
        out->n++;
        if (status) return status;
    }
    return 0;
}

void chat__messages_deinit(struct chat_messages *m) {
    for (size_t i = 0; i < m->n; i++) free(m->data[i].joined);
    free(m->data);
    *m = (struct chat_messages){0};
}
