/* tokenizer_open_json on any bytes; the text after the first zero byte is encoded and decoded with what opened.
 *
 * Besides not crashing: ids are below tokenizer_size, plain text never gives an added token that is special (but the
 * one for unknown words), and a text stream gives the text that decoding does, up to a stop string. Both kinds of
 * models are among the first inputs; tests/golden/tokenizer/tiny/tokenizer.json is another good one. */
#include "engine/tokenizer.h"
#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_stream(const struct tokenizer *t, const struct ids *ids, const char *text, size_t bytes) {
    static const char *const stops[] = {"ab", "\xC3\xA9", "aab"};
    struct text_stream_options options = {.stop = stops, .n_stop = bytes % 4 ? 0 : 3};
    struct text_stream *s = text_stream_open(t, &options);
    CHECK(s);
    size_t at = 0, n;
    int stopped = -1;
    for (size_t i = 0; i <= ids->n; i++) {
        const char *piece = i < ids->n ? text_stream_push(s, ids->data[i], &n, &stopped) : text_stream_finish(s, &n);
        CHECK_LE(at + n, bytes);
        CHECK(!memcmp(piece, text + at, n));
        at += n;
    }
    CHECK(stopped >= 0 || options.n_stop || at == bytes);
    text_stream_close(s);
}

static void check_text(const struct tokenizer *t, const char *text, size_t bytes) {
    for (int special = 0; special < 2; special++) {
        struct ids ids = {0};
        int status = tokenizer_encode(t, text, bytes, special, &ids);
        CHECK(status == 0 || status == STATUS_TOO_LARGE);
        for (size_t i = 0; i < ids.n; i++) {
            CHECK(ids.data[i] >= 0 && ids.data[i] < tokenizer_size(t));
            CHECK(special || !tokenizer_is_special(t, ids.data[i]) || ids.data[i] == tokenizer_unknown(t));
        }
        size_t n;
        char *back = tokenizer_decode(t, ids.data, ids.n, false, &n);
        check_stream(t, &ids, back, n);
        free(back);
        ids_deinit(&ids);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    char err[ERR_BYTES] = "";
    struct tokenizer *t;
    const uint8_t *zero = memchr(data, 0, bytes);
    size_t n = zero ? (size_t)(zero - data) : bytes;
    int status = tokenizer_open_json(&t, (const char *)data, n, err, sizeof err);
    CHECK((status == 0) == (t != NULL));
    CHECK(status == 0 || (status < 0 && *err));
    if (t) check_text(t, (const char *)data + n, bytes - n);
    tokenizer_close(t);
    return 0;
}
