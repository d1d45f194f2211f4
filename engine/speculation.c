/* speculation.c - who is right how often, what steps take, and the choice. See speculation.h for the equation. */
#include "engine/speculation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MARGIN 1.01          /* what a choice must promise over none, and a probe over the best known choice */
#define PROBE_SHARE (1.0 / 128)
#define PROBE_STEPS 8        /* the budget holds at most so many steps' time, and begins with it */
#define OWN_MEMORY 0.95f     /* of one sequence: 20 drafts back weighs a third */
#define COMMON_MEMORY 0.995f /* of all: 200 drafts back */
#define COMMON_WEIGHT 4      /* what is true of all counts as so many tries of one sequence */
#define FIRST_GUESS 0.6f     /* the chance of a draft of which nothing is known */
#define DOUBT 0.5f           /* a probability that was never seen may be so much higher, */
#define LEAST_DOUBT 32       /* and of a sequence as much as if so many were seen of others, at least */
#define AGING 0.998f         /* of confidence, per step */
#define PLAIN_EVERY 32       /* a step without drafts after so many with, and that costs at most */
#define PLAIN_SHARE 400      /* one in so many of the time */
#define SEEN_PLAIN 3         /* steps of a size without drafts, before there are any */
#define MOST_CONFIDENT 32    /* times that a size counts as seen, at most */
#define LEVEL_GAIN 0.15      /* what of a deviation is believed at once: of the level of all sizes, */
#define SHAPE_GAIN 0.05      /* and of this size against the others */

static int min_int(int a, int b) { return a < b ? a : b; }

/* ---- who is right ------------------------------------------------------------------------------------------------ */

static void remember(struct acceptance *a, int n, int n_right, float memory) {
    for (int j = 0; j < n && j <= n_right; j++) {
        a->tried[j] = a->tried[j] * memory + 1;
        a->right[j] = a->right[j] * memory + (j < n_right);
    }
}

void speculation_verified(struct speculation *s, struct speculation_record *r, enum draft_source source, int n,
                          int n_right) {
    remember(&r->of[source], n, n_right, OWN_MEMORY);
    remember(&s->of[source], n, n_right, COMMON_MEMORY);
    if (source == DRAFT_BY_LOOKUP) r->n_guess = 0; /* the same tokens must not count twice */
}

void speculation_guess(struct speculation *s, struct speculation_record *r, const int32_t *drafts, int n,
                       int n_tokens) {
    for (int j = 0; j < s->max_drafts; j++) { /* who has no drafts of the model is given up slowly, not for good */
        r->of[DRAFT_BY_MODEL].tried[j] *= AGING;
        r->of[DRAFT_BY_MODEL].right[j] *= AGING;
    }
    const float weight = r->n_asked < 15 ? 1.0f / (float)(1 + r->n_asked++) : 1.0f / 16;
    r->chance += ((n > 0) - r->chance) * weight;
    if (r->n_guess || n <= 0) return;
    r->n_guess = min_int(n, s->max_drafts);
    r->guess_at = n_tokens;
    memcpy(r->guess, drafts, (size_t)r->n_guess * sizeof *drafts);
}

void speculation_score(struct speculation *s, struct speculation_record *r, const int32_t *tokens, int n_tokens) {
    if (!r->n_guess) return;
    const int n_known = min_int(n_tokens - r->guess_at, r->n_guess);
    int n_right = 0;
    while (n_right < n_known && r->guess[n_right] == tokens[r->guess_at + n_right]) n_right++;
    if (n_right == n_known && n_known < r->n_guess) return; /* right so far: the rest is to come */
    speculation_verified(s, r, DRAFT_BY_LOOKUP, r->n_guess, n_right);
}

