/* chat_template.h - messages to prompt text, byte for byte as the checkpoint's Jinja template would render it.
 *
 * Not a Jinja interpreter: the templates of Qwen2.5 and Qwen3 are written here in C and recognised in a checkpoint by
 * their exact text's hash. Anything else is STATUS_UNSUPPORTED. User text is kept apart from the scaffold so that
 * "<|im_end|>" typed by a user stays text: the result is a list of pieces, each special or plain. */
#pragma once

#include "engine/tokenizer.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

enum chat_template {
    CHAT_TEMPLATE_NONE,
    CHAT_TEMPLATE_QWEN25,           /* Qwen2.5-*-Instruct */
    CHAT_TEMPLATE_QWEN3,            /* Qwen3-* with switchable thinking */
    CHAT_TEMPLATE_QWEN3_THINKING,   /* Qwen3-*-Thinking-2507: always thinks, the prompt opens <think> */
    CHAT_TEMPLATE_QWEN3_NONTHINKING /* served with qwen3_nonthinking.jinja: never thinks */
};

/* By the exact template text (trailing newlines aside); NONE if unknown or NULL. */
enum chat_template chat_template_detect(const char *jinja);
/* By the name of --chat-template: "qwen2.5", "qwen3", "qwen3-thinking", "qwen3-nonthinking"; NONE if unknown. */
enum chat_template chat_template_by_name(const char *name);
const char *chat_template_name(enum chat_template t);
/* Whether the model's answer may hold a <think> block that the server splits off. */
bool chat_template_thinks(enum chat_template t);

struct chat_options {
    bool add_generation_prompt;  /* usually true */
    bool continue_final_message; /* the last message is the start of the answer: no <|im_end|> after it */
    int enable_thinking;         /* -1 unset, 0, 1: chat_template_kwargs.enable_thinking */
};

struct chat_prompt {
    char *text;       /* owned, zero-terminated: the rendering */
    size_t bytes;
    struct chat_span { /* the parts of text that come from the messages or tools, in order: never special tokens */
        size_t start, end;
    } *spans; /* owned */
    size_t n_spans;
    bool opens_thinking; /* the prompt ends inside <think>: the answer begins with reasoning */
};

/* messages: OpenAI's array (content as string, null, or parts of type "text", which are joined); tools: array or NULL.
 * STATUS_INVALID with a sentence for a message that the template cannot express (unknown role, image part, ...). */
int chat_render(struct chat_prompt *out, enum chat_template t, const cJSON *messages, const cJSON *tools,
                const struct chat_options *options, char *err, size_t err_bytes);
void chat_prompt_deinit(struct chat_prompt *p);

/* Token ids of a rendering: the scaffold with special tokens, the spans without. When no span holds anything that
 * looks like an added token this equals tokenizing the whole text, as Hugging Face does. */
void chat_encode(const struct tokenizer *t, const struct chat_prompt *p, struct ids *out);
