/* log.h - what the server tells its operator: one line per message and per request, on standard error.
 *
 * Text lines are for people; with --log-format json each line is one JSON object with the same fields. Loop thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };

struct log {
    FILE *to; /* borrowed */
    bool json;
    enum log_level level; /* lines below it are left out */
    bool no_requests;     /* --disable-log-requests */
    bool names_models;    /* several are served: text lines, too, say which one was asked */
};

/* LOG_INFO for "info" and so on; false for another word. */
bool log_level_by_name(const char *name, enum log_level *level);

void log_message(const struct log *log, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A message with its figures: fields of the JSON object; in text the message says them. */
struct log_figure {
    const char *name;
    double value;
};
void log_figures(const struct log *log, enum log_level level, const char *message, const struct log_figure *figures,
                 int n);

/* One answered request. Zero means unknown, and is left out, for all but status. */
struct log_request {
    const char *id, *method, *path, *peer, *tenant;
    const char *model;                /* NULL: no model was asked */
    const char *error;                /* the sentence that the client got; NULL */
    int status;                       /* HTTP; 0: the client left before there was one */
    bool aborted;                     /* the client left before the end */
    int n_prompt, n_cached, n_output; /* tokens */
    double ttft_seconds, seconds;
    uint64_t bytes; /* sent */
    bool quiet;     /* probes: only with --log-level debug */
};
void log_request(const struct log *log, const struct log_request *r);
