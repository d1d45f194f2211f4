/* sequence.c - making, freeing, and the rules by which a sequence ends. */
#include "engine/sequence.h"

#include <stdlib.h>
#include <string.h>

static int min_int(int a, int b) { return a < b ? a : b; }

int sequence_open(struct sequence **out, const struct sequence_params *params) {
    CHECK(params->n_prompt >= 1 && params->max_tokens >= 0 && params->P >= 1);
    *out = NULL;
    if (params->n_prompt > params->max_model_len - !params->prompt_only) return STATUS_TOO_LARGE;
    int n_output = params->prompt_only ? 0 : params->max_model_len - params->n_prompt;
    if (params->max_tokens) n_output = min_int(n_output, params->max_tokens);
    int max_len = params->n_prompt + n_output;
    /* The last token that a sequence samples is never computed. */
    int max_blocks = (max_len - !params->prompt_only + params->P - 1) / params->P;
    int max_shadow = params->draft_P && !params->prompt_only ? (max_len + params->draft_P - 1) / params->draft_P : 0;

    size_t n_ids = (size_t)max_len + (size_t)max_blocks + (size_t)max_shadow + (size_t)params->n_eos_ids +
                   (size_t)params->n_stop_token_ids;
    struct sequence *q = malloc(sizeof *q + n_ids * sizeof(int32_t));
    if (!q) return STATUS_NO_MEMORY;
    int32_t *ids = (int32_t *)(q + 1);
    *q = (struct sequence){
        .user = params->user,
        .n_prompt = params->n_prompt,
        .max_len = max_len,
        .min_tokens = params->min_tokens,
        .ignore_eos = params->ignore_eos,
        .prompt_only = params->prompt_only,
        .prompt_logits = params->prompt_logits,
        .priority = params->priority,
        .salt = params->salt,
        .n_eos_ids = params->n_eos_ids,
        .n_stop_token_ids = params->n_stop_token_ids,
        .tokens = ids,
        .blocks = ids + max_len,
        .shadow = {.blocks = ids + max_len + max_blocks, .max_blocks = max_shadow},
        .eos_ids = ids + max_len + max_blocks + max_shadow,
        .stop_token_ids = ids + max_len + max_blocks + max_shadow + params->n_eos_ids,
        .n_tokens = params->n_prompt,
        .max_blocks = max_blocks,
        .stop_token = -1,
    };
    memcpy(q->tokens, params->prompt, (size_t)params->n_prompt * sizeof *q->tokens);
    if (q->n_eos_ids) memcpy(q->eos_ids, params->eos_ids, (size_t)q->n_eos_ids * sizeof *q->eos_ids);
    if (q->n_stop_token_ids)
        memcpy(q->stop_token_ids, params->stop_token_ids, (size_t)q->n_stop_token_ids * sizeof *q->stop_token_ids);
    *out = q;
    return STATUS_OK;
}

void sequence_close(struct sequence *q) {
    if (!q) return;
    CHECK(q->state == SEQUENCE_NEW || q->state == SEQUENCE_FINISHED);
    free(q);
}

static bool contains(const int32_t *ids, int n, int32_t id) {
    for (int i = 0; i < n; i++)
        if (ids[i] == id) return true;
    return false;
}

/* Takes a sampled token, and ends the sequence if that was its last. As in vLLM, a stop on the very last token counts
 * as a stop, and below min_tokens only the length ends it. */
void sequence__append(struct sequence *q, int32_t id) {
    CHECK_LT(q->n_tokens, q->max_len);
    q->tokens[q->n_tokens++] = id;
    bool may_stop = q->n_tokens - q->n_prompt >= q->min_tokens;
    if (may_stop && !q->ignore_eos && contains(q->eos_ids, q->n_eos_ids, id)) {
        q->reason = FINISH_STOP;
    } else if (may_stop && contains(q->stop_token_ids, q->n_stop_token_ids, id)) {
        q->reason = FINISH_STOP;
        q->stop_token = id;
    } else if (q->n_tokens == q->max_len) {
        q->reason = FINISH_LENGTH;
    }
}
