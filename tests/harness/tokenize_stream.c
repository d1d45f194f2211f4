/* tokenize_stream.c - the tokenizer as a filter, for tests in other languages.
 *
 *     tokenize_stream FOLDER < requests > answers
 *
 * A request is one byte, a length in bytes (uint32, this machine's order) and so many bytes; the answer is a length and
 * so many bytes. The byte says what is asked:
 *   'e'  text -> ids (int32), no special tokens     'd'  ids -> text
 *   's'  text -> ids, with special tokens           'k'  ids -> text, special tokens skipped
 *   't'  ids -> text through a text_stream, as if generated one by one
 * Answers to a request that fails are of length 0xFFFFFFFF, without bytes. */
#include "engine/tokenizer.h"
#include "kernels/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void answer(const void *data, size_t bytes) {
    uint32_t n = (uint32_t)bytes;
    fwrite(&n, sizeof n, 1, stdout);
    if (n) fwrite(data, 1, bytes, stdout);
}

static void answer_ids(const struct tokenizer *t, const char *text, size_t bytes, bool parse_special) {
    struct ids ids = {0};
    if (tokenizer_encode(t, text, bytes, parse_special, &ids)) {
        uint32_t failed = UINT32_MAX;
        fwrite(&failed, sizeof failed, 1, stdout);
    } else {
        answer(ids.data, ids.n * sizeof *ids.data);
    }
    ids_deinit(&ids);
}

static void answer_stream(const struct tokenizer *t, const int32_t *ids, size_t n) {
    struct text_stream_options options = {0};
    struct text_stream *s = text_stream_open(t, &options);
    char *text = NULL;
    size_t bytes = 0;
    for (size_t i = 0; i <= n; i++) {
        size_t more;
        int stopped;
        const char *piece = i < n ? text_stream_push(s, ids[i], &more, &stopped) : text_stream_finish(s, &more);
        if (!more) continue;
        text = realloc(text, bytes + more);
        CHECK(text);
        memcpy(text + bytes, piece, more);
        bytes += more;
    }
    answer(text, bytes);
    free(text);
    text_stream_close(s);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: tokenize_stream FOLDER < requests > answers\n");
        return 2;
    }
    char err[ERR_BYTES];
    struct tokenizer *t;
    if (tokenizer_open(&t, argv[1], err, sizeof err)) {
        fprintf(stderr, "%s\n", err);
        return 1;
    }
    for (int kind; (kind = getchar()) != EOF;) {
        uint32_t n;
        if (fread(&n, sizeof n, 1, stdin) != 1) break;
        char *data = malloc(n + 1);
        CHECK(data);
        if (fread(data, 1, n, stdin) != n) {
            free(data);
            break;
        }
        if (kind == 'e' || kind == 's') {
            answer_ids(t, data, n, kind == 's');
        } else if (kind == 't') {
            answer_stream(t, (const int32_t *)data, n / sizeof(int32_t));
        } else {
            size_t bytes;
            char *text = tokenizer_decode(t, (const int32_t *)data, n / sizeof(int32_t), kind == 'k', &bytes);
            answer(text, bytes);
            free(text);
        }
        free(data);
        fflush(stdout);
    }
    tokenizer_close(t);
    return 0;
}
