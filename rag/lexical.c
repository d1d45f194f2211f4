/* lexical.c - an inverted index: a hash table of terms, and for each its rows in ascending order.
 *
 * A posting is one word: the row in the upper 26 bits, min(tf, 63) in the lower 6 (at tf = 63 the score is within 2% of
 * its limit). A term of a single row, and half of all terms are that, holds its posting in place of the pointer. */
#include "rag/lexical.h"

#include "kernels/status.h"
#include "rag/arena.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { TF_BITS = 6, MAX_TF = (1 << TF_BITS) - 1, CONTEXT_WEIGHT = 2 };
#define MAX_ROWS (1u << (32 - TF_BITS))
#define NO_TERM  UINT32_MAX

struct term {
    const char *text; /* in the arena */
    uint32_t n, capacity;
    union {
        uint32_t one;   /* capacity 0 */
        uint32_t *many; /* owned */
    };
    uint32_t hash;
    uint32_t bytes; /* of text */
};

struct lexical {
    struct term *terms; /* owned [n_terms] */
    size_t n_terms, terms_capacity;
    uint32_t *table;    /* owned [table_size]: term numbers, NO_TERM where empty; linear probing */
    size_t table_size;  /* a power of two, more than 4/3 of n_terms */
    struct arena arena; /* the terms' text */
    uint32_t *lengths;  /* owned [n_rows]: terms of a row, weighted */
    size_t lengths_capacity;
    uint32_t n_rows;
    uint64_t length; /* of all rows together */
    size_t posting_bytes;
    int weight; /* of what is added just now */
};

static const uint32_t *postings(const struct term *t) {
    return t->capacity ? t->many : &t->one;
}
static uint32_t row_of(uint32_t posting) {
    return posting >> TF_BITS;
}
static bool is_live(const uint64_t *live, uint32_t row) {
    return live[row / 64] >> (row % 64) & 1;
}

struct lexical *lexical_open(void) {
    struct lexical *l = calloc(1, sizeof *l);
    CHECK(l);
    l->table_size = 1024;
    l->table = malloc(l->table_size * sizeof *l->table);
    CHECK(l->table);
    memset(l->table, 0xff, l->table_size * sizeof *l->table);
    return l;
}

void lexical_close(struct lexical *l) {
    if (!l) return;
    for (size_t i = 0; i < l->n_terms; i++)
        if (l->terms[i].capacity) free(l->terms[i].many);
    free(l->terms);
    free(l->table);
    free(l->lengths);
    arena_deinit(&l->arena);
    free(l);
}

uint32_t lexical_rows(const struct lexical *l) {
    return l->n_rows;
}

size_t lexical_bytes(const struct lexical *l) {
    return l->terms_capacity * sizeof *l->terms + l->table_size * sizeof *l->table + l->arena.bytes + l->posting_bytes +
           l->lengths_capacity * sizeof *l->lengths;
}

/* ---- terms ------------------------------------------------------------------------------------------------------- */

/* The table's place of a term, or the empty place where it would be. */
static uint32_t *place_of(const struct lexical *l, const char *text, size_t n, uint32_t hash) {
    for (size_t i = hash;; i++) {
        uint32_t *place = &l->table[i & (l->table_size - 1)];
        if (*place == NO_TERM) return place;
        const struct term *t = &l->terms[*place];
        if (t->hash == hash && t->bytes == n && !memcmp(t->text, text, n)) return place;
    }
}

static void fill_table(struct lexical *l) {
    memset(l->table, 0xff, l->table_size * sizeof *l->table);
    for (size_t i = 0; i < l->n_terms; i++) {
        size_t at = l->terms[i].hash;
        while (l->table[at & (l->table_size - 1)] != NO_TERM) at++;
        l->table[at & (l->table_size - 1)] = (uint32_t)i;
    }
}

