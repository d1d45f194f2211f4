/* extract_md.c - Markdown by libcmark-gfm (CommonMark with GitHub's tables and strikethrough).
 *
 * cmark gives a tree without recursion anywhere, and lines and columns for blocks only. What a text node stands for is
 * found again by looking for its bytes from where the last one ended, and read beside it: escapes are one byte less,
 * entities have no origin. HTML blocks go through the HTML reader, so that what a browser would not show is not read
 * here either. */
#include "rag/charset.h"
#include "rag/extract.h"
#include "rag/extract_html.h"

#include "kernels/status.h"

#include <cmark-gfm-core-extensions.h>
#include <cmark-gfm.h>
#include <ctype.h>
#include <gumbo.h>
#include <stdlib.h>
#include <string.h>

struct md {
    struct document *d;
    const struct extract_input *in;
    const char *text; /* the UTF-8 that cmark reads */
    size_t n;
    uint64_t skip; /* offset of text in the file, or DOC_NO_SOURCE if it was decoded */
    size_t *lines; /* [n_lines] owned: where each line begins */
    size_t n_lines;
    size_t cursor, end; /* within the block at hand: what is not yet accounted for */
    int list_depth;
    bool item_pending;                  /* an item has begun and has no block yet */
    uint32_t number[DOC_MAX_LEVEL + 1]; /* of the current item per depth; 0: bullets */
    uint32_t row, column;
};

static void index_lines(struct md *m) {
    size_t capacity = 0;
    for (size_t at = 0; at < m->n;) {
        if (m->n_lines == capacity) {
            capacity = 2 * capacity + 256;
            m->lines = realloc(m->lines, capacity * sizeof *m->lines);
            CHECK(m->lines);
        }
        m->lines[m->n_lines++] = at;
        const char *newline = memchr(m->text + at, '\n', m->n - at);
        at = newline ? (size_t)(newline - m->text) + 1 : m->n;
    }
}

/* Offset of a place that cmark names, counted from 1. */
static size_t offset_of(const struct md *m, int line, int column) {
    if (line < 1 || !m->n_lines) return 0;
    if ((size_t)line > m->n_lines) return m->n;
    size_t at = m->lines[line - 1] + (column > 0 ? (size_t)column - 1 : 0);
    return at < m->n ? at : m->n;
}

static void enter_block(struct md *m, cmark_node *node) {
    m->cursor = offset_of(m, cmark_node_get_start_line(node), cmark_node_get_start_column(node));
    m->end = offset_of(m, cmark_node_get_end_line(node) + 1, 1);
    if (m->end < m->cursor) m->end = m->cursor;
}

/* Appends a literal, with its origin if it stands near the cursor: short ones must be very near, since they occur
 * everywhere (the '<' of an entity must not be taken for another one far away). */
static void put(struct md *m, const char *p, size_t n) {
    size_t window = m->end - m->cursor, near = n < 4 ? n + 8 : n + 4096;
    const char *found = NULL;
    if (m->skip != DOC_NO_SOURCE && n) found = memmem(m->text + m->cursor, window < near ? window : near, p, n);
    if (found) {
        size_t at = (size_t)(found - m->text);
        doc_text(m->d, p, n, m->skip + at);
        m->cursor = at + n;
    } else {
        doc_text(m->d, p, n, DOC_NO_SOURCE);
    }
}

/* Bytes of an entity at p, such as "&amp;" or "&#8212;"; 0 if it is none. */
static size_t entity(const char *p, size_t n) {
    size_t i = 1;
    while (i < n && i < 40 && (isalnum((unsigned char)p[i]) || (p[i] == '#' && i == 1))) i++;
    return n && *p == '&' && i > 1 && i < n && p[i] == ';' ? i + 1 : 0;
}

