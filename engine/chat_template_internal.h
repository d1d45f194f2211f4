/* chat_template_internal.h - what chat_template.c, chat_template_messages.c and chat_template_json.c share. */
#pragma once

#include "engine/tokenizer_utf8.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* A piece of somebody's text. */
struct chat_text {
    const char *p; /* borrowed */
    size_t n;
};

static inline struct chat_text chat_text(const char *text) {
    return (struct chat_text){text, strlen(text)};
}

enum chat_role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL };
const char *chat__role_name(enum chat_role role);

struct chat_message {
    enum chat_role role;
    struct chat_text content;
    bool has_reasoning;
    struct chat_text reasoning;
    const cJSON *tool_calls; /* borrowed: an array with members, or NULL */
    char *joined;            /* owned: the content where it came in parts */
};

struct chat_messages {
    struct chat_message *data; /* owned [n] */
    size_t n;
};

/* Checks and reads OpenAI's array of messages, which must outlive the result; at least one. On failure a sentence, and
 * chat__messages_deinit is due as well. */
int chat__read_messages(struct chat_messages *out, const cJSON *messages, char *err, size_t err_bytes);
void chat__messages_deinit(struct chat_messages *m);

/* Appends the item as json.dumps(item, ensure_ascii=False) prints it. */
void chat__json(struct bytes *out, const cJSON *item);
