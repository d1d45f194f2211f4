/* extract_docx.c - Word's documents (ECMA-376, transitional and strict): word/document.xml in reading order.
 *
 * A paragraph is collected until its end, because what it is (a heading by style or outline level, an item of a list,
 * code) stands before its text and in other parts. A text box is paragraphs within a paragraph: they come out before
 * it. Left out: deleted and moved-away text, field instructions, the fallbacks of newer markup, hidden runs (w:vanish),
 * and white runs outside of tables and shapes where nothing sets a background. */
#include "rag/docx_styles.h"
#include "rag/extract.h"

#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_PARAGRAPHS 8 /* within each other */

struct paragraph {
    char *text; /* owned */
    size_t n, capacity;
    int heading, list, list_level; /* -1: not said */
    bool code, hidden, shaded;
};

struct docx {
    struct document *d;
    struct docx_styles styles;
    struct paragraph stack[MAX_PARAGRAPHS];
    int paragraphs;      /* open ones */
    int depth, skip;     /* elements that are open; the depth at which a part that is left out began, or 0 */
    bool in_text;        /* w:t, m:t */
    bool run_properties; /* within w:rPr of a run */
    bool run_hidden, run_white, run_shaded;
    int tables, boxes;                                  /* nesting */
    uint32_t row, column, span, merges[DOC_MAX_COLUMN]; /* the cell that reaches down a column, counted from 1 */
    bool merge_begins, merge_goes_on, cell_shaded, cell_open;
    bool code_open; /* the block that is open is code, which the next paragraph may continue */
};

static int number(const char *text, int fallback) {
    long v = text ? strtol(text, NULL, 10) : fallback;
    return v < 0 || v > 1000000 ? fallback : (int)v;
}

static struct paragraph *current(struct docx *x) {
    return x->paragraphs ? &x->stack[x->paragraphs - 1] : NULL;
}

static void put(struct docx *x, const char *p, size_t n) {
    struct paragraph *a = current(x);
    if (!a || !n) return;
    if (a->n + n > x->d->max_text) {
        doc_fail(x->d, STATUS_TOO_LARGE, "it has more than %zu MB of text", x->d->max_text >> 20);
        return;
    }
    if (a->n + n > a->capacity) {
        a->capacity = 2 * (a->n + n) + 256;
        a->text = realloc(a->text, a->capacity);
        CHECK(a->text);
    }
    memcpy(a->text + a->n, p, n);
    a->n += n;
}

static void put_run(struct docx *x, const char *p, size_t n) {
    struct paragraph *a = current(x);
    bool white = x->run_white && !x->run_shaded && !x->tables && !x->boxes && a && !a->shaded;
    if (a && !x->run_hidden && !a->hidden && !white) put(x, p, n);
}

/* ---- paragraphs -------------------------------------------------------------------------------------------------- */

static void begin_paragraph(struct docx *x) {
    if (x->paragraphs == MAX_PARAGRAPHS) {
        x->skip = x->depth;
        return;
    }
    struct paragraph *a = &x->stack[x->paragraphs++];
    *a = (struct paragraph){.text = a->text, .capacity = a->capacity, .heading = -1, .list = -1, .list_level = -1};
    x->run_hidden = x->run_white = x->run_shaded = false;
}

static bool is_blank(const struct paragraph *a) {
    for (size_t i = 0; i < a->n; i++)
        if ((unsigned char)a->text[i] > ' ') return false;
    return true;
}

static void end_paragraph(struct docx *x) {
    struct document *d = x->d;
    struct paragraph *a = current(x);
    if (!a) return;
    x->paragraphs--;
    if (x->tables) {
        if (x->cell_open && !is_blank(a)) {
            doc_text(d, a->text, a->n, DOC_NO_SOURCE);
            doc_text(d, "\n", 1, DOC_NO_SOURCE);
        }
        return;
    }
    if (a->code && x->code_open && doc_current(d)) {
        doc_text(d, "\n", 1, DOC_NO_SOURCE);
        doc_text(d, a->text, a->n, DOC_NO_SOURCE);
        return;
    }
    x->code_open = false;
    if (is_blank(a)) return;
    if (a->heading > 0) {
        char label[DOCX_LABEL_BYTES] = "";
        if (a->list > 0) docx_list_next(&x->styles, a->list, a->list_level > 0 ? a->list_level : 0, label);
        doc_begin(d, BLOCK_HEADING, a->heading);
        doc_text(d, label, strlen(label), DOC_NO_SOURCE); /* "2.1. ": texts refer to it */
        doc_title(d, a->text, a->n);
    } else if (a->code) {
        doc_begin(d, BLOCK_CODE, 0);
        x->code_open = true;
    } else if (a->list > 0) {
        int level = a->list_level > 0 ? a->list_level : 0;
        uint32_t n = docx_list_next(&x->styles, a->list, level, NULL);
        doc_begin(d, BLOCK_LIST_ITEM, level);
        struct doc_block *b = doc_current(d);
        if (b) b->number = n;
    } else {
        doc_begin(d, BLOCK_PARAGRAPH, 0);
    }
    doc_text(d, a->text, a->n, DOC_NO_SOURCE);
    if (!x->code_open) doc_end(d);
}

