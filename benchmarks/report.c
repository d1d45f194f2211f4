#include "benchmarks/report.h"
#include "kernels/status.h"

#include <stdio.h>
#include <stdlib.h>

void bench_print_and_delete(cJSON *root) {
    char *text = cJSON_PrintUnformatted(root);
    CHECK(text);
    puts(text);
    free(text);
    cJSON_Delete(root);
}

void bench_report(const struct bench_progress *progress, const char *what, int done, int total) {
    if (progress->update) progress->update(progress->user, what, done, total);
}