static struct term *take_term(struct lexical *l, const char *text, size_t n) {
    const uint32_t hash = (uint32_t)XXH3_64bits(text, n);
    uint32_t *place = place_of(l, text, n, hash);
    if (*place != NO_TERM) return &l->terms[*place];
    CHECK_LT(l->n_terms, NO_TERM);
    l->terms = array_reserve(l->terms, &l->terms_capacity, l->n_terms + 1, sizeof *l->terms);
    *place = (uint32_t)l->n_terms;
    struct term *t = &l->terms[l->n_terms++];
    *t = (struct term){.text = arena_text(&l->arena, text, n), .hash = hash, .bytes = (uint32_t)n};
    if (l->n_terms * 4 < l->table_size * 3) return t;
    l->table_size *= 2;
    l->table = realloc(l->table, l->table_size * sizeof *l->table);
    CHECK(l->table);
    fill_table(l);
    return t;
}

static void append(struct lexical *l, struct term *t, uint32_t posting) {
    if (!t->n) {
        t->one = posting;
    } else {
        if (!t->capacity) {
            uint32_t *many = malloc(2 * sizeof *many);
            CHECK(many);
            many[0] = t->one;
            t->many = many;
            t->capacity = 2;
            l->posting_bytes += 2 * sizeof *many;
        } else if (t->n == t->capacity) {
            const uint32_t more = t->capacity + t->capacity / 2 + 2;
            t->many = realloc(t->many, more * sizeof *t->many);
            CHECK(t->many);
            l->posting_bytes += (more - t->capacity) * sizeof *t->many;
            t->capacity = more;
        }
        t->many[t->n] = posting;
    }
    t->n++;
}

static void count(void *arg, const char *text, size_t n, bool stop) {
    (void)stop;
    struct lexical *l = arg;
    struct term *t = take_term(l, text, n);
    l->lengths[l->n_rows] += (uint32_t)l->weight;
    if (t->n) {
        uint32_t *last = t->capacity ? &t->many[t->n - 1] : &t->one;
        if (row_of(*last) == l->n_rows) {
            const uint32_t tf = (*last & MAX_TF) + (uint32_t)l->weight;
            *last = (*last & ~(uint32_t)MAX_TF) | (tf > MAX_TF ? MAX_TF : tf);
            return;
        }
    }
    append(l, t, l->n_rows << TF_BITS | (uint32_t)l->weight);
}

void lexical_add(struct lexical *l, struct analyser *a, const char *text, const char *context) {
    CHECK_LT(l->n_rows, MAX_ROWS);
    l->lengths = array_reserve(l->lengths, &l->lengths_capacity, (size_t)l->n_rows + 1, sizeof *l->lengths);
    l->lengths[l->n_rows] = 0;
    l->weight = CONTEXT_WEIGHT;
    if (context) analyse(a, context, strlen(context), count, l);
    l->weight = 1;
    analyse(a, text, strlen(text), count, l);
    l->length += l->lengths[l->n_rows++];
}

void lexical_compact(struct lexical *l, const uint64_t *live) {
    uint32_t *row = malloc(((size_t)l->n_rows + 1) * sizeof *row), n = 0;
    CHECK(row);
    l->length = 0;
    for (uint32_t i = 0; i < l->n_rows; i++) {
        row[i] = n;
        if (!is_live(live, i)) continue;
        l->length += l->lengths[i];
        l->lengths[n++] = l->lengths[i];
    }
    size_t n_terms = 0;
    for (size_t i = 0; i < l->n_terms; i++) {
        struct term t = l->terms[i];
        uint32_t *p = t.capacity ? t.many : &t.one, kept = 0;
        for (uint32_t j = 0; j < t.n; j++)
            if (is_live(live, row_of(p[j]))) p[kept++] = row[row_of(p[j])] << TF_BITS | (p[j] & MAX_TF);
        t.n = kept;
        if (kept)
            l->terms[n_terms++] = t;
        else if (t.capacity) {
            l->posting_bytes -= t.capacity * sizeof *p;
            free(t.many);
        }
    }
    free(row);
    l->n_terms = n_terms;
    l->n_rows = n;
    /* The text of terms that are gone would stay in the arena: copy those that are left. */
    struct arena kept = {0};
    for (size_t i = 0; i < n_terms; i++) l->terms[i].text = arena_text(&kept, l->terms[i].text, l->terms[i].bytes);
    arena_deinit(&l->arena);
    l->arena = kept;
    fill_table(l);
}

