/* speculation.h - how many drafts each decode of a step gets, so that speculation is on only where it pays. Private to
 * engine/; pure C, without clock or device: it is told what steps took and how many drafts were right.
 *
 * A step of n decodes gives n tokens. With drafts it gives n + E, where E sums over all drafts the probability that
 * this draft and all before it in its sequence are right, and it takes longer:
 *
 *     seconds = target(T + drafts) + draft(catch-up) + (depth - 1) * draft(sequences) + overhead
 *
 * Of all choices the one with the most tokens per second is taken. A sequence's drafts are worth less and less, and the
 * target's time depends on their number alone, so for each depth of the draft model the choices are the first drafts
 * in one list, of all sequences, by worth. What else is in the step (chunks of prompts) takes its time anyway: counted
 * is what drafts add to it.
 *
 *     who is right      per sequence and source (look-up, draft model) and position: how often the draft at this
 *                       position was right after all before it were, forgotten exponentially. A new sequence begins
 *                       with what is true of all, a deep position with what is true of the one before it. What look-up
 *                       would have guessed is scored even where nobody verifies it: the tokens come anyway
 *     what steps take   per number of tokens, of each model, and a level that moves them all: as contexts grow, a
 *                       number that has not occurred for long goes along with those that do
 *     probes            what is not known, or was known long ago, is tried as if it were good, out of a budget of time:
 *                       1/128 of all that passes, and 8 steps to begin with. What a probe loses against the best choice
 *                       known is taken from the budget (what it wins is put there); one that might lose more than is
 *                       there is not made. So probing costs less than 1 % of the time
 *
 * A choice other than no drafts must promise 1 % more, and steps of that many decodes must have been seen without
 * drafts three times; while there are drafts, a step without them comes now and then, at most 1/400 of the time. Per
 * step the engine calls, in this order:
 *
 *     speculation_guess      per decode, with what look-up finds for it now
 *     speculation_choose     with all decodes that may have drafts
 *     ... the step runs ...
 *     speculation_verified   per decode that had drafts
 *     speculation_score      per sequence that has new tokens
 *     speculation_step       what the step took
 * and where it plans ahead, speculation_choose once more before that, with each sequence's chance of having a guess: if
 * it chooses drafts, every step must land before the next one is planned. Nothing allocates after speculation_open. */
#pragma once

#include "engine/sched.h" /* SPECULATION_MAX_DRAFTS */

#include <stdbool.h>
#include <stdint.h>

enum draft_source { DRAFT_BY_LOOKUP, DRAFT_BY_MODEL, DRAFT_SOURCES };

struct acceptance { /* [position]: drafts behind right ones only, and how many of them were right; weighted by age */
    float tried[SPECULATION_MAX_DRAFTS], right[SPECULATION_MAX_DRAFTS];
};

/* What is remembered of one sequence; zeroed to begin with. */
struct speculation_record {
    struct acceptance of[DRAFT_SOURCES];
    float chance; /* how often look-up finds something */
    int n_asked;  /* times it was asked */
    /* a guess of look-up that nobody verified */
    int32_t guess[SPECULATION_MAX_DRAFTS];
    int n_guess, guess_at; /* ids (0: no open guess); position of the first */
};

enum { STEP_SIZES = 56 };
struct step_times { /* of one model */
    struct step_size {
        float tokens;  /* mean of the sizes that were seen */
        float seconds; /* at scale 1 */
        float least;   /* of this size and all larger ones: fewer tokens take no longer, whatever was measured */
        float n;       /* times seen, weighted by age; 0: never */
    } sizes[STEP_SIZES];
    float scale;
};

struct speculation {
    int max_drafts, max_seqs;
    struct step_times target, draft;
    struct acceptance of[DRAFT_SOURCES];
    float overhead[2];   /* seconds of a step without and with drafts in which the device stood still */
    int n_since_plain;   /* steps since one without drafts */
    double budget;       /* seconds that probes may lose */
    double last_seconds; /* of the step before */
    struct { /* of the step that was chosen last */
        bool on;
        double rate;  /* tokens a second of the best choice known */
        double other; /* seconds that are not the decodes' */
    } probe;
    bool model_pays; /* as speculation_shadows found it */
    /* one choice: owned [max_seqs * max_drafts] */
    float *worth;          /* [sequence, position] */
    uint32_t *order;       /* sequence * SPECULATION_MAX_DRAFTS + position, worthiest first */
    float *seconds, *most; /* by number of drafts: the step's time, and what it may be at most */
};

int speculation_open(struct speculation *s, int max_seqs, int max_drafts); /* STATUS_NO_MEMORY */
void speculation_close(struct speculation *s);                             /* zeroed is fine */

/* Look-up was asked for drafts of what follows the sequence's n_tokens tokens, and found n. */
void speculation_guess(struct speculation *s, struct speculation_record *r, const int32_t *drafts, int n, int n_tokens);
/* The tokens known now. */
void speculation_score(struct speculation *s, struct speculation_record *r, const int32_t *tokens, int n_tokens);
/* Of n drafts that were verified, so many were right. */
void speculation_verified(struct speculation *s, struct speculation_record *r, enum draft_source source, int n,
                          int n_right);

/* A decode that may have drafts: of look-up, or of the draft model where that is ready for it. */
struct speculation_candidate {
    struct speculation_record *record;
    int n_lookup; /* drafts that look-up has; 0: none */
    float chance; /* that it has them: 1, or record->chance where that is not known yet */
    int n_model;  /* drafts that the draft model may make; 0: it is not ready */
    int n_behind; /* tokens that it has to compute first */
    /* set by speculation_choose */
    enum draft_source source;
    int n_drafts; /* 0: none */
};

/* Chooses the drafts of a step that has T tokens without them, n of these the candidates'. Returns how many in all. */
int speculation_choose(struct speculation *s, struct speculation_candidate *c, int n, int T);

/* For how many of n decoding sequences the draft model should be kept ready: n, none, or one to see how it does. */
int speculation_shadows(struct speculation *s, int n);

struct step_cost {
    int T;                 /* tokens of the target's batch, drafts among them */
    int n_tokens;          /* that the candidates got */
    bool drafts;           /* somebody had drafts */
    double target_seconds; /* of the device */
    double draft_seconds;  /* of the device, in the draft model */
    double wall_seconds;   /* from the landing of the step before to this one's */
    int draft_T;           /* tokens that the draft model computed at first, catching up */
    int draft_seqs;        /* sequences that it drafted for, and how deep */
    int draft_depth;
};
void speculation_step(struct speculation *s, const struct step_cost *cost);

/* Seconds that a step of T tokens takes, as far as is known: for figures and tests. */
double step_times_at(const struct step_times *t, double T);
