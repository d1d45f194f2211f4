/* progress.h - a progress bar on standard error, when that is a terminal; silent otherwise. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *label; /* borrowed */
    const char *unit;  /* "tokens"; NULL: bytes, shown as kB, MB, GB */
    int64_t total;     /* 0: unknown */
    bool shown;
    double t_start, t_last;
};

void progress_begin(struct progress *p, const char *label, const char *unit, int64_t total);
/* Redraws at most ten times a second: [#####.....] 42%  12.3/29.1 MB  5.2 MB/s  eta 3 s */
void progress_update(struct progress *p, int64_t done);
void progress_end(struct progress *p, int64_t done); /* leaves the finished line */