/* ---- questions --------------------------------------------------------------------------------------------------- */

struct question {
    const struct lexical *l;
    struct lexical_query *q;
    bool with_stop_words;
};

static void add_to_question(void *arg, const char *text, size_t n, bool stop) {
    struct question *question = arg;
    struct lexical_query *q = question->q;
    if (stop && !question->with_stop_words) return;
    uint32_t term = *place_of(question->l, text, n, (uint32_t)XXH3_64bits(text, n));
    for (int i = 0; i < q->n; i++)
        if (q->terms[i].term == term && term != NO_TERM) {
            q->terms[i].idf += 1; /* how often, until prepare turns it into the weight */
            return;
        }
    if (q->n < LEXICAL_MAX_TERMS) q->terms[q->n++] = (struct lexical_term){.term = term, .idf = 1};
}

void lexical_prepare(struct lexical_query *q, const struct lexical *l, struct analyser *a, const char *text,
                     const uint64_t *live, bool all_live) {
    struct question question = {.l = l, .q = q};
    uint64_t n_live = all_live ? l->n_rows : 0, length = all_live ? l->length : 0;
    q->n = 0;
    q->idf = 0;
    analyse(a, text, strlen(text), add_to_question, &question);
    if (!q->n) {
        question.with_stop_words = true;
        analyse(a, text, strlen(text), add_to_question, &question);
    }
    for (uint32_t i = 0; !all_live && i < l->n_rows; i++)
        if (is_live(live, i)) {
            n_live++;
            length += l->lengths[i];
        }
    q->n_live = (float)n_live;
    q->average = n_live && length ? (float)((double)length / (double)n_live) : 1;
    for (int i = 0; i < q->n; i++) {
        struct lexical_term *t = &q->terms[i];
        t->df = 0;
        if (t->term != NO_TERM) {
            const struct term *term = &l->terms[t->term];
            const uint32_t *p = postings(term);
            if (all_live)
                t->df = term->n;
            else
                for (uint32_t j = 0; j < term->n; j++) t->df += is_live(live, row_of(p[j]));
        }
        t->idf *= (float)log(1 + ((double)n_live - t->df + 0.5) / (t->df + 0.5));
        q->idf += t->idf;
    }
}

void lexical_score(float *scores, const struct lexical_query *q, const struct lexical *l) {
    memset(scores, 0, (size_t)l->n_rows * sizeof *scores);
    const float base = (float)(LEXICAL_K1 * (1 - LEXICAL_B)), slope = (float)(LEXICAL_K1 * LEXICAL_B) / q->average;
    for (int i = 0; i < q->n; i++) {
        if (q->terms[i].term == NO_TERM) continue;
        const struct term *term = &l->terms[q->terms[i].term];
        const uint32_t *p = postings(term);
        const float weight = q->terms[i].idf * (float)(LEXICAL_K1 + 1);
        for (uint32_t j = 0; j < term->n; j++) {
            const uint32_t row = row_of(p[j]);
            const float tf = (float)(p[j] & MAX_TF);
            scores[row] += weight * tf / (tf + base + slope * (float)l->lengths[row]);
        }
    }
}

float lexical_coverage(const struct lexical_query *q, const struct lexical *l, uint32_t row) {
    float found = 0;
    for (int i = 0; i < q->n; i++) {
        if (q->terms[i].term == NO_TERM) continue;
        const struct term *term = &l->terms[q->terms[i].term];
        const uint32_t *p = postings(term);
        uint32_t low = 0, high = term->n;
        while (low < high) {
            const uint32_t mid = low + (high - low) / 2;
            if (row_of(p[mid]) < row)
                low = mid + 1;
            else
                high = mid;
        }
        if (low < term->n && row_of(p[low]) == row) found += q->terms[i].idf;
    }
    return q->idf > 0 ? found / q->idf : 0;
}
