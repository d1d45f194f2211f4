/* docx_styles.c - see docx_styles.h. */
#include "rag/docx_styles.h"

#include "kernels/status.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <xxhash.h>

void docx_styles_deinit(struct docx_styles *s) {
    free(s->styles);
    free(s->lists);
    free(s->abstracts);
    *s = (struct docx_styles){0};
}

uint64_t docx_style_id(const char *id) {
    uint64_t hash = id ? XXH3_64bits(id, strlen(id)) : 0;
    return id && !hash ? 1 : hash;
}

static int integer(const char *text, int fallback) {
    if (!text) return fallback;
    long v = strtol(text, NULL, 10);
    return v < 0 || v > 1000000 ? fallback : (int)v;
}

/* Makes room for one more item of an array; NULL at its bound: what lies beyond is ignored. */
static void *more(void **items, int *n, int most, size_t item_bytes) {
    if (!*items) *items = calloc((size_t)most, item_bytes);
    CHECK(*items);
    return *n == most ? NULL : (char *)*items + (size_t)(*n)++ * item_bytes;
}

static void name_style(struct docx_style *s, const char *name) {
    if (!strncasecmp(name, "heading ", 8) && isdigit((unsigned char)name[8])) {
        int level = integer(name + 8, 0);
        if (level >= 1) s->heading = level < 6 ? level : 6;
    }
    if (!strcasecmp(name, "title")) s->heading = 1;
    if (!strcasecmp(name, "code") || !strcasecmp(name, "source code") || !strcasecmp(name, "html preformatted") ||
        !strcasecmp(name, "code block") || !strcasecmp(name, "preformatted text"))
        s->code = true;
}

static bool is_on(const char *value) {
    return !value || (strcmp(value, "0") && strcmp(value, "false") && strcmp(value, "off"));
}

void docx_numbering_element(struct docx_styles *s, const char *name, const char **attributes) {
    if (!strcmp(name, "w:abstractNum")) {
        struct docx_abstract *a = more((void **)&s->abstracts, &s->n_abstracts, DOCX_MAX_LISTS, sizeof *a);
        if (a) a->id = integer(docx_attribute(attributes, "abstractNumId"), -1);
    } else if (!strcmp(name, "w:lvl")) {
        s->level = integer(docx_attribute(attributes, "ilvl"), 0);
    } else if (!strcmp(name, "w:numFmt") && s->n_abstracts && s->level < DOCX_LIST_LEVELS && !s->n_lists) {
        const char *format = docx_attribute(attributes, "val");
        s->abstracts[s->n_abstracts - 1].ordered[s->level] =
            format && strcmp(format, "bullet") && strcmp(format, "none");
    } else if (!strcmp(name, "w:lvlText") && s->n_abstracts && s->level < DOCX_LIST_LEVELS && !s->n_lists) {
        const char *label = docx_attribute(attributes, "val");
        char *to = s->abstracts[s->n_abstracts - 1].label[s->level];
        snprintf(to, sizeof s->abstracts->label[0], "%s", label ? label : "");
    } else if (!strcmp(name, "w:num")) {
        struct docx_list *l = more((void **)&s->lists, &s->n_lists, DOCX_MAX_LISTS, sizeof *l);
        if (l) l->id = integer(docx_attribute(attributes, "numId"), -1), l->abstract = -1;
    } else if (!strcmp(name, "w:abstractNumId") && s->n_lists) {
        s->lists[s->n_lists - 1].abstract = integer(docx_attribute(attributes, "val"), -1);
    }
}

void docx_styles_element(struct docx_styles *s, const char *name, const char **attributes) {
    const char *value = docx_attribute(attributes, "val");
    struct docx_style *style = s->n_styles ? &s->styles[s->n_styles - 1] : NULL;
    if (!strcmp(name, "w:style")) {
        style = more((void **)&s->styles, &s->n_styles, DOCX_MAX_STYLES, sizeof *style);
        if (style)
            *style = (struct docx_style){.id = docx_style_id(docx_attribute(attributes, "styleId")),
                                         .heading = -1,
                                         .list = -1,
                                         .list_level = -1};
    }
    if (!style) return;
    if (!strcmp(name, "w:basedOn"))
        style->based_on = docx_style_id(value);
    else if (!strcmp(name, "w:name") && value)
        name_style(style, value);
    else if (!strcmp(name, "w:outlineLvl") && style->heading < 0)
        style->heading = integer(value, 9) < 6 ? integer(value, 9) + 1 : 0;
    else if (!strcmp(name, "w:numId"))
        style->list = integer(value, -1);
    else if (!strcmp(name, "w:ilvl"))
        style->list_level = integer(value, -1);
    else if (!strcmp(name, "w:vanish"))
        style->hidden = is_on(value);
}

const struct docx_style *docx_style_find(const struct docx_styles *s, uint64_t id) {
    for (int i = 0; id && i < s->n_styles; i++)
        if (s->styles[i].id == id) return &s->styles[i];
    return NULL;
}

void docx_styles_resolve(struct docx_styles *s) {
    for (int i = 0; i < s->n_styles; i++) {
        struct docx_style *style = &s->styles[i];
        const struct docx_style *base = style;
        for (int steps = 0; steps < 10 && base && base->based_on; steps++) { /* a circle ends, too */
            base = docx_style_find(s, base->based_on);
            if (!base || base == style) break;
            if (style->heading < 0) style->heading = base->heading;
            if (style->list < 0) style->list = base->list;
            if (style->list_level < 0) style->list_level = base->list_level;
            style->code |= base->code;
        }
    }
}

/* "%1.%2." and the counters to "2.1. ". */
static void format_label(const char *format, const uint32_t *counter, char label[DOCX_LABEL_BYTES]) {
    size_t n = 0;
    for (; *format && n + 16 < DOCX_LABEL_BYTES; format++) {
        if (*format == '%' && format[1] >= '1' && format[1] <= '9')
            n += (size_t)snprintf(label + n, 12, "%u", counter[*++format - '1']);
        else
            label[n++] = *format;
    }
    label[n++] = ' ';
    label[n] = 0;
}

uint32_t docx_list_next(struct docx_styles *s, int list, int level, char label[DOCX_LABEL_BYTES]) {
    if (level < 0 || level >= DOCX_LIST_LEVELS) return 0;
    for (int i = 0; i < s->n_lists; i++) {
        struct docx_list *l = &s->lists[i];
        if (l->id != list) continue;
        for (int k = level + 1; k < DOCX_LIST_LEVELS; k++) l->counter[k] = 0;
        for (int k = 0; k < s->n_abstracts; k++) {
            const struct docx_abstract *a = &s->abstracts[k];
            if (a->id != l->abstract) continue;
            if (!a->ordered[level]) return 0;
            l->counter[level]++;
            if (label && a->label[level][0]) format_label(a->label[level], l->counter, label);
            return l->counter[level];
        }
    }
    return 0;
}
