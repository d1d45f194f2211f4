/* text_stream.c - one sequence's text as it is generated.
 *
 *   token -> bytes -> whole characters -> stop strings -> text that is final
 *
 * Bytes wait in `partial` until they are a whole character or can no longer become one; then they go to `text`, one
 * U+FFFD for each maximal invalid part, so that all that comes out together equals tokenizer_decode of all tokens.
 *
 * Each stop string has a Knuth-Morris-Pratt automaton over the bytes of the text; its state is the length of the
 * longest suffix of the text that the stop string begins with. The largest state is what must be held back. Work per
 * byte does not depend on how much is held. */
#include "engine/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

struct stop {
    char *text; /* owned */
    size_t bytes;
    size_t *border; /* owned [bytes] border[i]: longest proper prefix of text[0..i] that is also its suffix */
    size_t state;
};

struct text_stream {
    const struct tokenizer *tokenizer; /* borrowed */
    bool skip_special, include_stop;
    struct stop stops[TEXT_STREAM_MAX_STOPS];
    int n_stops;
    int stopped;        /* index of the stop string that ended the text, or -1 */
    bool begun;         /* there was a token */
    struct bytes piece; /* owned: scratch for one token's text */

    uint8_t partial[4]; /* the beginning of a character */
    size_t n_partial;
    struct bytes text; /* owned: [0, returned) was returned by the last call, the rest is held back */
    size_t returned;
};

/* ---- stop strings ------------------------------------------------------------------------------------------------ */

/* The automaton's next state. The state `bytes` means that the stop string ends here. */
static size_t stop_next(const struct stop *s, size_t state, char byte) {
    if (state == s->bytes) state = s->border[state - 1];
    while (state && s->text[state] != byte) state = s->border[state - 1];
    return state + (s->text[state] == byte);
}

static bool stop_init(struct stop *s, const char *text) {
    s->bytes = strlen(text);
    if (s->bytes == 0 || s->bytes > TEXT_STREAM_MAX_STOP_BYTES) return false;
    if (utf8_valid_bytes((const uint8_t *)text, s->bytes) < s->bytes) return false;
    s->text = strdup(text);
    s->border = calloc(s->bytes, sizeof *s->border);
    if (!s->text || !s->border) return false;
    for (size_t i = 1; i < s->bytes; i++) s->border[i] = stop_next(s, s->border[i - 1], text[i]);
    return true;
}

/* Appends text, up to the end of the first stop string, and cuts that off. */
static void append_text(struct text_stream *s, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n && s->stopped < 0; i++) {
        bytes_append(&s->text, p + i, 1);
        for (int k = 0; k < s->n_stops; k++) {
            struct stop *stop = &s->stops[k];
            stop->state = stop_next(stop, stop->state, (char)p[i]);
            bool longer = s->stopped < 0 || stop->bytes > s->stops[s->stopped].bytes;
            if (stop->state == stop->bytes && longer) s->stopped = k;
        }
        if (s->stopped >= 0 && !s->include_stop) s->text.n -= s->stops[s->stopped].bytes;
    }
}

/* ---- characters -------------------------------------------------------------------------------------------------- */

/* Moves what is decided from `partial` on. At the end of the text everything is. */
static void drain_partial(struct text_stream *s, bool at_end) {
    size_t done = 0;
    while (done < s->n_partial) {
        int32_t c;
        size_t step = utf8_decode(s->partial + done, s->n_partial - done, &c);
        if (c == UTF8_TRUNCATED && !at_end) break;
        if (c < 0)
            append_text(s, (const uint8_t *)UTF8_REPLACEMENT, UTF8_REPLACEMENT_BYTES);
        else
            append_text(s, s->partial + done, step);
        done += step;
    }
    memmove(s->partial, s->partial + done, s->n_partial - done);
    s->n_partial -= done;
}

static void append_bytes(struct text_stream *s, const uint8_t *p, size_t n) {
    while (n && s->stopped < 0) {
        if (s->n_partial == 0) {
            size_t good = utf8_valid_bytes(p, n);
            append_text(s, p, good);
            p += good, n -= good;
            if (!n) break;
        }
        s->partial[s->n_partial++] = *p++; /* at most 3 are left over each time */
        n--;
        drain_partial(s, false);
    }
}

/* ---- the stream -------------------------------------------------------------------------------------------------- */

struct text_stream *text_stream_open(const struct tokenizer *t, const struct text_stream_options *options) {
    if (options->n_stop < 0 || options->n_stop > TEXT_STREAM_MAX_STOPS) return NULL;
    struct text_stream *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->tokenizer = t;
    s->skip_special = options->skip_special;
    s->include_stop = options->include_stop;
    s->stopped = -1;
    for (int i = 0; i < options->n_stop; i++) {
        s->n_stops++;
        if (!stop_init(&s->stops[i], options->stop[i])) {
            text_stream_close(s);
            return NULL;
        }
    }
    return s;
}

void text_stream_close(struct text_stream *s) {
    if (!s) return;
    for (int i = 0; i < s->n_stops; i++) {
        free(s->stops[i].text);
        free(s->stops[i].border);
    }
    free(s->text.data);
    free(s->piece.data);
    free(s);
}

/* Hands out the text but for its last `held` bytes. */
static const char *take(struct text_stream *s, size_t held, size_t *bytes) {
    s->returned = s->text.n - held;
    *bytes = s->returned;
    return s->returned ? (const char *)s->text.data : "";
}

static void drop_returned(struct text_stream *s) {
    if (!s->returned) return;
    memmove(s->text.data, s->text.data + s->returned, s->text.n - s->returned);
    s->text.n -= s->returned;
    s->returned = 0;
}

const char *text_stream_push(struct text_stream *s, int32_t id, size_t *bytes, int *stopped) {
    drop_returned(s);
    if (s->tokenizer && s->stopped < 0 && !(s->skip_special && tokenizer_is_special(s->tokenizer, id))) {
        size_t n;
        const char *token = tokenizer__piece(s->tokenizer, id, !s->begun, &s->piece, &n);
        append_bytes(s, (const uint8_t *)token, n);
        s->begun = s->begun || n;
    }
    size_t held = 0;
    if (s->stopped < 0)
        for (int i = 0; i < s->n_stops; i++)
            if (s->stops[i].state > held) held = s->stops[i].state;
    *stopped = s->stopped;
    return take(s, held, bytes);
}

const char *text_stream_finish(struct text_stream *s, size_t *bytes) {
    drop_returned(s);
    if (s->stopped < 0) drain_partial(s, true);
    return take(s, 0, bytes);
}
