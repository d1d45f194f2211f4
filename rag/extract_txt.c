/* extract_txt.c - plain text: paragraphs are what empty lines divide, a form feed begins a page. */
#include "rag/charset.h"
#include "rag/extract.h"

#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>

void extract__txt(struct document *d, const struct extract_input *in) {
    struct decoded decoded;
    if (!charset_decode(&decoded, in->data, in->bytes, NULL, 0)) {
        doc_fail(d, STATUS_NO_MEMORY, "memory ran out while the text was decoded");
        return;
    }
    const char *text = decoded.data ? decoded.data : in->data + decoded.skip;
    size_t n = decoded.bytes;
    uint64_t source = decoded.data || in->source == DOC_NO_SOURCE ? DOC_NO_SOURCE : in->source + decoded.skip;
    bool in_paragraph = false;
    for (size_t at = 0; at < n && !d->status;) {
        const char *newline = memchr(text + at, '\n', n - at);
        size_t end = newline ? (size_t)(newline - text) : n, next = newline ? end + 1 : n;
        const char *feed = memchr(text + at, '\f', end - at);
        if (feed && feed > text + at) end = next = (size_t)(feed - text);
        if (text[at] == '\f') {
            doc_page_break(d, d->page ? d->page + 1 : 2);
            if ((int)d->page > in->limits->pages)
                doc_fail(d, STATUS_TOO_LARGE, "it has more than %d pages", in->limits->pages);
            in_paragraph = false;
            at++;
            continue;
        }
        size_t first = at, last = end;
        while (first < last && (unsigned char)text[first] <= ' ') first++;
        while (last > first && (unsigned char)text[last - 1] <= ' ') last--;
        if (first == last) {
            if (in_paragraph) doc_end(d);
            in_paragraph = false;
        } else {
            if (!in_paragraph) {
                doc_begin(d, BLOCK_PARAGRAPH, 0);
                struct doc_block *b = doc_current(d);
                if (b) b->lines = LINES_TYPED;
            }
            in_paragraph = true;
            /* with the line's end, so that a paragraph stays one piece */
            doc_text(d, text + at, next - at, source == DOC_NO_SOURCE ? source : source + at);
        }
        at = next;
    }
    doc_end(d);
    free(decoded.data);
}
