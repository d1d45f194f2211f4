/* extract_csv.c - CSV (RFC 4180, any of four delimiters): one table, the first row its header. */
#include "rag/charset.h"
#include "rag/extract.h"

#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>

/* One field from text[at]; returns the offset after it, at the delimiter or the line's end. */
static size_t field_end(const char *text, size_t n, size_t at, char delimiter) {
    if (at < n && text[at] == '"') {
        for (at++; at < n; at++) {
            if (text[at] != '"') continue;
            if (at + 1 < n && text[at + 1] == '"')
                at++;
            else
                break;
        }
        if (at < n) at++;
    }
    while (at < n && text[at] != delimiter && text[at] != '\n') at++;
    return at;
}

/* How many of the first lines have as many fields as the first; 0 where the first has one, or too few agree. */
static int agreement(const char *text, size_t n, char delimiter, bool named) {
    int first = 0, lines = 0, same = 0;
    for (size_t at = 0; at < n && lines < 50; lines++) {
        int fields = 1;
        for (at = field_end(text, n, at, delimiter); at < n && text[at] == delimiter; fields++)
            at = field_end(text, n, at + 1, delimiter);
        if (at == n && n == 1 << 16 && lines) break; /* the window cuts this line */
        at++;
        if (!lines) first = fields;
        same += fields == first;
    }
    if (first < 2) return 0;
    if (named) return 1000 * same / lines + first; /* the best one wins: agreement first, then columns */
    return lines >= 3 && same == lines ? 1000 + first : 0;
}

char extract__csv_delimiter(const char *data, size_t bytes, bool named) {
    static const char delimiters[] = ",;\t|";
    char best = named ? ',' : 0;
    int score = 0;
    if (bytes > 1 << 16) bytes = 1 << 16;
    for (const char *c = delimiters; *c; c++) {
        int s = agreement(data, bytes, *c, named);
        if (s > score) score = s, best = *c;
    }
    return best;
}

/* A field's text: without its quotes, doubled quotes as one, in pieces that stand in the file as they are. */
static void put_field(struct document *d, const char *text, size_t from, size_t end, uint64_t skip, bool mapped) {
    while (end > from && text[end - 1] == '\r') end--;
    bool quoted = end > from && text[from] == '"';
    if (quoted) from++;
    for (size_t at = from; at <= end; at++) {
        bool quote = quoted && at < end && text[at] == '"';
        if (at < end && !quote) continue;
        doc_text(d, text + from, at - from, mapped ? skip + from : DOC_NO_SOURCE);
        if (at == end) break;
        if (at + 1 < end && text[at + 1] == '"') { /* "" stands for one: the second goes with what follows */
            from = at + 1;
            at++;
        } else {
            quoted = false; /* what follows the closing quote is taken as it is */
            from = at + 1;
        }
    }
}

void extract__csv(struct document *d, const struct extract_input *in) {
    struct decoded decoded;
    if (!charset_decode(&decoded, in->data, in->bytes, NULL, 0)) {
        doc_fail(d, STATUS_NO_MEMORY, "memory ran out while the table was decoded");
        return;
    }
    const char *text = decoded.data ? decoded.data : in->data + decoded.skip;
    size_t n = decoded.bytes;
    char delimiter = extract__csv_delimiter(text, n, true);
    uint32_t row = 0;
    doc_begin(d, BLOCK_TABLE, 1);
    for (size_t at = 0; at < n && !d->status;) {
        if (text[at] == '\n' || (text[at] == '\r' && at + 1 < n && text[at + 1] == '\n')) { /* an empty line */
            at += text[at] == '\r' ? 2 : 1;
            continue;
        }
        for (uint32_t column = 0; at <= n && !d->status; column++) {
            size_t end = field_end(text, n, at, delimiter);
            doc_cell(d, row, column, 1, 1);
            put_field(d, text, at, end, decoded.skip, !decoded.data);
            at = end + 1;
            if (end == n || text[end] == '\n') break;
        }
        row++;
    }
    doc_end(d);
    free(decoded.data);
}
