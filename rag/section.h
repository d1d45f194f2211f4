/* section.h - the third stage: headings as a tree over the blocks of a text.
 *
 * A section begins at its heading and ends before the next heading of its level or above it. Section 0 is the whole
 * text, with what stands before the first heading. Parents come before their children. */
#pragma once

#include "rag/normalise.h"

#define SECTION_NO_HEADING UINT32_MAX

struct section {
    uint32_t parent;                 /* section 0: itself */
    uint32_t heading;                /* the block that names it; SECTION_NO_HEADING for section 0 */
    uint32_t first_block, end_block; /* blocks [first, end), with the heading and all sections within */
    size_t start, end;               /* text[start, end) */
    uint32_t first_page, last_page;  /* 0: unknown */
    int level;                       /* 1..6; 0 for section 0 */
};

struct outline {              /* zero-initialise, end with outline_deinit */
    struct section *sections; /* owned */
    uint32_t n_sections;
    uint32_t *section_of; /* [text.n_blocks] owned: the innermost section of a block */
};
void outline_make(struct outline *o, const struct text *t);
void outline_deinit(struct outline *o);

/* The words of a section's heading, without its marker: a view into the text. Section 0 has none. */
const char *section_title(const struct outline *o, const struct text *t, uint32_t section, size_t *bytes);
