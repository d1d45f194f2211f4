/* section.c - see section.h. */
#include "rag/section.h"

#include "kernels/status.h"

#include <stdlib.h>

/* Ends the innermost sections down to (not including) `until`, before block `end`. */
static uint32_t close_sections(struct outline *o, uint32_t open, uint32_t until, uint32_t end) {
    for (; open != until; open = o->sections[open].parent) o->sections[open].end_block = end;
    return open;
}

static void measure(struct section *s, const struct text *t) {
    s->start = s->heading == SECTION_NO_HEADING ? 0 : t->blocks[s->first_block].start;
    s->end = s->heading == SECTION_NO_HEADING ? t->bytes : t->blocks[s->end_block - 1].end;
    if (s->first_block == s->end_block) return;
    s->first_page = t->blocks[s->first_block].page;
    s->last_page = t->blocks[s->end_block - 1].page;
}

void outline_make(struct outline *o, const struct text *t) {
    uint32_t n = 1, open = 0;
    for (size_t i = 0; i < t->n_blocks; i++) n += t->blocks[i].kind == BLOCK_HEADING;
    o->sections = calloc(n, sizeof *o->sections);
    o->section_of = calloc(t->n_blocks + 1, sizeof *o->section_of);
    CHECK(o->sections && o->section_of);
    o->sections[0] = (struct section){.heading = SECTION_NO_HEADING, .end_block = (uint32_t)t->n_blocks};
    o->n_sections = 1;
    for (uint32_t i = 0; i < t->n_blocks; i++) {
        if (t->blocks[i].kind == BLOCK_HEADING) {
            uint32_t parent = open;
            while (o->sections[parent].level >= t->blocks[i].level) parent = o->sections[parent].parent;
            close_sections(o, open, parent, i);
            open = o->n_sections++;
            o->sections[open] =
                (struct section){.parent = parent, .heading = i, .first_block = i, .level = t->blocks[i].level};
        }
        o->section_of[i] = open;
    }
    close_sections(o, open, 0, (uint32_t)t->n_blocks);
    for (uint32_t s = 0; s < o->n_sections; s++) measure(&o->sections[s], t);
}

void outline_deinit(struct outline *o) {
    free(o->sections);
    free(o->section_of);
    *o = (struct outline){0};
}

const char *section_title(const struct outline *o, const struct text *t, uint32_t section, size_t *bytes) {
    const struct section *s = &o->sections[section];
    if (s->heading == SECTION_NO_HEADING) {
        *bytes = 0;
        return t->text;
    }
    const struct text_block *b = &t->blocks[s->heading];
    size_t marker = (size_t)s->level + 1;
    *bytes = b->end - b->start - marker;
    return t->text + b->start + marker;
}
