/* extract_html.c - HTML by libgumbo (the HTML5 algorithm): what a browser would show, in blocks.
 *
 * The tree is walked without recursion. Left out: script, style, head and the like, and what is hidden as far as the
 * elements themselves say so (html_style.c). gumbo frees its tree recursively, so a deep one would overflow the stack:
 * its memory comes from a list that is freed at once. */
#include "rag/charset.h"
#include "rag/extract_html.h"
#include "rag/html_style.h"

#include "kernels/status.h"

#include <gumbo.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_LISTS DOC_MAX_LEVEL

/* ---- gumbo's memory ---------------------------------------------------------------------------------------------- */

struct piece { /* before each allocation */
    struct piece *prev, *next;
};

static void *piece_alloc(void *list, size_t bytes) {
    struct piece *head = list, *p = malloc(sizeof *p + bytes);
    CHECK(p); /* in the sandbox: its end, with a reason; gumbo cannot do without */
    p->prev = head;
    p->next = head->next;
    head->next->prev = p;
    head->next = p;
    return p + 1;
}

static void piece_free(void *list, void *memory) {
    (void)list;
    if (!memory) return;
    struct piece *p = (struct piece *)memory - 1;
    p->prev->next = p->next;
    p->next->prev = p->prev;
    free(p);
}

/* ---- the walk ---------------------------------------------------------------------------------------------------- */

struct html {
    struct document *d;
    const char *text; /* what gumbo reads */
    size_t n;
    uint64_t skip; /* offset of text in the file, or DOC_NO_SOURCE */
    struct html_style_state style;
    int heading, pre;
    int lists; /* depth */
    uint32_t number[MAX_LISTS + 1];
    bool item_pending;
    bool in_table; /* within a table that is read as one */
    const GumboNode *table;
    uint32_t row, column;
    uint32_t reach[DOC_MAX_COLUMN]; /* the row that a cell of a row above reaches down to in each column, exclusive */
};

static const char *attribute(const GumboNode *node, const char *name) {
    const GumboAttribute *a = gumbo_get_attribute(&node->v.element.attributes, name);
    return a ? a->value : NULL;
}

static uint32_t number_of(const GumboNode *node, const char *name, uint32_t fallback) {
    const char *text = attribute(node, name);
    long v = text ? strtol(text, NULL, 10) : 0;
    return v > 0 && v < 100000 ? (uint32_t)v : fallback;
}

/* Opens the block that text at this place belongs to. */
static void open_block(struct html *h) {
    if (doc_current(h->d)) return;
    if (h->heading) {
        doc_begin(h->d, BLOCK_HEADING, h->heading);
    } else if (h->item_pending && h->lists) {
        int depth = h->lists < MAX_LISTS ? h->lists : MAX_LISTS;
        doc_begin(h->d, BLOCK_LIST_ITEM, depth - 1);
        struct doc_block *b = doc_current(h->d);
        if (b) b->number = h->number[depth];
        h->item_pending = false;
    } else {
        doc_begin(h->d, BLOCK_PARAGRAPH, 0);
    }
}

static bool is_space(const char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n\f", p[i])) return false;
    return true;
}

/* Appends text that stands at `source`, or nowhere; line ends are spaces but in <pre>. */
static void put_piece(struct html *h, const char *p, size_t n, uint64_t source) {
    char buffer[512];
    for (size_t at = 0; at < n && !h->d->status;) {
        size_t part = n - at < sizeof buffer ? n - at : sizeof buffer;
        while (part > 1 && at + part < n && ((unsigned char)p[at + part] & 0xC0) == 0x80) part--; /* whole characters */
        memcpy(buffer, p + at, part);
        for (size_t i = 0; i < part && !h->pre; i++)
            if (strchr("\t\r\n\f", buffer[i])) buffer[i] = ' ';
        doc_text(h->d, buffer, part, source == DOC_NO_SOURCE ? source : source + at);
        at += part;
    }
}