static bool is_on(const char *value) {
    return !value || (strcmp(value, "0") && strcmp(value, "false") && strcmp(value, "off"));
}

/* Elements of w:pPr and w:rPr. */
static void property(struct docx *x, const char *name, const char *value, const char *fill) {
    struct paragraph *a = current(x);
    bool run = x->run_properties;
    if (!strcmp(name, "w:vanish") && run) x->run_hidden = is_on(value);
    if (!strcmp(name, "w:color") && run) x->run_white = value && !strcasecmp(value, "FFFFFF");
    if (!strcmp(name, "w:highlight") && run) x->run_shaded = true;
    if (!strcmp(name, "w:shd") && fill && strcasecmp(fill, "auto") && strcasecmp(fill, "FFFFFF")) {
        if (run)
            x->run_shaded = true;
        else if (a)
            a->shaded = true;
    }
    if (!strcmp(name, "w:rStyle")) {
        const struct docx_style *s = docx_style_find(&x->styles, docx_style_id(value));
        if (s && s->hidden) x->run_hidden = true;
    }
    if (!a || run) return;
    if (!strcmp(name, "w:pStyle")) {
        const struct docx_style *s = docx_style_find(&x->styles, docx_style_id(value));
        if (!s) return;
        if (a->heading < 0) a->heading = s->heading;
        if (a->list < 0) a->list = s->list;
        if (a->list_level < 0) a->list_level = s->list_level;
        a->code |= s->code;
        a->hidden |= s->hidden;
    } else if (!strcmp(name, "w:outlineLvl")) {
        int level = number(value, 9);
        a->heading = level < 6 ? level + 1 : 0;
    } else if (!strcmp(name, "w:numId")) {
        a->list = number(value, -1);
    } else if (!strcmp(name, "w:ilvl")) {
        a->list_level = number(value, -1);
    }
}

/* ---- tables: the outermost is one, those within it are text of a cell ---------------------------------------------
 */

static void open_cell(struct docx *x) {
    if (x->cell_open || x->tables != 1) return;
    uint32_t column = x->column < DOC_MAX_COLUMN ? x->column : DOC_MAX_COLUMN - 1;
    x->cell_open = true;
    if (x->merge_goes_on && x->merges[column]) { /* part of the cell above: what is in it goes nowhere */
        struct doc_cell *above = &x->d->cells[x->merges[column] - 1];
        if (above->row_span < 1000) above->row_span++;
        x->cell_open = false;
        return;
    }
    doc_cell(x->d, x->row, column, 1, x->span);
    x->merges[column] = x->merge_begins ? (uint32_t)x->d->n_cells : 0;
}

static void begin_table_part(struct docx *x, const char *name, const char **attributes) {
    const char *value = docx_attribute(attributes, "val");
    if (!strcmp(name, "w:tbl")) {
        if (x->tables) open_cell(x); /* a cell may begin with a table */
        if (x->tables++) return;
        x->code_open = false;
        doc_begin(x->d, BLOCK_TABLE, 1);
        x->row = UINT32_MAX;
        memset(x->merges, 0, sizeof x->merges);
    } else if (x->tables == 1 && !strcmp(name, "w:tr")) {
        x->row++;
        x->column = 0;
    } else if (x->tables == 1 && !strcmp(name, "w:gridBefore")) {
        x->column += (uint32_t)number(value, 0) % 64;
    } else if (x->tables == 1 && !strcmp(name, "w:tc")) {
        x->span = 1;
        x->merge_begins = x->merge_goes_on = x->cell_open = false;
    } else if (x->tables == 1 && !strcmp(name, "w:gridSpan")) {
        x->span = (uint32_t)number(value, 1);
        if (x->span < 1 || x->span > 100) x->span = 1;
    } else if (x->tables == 1 && !strcmp(name, "w:vMerge")) {
        x->merge_begins = value && !strcmp(value, "restart");
        x->merge_goes_on = !x->merge_begins;
    } else if (x->tables && !strcmp(name, "w:p")) {
        open_cell(x);
    }
}

static void end_table_part(struct docx *x, const char *name) {
    if (!strcmp(name, "w:tbl") && x->tables) {
        if (!--x->tables) doc_end(x->d);
    } else if (x->tables == 1 && !strcmp(name, "w:tc")) {
        x->column += x->span;
        x->cell_open = false;
    } else if (x->tables == 1 && !strcmp(name, "w:tr") && doc_current(x->d)) {
        /* a row whose cells all belong to cells above is a row all the same */
        const struct doc_cell *last = x->d->n_cells ? &x->d->cells[x->d->n_cells - 1] : NULL;
        bool any = last && x->d->n_cells > doc_current(x->d)->first_cell && last->row == x->row;
        if (!any && x->column && !x->merges[0]) doc_cell(x->d, x->row, 0, 1, 1);
    }
}

