/* chunk.c - atoms into chunks; see chunk.h. How blocks fall into atoms: chunk_atoms.c. */
#include "rag/chunk_internal.h"

#include "kernels/status.h"

#include <stdlib.h>
#include <string.h>

/* A string that grows, reused for every context. */
struct scratch {
    char *data; /* owned */
    size_t n, capacity;
};

struct maker {
    struct chunks *out;
    size_t out_capacity;
    const struct text *t;
    const struct outline *o;
    const struct chunk_options *options;
    struct atoms atoms;
    struct scratch context, joined;
    size_t max, min; /* tokens */
};

static void scratch_put(struct scratch *s, const char *p, size_t n) {
    if (s->n + n + 1 > s->capacity) {
        s->capacity = 2 * (s->n + n + 1);
        s->data = realloc(s->data, s->capacity);
        CHECK(s->data);
    }
    memcpy(s->data + s->n, p, n);
    s->n += n;
    s->data[s->n] = 0;
}

static size_t count(const struct maker *m, const char *p, size_t n) {
    return n ? m->options->count(m->options->arg, p, n) : 0;
}

/* May these words go into a context? A quarter of a chunk is left to each of headings and header row. */
static bool is_short(const struct maker *m, const char *p, size_t n) {
    return n <= CHUNK_BYTES_PER_TOKEN / 4 * m->max && count(m, p, n) <= m->max / 4;
}

/* ---- context ----------------------------------------------------------------------------------------------------- */

/* The headings above, outermost first: "Birds > Ducks\n\n". Where they are too long, the outer ones are left out. */
static void put_headings(struct maker *m, uint32_t section) {
    uint32_t path[8], n = 0;
    for (; section && n < 8; section = m->o->sections[section].parent) path[n++] = section;
    for (; n; n--) {
        m->context.n = 0;
        for (uint32_t i = n; i-- > 0;) {
            size_t bytes;
            const char *title = section_title(m->o, m->t, path[i], &bytes);
            if (i + 1 < n) scratch_put(&m->context, " > ", 3);
            scratch_put(&m->context, title, bytes);
        }
        if (is_short(m, m->context.data, m->context.n)) {
            scratch_put(&m->context, "\n\n", 2);
            return;
        }
    }
    m->context.n = 0;
}

/* What a chunk that begins with this atom must say first. Its tokens. */
static size_t make_context(struct maker *m, size_t first) {
    const struct atom *a = &m->atoms.items[first];
    const struct text_block *b = &m->t->blocks[a->block];
    uint32_t section = m->o->section_of[a->block];
    if (b->kind == BLOCK_HEADING && a->start == b->start)
        section = m->o->sections[section].parent; /* it is in the body */
    m->context.n = 0;
    scratch_put(&m->context, "", 0);
    put_headings(m, section);
    if (b->header && a->start > b->start) {
        const struct text_row *row = &m->t->rows[b->first_row];
        size_t end = b->n_rows > 1 ? row[1].start : b->end; /* with the line of dashes */
        if (a->start >= end && is_short(m, m->t->text + row->start, end - row->start))
            scratch_put(&m->context, m->t->text + row->start, end - row->start);
    }
    return count(m, m->context.data, m->context.n);
}

/* ---- chunks ------------------------------------------------------------------------------------------------------ */

/* The exact number of tokens of context and text[start, end) together. */
static size_t measure(struct maker *m, size_t start, size_t end) {
    if (!m->context.n) return count(m, m->t->text + start, end - start);
    m->joined.n = 0;
    scratch_put(&m->joined, m->context.data, m->context.n);
    scratch_put(&m->joined, m->t->text + start, end - start);
    return count(m, m->joined.data, m->joined.n);
}

static void emit(struct maker *m, size_t start, size_t end, size_t tokens, uint32_t first_block, uint32_t last_block) {
    struct chunks *c = m->out;
    if (c->n == m->out_capacity) {
        m->out_capacity = 2 * m->out_capacity + 16;
        c->items = realloc(c->items, m->out_capacity * sizeof *c->items);
        CHECK(c->items);
    }
    char *context = malloc(m->context.n + 1);
    CHECK(context);
    memcpy(context, m->context.data, m->context.n);
    context[m->context.n] = 0;
    c->items[c->n++] = (struct chunk){
        .start = start,
        .end = end,
        .context = context,
        .context_bytes = m->context.n,
        .n_tokens = tokens,
        .first_page = m->t->blocks[first_block].page,
        .last_page = m->t->blocks[last_block].page,
        .section = m->o->section_of[first_block],
        .first_block = first_block,
        .last_block = last_block,
    };
}

static uint8_t kind_of(const struct maker *m, size_t atom) {
    return m->t->blocks[m->atoms.items[atom].block].kind;
}

static bool begins_block(const struct maker *m, size_t atom) {
    return !atom || m->atoms.items[atom - 1].block != m->atoms.items[atom].block;
}

static size_t block_tokens(const struct maker *m, size_t atom) {
    size_t tokens = 0;
    for (size_t i = atom; i < m->atoms.n && m->atoms.items[i].block == m->atoms.items[atom].block; i++) {
        tokens += m->atoms.items[i].tokens;
        if (tokens > m->max) break; /* enough is known */
    }
    return tokens;
}

