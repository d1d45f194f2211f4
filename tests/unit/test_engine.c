/* test_engine.c - the engine through its door: what requests get, refuse and leave behind. */
#include "engine/engine.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MODEL "tests/golden/qwen3-bf16"
enum { MAX_OUTPUT = 256, TOP = 3 };

struct answer { /* the user pointer of a request */
    int n_finished;
    int n, n_events;
    int32_t tokens[MAX_OUTPUT];
    float logprobs[MAX_OUTPUT], top[MAX_OUTPUT];
    char text[8192];
    size_t bytes;
    enum finish_reason reason;
    int stop_string;
    int32_t stop_token;
    struct request_usage usage;
    int n_prompt_logprobs;
    float prompt_logprobs[600];
};

static struct engine *open_engine(struct engine_options o) {
    struct engine *e;
    char err[ERR_BYTES];
    o.model = MODEL;
    cr_assert_eq(engine_open(&e, &o, err, sizeof err), 0, "%s", err);
    return e;
}

static struct engine_options small_options(void) {
    struct engine_options o = engine_default_options();
    o.max_model_len = 512;
    o.max_num_seqs = 8;
    o.num_blocks_override = 200;
    return o;
}

static const int32_t PROMPT[] = {10, 200, 33, 64, 99, 120, 7, 7, 31, 250, 4, 18};
#define N_PROMPT ((int)(sizeof PROMPT / sizeof *PROMPT))

static struct request_params greedy(struct answer *a, int max_tokens) {
    struct request_params p = {.prompt = PROMPT, .n_prompt = N_PROMPT, .sampling = sampling_default(), .user = a};
    p.sampling.temperature = 0;
    p.sampling.max_tokens = max_tokens;
    p.sampling.ignore_eos = true;
    p.sampling.logprobs = TOP;
    *a = (struct answer){0};
    return p;
}

static void take_event(const struct engine_event *event) {
    struct answer *a = event->user;
    cr_assert_eq(a->n_finished, 0, "an event after the end");
    a->n_events++;
    for (int i = 0; i < event->n_tokens; i++) {
        cr_assert_lt(a->n, MAX_OUTPUT);
        if (event->logprobs) {
            a->logprobs[a->n] = event->logprobs[i].entries[0].logprob;
            a->top[a->n] = event->logprobs[i].entries[1].logprob;
            cr_assert_eq(event->logprobs[i].entries[0].id, event->tokens[i]);
        }
        a->tokens[a->n++] = event->tokens[i];
    }
    cr_assert_lt(a->bytes + event->text_bytes, sizeof a->text);
    memcpy(a->text + a->bytes, event->text, event->text_bytes);
    a->bytes += event->text_bytes;
    if (event->prompt_logprobs) {
        cr_assert_eq(a->n_prompt_logprobs, 0, "prompt logprobs come once");
        a->n_prompt_logprobs = event->usage.n_prompt - 1;
        for (int i = 0; i < a->n_prompt_logprobs; i++) {
            cr_assert_eq(event->prompt_logprobs[i].entries[0].id, PROMPT[i + 1]);
            a->prompt_logprobs[i] = event->prompt_logprobs[i].entries[0].logprob;
        }
    }
    cr_assert_eq(event->usage.n_output, a->n);
    if (event->kind != EVENT_FINISHED) return;
    a->n_finished++;
    a->reason = event->reason;
    a->stop_string = event->stop_string;
    a->stop_token = event->stop_token;
    a->usage = event->usage;
}

static void submit(struct engine *e, const struct request_params *p, uint64_t *id) {
    char err[ERR_BYTES];
    cr_assert_eq(engine_submit(e, p, id, err, sizeof err), 0, "%s", err);
}

/* Until nothing is in flight. */
static void drain(struct engine *e) {
    struct engine_event event;
    while (engine_wait(e, 30000))
        while (engine_poll(e, &event)) take_event(&event);
}

static struct answer *run(struct engine *e, struct answer *a, const struct request_params *p) {
    submit(e, p, NULL);
    drain(e);
    cr_assert_eq(a->n_finished, 1);
    return a;
}

/* Every block is free again; the engine may need a moment after a client-side end. */
static void assert_blocks_free(struct engine *e) {
    struct engine_stats s;
    for (int i = 0; i < 2000; i++) {
        struct engine_event event;
        while (engine_poll(e, &event)) take_event(&event);
        engine_stats(e, &s);
        if (!s.n_running && !s.n_waiting && !s.n_blocks_used) return;
        struct timespec ms = {0, 1000000};
        nanosleep(&ms, NULL);
    }
    cr_assert_fail("%d blocks in use, %d running, %d waiting", s.n_blocks_used, s.n_running, s.n_waiting);
}

