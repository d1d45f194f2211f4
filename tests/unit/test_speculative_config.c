/* test_speculative_config.c - what --speculative-config may say, and what it is told when it says something else. */
#include "engine/speculative_config.h"

#include "kernels/status.h"

#include <criterion/criterion.h>
#include <string.h>

static struct speculative_config parse(const char *text) {
    struct speculative_config c;
    char err[ERR_BYTES];
    cr_assert_eq(speculative_config_parse(&c, text, err, sizeof err), 0, "%s: %s", text ? text : "NULL", err);
    return c;
}

Test(speculative_config, nothing_is_off) {
    static const char *const off[] = {NULL, "", "none", "null", "{}", "  { } "};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) cr_assert_eq(parse(off[i]).max_drafts, 0);
}

Test(speculative_config, methods) {
    struct speculative_config c = parse("{\"method\": \"ngram\", \"num_speculative_tokens\": 3}");
    cr_assert(c.max_drafts == 3 && c.lookup_min == 2 && c.lookup_max == 4 && !c.draft);
    c = parse("{\"method\": \"ngram\", \"prompt_lookup_max\": 1}");
    cr_assert(c.max_drafts == 5 && c.lookup_min == 1 && c.lookup_max == 1);
    c = parse("{\"method\": \"ngram\", \"prompt_lookup_min\": 6}");
    cr_assert(c.lookup_min == 6 && c.lookup_max == 6);
    c = parse("{\"method\": \"ngram\", \"prompt_lookup_min\": 3, \"prompt_lookup_max\": 7}");
    cr_assert(c.lookup_min == 3 && c.lookup_max == 7);
    c = parse("{\"model\": \"some/draft\", \"synthetic_acceptance_rate\": 0.8}");
    cr_assert(c.lookup_max == 0 && c.acceptance == 0.8);
    cr_assert_str_eq(c.draft, "some/draft");
    speculative_config_deinit(&c);
    c = parse("{\"method\": \"ngram+draft_model\", \"model\": \"d\", \"prompt_lookup_max\": 4}");
    cr_assert(c.lookup_min == 2 && c.lookup_max == 4);
    cr_assert_str_eq(c.draft, "d");
    speculative_config_deinit(&c);
}

Test(speculative_config, refusals) {
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"{", "--speculative-config: "},
        {"[]", "expected a JSON object, found an array"},
        {"{\"methd\": \"ngram\"}", "unknown key \"methd\"; expected method, model"},
        {"{\"method\": \"eagle3\"}", "expected \"ngram\", \"draft_model\" or \"ngram+draft_model\", found \"eagle3\""},
        {"{\"method\": 3}", "method: expected a string, found 3"},
        {"{\"method\": \"draft_model\"}", "needs \"model\", the drafting model; found none"},
        {"{\"method\": \"draft_model\", \"model\": \"\"}", "needs \"model\""},
        {"{\"method\": \"ngram\", \"model\": \"d\"}", "did you mean \"ngram+draft_model\"?"},
        {"{\"model\": \"d\", \"prompt_lookup_max\": 3}", "did you mean \"ngram+draft_model\"?"},
        {"{\"method\": \"ngram\", \"num_speculative_tokens\": 17}", "from 1 to 16, found 17"},
        {"{\"method\": \"ngram\", \"num_speculative_tokens\": 0}", "from 1 to 16, found 0"},
        {"{\"method\": \"ngram\", \"prompt_lookup_min\": 5, \"prompt_lookup_max\": 4}", "is 5, more than prompt_lookup_max"},
        {"{\"method\": \"ngram\", \"synthetic_acceptance_rate\": 1.5}", "synthetic_acceptance_rate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct speculative_config c;
        char err[ERR_BYTES] = "";
        cr_assert_neq(speculative_config_parse(&c, cases[i].text, err, sizeof err), 0, "%s", cases[i].text);
        cr_assert(strstr(err, cases[i].sentence), "%s: %s", cases[i].text, err);
        cr_assert_null(c.draft);
    }
}