/* Should a chunk that began with `first` and has `tokens` of body end before `atom`, which begins a block? */
static bool ends_before(const struct maker *m, size_t first, size_t atom, size_t tokens, size_t room) {
    const struct text_block *b = &m->t->blocks[m->atoms.items[atom].block];
    if (kind_of(m, atom - 1) == BLOCK_HEADING) return false; /* never behind a heading, if it can be helped */
    if (b->kind == BLOCK_HEADING) {
        uint32_t began_in = m->o->section_of[m->atoms.items[first].block];
        return tokens >= m->min || b->level < m->o->sections[began_in].level;
    }
    size_t whole = block_tokens(m, atom);
    if (tokens + whole <= room) return false;
    if (whole <= room) return true;                        /* it fits into the next one */
    return b->kind != BLOCK_PARAGRAPH && tokens >= m->min; /* long tables and code begin a chunk, prose fills one up */
}

/* The atom behind the last one of a chunk that begins with `first`, by the sums of tokens. */
static size_t fill(const struct maker *m, size_t first, size_t context_tokens) {
    const struct atom *atoms = m->atoms.items;
    size_t room = m->max > context_tokens ? m->max - context_tokens : 1, tokens = atoms[first].tokens, end = first + 1;
    for (; end < m->atoms.n; end++) {
        if (tokens + atoms[end].tokens > room) break;
        if (atoms[end].end - atoms[first].start > CHUNK_BYTES_PER_TOKEN * m->max - m->context.n) break;
        if (begins_block(m, end) && ends_before(m, first, end, tokens, room)) break;
        tokens += atoms[end].tokens;
    }
    size_t heading = end;
    while (heading > first + 1 && kind_of(m, heading - 1) == BLOCK_HEADING) heading--;
    bool nothing_else = heading == first + 1 && kind_of(m, first) == BLOCK_HEADING;
    return end < m->atoms.n && !nothing_else ? heading : end;
}

/* Where the chunk after one that ended before `next` begins: some atoms earlier in prose and lists, at `next` in tables
 * and code, before headings and where another section begins. */
static size_t overlap(const struct maker *m, size_t first, size_t next) {
    size_t budget = (size_t)m->options->overlap_tokens, start = next;
    uint8_t kind = kind_of(m, next);
    if (kind != BLOCK_PARAGRAPH && kind != BLOCK_LIST_ITEM) return next;
    while (start > first + 1) {
        const struct atom *a = &m->atoms.items[start - 1];
        kind = kind_of(m, start - 1);
        if ((kind != BLOCK_PARAGRAPH && kind != BLOCK_LIST_ITEM) || a->tokens > budget) break;
        if (m->o->section_of[a->block] != m->o->section_of[m->atoms.items[next].block]) break;
        budget -= a->tokens;
        start--;
    }
    return start;
}

/* One atom alone is over the cap: the counter adds up differently. Cut it where it fits. */
static void emit_pieces(struct maker *m, const struct atom *a) {
    for (size_t start = a->start; start < a->end;) {
        size_t end = a->end, tokens;
        while ((tokens = measure(m, start, end)) > m->max) {
            if (end - start <= 4) { /* a character or so, and no room: the context must go */
                CHECK(m->context.n);
                m->context.n = 0;
                continue;
            }
            end = chunk__character(m->t->text, start, start + (end - start) / 2);
        }
        emit(m, start, end, tokens, a->block, a->block);
        start = end;
    }
}

void chunks_make(struct chunks *c, const struct text *t, const struct outline *o, const struct chunk_options *options) {
    CHECK_LE(CHUNK_MIN_TOKENS, options->max_tokens);
    CHECK_LE(0, options->overlap_tokens);
    CHECK_LE(options->overlap_tokens, options->max_tokens / 4);
    struct maker m = {.out = c, .t = t, .o = o, .options = options};
    m.max = (size_t)options->max_tokens;
    m.min = m.max / 4;
    chunk__atoms(&m.atoms, t, options);
    const struct atom *atoms = m.atoms.items;
    for (size_t first = 0, done = 0; done < m.atoms.n;) { /* atoms[0, done) lie in chunks */
        size_t context_tokens = make_context(&m, first), end = fill(&m, first, context_tokens), tokens;
        if (end <= done && first < done) { /* the overlap left no room for anything new */
            first = done;
            continue;
        }
        while ((tokens = measure(&m, atoms[first].start, atoms[end - 1].end)) > m.max && end > first + 1) end--;
        if (end <= done && first < done) { /* nor by the exact count */
            first = done;
            continue;
        }
        if (tokens > m.max) {
            emit_pieces(&m, &atoms[first]);
        } else {
            emit(&m, atoms[first].start, atoms[end - 1].end, tokens, atoms[first].block, atoms[end - 1].block);
        }
        done = end;
        first = done < m.atoms.n ? overlap(&m, first, done) : done;
    }
    free(m.atoms.items);
    free(m.context.data);
    free(m.joined.data);
}

void chunks_deinit(struct chunks *c) {
    for (size_t i = 0; i < c->n; i++) free(c->items[i].context);
    free(c->items);
    *c = (struct chunks){0};
}