Test(engine, length_text_and_usage) {
    struct engine *e = open_engine(small_options());
    struct answer a;
    struct request_params p = greedy(&a, 20);
    run(e, &a, &p);
    cr_assert_eq(a.reason, FINISH_LENGTH);
    cr_assert_eq(a.n, 20);
    cr_assert_eq(a.usage.n_prompt, N_PROMPT);
    cr_assert_eq(a.usage.n_output, 20);
    cr_assert(a.usage.t_submit <= a.usage.t_start && a.usage.t_start <= a.usage.t_first);
    cr_assert_leq(a.usage.t_first, a.usage.t_finish);
    char *text = tokenizer_decode(engine_tokenizer(e), a.tokens, 20, true, NULL);
    cr_assert_str_eq(a.text, text);
    for (int i = 0; i < a.n; i++) cr_assert_eq(a.logprobs[i], a.top[i], "greedy takes the most likely");
    free(text);
    assert_blocks_free(e);
    engine_close(e);
}

Test(engine, stop_ids_and_min_tokens) {
    struct engine *e = open_engine(small_options());
    struct answer a, b;
    struct request_params p = greedy(&a, 20);
    run(e, &a, &p);
    int32_t stop = a.tokens[7];
    int first = 0;
    while (a.tokens[first] != stop) first++;

    p = greedy(&b, 20);
    p.sampling.stop_token_ids = &stop;
    p.sampling.n_stop_token_ids = 1;
    run(e, &b, &p);
    cr_assert_eq(b.reason, FINISH_STOP);
    cr_assert_eq(b.stop_token, stop);
    cr_assert_eq(b.n, first + 1);
    char *text = tokenizer_decode(engine_tokenizer(e), b.tokens, (size_t)first, true, NULL);
    cr_assert_str_eq(b.text, text, "the stop token is no text");
    free(text);

    p = greedy(&b, 20);
    p.sampling.stop_token_ids = &stop;
    p.sampling.n_stop_token_ids = 1;
    p.sampling.min_tokens = 15;
    run(e, &b, &p);
    cr_assert_geq(b.n, 15);
    for (int i = 0; i < 15; i++) cr_assert_neq(b.tokens[i], stop, "forbidden below min_tokens");
    engine_close(e);
}

Test(engine, stop_string_ends_the_request_at_once) {
    struct engine *e = open_engine(small_options());
    struct answer a, b;
    struct request_params p = greedy(&a, 40);
    run(e, &a, &p);
    /* three bytes from the middle of the ASCII part of the answer */
    size_t at = 0;
    while (at + 3 < a.bytes && (a.text[at] < 33 || a.text[at + 1] < 33 || a.text[at + 2] < 33)) at++;
    cr_assert_lt(at + 3, a.bytes, "the answer has no three printable bytes in a row: %s", a.text);
    char needle[4] = {a.text[at], a.text[at + 1], a.text[at + 2], 0};
    at = (size_t)(strstr(a.text, needle) - a.text);
    const char *stops[] = {"never in the text", needle};

    for (int include = 0; include < 2; include++) {
        p = greedy(&b, 40);
        p.sampling.stop = stops;
        p.sampling.n_stop = 2;
        p.sampling.include_stop_str_in_output = include;
        run(e, &b, &p);
        cr_assert_eq(b.reason, FINISH_STOP);
        cr_assert_eq(b.stop_string, 1);
        cr_assert_eq(b.bytes, at + (include ? 3 : 0));
        cr_assert_arr_eq(b.text, a.text, b.bytes);
        cr_assert_lt(b.n, 40);
        assert_blocks_free(e);
    }
    engine_close(e);
}

Test(engine, bias_allowed_and_penalties) {
    struct engine *e = open_engine(small_options());
    struct answer a;
    const int32_t allowed[] = {65, 66, 67};
    struct request_params p = greedy(&a, 30);
    p.sampling.allowed_token_ids = allowed;
    p.sampling.n_allowed_token_ids = 3;
    run(e, &a, &p);
    for (int i = 0; i < a.n; i++) cr_assert(a.tokens[i] >= 65 && a.tokens[i] <= 67);

    const struct token_bias bias = {.id = 77, .bias = 100};
    p = greedy(&a, 5);
    p.sampling.logit_bias = &bias;
    p.sampling.n_logit_bias = 1;
    run(e, &a, &p);
    for (int i = 0; i < a.n; i++) cr_assert_eq(a.tokens[i], 77);
    cr_assert_lt(a.logprobs[0], a.top[0], "logprobs are of the raw logits");

    /* a presence penalty as large as it may be, over three allowed tokens: none comes twice before all came once */
    p = greedy(&a, 3);
    p.sampling.allowed_token_ids = allowed;
    p.sampling.n_allowed_token_ids = 3;
    p.sampling.repetition_penalty = 100;
    p.sampling.presence_penalty = 2;
    run(e, &a, &p);
    cr_assert_eq(a.n, 3);
    engine_close(e);
}