/* The chance of each draft, given that those before it are right. hopeful: as high as what was seen allows. */
static void chances(float p[SPECULATION_MAX_DRAFTS], const struct speculation *s, const struct speculation_record *r,
                    enum draft_source source, bool hopeful) {
    float common = FIRST_GUESS;
    for (int j = 0; j < s->max_drafts; j++) {
        const float tried = s->of[source].tried[j], own = r ? r->of[source].tried[j] : 0;
        common = (s->of[source].right[j] + COMMON_WEIGHT * common) / (tried + COMMON_WEIGHT);
        p[j] = ((r ? r->of[source].right[j] : 0) + COMMON_WEIGHT * common) / (own + COMMON_WEIGHT);
        if (hopeful) p[j] = fminf(1, p[j] + DOUBT / sqrtf(1 + own + fminf(tried, LEAST_DOUBT)));
    }
}

/* ---- what steps take --------------------------------------------------------------------------------------------- */

/* Sizes are told apart one by one up to 8 tokens, then four to an octave: (8, 10], (10, 12], ... Device times jump
 * behind multiples of powers of two, so a size lies with those below the next mark. */
static int size_of(int T) {
    if (T <= 8) return T - 1;
    int octave = 3;
    while (2 << octave < T) octave++;
    const int quarter = (T - (1 << octave) + (1 << (octave - 2)) - 1) >> (octave - 2);
    return min_int(8 + 4 * (octave - 3) + quarter - 1, STEP_SIZES - 1);
}

static void age_times(struct step_times *t) {
    for (int i = 0; i < STEP_SIZES; i++)
        if (t->sizes[i].n > SEEN_PLAIN) t->sizes[i].n = fmaxf(t->sizes[i].n * AGING, SEEN_PLAIN);
}

enum view { EXPECTED, HOPED, FEARED };

/* Seconds of a step of T tokens, for ascending T: *at is where the search begins, 0 at first. A size beyond all that
 * were seen is expected on the line through the two largest, up to twice the largest, and otherwise expected and feared
 * to take its share. What is not known is hoped to take no longer than `base`, the time of what will run anyway. */
static double time_at(const struct step_times *t, int *at, double T, double base, enum view view) {
    const struct step_size *lower = NULL, *low = NULL, *high = NULL;
    for (int i = *at, at_low = *at; i < STEP_SIZES && !high; i++) {
        if (t->sizes[i].n == 0) continue;
        if ((double)t->sizes[i].tokens > T) {
            high = &t->sizes[i];
        } else {
            lower = low;
            low = &t->sizes[i];
            if (lower) *at = at_low;
            at_low = i;
        }
    }
    if (!low && !high) return 1e-9;
    double seconds, n = 1; /* times seen */
    if (!low) {
        seconds = (double)high->least;
        n = (double)high->n;
    } else if (!high) {
        const double beyond = T - (double)low->tokens, share = (double)(low->least / low->tokens) * beyond;
        seconds = (double)low->least + share;
        if (lower && view == EXPECTED && beyond <= (double)low->tokens) {
            const double slope = (double)(low->least - lower->least) / (double)(low->tokens - lower->tokens);
            seconds = (double)low->least + fmin(share, slope * beyond);
        }
        if (beyond <= 0) n = (double)low->n;
    } else {
        const double share = (T - (double)low->tokens) / (double)(high->tokens - low->tokens);
        seconds = (double)low->least + share * (double)(high->least - low->least);
        n = share > 0 ? (double)high->n : (double)low->n;
    }
    seconds *= (double)t->scale;
    if (view == HOPED && seconds > base) seconds = base + (seconds - base) * fmax(0, n - 2) / n;
    return seconds;
}

double step_times_at(const struct step_times *t, double T) {
    int at = 0;
    return time_at(t, &at, T, 0, EXPECTED);
}

/* A size that was seen again slides along the curve to where it is now mostly seen, and moves with the level and by
 * itself towards what was measured. Both gains are the same for every size and every step: so what the level gains the
 * sizes together have gained, too, by SHAPE_GAIN / LEVEL_GAIN, and as those that are seen stay right, the level cannot
 * run away from those that are not. When all of N sizes that are seen take longer by a factor, the others follow by
 * N / (N + that) of it. */