/* ---- elements ---------------------------------------------------------------------------------------------------- */

static bool is_left_out(const char *name) {
    static const char *const names[] = {"w:del",       "w:moveFrom", "w:instrText", "mc:Fallback", "w:rPrChange",
                                        "w:pPrChange", "w:sectPr",   "w:tblPrEx",   "w:delText",   "w:ruby:rt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return true;
    return false;
}

static void on_begin(void *arg, const char *name, const char **attributes) {
    struct docx *x = arg;
    x->depth++;
    if (x->skip) return;
    if (is_left_out(name)) {
        x->skip = x->depth;
        return;
    }
    const char *type = docx_attribute(attributes, "type");
    bool note = !strcmp(name, "w:footnote") || !strcmp(name, "w:endnote");
    if (note && type && strcmp(type, "normal")) { /* the lines that divide notes from text */
        x->skip = x->depth;
        return;
    }
    begin_table_part(x, name, attributes);
    if (!strcmp(name, "w:p"))
        begin_paragraph(x);
    else if (!strcmp(name, "w:r"))
        x->run_hidden = x->run_white = x->run_shaded = false;
    else if (!strcmp(name, "w:rPr"))
        x->run_properties = true;
    else if (!strcmp(name, "w:t") || !strcmp(name, "m:t"))
        x->in_text = true;
    else if (!strcmp(name, "w:tab") && !docx_attribute(attributes, "val")) /* with a value it is a tab stop */
        put_run(x, "\t", 1);
    else if (!strcmp(name, "w:br") || !strcmp(name, "w:cr"))
        put_run(x, "\n", 1);
    else if (!strcmp(name, "w:noBreakHyphen"))
        put_run(x, "-", 1);
    else if (!strcmp(name, "w:txbxContent"))
        x->boxes++;
    else
        property(x, name, docx_attribute(attributes, "val"), docx_attribute(attributes, "fill"));
}

static void on_end(void *arg, const char *name) {
    struct docx *x = arg;
    x->depth--;
    if (x->skip) {
        if (x->depth < x->skip) x->skip = 0;
        return;
    }
    if (!strcmp(name, "w:p"))
        end_paragraph(x);
    else if (!strcmp(name, "w:rPr"))
        x->run_properties = false;
    else if (!strcmp(name, "w:t") || !strcmp(name, "m:t"))
        x->in_text = false;
    else if (!strcmp(name, "w:txbxContent"))
        x->boxes--;
    end_table_part(x, name);
}

static void on_text(void *arg, const char *p, int n) {
    struct docx *x = arg;
    if (x->in_text && !x->skip) put_run(x, p, (size_t)n);
}

static bool stopped(void *arg) {
    return ((struct docx *)arg)->d->status != 0;
}

static void on_style(void *arg, const char *name, const char **attributes) {
    docx_styles_element(&((struct docx *)arg)->styles, name, attributes);
}

static void on_numbering(void *arg, const char *name, const char **attributes) {
    docx_numbering_element(&((struct docx *)arg)->styles, name, attributes);
}

typedef void begin_element(void *arg, const char *name, const char **attributes);

/* A part of text, or (with a handler of its own) one that says how text is meant. */
static void read_part(struct docx *x, struct zip *z, const char *name, bool needed, begin_element *other) {
    char err[ERR_BYTES];
    struct docx_handler handler = {on_begin, on_end, on_text, stopped, x};
    if (other) handler = (struct docx_handler){.begin = other, .stopped = stopped, .arg = x};
    if (x->d->status) return;
    int status = docx_xml_read(z, name, &handler, err, sizeof err);
    x->depth = x->skip = 0;
    if (status == STATUS_NOT_FOUND && !needed) return;
    if (status) doc_fail(x->d, status, "%.240s", err);
}

void extract__docx(struct document *d, const struct extract_input *in) {
    struct docx *x = calloc(1, sizeof *x);
    struct zip z;
    char err[ERR_BYTES];
    CHECK(x);
    x->d = d;
    int status = zip_open(&z, in, err, sizeof err);
    if (status) {
        doc_fail(d, status, "%.240s", err);
    } else {
        read_part(x, &z, "word/styles.xml", false, on_style);
        read_part(x, &z, "word/numbering.xml", false, on_numbering);
        docx_styles_resolve(&x->styles);
        read_part(x, &z, "word/document.xml", true, NULL);
        read_part(x, &z, "word/footnotes.xml", false, NULL);
        read_part(x, &z, "word/endnotes.xml", false, NULL);
        doc_end(d);
    }
    docx_styles_deinit(&x->styles);
    for (int i = 0; i < MAX_PARAGRAPHS; i++) free(x->stack[i].text);
    free(x);
}
