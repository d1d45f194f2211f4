/* status.h - the one table of error codes, and CHECK for our own bugs.
 *
 * Three classes of error, everywhere in Tandem:
 *   1. our bug (shape, alignment, impossible state): CHECK prints both values and aborts, in release too;
 *   2. start-up (file, weights, device): a negative code plus a sentence in `char *err`, which says what was
 *      expected, what was found and what to do; only main() exits;
 *   3. one request: it ends with a status, the server lives.
 * Functions return 0 for success and one of the negative codes below otherwise. */
#pragma once

#include <stdarg.h>
#include <stddef.h>

#define STATUS_TABLE(X)                                                                                                \
    X(STATUS_OK, 0, "success")                                                                                         \
    X(STATUS_NO_MEMORY, -1, "out of memory")                                                                           \
    X(STATUS_IO, -2, "input/output error")                                                                             \
    X(STATUS_NOT_FOUND, -3, "not found")                                                                               \
    X(STATUS_INVALID, -4, "invalid input")                                                                             \
    X(STATUS_UNSUPPORTED, -5, "not supported")                                                                         \
    X(STATUS_TOO_LARGE, -6, "too large")                                                                               \
    X(STATUS_BUSY, -7, "too many requests")                                                                            \
    X(STATUS_CANCELLED, -8, "cancelled")                                                                               \
    X(STATUS_DEVICE, -9, "device error")                                                                               \
    X(STATUS_CLOSED, -10, "shutting down")

enum status {
#define X(name, value, text) name = value,
    STATUS_TABLE(X)
#undef X
};

/* The table's message; "unknown status" for a number that is not in it. */
const char *status_text(int status);

/* Size that every `char *err` buffer should have. */
#define ERR_BYTES 512

/* Formats a sentence into err (bounded by err_bytes; err may be NULL) and returns `status`:
 *     return fail(err, err_bytes, STATUS_INVALID, "%s: expected a JSON object, found %s", path, kind);           */
int fail(char *err, size_t err_bytes, int status, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* CHECK(cond): aborts with the expression. CHECK_EQ/LE/LT(a, b): abort with both values as long long. */
void check__failed(const char *file, int line, const char *expr) __attribute__((noreturn));
void check__failed2(const char *file, int line, const char *expr, long long a, long long b) __attribute__((noreturn));

#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond)) check__failed(__FILE__, __LINE__, #cond);                                                         \
    } while (0)
#define CHECK_OP(a, op, b)                                                                                             \
    do {                                                                                                               \
        long long check_a = (long long)(a), check_b = (long long)(b);                                                  \
        if (!(check_a op check_b)) check__failed2(__FILE__, __LINE__, #a " " #op " " #b, check_a, check_b);            \
    } while (0)
#define CHECK_EQ(a, b) CHECK_OP(a, ==, b)
#define CHECK_LE(a, b) CHECK_OP(a, <=, b)
#define CHECK_LT(a, b) CHECK_OP(a, <, b)
