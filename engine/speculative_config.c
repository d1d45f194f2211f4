/* speculative_config.c - see speculative_config.h. */
#include "engine/speculative_config.h"

#include "engine/engine.h"
#include "engine/ngram.h"
#include "weights/json.h"

#include <stdlib.h>
#include <string.h>

#define FLAG "--speculative-config"

enum { DEFAULT_DRAFTS = 5, DEFAULT_LOOKUP_MIN = 2, DEFAULT_LOOKUP_MAX = 4 };

static int check_keys(const cJSON *object, char *err, size_t err_bytes) {
    static const char *const known[] = {
        "method",           "model", "num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max",
        "adaptive",         "synthetic_acceptance_rate"};
    const cJSON *item;
    cJSON_ArrayForEach(item, object) {
        bool found = false;
        char quoted[80];
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) found |= !strcmp(item->string, known[i]);
        if (!found)
            return fail(err, err_bytes, STATUS_INVALID,
                        FLAG ": unknown key \"%s\"; expected method, model, num_speculative_tokens, "
                             "prompt_lookup_min, prompt_lookup_max, adaptive or synthetic_acceptance_rate",
                        json_quote(item->string, quoted, sizeof quoted));
    }
    return 0;
}

static int read_object(struct speculative_config *c, const cJSON *object, char *err, size_t err_bytes) {
    const char *method = NULL, *model = NULL;
    bool adaptive = true;
    char sentence[ERR_BYTES];
    int status = check_keys(object, err, err_bytes);
    if (status) return status;
    int64_t n = DEFAULT_DRAFTS, low = 0, high = 0;
    status = json_get_string(object, "method", &method, sentence, sizeof sentence);
    if (!status) status = json_get_string(object, "model", &model, sentence, sizeof sentence);
    if (!status)
        status =
            json_get_int(object, "num_speculative_tokens", 1, SPECULATION_MAX_DRAFTS, &n, sentence, sizeof sentence);
    if (!status) status = json_get_int(object, "prompt_lookup_min", 1, NGRAM_MAX, &low, sentence, sizeof sentence);
    if (!status) status = json_get_int(object, "prompt_lookup_max", 1, NGRAM_MAX, &high, sentence, sizeof sentence);
    if (!status)
        status = json_get_double(object, "synthetic_acceptance_rate", 0, 1, &c->acceptance, sentence, sizeof sentence);
    if (!status) status = json_get_bool(object, "adaptive", &adaptive, sentence, sizeof sentence);
    if (status) return fail(err, err_bytes, status, FLAG ": %s", sentence);

    if (!method) method = model ? "draft_model" : "ngram";
    const bool both = !strcmp(method, "ngram+draft_model"), lookup = both || !strcmp(method, "ngram"),
               draft = both || !strcmp(method, "draft_model");
    char quoted[80];
    if (!lookup && !draft)
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    FLAG ": method: expected \"ngram\", \"draft_model\" or \"ngram+draft_model\", found \"%s\"",
                    json_quote(method, quoted, sizeof quoted));
    if (draft != (model && *model))
        return fail(err, err_bytes, STATUS_INVALID,
                    draft ? FLAG ": method \"%s\" needs \"model\", the drafting model; found none"
                          : FLAG
                        ": method \"%s\" uses no \"model\", but one is given; did you mean \"ngram+draft_model\"?",
                    method);
    if (!lookup && (low || high))
        return fail(err, err_bytes, STATUS_INVALID,
                    FLAG
                    ": prompt_lookup_min and _max belong to a look-up, but method is \"draft_model\"; did you mean "
                    "\"ngram+draft_model\"?");
    if (lookup) {
        /* one of the two alone is both, as far as the other's default would contradict it */
        if (!low) low = high && high < DEFAULT_LOOKUP_MIN ? high : DEFAULT_LOOKUP_MIN;
        if (!high) high = low > DEFAULT_LOOKUP_MAX ? low : DEFAULT_LOOKUP_MAX;
        if (low > high)
            return fail(err, err_bytes, STATUS_INVALID,
                        FLAG ": prompt_lookup_min is %d, more than prompt_lookup_max, which is %d", (int)low,
                        (int)high);
        c->lookup_min = (int)low;
        c->lookup_max = (int)high;
    }
    c->max_drafts = (int)n;
    c->fixed = !adaptive;
    if (draft && !(c->draft = strdup(model))) return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for an option");
    return 0;
}

int speculative_config_parse(struct speculative_config *c, const char *text, char *err, size_t err_bytes) {
    *c = (struct speculative_config){0};
    if (!text || !*text || !strcmp(text, "none") || !strcmp(text, "null")) return 0;
    char sentence[ERR_BYTES];
    cJSON *tree;
    int status = json_parse(&tree, text, strlen(text), (struct json_limits){1 << 16, 16}, sentence, sizeof sentence);
    if (status) return fail(err, err_bytes, status, FLAG ": %s", sentence);
    if (!cJSON_IsObject(tree))
        status = fail(err, err_bytes, STATUS_INVALID, FLAG ": expected a JSON object, found %s", json_kind(tree));
    else if (tree->child)
        status = read_object(c, tree, err, err_bytes);
    cJSON_Delete(tree);
    return status;
}

void speculative_config_deinit(struct speculative_config *c) {
    free(c->draft);
    *c = (struct speculative_config){0};
}