static void see_again(struct step_times *t, struct step_size *z, int T, double seconds) {
    const float tokens = z->tokens + ((float)T - z->tokens) * 0.3f;
    const double expected = step_times_at(t, T), slid = step_times_at(t, (double)tokens);
    double ratio = seconds / expected;
    z->tokens = tokens;
    if (z->n < SEEN_PLAIN) {
        /* The least of the first three counts: code is loaded, graphs are recorded. */
        z->seconds = (float)(fmin(ratio, 1) * slid) / t->scale;
    } else {
        ratio = fmin(fmax(ratio, 0.8), 1.25); /* a single one may be an outlier */
        z->seconds = (float)(slid * pow(ratio, SHAPE_GAIN)) / t->scale;
        t->scale *= (float)pow(ratio, LEVEL_GAIN);
    }
    z->n = fminf(z->n + 1, MOST_CONFIDENT);
}

static void see_time(struct step_times *t, int T, double seconds) {
    if (T <= 0 || seconds <= 0) return;
    if (t->scale == 0) t->scale = 1;
    struct step_size *z = &t->sizes[size_of(T)];
    if (z->n > 0) see_again(t, z, T, seconds);
    else *z = (struct step_size){.tokens = (float)T, .seconds = (float)seconds / t->scale, .n = 1};
    float least = INFINITY;
    for (int i = STEP_SIZES - 1; i >= 0; i--)
        if (t->sizes[i].n > 0) t->sizes[i].least = least = fminf(least, t->sizes[i].seconds);
}

/* ---- the choice -------------------------------------------------------------------------------------------------- */

int speculation_open(struct speculation *s, int max_seqs, int max_drafts) {
    CHECK(max_seqs >= 1 && max_drafts >= 1 && max_drafts <= SPECULATION_MAX_DRAFTS);
    const size_t n = (size_t)max_seqs * (size_t)max_drafts;
    *s = (struct speculation){.max_drafts = max_drafts, .max_seqs = max_seqs};
    s->worth = malloc(n * sizeof *s->worth);
    s->order = malloc(n * sizeof *s->order);
    s->seconds = malloc((n + 1) * sizeof *s->seconds);
    s->most = malloc((n + 1) * sizeof *s->most);
    if (s->worth && s->order && s->seconds && s->most) return STATUS_OK;
    speculation_close(s);
    return STATUS_NO_MEMORY;
}

void speculation_close(struct speculation *s) {
    free(s->worth);
    free(s->order);
    free(s->seconds);
    free(s->most);
    *s = (struct speculation){0};
}

static int most_drafts(const struct speculation_candidate *c) {
    return c->source == DRAFT_BY_MODEL ? c->n_model : c->n_lookup;
}

/* Fills worth and order: all drafts that there could be, the worthiest first, to 1/256 (a counting sort). Of a
 * sequence, earlier ones come before later ones. Returns how many. */
static int sort_drafts(struct speculation *s, const struct speculation_candidate *c, int n, bool hopeful) {
    enum { LEVELS = 256 };
    int first[LEVELS + 1] = {0}, n_drafts = 0;
    for (int i = 0; i < n; i++) {
        float p[SPECULATION_MAX_DRAFTS], worth = c[i].source == DRAFT_BY_MODEL ? 1 : c[i].chance;
        chances(p, s, c[i].record, c[i].source, hopeful);
        for (int j = 0; j < min_int(most_drafts(&c[i]), s->max_drafts); j++) {
            worth *= p[j];
            s->worth[i * s->max_drafts + j] = worth;
            first[LEVELS - (int)(worth * (LEVELS - 1))]++;
            n_drafts++;
        }
    }
    for (int level = 1; level <= LEVELS; level++) first[level] += first[level - 1];
    for (int j = 0; j < s->max_drafts; j++)
        for (int i = 0; i < n; i++)
            if (j < most_drafts(&c[i])) {
                const int level = LEVELS - (int)(s->worth[i * s->max_drafts + j] * (LEVELS - 1));
                s->order[first[level - 1]++] = (uint32_t)(i * SPECULATION_MAX_DRAFTS + j);
            }
    return n_drafts;
}