/* Appends a text node: in pieces that stand in the file as they are, and what entities stand for between them. */
static void put_text(struct html *h, const GumboNode *node) {
    const char *p = node->v.text.text, *raw = node->v.text.original_text.data;
    size_t n = strlen(p), raw_n = node->v.text.original_text.length, i = 0, j = 0;
    if (!h->in_table && !doc_current(h->d) && is_space(p, n)) return;
    if (!h->in_table) open_block(h);
    bool mapped = h->skip != DOC_NO_SOURCE && raw >= h->text && raw <= h->text + h->n;
    if (mapped && raw_n > (size_t)(h->text + h->n - raw)) raw_n = (size_t)(h->text + h->n - raw);
    while (mapped && i < n) {
        size_t same = 0;
        while (i + same < n && j + same < raw_n && p[i + same] == raw[j + same] && p[i + same] != '&') same++;
        if (same) put_piece(h, p + i, same, h->skip + (uint64_t)(raw + j - h->text));
        i += same;
        j += same;
        if (i == n || j == raw_n || raw[j] != '&') break;
        size_t entity = j + 1, step = 1;
        while (entity < raw_n && entity < j + 40 && raw[entity] != ';' && raw[entity] > ' ') entity++;
        bool ended = entity < raw_n && raw[entity] == ';';
        if (!ended && p[i] == '&') entity = j; /* an ampersand that begins no entity */
        while (i + step < n && ((unsigned char)p[i + step] & 0xC0) == 0x80) step++;
        put_piece(h, p + i, step, DOC_NO_SOURCE);
        i += step;
        j = entity + 1;
    }
    put_piece(h, p + i, n - i, DOC_NO_SOURCE);
}

static bool is_block(GumboTag tag) {
    static const GumboTag tags[] = {
        GUMBO_TAG_P,      GUMBO_TAG_DIV,     GUMBO_TAG_SECTION,    GUMBO_TAG_ARTICLE, GUMBO_TAG_HEADER,
        GUMBO_TAG_FOOTER, GUMBO_TAG_MAIN,    GUMBO_TAG_ASIDE,      GUMBO_TAG_NAV,     GUMBO_TAG_BLOCKQUOTE,
        GUMBO_TAG_FIGURE, GUMBO_TAG_ADDRESS, GUMBO_TAG_FIGCAPTION, GUMBO_TAG_FORM,    GUMBO_TAG_FIELDSET,
        GUMBO_TAG_DL,     GUMBO_TAG_DT,      GUMBO_TAG_DD,         GUMBO_TAG_UL,      GUMBO_TAG_OL,
        GUMBO_TAG_LI,     GUMBO_TAG_DETAILS, GUMBO_TAG_SUMMARY,    GUMBO_TAG_CENTER,  GUMBO_TAG_HR,
        GUMBO_TAG_BODY,   GUMBO_TAG_TABLE,   GUMBO_TAG_CAPTION,    GUMBO_TAG_TR,      GUMBO_TAG_TD,
        GUMBO_TAG_TH,     GUMBO_TAG_PRE,     GUMBO_TAG_LEGEND,     GUMBO_TAG_OPTION,  GUMBO_TAG_HGROUP,
        GUMBO_TAG_H1,     GUMBO_TAG_H2,      GUMBO_TAG_H3,         GUMBO_TAG_H4,      GUMBO_TAG_H5,
        GUMBO_TAG_H6,     GUMBO_TAG_LISTING, GUMBO_TAG_PLAINTEXT,  GUMBO_TAG_XMP,     GUMBO_TAG_MENU,
    };
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        if (tags[i] == tag) return true;
    return false;
}

static bool is_left_out(GumboTag tag) {
    return tag == GUMBO_TAG_SCRIPT || tag == GUMBO_TAG_STYLE || tag == GUMBO_TAG_TEMPLATE ||
           tag == GUMBO_TAG_NOSCRIPT || tag == GUMBO_TAG_IFRAME || tag == GUMBO_TAG_SVG || tag == GUMBO_TAG_OBJECT ||
           tag == GUMBO_TAG_NOFRAMES || tag == GUMBO_TAG_NOEMBED || tag == GUMBO_TAG_ANNOTATION_XML ||
           tag == GUMBO_TAG_AUDIO || tag == GUMBO_TAG_VIDEO || tag == GUMBO_TAG_CANVAS;
}

static int heading_level(GumboTag tag) {
    return tag >= GUMBO_TAG_H1 && tag <= GUMBO_TAG_H6 ? (int)(tag - GUMBO_TAG_H1) + 1 : 0;
}

/* ---- a walk over the tree: the next node in document order, telling where elements end ----------------------------
 */

static bool enter(struct html *h, const GumboNode *node); /* false: do not go in */
static void leave(struct html *h, const GumboNode *node);

