#include "tools/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { BAR = 30 };

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double scale(const struct progress *p, double n, const char **unit) {
    static const char *const bytes[] = {"B", "kB", "MB", "GB", "TB"};
    int i = 0;
    *unit = p->unit;
    if (p->unit) return n;
    while (n >= 1000 && i < 4) n /= 1000, i++;
    *unit = bytes[i];
    return n;
}

static void draw(const struct progress *p, int64_t done, double t) {
    const double elapsed = t - p->t_start, rate = elapsed > 0 ? (double)done / elapsed : 0;
    const char *unit, *rate_unit;
    double n = scale(p, (double)done, &unit), r = scale(p, rate, &rate_unit);
    const int digits = p->unit ? 0 : 1;
    fprintf(stderr, "\r%s ", p->label);
    if (p->total > 0) {
        const double share = (double)done / (double)p->total;
        fputc('[', stderr);
        for (int i = 0; i < BAR; i++) fputc(i < (int)(share * BAR) ? '#' : '.', stderr);
        fprintf(stderr, "] %3.0f%% ", 100 * share);
    }
    fprintf(stderr, "%.*f %s, %.*f %s/s", digits, n, unit, digits, r, rate_unit);
    if (p->total > done && rate > 0) fprintf(stderr, ", %.0f s left", (double)(p->total - done) / rate);
    fputs("\033[K", stderr); /* clears what an earlier, longer line left */
}

void progress_begin(struct progress *p, const char *label, const char *unit, int64_t total) {
    *p = (struct progress){.label = label, .unit = unit, .total = total, .shown = isatty(STDERR_FILENO)};
    p->t_start = seconds();
}

void progress_update(struct progress *p, int64_t done) {
    if (!p->shown) return;
    const double t = seconds();
    if (t - p->t_last < 0.1) return;
    p->t_last = t;
    draw(p, done, t);
}

void progress_end(struct progress *p, int64_t done) {
    if (!p->shown) return;
    draw(p, done, seconds());
    fputc('\n', stderr);
}
