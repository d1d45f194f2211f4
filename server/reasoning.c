/* reasoning.c - <think> ... </think>, one byte at a time; see reasoning.h. */
#include "server/reasoning.h"

#include <string.h>

static const char open_tag[] = "<think>", close_tag[] = "</think>";

void reasoning_begin(struct reasoning *r, bool enabled, bool opens_thinking) {
    *r = (struct reasoning){.state = !enabled         ? REASONING_OFF
                                     : opens_thinking ? REASONING_OPEN_START
                                                      : REASONING_START};
}

bool reasoning_inside(const struct reasoning *r) {
    return r->state == REASONING_OPEN_START || r->state == REASONING_OPENED || r->state == REASONING_INSIDE;
}

/* Writes what was held back: newlines, then the beginning of a tag that did not come. */
static void release(struct reasoning *r, const char *tag, struct out *to) {
    for (; r->n_newlines; r->n_newlines--) out_char(to, '\n');
    out_bytes(to, tag, r->n_matched);
    r->n_matched = 0;
}

static void push_inside(struct reasoning *r, char c, struct out *reasoning) {
    if (c == close_tag[r->n_matched]) {
        if (!close_tag[++r->n_matched]) *r = (struct reasoning){.state = REASONING_CLOSED};
        return;
    }
    if (r->n_matched) release(r, close_tag, reasoning); /* '<' stands only at the tag's head: no overlap to look for */
    if (c == close_tag[0])
        r->n_matched = 1;
    else if (c == '\n')
        r->n_newlines++;
    else {
        release(r, close_tag, reasoning);
        out_char(reasoning, c);
    }
}

/* Before the answer has begun; false if the byte begins it and is to be looked at again. */
static bool push_start(struct reasoning *r, char c, struct out *reasoning, struct out *content) {
    if (c == open_tag[r->n_matched]) {
        if (!open_tag[++r->n_matched]) *r = (struct reasoning){.state = REASONING_OPENED};
        return true;
    }
    if (c == '\n' && !r->n_matched) {
        r->n_newlines++;
        return true;
    }
    if (r->state == REASONING_START) {
        release(r, open_tag, content);
        r->state = REASONING_OFF;
        return false;
    }
    size_t n = r->n_matched; /* the prompt's <think> was the only one: what looked like another is reasoning */
    *r = (struct reasoning){.state = REASONING_INSIDE};
    for (size_t i = 0; i < n; i++) push_inside(r, open_tag[i], reasoning);
    return false;
}

void reasoning_push(struct reasoning *r, const char *text, size_t bytes, struct out *reasoning, struct out *content) {
    for (size_t i = 0; i < bytes;) {
        char c = text[i];
        switch (r->state) {
        case REASONING_START:
        case REASONING_OPEN_START:
            i += push_start(r, c, reasoning, content);
            break;
        case REASONING_OPENED:
            if (c == '\n')
                i++;
            else
                r->state = REASONING_INSIDE;
            break;
        case REASONING_INSIDE:
            push_inside(r, c, reasoning);
            i++;
            break;
        case REASONING_CLOSED:
            if (c == '\n')
                i++;
            else
                r->state = REASONING_OFF;
            break;
        case REASONING_OFF:
            out_bytes(content, text + i, bytes - i);
            return;
        }
    }
}

void reasoning_finish(struct reasoning *r, struct out *reasoning, struct out *content) {
    switch (r->state) {
    case REASONING_START:
        release(r, open_tag, content);
        break;
    case REASONING_OPEN_START:
        out_bytes(reasoning, open_tag, r->n_matched);
        break;
    case REASONING_INSIDE:
        if (r->n_matched) release(r, close_tag, reasoning); /* newlines alone at the end belong to the tag */
        break;
    default:
        break;
    }
    r->state = REASONING_OFF;
}