/* The draft model's time: the tokens that it has to catch up with, then one step for each further draft. */
static double draft_seconds(const struct speculation *s, const struct speculation_candidate *c, int n, int depth,
                            enum view view) {
    int n_seqs = 0, n_behind = 0, at = 0;
    for (int i = 0; i < n; i++) {
        if (c[i].source != DRAFT_BY_MODEL || !c[i].n_model) continue;
        n_seqs++;
        n_behind += c[i].n_behind;
    }
    const double each = time_at(&s->draft, &at, n_seqs, 0, view);
    return time_at(&s->draft, &at, n_behind, each, view) + (depth - 1) * each;
}

struct choice {
    double rate;  /* tokens a second */
    int n, depth; /* the first n of the order, but drafts of the model only up to this depth */
};

/* The best choice as expected, or as hoped among those that lose at most s->budget against `known` tokens a second. */
static struct choice best_choice(struct speculation *s, const struct speculation_candidate *c, int n, int T,
                                 bool hopeful, double known) {
    static const int depths[] = {1, 2, 3, 4, 5, 6, 8, 10, 12, 16};
    const enum view view = hopeful ? HOPED : EXPECTED;
    const int n_drafts = sort_drafts(s, c, n, hopeful);
    int at = 0, at_most = 0;
    const double alone = time_at(&s->target, &at, n, 0, EXPECTED), base = time_at(&s->target, &at, T, 0, EXPECTED);
    const double other = base - alone, idle = fmax(0, (double)(s->overhead[1] - s->overhead[0]));
    at_most = at;
    for (int x = 0; x <= n_drafts; x++) {
        s->seconds[x] = (float)(fmax(base, time_at(&s->target, &at, T + x, base, view)) - other + idle);
        s->most[x] = (float)(fmax(base, time_at(&s->target, &at_most, T + x, base, FEARED)) - other + idle);
    }
    struct choice best = {.rate = n / alone};
    bool has_model = false;
    for (int i = 0; i < n; i++) has_model |= c[i].source == DRAFT_BY_MODEL && c[i].n_model;
    for (int d = -1; d < (has_model ? (int)(sizeof depths / sizeof *depths) : 0); d++) {
        const int depth = d < 0 ? 0 : depths[d];
        if (depth > s->max_drafts) break;
        const double drafting = depth ? draft_seconds(s, c, n, depth, view) : 0;
        const double drafting_most = depth ? draft_seconds(s, c, n, depth, FEARED) : 0;
        double tokens = n;
        int taken = 0;
        for (int k = 0; k < n_drafts; k++) {
            const int i = (int)s->order[k] / SPECULATION_MAX_DRAFTS, j = (int)s->order[k] % SPECULATION_MAX_DRAFTS;
            if (c[i].source == DRAFT_BY_MODEL && j >= depth) continue;
            taken++;
            tokens += (double)s->worth[i * s->max_drafts + j];
            const double rate = tokens / ((double)s->seconds[taken] + drafting);
            if (rate <= best.rate) continue;
            if (hopeful && (double)s->most[taken] + drafting_most - n / known > s->budget) continue;
            best = (struct choice){.rate = rate, .n = k + 1, .depth = depth};
        }
    }
    s->probe.other = other;
    return best;
}

static int apply(struct speculation *s, struct speculation_candidate *c, const struct choice *choice) {
    int n = 0;
    for (int k = 0; k < choice->n; k++) {
        const int i = (int)s->order[k] / SPECULATION_MAX_DRAFTS, j = (int)s->order[k] % SPECULATION_MAX_DRAFTS;
        if (c[i].source == DRAFT_BY_MODEL && j >= choice->depth) continue;
        c[i].n_drafts++;
        n++;
    }
    return n;
}

/* Look-up's drafts cost nothing to make, so they come first; but where the draft model is right far more often, its. */
static enum draft_source source_of(const struct speculation *s, const struct speculation_candidate *c) {
    if (!c->n_model || !c->n_lookup) return c->n_lookup ? DRAFT_BY_LOOKUP : DRAFT_BY_MODEL;
    float lookup[SPECULATION_MAX_DRAFTS], model[SPECULATION_MAX_DRAFTS];
    chances(lookup, s, c->record, DRAFT_BY_LOOKUP, false);
    chances(model, s, c->record, DRAFT_BY_MODEL, false);
    return 2 * lookup[0] * c->chance < model[0] ? DRAFT_BY_MODEL : DRAFT_BY_LOOKUP;
}

