/* log.c - lines on standard error; see log.h. */
#include "server/log.h"

#include "server/json_out.h"
#include "weights/json.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>

static const char *const level_names[] = {"debug", "info", "warning", "error"};

bool log_level_by_name(const char *name, enum log_level *level) {
    for (int i = 0; i < 4; i++)
        if (!strcmp(name, level_names[i])) {
            *level = (enum log_level)i;
            return true;
        }
    return false;
}

/* "2026-01-31T12:00:00.123Z" */
static void out_time(struct out *out) {
    struct timespec now;
    struct tm tm;
    char text[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    out_format(out, "%s.%03ldZ", text, now.tv_nsec / 1000000);
}

static void write_line(const struct log *log, struct out *line) {
    out_char(line, '\n');
    fwrite(line->data, 1, line->bytes, log->to); /* one call: lines of several processes do not mix */
    fflush(log->to);
    out_deinit(line);
}

/* {"time":"...","level":"..." */
static void begin_json(struct out *line, enum log_level level) {
    out_text(line, "{\"time\":\"");
    out_time(line);
    out_format(line, "\",\"level\":\"%s\"", level_names[level]);
}

void log_figures(const struct log *log, enum log_level level, const char *message, const struct log_figure *figures,
                 int n) {
    struct out line = {0};
    if (level < log->level) return;
    if (log->json) {
        begin_json(&line, level);
        out_text(&line, ",\"message\":");
        json_out_cstring(&line, message);
        for (int i = 0; i < n; i++) out_format(&line, ",\"%s\":%.13g", figures[i].name, figures[i].value);
        out_char(&line, '}');
    } else {
        out_time(&line);
        out_format(&line, " %s %s", level_names[level], message);
    }
    write_line(log, &line);
}

void log_message(const struct log *log, enum log_level level, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_figures(log, level, text, NULL, 0);
}

static void json_field(struct out *line, const char *name, const char *value) {
    if (!value || !*value) return;
    out_format(line, ",\"%s\":", name);
    json_out_cstring(line, value);
}

static void request_json(struct out *line, const struct log_request *r, enum log_level level) {
    begin_json(line, level);
    json_field(line, "request_id", r->id);
    json_field(line, "method", r->method);
    json_field(line, "path", r->path);
    out_format(line, ",\"status\":%d", r->status);
    if (r->aborted) out_text(line, ",\"aborted\":true");
    json_field(line, "peer", r->peer);
    json_field(line, "tenant", r->tenant);
    json_field(line, "model", r->model);
    if (r->n_prompt)
        out_format(line, ",\"prompt_tokens\":%d,\"cached_tokens\":%d,\"output_tokens\":%d", r->n_prompt, r->n_cached,
                   r->n_output);
    if (r->ttft_seconds > 0) out_format(line, ",\"ttft_ms\":%.3f", 1e3 * r->ttft_seconds);
    out_format(line, ",\"total_ms\":%.3f,\"bytes\":%llu", 1e3 * r->seconds, (unsigned long long)r->bytes);
    json_field(line, "error", r->error);
    out_char(line, '}');
}

static void request_text(struct out *line, const struct log_request *r, enum log_level level, bool names_model) {
    char quoted[256];
    out_time(line);
    out_format(line, " %s %s %s %d %.1f ms", level_names[level], r->method, json_quote(r->path, quoted, sizeof quoted),
               r->status, 1e3 * r->seconds);
    if (names_model && r->model) out_format(line, ", %s", json_quote(r->model, quoted, sizeof quoted));
    if (r->n_prompt) out_format(line, ", %d prompt + %d output tokens", r->n_prompt, r->n_output);
    if (r->n_cached) out_format(line, " (%d cached)", r->n_cached);
    if (r->ttft_seconds > 0) out_format(line, ", first after %.1f ms", 1e3 * r->ttft_seconds);
    if (r->tenant && *r->tenant) out_format(line, ", tenant %s", r->tenant);
    if (r->aborted) out_text(line, ", client left");
    if (r->error && *r->error) out_format(line, ", \"%s\"", json_quote(r->error, quoted, sizeof quoted));
    out_format(line, " [%s]", r->id);
}

void log_request(const struct log *log, const struct log_request *r) {
    struct out line = {0};
    enum log_level level = r->status >= 500 ? LOG_ERROR : r->quiet ? LOG_DEBUG : LOG_INFO;
    if (log->no_requests || level < log->level) return;
    if (log->json)
        request_json(&line, r, level);
    else
        request_text(&line, r, level, log->names_models);
    write_line(log, &line);
}
