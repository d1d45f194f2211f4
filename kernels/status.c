#include "kernels/status.h"

#include <stdio.h>
#include <stdlib.h>

const char *status_text(int status) {
    switch (status) {
#define X(name, value, text)                                                                                           \
    case name: return text;
        STATUS_TABLE(X)
#undef X
    }
    return "unknown status";
}

int fail(char *err, size_t err_bytes, int status, const char *format, ...) {
    if (err && err_bytes) {
        va_list args;
        va_start(args, format);
        vsnprintf(err, err_bytes, format, args);
        va_end(args);
    }
    return status;
}

void check__failed(const char *file, int line, const char *expr) {
    fprintf(stderr, "%s:%d: CHECK(%s) failed\n", file, line, expr);
    abort();
}

void check__failed2(const char *file, int line, const char *expr, long long a, long long b) {
    fprintf(stderr, "%s:%d: CHECK(%s) failed: %lld against %lld\n", file, line, expr, a, b);
    abort();
}