static const GumboVector *children_of(const GumboNode *node) {
    if (node->type == GUMBO_NODE_DOCUMENT) return &node->v.document.children;
    if (node->type == GUMBO_NODE_ELEMENT || node->type == GUMBO_NODE_TEMPLATE) return &node->v.element.children;
    return NULL;
}

static void walk(struct html *h, const GumboNode *root) {
    const GumboNode *node = root;
    while (!h->d->status) {
        bool in = enter(h, node);
        const GumboVector *children = in ? children_of(node) : NULL;
        if (children && children->length) {
            node = children->data[0];
            continue;
        }
        if (in) leave(h, node);
        for (;;) {
            if (node == root) return;
            const GumboNode *parent = node->parent;
            size_t next = node->index_within_parent + 1;
            children = children_of(parent);
            if (next < children->length) {
                node = children->data[next];
                break;
            }
            leave(h, parent);
            node = parent;
        }
    }
}

/* A table that only arranges a page holds tables, and no header cells of its own. */
static bool is_layout_table(const GumboNode *table) {
    const char *role = attribute(table, "role");
    if (role && (!strcmp(role, "presentation") || !strcmp(role, "none"))) return true;
    bool nested = false;
    const GumboNode *node = table;
    while (node) {
        const GumboVector *children = children_of(node);
        bool inner = node != table && node->type == GUMBO_NODE_ELEMENT && node->v.element.tag == GUMBO_TAG_TABLE;
        if (inner) nested = true;
        if (node->type == GUMBO_NODE_ELEMENT && node->v.element.tag == GUMBO_TAG_TH) return false;
        if (children && children->length && !inner) {
            node = children->data[0];
            continue;
        }
        while (node != table) {
            children = children_of(node->parent);
            if (node->index_within_parent + 1 < children->length) {
                node = children->data[node->index_within_parent + 1];
                break;
            }
            node = node->parent;
        }
        if (node == table) break;
    }
    return nested;
}

/* The next cell of a row stands in the first column that no cell above reaches into. */
static void begin_cell(struct html *h, uint32_t row_span, uint32_t column_span) {
    uint32_t row = h->row == UINT32_MAX ? 0 : h->row;
    while (h->column < DOC_MAX_COLUMN && h->reach[h->column] > row) h->column++;
    doc_cell(h->d, row, h->column, row_span, column_span);
    if (h->d->status) return;
    const struct doc_cell *cell = &h->d->cells[h->d->n_cells - 1];
    h->column = cell->column + cell->column_span;
    for (uint32_t k = cell->column; k < h->column && k < DOC_MAX_COLUMN; k++) h->reach[k] = row + cell->row_span;
}

static bool enter_in_table(struct html *h, const GumboNode *node, GumboTag tag) {
    if (tag == GUMBO_TAG_TR || tag == GUMBO_TAG_TD || tag == GUMBO_TAG_TH) {
        const GumboNode *up = node->parent; /* whose is it: that table's, or one's within it? */
        while (up && !(up->type == GUMBO_NODE_ELEMENT && up->v.element.tag == GUMBO_TAG_TABLE)) up = up->parent;
        if (up == h->table && tag == GUMBO_TAG_TR) {
            h->row++;
            h->column = 0;
            return true;
        }
        if (up == h->table) {
            begin_cell(h, number_of(node, "rowspan", 1), number_of(node, "colspan", 1));
            return true;
        }
    }
    if (tag == GUMBO_TAG_BR)
        doc_text(h->d, "\n", 1, DOC_NO_SOURCE);
    else if (is_block(tag))
        doc_text(h->d, " ", 1, DOC_NO_SOURCE);
    return true;
}

static void begin_table(struct html *h, const GumboNode *node) {
    const GumboVector *children = &node->v.element.children;
    for (unsigned i = 0; i < children->length; i++) { /* a caption is said before its table */
        const GumboNode *child = children->data[i];
        if (child->type != GUMBO_NODE_ELEMENT || child->v.element.tag != GUMBO_TAG_CAPTION) continue;
        walk(h, child);
        break;
    }
    doc_begin(h->d, BLOCK_TABLE, 1);
    h->in_table = true;
    h->table = node;
    memset(h->reach, 0, sizeof h->reach);
    h->row = UINT32_MAX;
    h->column = 0;
    h->item_pending = false;
}

