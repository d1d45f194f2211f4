/* speculative_config.h - the text of --speculative-config, read (engine.h documents its keys). Private to engine/. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct speculative_config {
    int max_drafts;             /* of one sequence in one step, at most; 0: no speculation */
    int lookup_min, lookup_max; /* tokens of context that a look-up matches; lookup_max 0: no look-up */
    char *draft;                /* owned: the drafting model; NULL: none */
    bool fixed;                 /* always max_drafts */
    int draft_P;                /* set by the deployment: tokens per KV block of the drafting model; 0: there is none */
    double acceptance;          /* above 0: imposed, for benchmarks */
};

/* text NULL, "", "none", "null" or "{}": no speculation. STATUS_INVALID and a sentence. */
int speculative_config_parse(struct speculative_config *c, const char *text, char *err, size_t err_bytes);
void speculative_config_deinit(struct speculative_config *c);