/* Appends a text node. Its beginning is looked for; from there on escapes and entities are stepped over. */
static void put_text(struct md *m, const char *p, size_t n) {
    size_t window = m->end - m->cursor, head = n < 12 ? n : 12, near = head < 4 ? head + 8 : 4096, i = 0, j, step;
    if (m->skip == DOC_NO_SOURCE || !n) {
        doc_text(m->d, p, n, DOC_NO_SOURCE);
        return;
    }
    const char *s = m->text, *found = memmem(s + m->cursor, window < near ? window : near, p, head);
    for (j = found ? (size_t)(found - s) : m->cursor; i < n && j < m->end;) {
        size_t same = 0, skip = entity(s + j, m->end - j);
        if (skip && (n - i < skip || memcmp(p + i, s + j, skip))) {
            for (step = 1; i + step < n && ((unsigned char)p[i + step] & 0xC0) == 0x80;) step++;
            doc_text(m->d, p + i, step, DOC_NO_SOURCE);
            i += step;
            j += skip;
            continue;
        }
        if (s[j] == '\\' && j + 1 < m->end && s[j + 1] == p[i] && ispunct((unsigned char)p[i])) j++;
        while (i + same < n && j + same < m->end && p[i + same] == s[j + same]) {
            same++;
            if (j + same < m->end && (s[j + same] == '&' || s[j + same] == '\\')) break; /* to be looked at */
        }
        while (same && i + same < n && ((unsigned char)p[i + same] & 0xC0) == 0x80) same--; /* whole characters */
        if (!same) break;
        doc_text(m->d, p + i, same, m->skip + j);
        i += same;
        j += same;
    }
    if (i) m->cursor = j;
    doc_text(m->d, p + i, n - i, DOC_NO_SOURCE);
}

/* Code: line by line, since the lines of an indented block do not follow each other in the file. */
static void put_lines(struct md *m, const char *p) {
    while (*p) {
        size_t n = strcspn(p, "\n");
        n += p[n] == '\n';
        put(m, p, n);
        p += n;
    }
}

static void begin_text_block(struct md *m, enum block_kind kind, int level) {
    if (m->item_pending && kind == BLOCK_PARAGRAPH) {
        int depth = m->list_depth > DOC_MAX_LEVEL ? DOC_MAX_LEVEL : m->list_depth;
        doc_begin(m->d, BLOCK_LIST_ITEM, depth - 1);
        struct doc_block *b = doc_current(m->d);
        if (b) b->number = m->number[depth];
    } else {
        doc_begin(m->d, kind, level);
    }
    m->item_pending = false;
}

static void enter_list(struct md *m, cmark_node *node) {
    m->list_depth++;
    if (m->list_depth > DOC_MAX_LEVEL) return;
    bool ordered = cmark_node_get_list_type(node) == CMARK_ORDERED_LIST;
    int start = cmark_node_get_list_start(node);
    m->number[m->list_depth] = ordered && start > 0 ? (uint32_t)start : ordered;
}

static void leave_item(struct md *m) {
    m->item_pending = false;
    if (m->list_depth <= DOC_MAX_LEVEL && m->number[m->list_depth]) m->number[m->list_depth]++;
}

static void enter_table_part(struct md *m, cmark_node *node, const char *type) {
    if (!strcmp(type, "table")) {
        doc_begin(m->d, BLOCK_TABLE, 1);
        m->row = UINT32_MAX;
    } else if (!strcmp(type, "table_row") || !strcmp(type, "table_header")) {
        m->row++;
        m->column = 0;
        enter_block(m, node);
    } else if (!strcmp(type, "table_cell")) {
        doc_cell(m->d, m->row, m->column++, 1, 1);
    }
}

/* A tag within a line: only a line break says something. What is no element of HTML is text that looks like one: "<T>",
 * "<name>". */
static void put_inline_html(struct md *m, const char *literal) {
    char name[16] = "";
    const char *p = literal + 1 + (literal[1] == '/');
    for (size_t i = 0; i + 1 < sizeof name && isalnum((unsigned char)p[i]); i++) name[i] = p[i];
    if (!*name) return; /* comments, declarations */
    if (gumbo_tag_enum(name) == GUMBO_TAG_BR)
        doc_text(m->d, "\n", 1, DOC_NO_SOURCE);
    else if (gumbo_tag_enum(name) == GUMBO_TAG_UNKNOWN)
        put(m, literal, strlen(literal));
}