int speculation_choose(struct speculation *s, struct speculation_candidate *c, int n, int T) {
    CHECK_LE(n, s->max_seqs);
    CHECK_LE(n, T);
    s->probe.on = false;
    for (int i = 0; i < n; i++) {
        c[i].source = source_of(s, &c[i]);
        c[i].n_drafts = 0;
    }
    if (!n || s->target.sizes[size_of(n)].n < SEEN_PLAIN) return 0;
    int at = 0;
    const double none = n / time_at(&s->target, &at, n, 0, EXPECTED);
    struct choice known = best_choice(s, c, n, T, false, 0);
    if (known.rate < MARGIN * none) known = (struct choice){.rate = none};
    /* A step without drafts now and then shows what they are held against. */
    if (s->n_since_plain > PLAIN_EVERY + PLAIN_SHARE * (known.rate / none - 1)) return 0;
    const int n_known = apply(s, c, &known);
    struct choice hoped = best_choice(s, c, n, T, true, known.rate);
    if (hoped.rate < MARGIN * known.rate) return n_known;
    s->probe.on = true;
    s->probe.rate = known.rate;
    for (int i = 0; i < n; i++) c[i].n_drafts = 0;
    return apply(s, c, &hoped);
}

int speculation_shadows(struct speculation *s, int n) {
    n = min_int(n, s->max_seqs);
    if (!n || s->target.scale == 0) return 0;
    float p[SPECULATION_MAX_DRAFTS];
    chances(p, s, NULL, DRAFT_BY_MODEL, s->draft.scale == 0);
    const double none = n / step_times_at(&s->target, n);
    double tokens = n, worth = n;
    s->model_pays = false;
    for (int depth = 1; depth <= s->max_drafts && !s->model_pays; depth++) {
        worth *= (double)p[depth - 1];
        tokens += worth;
        const double drafting = s->draft.scale == 0 ? 0 : (depth + 1) * step_times_at(&s->draft, n);
        s->model_pays = tokens / (step_times_at(&s->target, n * (1 + depth)) + drafting) > MARGIN * none;
    }
    if (s->model_pays) return n;
    return s->budget > PROBE_STEPS / 2 * s->last_seconds;
}

/* ---- afterwards -------------------------------------------------------------------------------------------------- */

void speculation_step(struct speculation *s, const struct step_cost *cost) {
    const double busy = cost->target_seconds + cost->draft_seconds;
    see_time(&s->target, cost->T, cost->target_seconds);
    if (cost->draft_depth > 0 && cost->draft_T <= 2 * cost->draft_seqs) /* then all its steps are about alike */
        see_time(&s->draft, cost->draft_seqs, cost->draft_seconds / cost->draft_depth);
    age_times(&s->target);
    age_times(&s->draft);
    for (int source = 0; source < DRAFT_SOURCES; source++)
        for (int j = 0; j < s->max_drafts; j++) {
            s->of[source].tried[j] *= AGING;
            s->of[source].right[j] *= AGING;
        }
    s->n_since_plain = cost->drafts ? s->n_since_plain + 1 : 0;
    const float idle = (float)fmin(fmax(0, cost->wall_seconds - busy), busy); /* more: nobody had work for it */
    float *overhead = &s->overhead[cost->drafts];
    *overhead = *overhead == 0 ? idle : *overhead + (idle - *overhead) * 0.05f;

    const double seconds = busy + (double)idle, most = PROBE_STEPS * seconds;
    if (s->last_seconds == 0) s->budget = most;
    s->last_seconds = seconds;
    s->budget += PROBE_SHARE * seconds;
    if (s->probe.on && cost->drafts) s->budget -= seconds - s->probe.other - cost->n_tokens / s->probe.rate;
    else if (!s->model_pays && !cost->draft_depth) s->budget -= cost->draft_seconds; /* getting ready was the probe */
    s->budget = fmin(s->budget, most);
    s->probe.on = false;
}