Test(engine, prompt_logprobs_and_logits_agree) {
    struct engine *e = open_engine(small_options());
    const int V = engine_info(e)->model.vocab;
    struct answer a;
    float *logits = malloc((size_t)N_PROMPT * (size_t)V * sizeof *logits);
    for (int i = 0; i < N_PROMPT * V; i++) logits[i] = NAN;
    struct request_params p = greedy(&a, 0);
    p.sampling.prompt_only = true;
    p.sampling.prompt_logprobs = 2;
    p.logits = logits;
    run(e, &a, &p);
    cr_assert_eq(a.n, 0);
    cr_assert_eq(a.reason, FINISH_LENGTH);
    cr_assert_eq(a.n_prompt_logprobs, N_PROMPT - 1);
    for (int i = 0; i < N_PROMPT - 1; i++) {
        double sum = 0;
        for (int v = 0; v < V; v++) sum += exp((double)logits[i * V + v]);
        double logprob = (double)logits[i * V + PROMPT[i + 1]] - log(sum);
        cr_assert_float_eq(a.prompt_logprobs[i], logprob, 1e-4, "position %d: %g against %g", i,
                           (double)a.prompt_logprobs[i], logprob);
    }
    for (int i = 0; i < N_PROMPT * V; i++) cr_assert(isfinite(logits[i]));
    free(logits);
    engine_close(e);
}

Test(engine, cancel_frees_the_blocks) {
    struct engine_options o = small_options();
    struct engine *e = open_engine(o);
    static struct answer answers[40];
    uint64_t ids[40];
    srand(1);
    for (int i = 0; i < 40; i++) {
        struct request_params p = greedy(&answers[i], 200);
        submit(e, &p, &ids[i]);
    }
    struct engine_event event;
    for (int i = 0; i < 40; i += 2) { /* at random moments, the waiting ones too */
        for (int n = rand() % 20; n > 0 && engine_wait(e, 1000); n--)
            while (engine_poll(e, &event)) take_event(&event);
        engine_cancel(e, ids[i]);
        engine_cancel(e, ids[i]); /* twice does no harm */
    }
    engine_cancel(e, 999999);
    drain(e);
    int n_cancelled = 0;
    for (int i = 0; i < 40; i++) {
        cr_assert_eq(answers[i].n_finished, 1, "request %d ended %d times", i, answers[i].n_finished);
        if (i % 2) cr_assert_eq(answers[i].n, 200);
        n_cancelled += answers[i].reason == FINISH_CANCELLED;
    }
    cr_assert_gt(n_cancelled, 10);
    for (int i = 3; i < 40; i += 2) cr_assert_arr_eq(answers[i].tokens, answers[1].tokens, sizeof answers[1].tokens);
    assert_blocks_free(e);
    engine_close(e);
}

Test(engine, closing_with_requests_in_flight) {
    for (int round = 0; round < 5; round++) {
        struct engine *e = open_engine(small_options());
        static struct answer answers[20];
        for (int i = 0; i < 20; i++) {
            struct request_params p = greedy(&answers[i], 200);
            submit(e, &p, NULL);
        }
        engine_wait(e, round);
        engine_close(e);
    }
}

static void refused(struct engine *e, const struct request_params *p, int status, const char *sentence) {
    char err[ERR_BYTES] = "";
    cr_assert_eq(engine_submit(e, p, NULL, err, sizeof err), status, "expected \"%s\", found \"%s\"", sentence, err);
    cr_assert_str_eq(err, sentence);
}

Test(engine, refusals_name_field_bound_and_value) {
    struct engine_options o = small_options();
    o.max_waiting = 2;
    o.max_num_seqs = 1;
    struct engine *e = open_engine(o);
    struct answer a;
    struct request_params p = greedy(&a, 10);
    p.sampling.temperature = -1;
    refused(e, &p, STATUS_INVALID, "temperature must be in [0, 100], but is -1");
    p = greedy(&a, 10);
    p.sampling.top_p = 0;
    refused(e, &p, STATUS_INVALID, "top_p must be in (0, 1], but is 0");
    p = greedy(&a, 10);
    p.sampling.min_p = NAN;
    char err[ERR_BYTES];
    cr_assert_eq(engine_submit(e, &p, NULL, err, sizeof err), STATUS_INVALID);
    p = greedy(&a, 10);
    p.n_prompt = 0;
    refused(e, &p, STATUS_INVALID, "the prompt must have at least one token");
    const int32_t bad[] = {1, 320};
    p = greedy(&a, 10);
    p.prompt = bad;
    p.n_prompt = 2;
    refused(e, &p, STATUS_INVALID, "prompt[1] is token 320, but the vocabulary has ids 0 to 319");
    p = greedy(&a, 501);
    refused(e, &p, STATUS_INVALID,
            "the prompt has 12 tokens and max_tokens is 501, but this model's maximum context length is 512 tokens; "
            "please reduce one of them");
    p = greedy(&a, 10);
    p.sampling.logprobs = 21;
    refused(e, &p, STATUS_INVALID, "logprobs must be from 0 to 20 (--max-logprobs), but is 21");
    p = greedy(&a, 10);
    p.sampling.min_tokens = 11;
    refused(e, &p, STATUS_INVALID, "min_tokens must be from 0 to max_tokens (10), but is 11");
    const struct token_bias twice[] = {{5, 1}, {5, 2}};
    p = greedy(&a, 10);
    p.sampling.logit_bias = twice;
    p.sampling.n_logit_bias = 2;
    refused(e, &p, STATUS_INVALID, "logit_bias names token 5 twice");

    static struct answer many[4];
    for (int i = 0; i < 3; i++) {
        p = greedy(&many[i], 100);
        submit(e, &p, NULL);
    }
    p = greedy(&many[3], 100);
    refused(e, &p, STATUS_BUSY, "3 requests are running or waiting, and no more than 3 may be");
    drain(e);
    engine_close(e);
}

