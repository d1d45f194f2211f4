/* reasoning.h - splits a thinking model's answer into reasoning and content while it streams in.
 *
 * The answer is "<think>\n reasoning \n</think>\n\n content", or without the opening tag where the prompt ended with
 * it. Tags are recognised whatever the chunks; newlines beside a tag belong to neither side. An answer that does not
 * begin with <think> is content; one that never closes it is reasoning. */
#pragma once

#include "server/json_out.h"

#include <stdbool.h>
#include <stddef.h>

struct reasoning {
    enum reasoning_state {
        REASONING_OFF,        /* everything is content from here on */
        REASONING_START,      /* nothing but white space so far: <think> may come */
        REASONING_OPEN_START, /* the same, in a prompt that opened <think> */
        REASONING_OPENED,     /* newlines after the opening tag are dropped */
        REASONING_INSIDE,
        REASONING_CLOSED /* newlines after the closing tag are dropped */
    } state;
    size_t n_matched;  /* bytes of the tag that were seen and are held back */
    size_t n_newlines; /* newlines held back in front of them */
};

/* enabled: the model may think; opens_thinking: the prompt ends inside <think>. */
void reasoning_begin(struct reasoning *r, bool enabled, bool opens_thinking);
/* Appends what is certain by now to the two sides. */
void reasoning_push(struct reasoning *r, const char *text, size_t bytes, struct out *reasoning, struct out *content);
/* The end: what was held back. */
void reasoning_finish(struct reasoning *r, struct out *reasoning, struct out *content);
/* Whether the next byte would be reasoning, as far as one can tell. */
bool reasoning_inside(const struct reasoning *r);
