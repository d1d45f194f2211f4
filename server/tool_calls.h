/* tool_calls.h - finds Qwen's (Hermes') tool calls in an answer while it streams in.
 *
 * A call is "<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>". A block that holds no such object stays
 * content as it stands. White space around blocks belongs to neither. Arguments are handed on as the model wrote them,
 * not parsed and printed again: 1.0 stays 1.0 and long integers stay exact. */
#pragma once

#include "server/json_out.h"

#include <stdbool.h>
#include <stddef.h>

#define TOOL_CALLS_MAX 128 /* per answer; further blocks stay content */

struct tool_call {
    char *name;      /* owned */
    char *arguments; /* owned: JSON text */
};

struct tool_calls {          /* zero-initialise; free with tool_calls_deinit */
    struct tool_call *calls; /* owned */
    int n_calls;
    bool inside;
    size_t n_matched;  /* bytes of the tag that were seen and are held back */
    struct out spaces; /* white space held back in front of a possible block */
    struct out block;  /* the text inside the block */
};
void tool_calls_deinit(struct tool_calls *t);

/* Appends to content what is certain to be content; complete calls are added to calls. */
void tool_calls_push(struct tool_calls *t, const char *text, size_t bytes, struct out *content);
/* The end: a block that was not closed counts if it is whole otherwise. */
void tool_calls_finish(struct tool_calls *t, struct out *content);
