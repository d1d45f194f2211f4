/* chat_template.h - messages to prompt text, byte for byte as the checkpoint's Jinja template would render it.
 *
 * Not a Jinja interpreter: the templates of Qwen2.5 and Qwen3 are written here in C and recognised in a checkpoint by
 * their exact text's hash; other templates are not known. User text is kept apart from the scaffold, so that
 * "<|im_end|>" typed by a user stays text: the result says which parts of it came from messages and tools. */
#pragma once

#include "engine/tokenizer.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

enum chat_template {
    CHAT_TEMPLATE_NONE,
    CHAT_TEMPLATE_QWEN25,            /* Qwen2.5-*-Instruct */
    CHAT_TEMPLATE_QWEN3,             /* Qwen3-* with switchable thinking */
    CHAT_TEMPLATE_QWEN3_THINKING,    /* Qwen3-*-Thinking-2507: always thinks, the prompt opens <think> */
    CHAT_TEMPLATE_QWEN3_NONTHINKING, /* served with qwen3_nonthinking.jinja: never thinks */
    CHAT_TEMPLATE_QWEN3_INSTRUCT,    /* Qwen3-*-Instruct-2507: knows no thinking */
    CHAT_TEMPLATE_QWQ,               /* QwQ-32B: thinks when enable_thinking is 1 */
    CHAT_TEMPLATE_QWEN2              /* fine-tunes of Qwen2 with the default template of LLaMA-Factory */
};

/* By the exact template text (trailing newlines and CR LF aside, which Jinja does not see); NONE if unknown or NULL. */
enum chat_template chat_template_detect(const char *jinja);
/* By the name of --chat-template: "qwen2.5", "qwen3", "qwen3-thinking", "qwen3-nonthinking", "qwen3-instruct", "qwq",
 * "qwen2"; NONE if unknown. */
enum chat_template chat_template_by_name(const char *name);
const char *chat_template_name(enum chat_template t);
/* Whether the model's answer may hold a <think> block that the server splits off. */
bool chat_template_thinks(enum chat_template t);

struct chat_options {
    bool add_generation_prompt;  /* usually true; not together with the next */
    bool continue_final_message; /* the last message, an assistant's, is the start of the answer: nothing after it */
    int enable_thinking;         /* -1 unset, 0, 1: chat_template_kwargs.enable_thinking */
    bool parse_arguments;        /* "arguments" of tool calls that are texts, as OpenAI's clients send them, are parsed
                                  * and printed anew, as vLLM does; otherwise they are text to the template */
};

struct chat_prompt {
    char *text; /* owned, zero-terminated valid UTF-8: the rendering */
    size_t bytes;
    struct text_span *spans; /* owned: the parts that come from the messages or tools, in order: never special tokens */
    size_t n_spans;
    bool opens_thinking; /* the prompt ends inside <think>: the answer begins with reasoning */
};

/* messages: OpenAI's array. "content" is a string, or parts of type "text", which are joined by newlines as in vLLM, or
 * null in an assistant's message, which counts as empty. "reasoning_content" ("reasoning" and "thinking" are
 * understood, too) is what an assistant thought. tools: an array or NULL. Invalid UTF-8 becomes U+FFFD.
 *
 * STATUS_INVALID with a sentence where the Jinja template would fail, and for what it would silently drop or print as
 * Python (an unknown role, an image part, a number as content). *out then holds nothing. */
int chat_render(struct chat_prompt *out, enum chat_template t, const cJSON *messages, const cJSON *tools,
                const struct chat_options *options, char *err, size_t err_bytes);
void chat_prompt_deinit(struct chat_prompt *p);

/* Numbers in tools and arguments are printed as Python's json module does. cJSON's doubles alone have lost whether 1
 * was 1.0, and the digits of large integers; call this once on a tree and the text that json_parse made it from, and
 * number items that need it keep their text (in valuestring, which cJSON_Delete frees and nothing else reads). */
void chat_keep_numbers(cJSON *tree, const char *json, size_t bytes);

/* Token ids of a rendering: the scaffold with special tokens, the spans without. When no span holds anything that
 * looks like an added token this equals tokenizing the whole text, as Hugging Face does. Fails as tokenizer_encode. */
int chat_encode(const struct tokenizer *t, const struct chat_prompt *p, struct ids *out);