static bool enter(struct html *h, const GumboNode *node) {
    switch (node->type) {
    case GUMBO_NODE_TEXT:
    case GUMBO_NODE_CDATA:
    case GUMBO_NODE_WHITESPACE:
        put_text(h, node);
        return false;
    case GUMBO_NODE_COMMENT:
        return false;
    case GUMBO_NODE_DOCUMENT:
        return true;
    default:
        break;
    }
    GumboTag tag = node->v.element.tag;
    if (tag == GUMBO_TAG_TITLE && node->v.element.children.length) {
        const GumboNode *text = node->v.element.children.data[0];
        if (text->type == GUMBO_NODE_TEXT) doc_title(h->d, text->v.text.text, strlen(text->v.text.text));
        return false;
    }
    if (tag == GUMBO_TAG_STYLE || tag == GUMBO_TAG_LINK) h->style.has_css = true;
    if (is_left_out(tag) || tag == GUMBO_TAG_TITLE) return false;
    if (tag == GUMBO_TAG_HEAD) return true;
    if (html_style_hides(&h->style, attribute(node, "style"), attribute(node, "bgcolor"), attribute(node, "color"),
                         attribute(node, "hidden") != NULL))
        return false;
    if (tag == GUMBO_TAG_IMG) {
        const char *alt = attribute(node, "alt");
        if (alt && *alt) {
            if (!h->in_table) open_block(h);
            put_piece(h, alt, strlen(alt), DOC_NO_SOURCE);
            doc_text(h->d, " ", 1, DOC_NO_SOURCE);
        }
        return false;
    }
    if (h->in_table && tag == GUMBO_TAG_CAPTION && node->parent == h->table) return false; /* said before the table */
    html_style_enter(&h->style, attribute(node, "style"), attribute(node, "bgcolor"));
    if (h->in_table) return enter_in_table(h, node, tag);
    if (tag == GUMBO_TAG_TABLE && !is_layout_table(node)) {
        begin_table(h, node);
        return true;
    }
    if (tag == GUMBO_TAG_BR) {
        if (doc_current(h->d)) doc_text(h->d, "\n", 1, DOC_NO_SOURCE);
        return true;
    }
    if (!is_block(tag)) return true;
    doc_end(h->d);
    if (heading_level(tag)) h->heading = heading_level(tag);
    if (tag == GUMBO_TAG_PRE || tag == GUMBO_TAG_LISTING || tag == GUMBO_TAG_XMP) {
        if (!h->pre++) doc_begin(h->d, BLOCK_CODE, 0);
        h->item_pending = false;
    } else if (tag == GUMBO_TAG_UL || tag == GUMBO_TAG_OL || tag == GUMBO_TAG_MENU) {
        if (++h->lists <= MAX_LISTS) h->number[h->lists] = tag == GUMBO_TAG_OL ? number_of(node, "start", 1) : 0;
    } else if (tag == GUMBO_TAG_LI) {
        h->item_pending = true;
    }
    return true;
}

static void leave(struct html *h, const GumboNode *node) {
    if (node->type != GUMBO_NODE_ELEMENT) return;
    GumboTag tag = node->v.element.tag;
    if (tag == GUMBO_TAG_HEAD) return;
    html_style_leave(&h->style, attribute(node, "style"), attribute(node, "bgcolor"));
    if (h->in_table && node != h->table) {
        if (is_block(tag)) doc_text(h->d, " ", 1, DOC_NO_SOURCE);
        return;
    }
    if (node == h->table) {
        h->in_table = false;
        h->table = NULL;
        doc_end(h->d);
        return;
    }
    if (!is_block(tag)) return;
    doc_end(h->d);
    if (heading_level(tag)) h->heading = 0;
    if (tag == GUMBO_TAG_PRE || tag == GUMBO_TAG_LISTING || tag == GUMBO_TAG_XMP) {
        h->pre--;
    } else if (tag == GUMBO_TAG_UL || tag == GUMBO_TAG_OL || tag == GUMBO_TAG_MENU) {
        h->lists--;
    } else if (tag == GUMBO_TAG_LI) {
        h->item_pending = false;
        if (h->lists && h->lists <= MAX_LISTS && h->number[h->lists]) h->number[h->lists]++;
    }
}

/* ---- bounds, before gumbo sees it ----------------------------------------------------------------------------------
 */

/* Elements that are rarely closed, or never: they do not nest. */
static bool is_unclosed(const char *name, size_t n) {
    static const char *const names[] = {"p",    "li",    "td",    "th",    "tr",      "dt",     "dd",
                                        "br",   "hr",    "img",   "input", "meta",    "link",   "option",
                                        "area", "base",  "col",   "embed", "param",   "source", "track",
                                        "wbr",  "tbody", "thead", "tfoot", "colgroup"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && !strncasecmp(names[i], name, n)) return true;
    return false;
}