Test(engine, seeds_and_priorities) {
    struct engine_options o = small_options();
    o.policy = POLICY_PRIORITY;
    o.max_num_seqs = 1;
    struct engine *e = open_engine(o);
    struct answer a, b, c;
    struct request_params p = greedy(&a, 30);
    p.sampling.temperature = 1;
    p.sampling.has_seed = true;
    p.sampling.seed = 7;
    run(e, &a, &p);
    p.user = &b;
    b = (struct answer){0};
    run(e, &b, &p);
    cr_assert_arr_eq(a.tokens, b.tokens, sizeof a.tokens);
    p.sampling.seed = 8;
    p.user = &c;
    c = (struct answer){0};
    run(e, &c, &p);
    cr_assert(memcmp(a.tokens, c.tokens, sizeof a.tokens) != 0, "another seed, the same answer");

    /* first in, low priority; the urgent ones overtake what waits */
    static struct answer queue[4];
    bool in_time = false;
    for (int attempt = 0; attempt < 50 && !in_time; attempt++) {
        for (int i = 0; i < 4; i++) {
            p = greedy(&queue[i], 100);
            p.priority = 3 - i;
            submit(e, &p, NULL);
        }
        drain(e);
        /* On a busy machine this thread may sleep between two submits until there is nothing to overtake. */
        in_time = queue[3].usage.t_submit < queue[1].usage.t_start;
    }
    cr_assert(in_time);
    cr_assert_lt(queue[3].usage.t_first, queue[1].usage.t_first);
    cr_assert_lt(queue[2].usage.t_first, queue[1].usage.t_first);
    engine_close(e);
}

Test(engine, salts_do_not_share) {
    struct engine *e = open_engine(small_options());
    struct answer a;
    int32_t prompt[100];
    for (int i = 0; i < 100; i++) prompt[i] = i;
    for (int i = 0; i < 3; i++) {
        struct request_params p = greedy(&a, 5);
        p.prompt = prompt;
        p.n_prompt = 100;
        p.salt = i < 2 ? 1 : 2;
        run(e, &a, &p);
        cr_assert_eq(a.usage.n_cached, i == 1 ? 96 : 0);
    }
    engine_close(e);
}

Test(engine, options_that_cannot_be) {
    struct engine *e;
    char err[ERR_BYTES];
    struct engine_options o = small_options();
    o.model = "no/such-model";
    cr_assert_eq(engine_open(&e, &o, err, sizeof err), STATUS_NOT_FOUND);
    o = small_options();
    o.model = MODEL;
    o.max_model_len = 100000;
    cr_assert_eq(engine_open(&e, &o, err, sizeof err), STATUS_INVALID);
    cr_assert(strstr(err, "--max-model-len 100000 is more than the model's max_position_embeddings"), "%s", err);
    o = small_options();
    o.model = MODEL;
    o.num_blocks_override = 10;
    cr_assert_eq(engine_open(&e, &o, err, sizeof err), STATUS_INVALID);
    cr_assert(strstr(err, "needs 32 KV blocks"), "%s", err);
    o = small_options();
    o.model = MODEL;
    o.dtype = "int8";
    cr_assert_eq(engine_open(&e, &o, err, sizeof err), STATUS_INVALID);
    cr_assert_str_eq(err, "--dtype: expected auto, bfloat16, float16, half or float32, found \"int8\"");
    o = small_options();
    o.model = MODEL;
    o.enable_chunked_prefill = false;
    o.max_num_batched_tokens = 100;
    cr_assert_eq(engine_open(&e, &o, err, sizeof err), STATUS_INVALID);
}