static void enter(struct md *m, cmark_node *node) {
    const char *literal = cmark_node_get_literal(node);
    switch (cmark_node_get_type(node)) {
    case CMARK_NODE_LIST:
        enter_list(m, node);
        break;
    case CMARK_NODE_ITEM:
        m->item_pending = true;
        break;
    case CMARK_NODE_HEADING:
        enter_block(m, node);
        begin_text_block(m, BLOCK_HEADING, cmark_node_get_heading_level(node));
        break;
    case CMARK_NODE_PARAGRAPH:
        enter_block(m, node);
        begin_text_block(m, BLOCK_PARAGRAPH, 0);
        break;
    case CMARK_NODE_CODE_BLOCK:
        enter_block(m, node);
        begin_text_block(m, BLOCK_CODE, 0);
        put_lines(m, literal);
        doc_end(m->d);
        break;
    case CMARK_NODE_HTML_BLOCK:
        m->item_pending = false;
        doc_end(m->d);
        extract__html_fragment(m->d, literal, strlen(literal), m->in->limits);
        break;
    case CMARK_NODE_TEXT:
        put_text(m, literal, strlen(literal));
        break;
    case CMARK_NODE_CODE:
        put(m, literal, strlen(literal));
        break;
    case CMARK_NODE_SOFTBREAK:
    case CMARK_NODE_LINEBREAK:
        put(m, "\n", 1);
        break; /* lines of a paragraph stay lines: they may be meant */
    case CMARK_NODE_HTML_INLINE:
        put_inline_html(m, literal);
        break;
    default:
        enter_table_part(m, node, cmark_node_get_type_string(node));
        break;
    }
}

static void leave(struct md *m, cmark_node *node) {
    switch (cmark_node_get_type(node)) {
    case CMARK_NODE_LIST:
        m->list_depth--;
        break;
    case CMARK_NODE_ITEM:
        leave_item(m);
        break;
    case CMARK_NODE_HEADING:
    case CMARK_NODE_PARAGRAPH:
        doc_end(m->d);
        break;
    default:
        if (!strcmp(cmark_node_get_type_string(node), "table")) doc_end(m->d);
        break;
    }
}

/* YAML between two lines "---" at the start is about the document, not in it: kept as code. Returns its length. */
static size_t front_matter(struct md *m) {
    if (m->n < 8 || memcmp(m->text, "---\n", 4)) return 0;
    const char *end = memmem(m->text + 3, m->n < 8192 ? m->n - 3 : 8189, "\n---\n", 5);
    if (!end) return 0;
    size_t n = (size_t)(end - m->text) + 1;
    m->cursor = 4;
    m->end = n;
    doc_begin(m->d, BLOCK_CODE, 0);
    doc_text(m->d, m->text + 4, n - 4, m->skip == DOC_NO_SOURCE ? m->skip : m->skip + 4);
    doc_end(m->d);
    return n + 4;
}

void extract__md(struct document *d, const struct extract_input *in) {
    static const char *const extensions[] = {"table", "strikethrough"};
    struct decoded decoded;
    if (!charset_decode(&decoded, in->data, in->bytes, NULL, 0)) {
        doc_fail(d, STATUS_NO_MEMORY, "memory ran out while the text was decoded");
        return;
    }
    struct md m = {.d = d, .in = in, .n = decoded.bytes};
    m.text = decoded.data ? decoded.data : in->data + decoded.skip;
    m.skip = decoded.data ? DOC_NO_SOURCE : decoded.skip;
    size_t matter = front_matter(&m);
    m.text += matter;
    m.n -= matter;
    if (m.skip != DOC_NO_SOURCE) m.skip += matter;
    index_lines(&m);

    cmark_gfm_core_extensions_ensure_registered();
    cmark_parser *parser = cmark_parser_new(CMARK_OPT_DEFAULT);
    CHECK(parser);
    for (size_t i = 0; i < sizeof extensions / sizeof *extensions; i++) {
        cmark_syntax_extension *extension = cmark_find_syntax_extension(extensions[i]);
        CHECK(extension);
        cmark_parser_attach_syntax_extension(parser, extension);
    }
    cmark_parser_feed(parser, m.text, m.n);
    cmark_node *root = cmark_parser_finish(parser);
    cmark_iter *iter = cmark_iter_new(root);
    cmark_event_type event;
    while ((event = cmark_iter_next(iter)) != CMARK_EVENT_DONE && !d->status) {
        if (event == CMARK_EVENT_ENTER)
            enter(&m, cmark_iter_get_node(iter));
        else
            leave(&m, cmark_iter_get_node(iter));
    }
    cmark_iter_free(iter);
    cmark_node_free(root);
    cmark_parser_free(parser);
    free(m.lines);
    free(decoded.data);
}