/* Attributes of a tag, from behind its name, within the first bytes of it: words outside of quotes. */
static int attributes_of(const char *p, const char *end) {
    enum { WINDOW = 1 << 16 };
    int n = 0;
    char quote = 0;
    if (end - p > WINDOW) end = p + WINDOW;
    for (; p < end && (quote || *p != '>'); p++) {
        if (quote)
            quote = *p == quote ? 0 : quote;
        else if (*p == '"' || *p == '\'')
            quote = *p;
        else if (is_space(p, 1) && !is_space(p + 1 < end ? p + 1 : p, 1))
            n++;
    }
    return n;
}

/* What gumbo's cost grows quadratically with: the depth of elements, by opening and closing tags as they come, and the
 * attributes of one tag. NULL, or what there is too much of. */
static const char *too_much(const char *p, size_t n, const struct extract_limits *limits) {
    int depth = 0;
    const char *end = p + n;
    while ((p = memchr(p, '<', (size_t)(end - p))) && p + 1 < end) {
        bool closing = *++p == '/';
        const char *name = p + closing, *q = name;
        while (q < end && ((*q | 32) >= 'a' && (*q | 32) <= 'z')) q++;
        if (q == name) continue;
        const char *close = memchr(q, '>', (size_t)(end - q) < 4096 ? (size_t)(end - q) : 4096);
        if (!close && attributes_of(q, end) > limits->depth) return "attributes in one tag";
        if (is_unclosed(name, (size_t)(q - name)) || (close && close[-1] == '/')) continue;
        depth += closing ? -(depth > 0) : 1;
        if (depth > limits->depth) return "elements within each other";
    }
    return NULL;
}

static void read_html(struct document *d, const char *text, size_t n, uint64_t skip,
                      const struct extract_limits *limits) {
    const char *what = too_much(text, n, limits);
    if (what) {
        doc_fail(d, STATUS_TOO_LARGE, "it has more than %d %s", limits->depth, what);
        return;
    }
    struct piece list = {&list, &list};
    GumboOptions options = kGumboDefaultOptions;
    options.allocator = piece_alloc;
    options.deallocator = piece_free;
    options.userdata = &list;
    options.max_errors = 0;
    GumboOutput *output = gumbo_parse_with_options(&options, text, n);
    struct html h = {.d = d, .text = text, .n = n, .skip = skip};
    if (output && output->root) walk(&h, output->root);
    doc_end(d);
    while (list.next != &list) piece_free(&list, list.next + 1);
}

void extract__html_fragment(struct document *d, const char *html, size_t bytes, const struct extract_limits *limits) {
    read_html(d, html, bytes, DOC_NO_SOURCE, limits);
}

/* The charset that a page says it has, within its first bytes; a view. */
static const char *charset_of(const char *p, size_t n, size_t *bytes) {
    const char *end = p + (n < 2048 ? n : 2048), *at;
    for (at = p; at + 8 < end; at++)
        if (!strncasecmp(at, "charset=", 8)) break;
    *bytes = 0;
    if (at + 8 >= end) return NULL;
    at += 8;
    if (*at == '"' || *at == '\'') at++;
    while (at + *bytes < end && *bytes < 40 &&
           (at[*bytes] == '-' || at[*bytes] == '_' || (at[*bytes] | 32) >= 'a' ||
            (at[*bytes] >= '0' && at[*bytes] <= '9')))
        ++*bytes;
    return at;
}

void extract__html(struct document *d, const struct extract_input *in) {
    struct decoded decoded;
    size_t charset_bytes = 0;
    const char *charset = NULL;
    if (!charset_valid_utf8(in->data, in->bytes)) charset = charset_of(in->data, in->bytes, &charset_bytes);
    if (!charset_decode(&decoded, in->data, in->bytes, charset, charset_bytes)) {
        doc_fail(d, STATUS_UNSUPPORTED, "its charset \"%.*s\" is not read; convert it to UTF-8", (int)charset_bytes,
                 charset ? charset : "");
        return;
    }
    if (decoded.data)
        read_html(d, decoded.data, decoded.bytes, DOC_NO_SOURCE, in->limits);
    else
        read_html(d, in->data + decoded.skip, decoded.bytes, decoded.skip, in->limits);
    free(decoded.data);
}
