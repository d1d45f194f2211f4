/* bench_tokenizer.c - how fast text becomes ids, on one thread.
 *
 *     bench_tokenizer FOLDER FILE... [--repeat N]
 *
 * FOLDER holds the tokenizer. Each FILE is encoded twice over: as one long string, and line by line as many short ones.
 * The figure is the fastest of N repeats (default 7), in MB (10^6 bytes) of text per second of CPU time. One JSON
 * object per line and measurement on standard output; `hash` covers all ids, so that another tokenizer's can be
 * compared. benchmarks/tokenizer.py makes the texts and sets Hugging Face's figures beside these. */
#include "engine/tokenizer.h"
#include "kernels/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static char *read_file(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    char *text = n >= 0 ? malloc((size_t)n + 1) : NULL;
    *bytes = text ? fread(text, 1, (size_t)n, f) : 0;
    fclose(f);
    return text;
}

/* Encodes the text, as a whole or each line (with its newline) on its own; the ids of all come one after the other. */
static void encode(const struct tokenizer *t, const char *text, size_t bytes, bool by_line, struct ids *ids) {
    ids->n = 0;
    for (size_t at = 0; at < bytes;) {
        const char *newline = by_line ? memchr(text + at, '\n', bytes - at) : NULL;
        size_t end = newline ? (size_t)(newline - text) + 1 : bytes;
        CHECK_EQ(tokenizer_encode(t, text + at, end - at, false, ids), 0);
        at = end;
    }
}

static void measure(const struct tokenizer *t, const char *path, bool by_line, int repeats) {
    size_t bytes;
    char *text = read_file(path, &bytes);
    if (!text) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(1);
    }
    double best = 1e30;
    struct ids ids = {0};
    for (int i = 0; i < repeats; i++) {
        double start = now();
        encode(t, text, bytes, by_line, &ids);
        double seconds = now() - start;
        if (seconds < best) best = seconds;
    }
    printf("{\"file\": \"%s\", \"strings\": \"%s\", \"bytes\": %zu, \"tokens\": %zu, \"seconds\": %.6f, "
           "\"mb_per_s\": %.2f, \"hash\": \"%016llx\"}\n",
           path, by_line ? "short" : "long", bytes, ids.n, best, (double)bytes / best / 1e6,
           (unsigned long long)XXH3_64bits(ids.data, ids.n * sizeof *ids.data));
    ids_deinit(&ids);
    free(text);
}

int main(int argc, char **argv) {
    int n_files = argc - 2, repeats = 7;
    if (n_files > 2 && !strcmp(argv[argc - 2], "--repeat")) {
        repeats = atoi(argv[argc - 1]);
        n_files -= 2;
    }
    if (n_files < 1 || repeats < 1) {
        fprintf(stderr, "usage: bench_tokenizer FOLDER FILE... [--repeat N]\n");
        return 2;
    }
    char err[ERR_BYTES];
    struct tokenizer *t;
    double start = now();
    if (tokenizer_open(&t, argv[1], err, sizeof err)) {
        fprintf(stderr, "%s\n", err);
        return 1;
    }
    fprintf(stderr, "opened in %.0f ms\n", 1e3 * (now() - start));
    for (int i = 0; i < n_files; i++) {
        measure(t, argv[2 + i], false, repeats);
        measure(t, argv[2 + i], true, repeats);
    }
    tokenizer_close(t);
    return 0;
}
