/* What `tandem serve` is told: one model by flags, several by a config file, and the sentence about each mistake. */
#include "tools/options.c" /* the parser belongs to the command, not to a library */
#include "tools/serve_config.c"

#include <criterion/criterion.h>
#include <unistd.h>

static char path[] = "/tmp/tandem-deployment-XXXXXX";

static void write_file(const char *text) {
    strcpy(path + sizeof path - 7, "XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

/* Parses "serve ARGS..." (NULL-terminated) with standard error in `said`; the exit code, or -1 when there is something
 * to serve. */
static char said[4096];
static int run(struct serve_config *c, const char *const *args) {
    char *argv[32] = {"serve"}, name[] = "/tmp/tandem-said-XXXXXX";
    int argc = 1, exit_code, fd = mkstemp(name), before = dup(STDERR_FILENO);
    for (; *args; args++) argv[argc++] = (char *)*args;
    cr_assert(fd >= 0 && before >= 0);
    fflush(stderr);
    dup2(fd, STDERR_FILENO);
    *c = (struct serve_config){0};
    const bool go_on = serve_config_parse(c, argc, argv, &exit_code);
    fflush(stderr);
    dup2(before, STDERR_FILENO);
    close(before);
    const ssize_t n = pread(fd, said, sizeof said - 1, 0);
    cr_assert_geq(n, 0);
    said[n] = 0;
    close(fd);
    unlink(name);
    cr_assert(!go_on || exit_code == 0);
    return go_on ? -1 : exit_code;
}
#define RUN(c, ...) run(c, (const char *const[]){__VA_ARGS__, NULL})

Test(serve_config, one_model) {
    struct serve_config c;
    cr_assert_eq(RUN(&c, "dir", "--max-num-seqs", "7", "--served-model-name", "a", "b", "--seed", "5", "--threads", "3",
                     "--reasoning-parser", "none", "--api-key", "k", "--port", "81"),
                 -1);
    const struct server_model_options *m = c.server.models;
    cr_assert_eq(c.server.n_models, 1);
    cr_assert_str_eq(m->engine.model, "dir");
    cr_assert(m->engine.max_num_seqs == 7 && m->engine.seed == 5 && m->engine.n_threads == 3);
    cr_assert(m->n_served_names == 2 && !strcmp(m->served_names[1], "b") && m->roles == 0);
    cr_assert(!m->split_reasoning && c.server.n_api_keys == 1 && c.server.http.port == 81);
    serve_config_deinit(&c);
}

/* A file without "models" goes with the operand, as ever. */
Test(serve_config, file_of_one_model) {
    struct serve_config c;
    write_file("{\"max-num-seqs\": 7, \"model\": \"from file\", \"served-model-name\": \"n\"}");
    cr_assert_eq(RUN(&c, "--config", path), -1);
    cr_assert_str_eq(c.server.models->engine.model, "from file");
    cr_assert(c.server.models->engine.max_num_seqs == 7 && c.server.models->n_served_names == 1);
    serve_config_deinit(&c);
    cr_assert_eq(RUN(&c, "mine", "--config", path), -1);
    cr_assert_str_eq(c.server.models->engine.model, "mine");
    serve_config_deinit(&c);
    unlink(path);
}

Test(serve_config, several_models) {
    struct serve_config c;
    write_file(
        "{\"port\": 81, \"kv_cache_memory_bytes\": \"2G\", \"threads\": 3, \"models\": ["
        "{\"model\": \"a\", \"role\": \"large\", \"max_model_len\": \"4K\", \"served_model_name\": [\"x\", \"y\"],"
        " \"kv-cache-floor-bytes\": 1000, \"kv-cache-ceiling-bytes\": 2000, \"enable-prefix-caching\": false},"
        "{\"model\": \"b\", \"role\": [\"small\", \"draft\"], \"kv-cache-dtype\": \"fp8\", \"seed\": 4,"
        " \"generation-config\": \"vllm\", \"scheduling-policy\": \"priority\"},"
        "{\"model\": \"c\", \"default-chat-template-kwargs\": \"{\\\"enable_thinking\\\": false}\"}]}");
    cr_assert_eq(RUN(&c, "--config", path, "--port", "82"), -1, "%s", said);
    const struct server_model_options *m = c.server.models;
    cr_assert(c.server.n_models == 3 && c.server.http.port == 82);
    for (int i = 0; i < 3; i++)
        cr_assert(m[i].engine.kv_cache_memory_bytes == (size_t)2 << 30 && m[i].engine.n_threads == 3);
    cr_assert(m[0].roles == ROLE_LARGE && m[1].roles == (ROLE_SMALL | ROLE_DRAFT) && m[2].roles == 0);
    cr_assert(m[0].engine.max_model_len == 4096 && m[1].engine.max_model_len == 0);
    cr_assert(m[0].engine.kv_cache_floor_bytes == 1000 && m[0].engine.kv_cache_ceiling_bytes == 2000);
    cr_assert(!m[0].engine.enable_prefix_caching && m[1].engine.enable_prefix_caching);
    cr_assert(m[0].n_served_names == 2 && !m[1].n_served_names);
    cr_assert(!m[1].checkpoint_sampling && m[0].checkpoint_sampling && m[1].engine.policy == POLICY_PRIORITY);
    cr_assert(m[2].enable_thinking == 0 && m[1].enable_thinking == -1);
    cr_assert_str_eq(m[1].engine.kv_cache_dtype, "fp8");
    serve_config_deinit(&c);
    unlink(path);
}

/* The file that the documentation shows. */
Test(serve_config, example) {
    struct serve_config c;
    cr_assert_eq(RUN(&c, "--config", "server/examples/deployment.json"), -1, "%s", said);
    const struct server_model_options *m = c.server.models;
    cr_assert_eq(c.server.n_models, 3);
    cr_assert(m[0].roles == ROLE_LARGE && m[1].roles == ROLE_SMALL && m[2].roles == ROLE_EMBEDDER);
    cr_assert(m[0].engine.max_num_seqs == 6 && m[0].engine.max_num_batched_tokens == 8192);
    cr_assert_str_eq(m[0].engine.kv_cache_dtype, "fp8");
    cr_assert_str_eq(m[1].engine.dtype, "float16");
    cr_assert(m[0].engine.max_model_len == 4096 && m[1].engine.max_num_seqs == 2 && m[2].engine.max_model_len == 512);
    serve_config_deinit(&c);
}

Test(serve_config, bad_files) {
    static const struct {
        const char *file, *sentence; /* after "tandem serve: --config: PATH: " */
    } bad[] = {
        {"{\"models\": {}}", "models: expected an array of objects, found an object"},
        {"{\"models\": \"a\"}", "models: expected an array of objects, found a string"},
        {"{\"models\": []}", "models: expected 1 to 4 models, found 0"},
        {"{\"models\": [{},{},{},{},{}]}", "models: expected 1 to 4 models, found 5"},
        {"{\"models\": [5]}", "models[0]: expected an object, found a number"},
        {"{\"models\": [{}]}", "models[0]: model: expected a path or a name, found nothing"},
        {"{\"models\": [{\"model\": \"\"}]}", "models[0] (): model: expected a path or a name, found an empty text"},
        {"{\"models\": [{\"model\": 5}]}", "models[0]: model: expected a string, found a number"},
        {"{\"models\": [{\"model\": \"a\", \"role\": \"huge\"}]}",
         "models[0] (a): role: expected one of large, small, draft, embedder, found \"huge\""},
        {"{\"models\": [{\"model\": \"a\", \"role\": [\"small\", 1]}]}",
         "models[0] (a): role: expected a string or an array of strings, found a number"},
        {"{\"models\": [{\"model\": \"a\", \"max-num-seq\": 1}]}",
         "models[0] (a): unknown key max-num-seq; did you mean max-num-seqs?"},
        {"{\"models\": [{\"model\": \"a\", \"max-num-seqs\": true}]}",
         "models[0] (a): max-num-seqs: expected a number, found a boolean"},
        {"{\"models\": [{\"model\": \"a\", \"max-num-seqs\": 0}]}",
         "models[0] (a): max-num-seqs: expected an integer from 1 to 4096, found \"0\""},
        {"{\"models\": [{\"model\": \"a\", \"enforce-eager\": 1}]}",
         "models[0] (a): enforce-eager: expected true or false, found a number"},
        {"{\"models\": [{\"model\": \"a\", \"dtype\": null}]}", "models[0] (a): dtype: expected a string, found null"},
        {"{\"models\": [{\"model\": \"a\", \"dtype\": \"x\", \"dtype\": \"y\"}]}",
         "models[0] (a): dtype: expected once, found twice"},
        {"{\"models\": [{\"model\": \"a\", \"block-size\": 16, \"block_size\": 16}]}",
         "models[0] (a): block_size: expected once, found twice"},
        {"{\"models\": [{\"model\": \"a\", \"scheduling-policy\": \"best\"}]}",
         "models[0] (a): scheduling-policy: expected one of fcfs, priority, found \"best\""},
        {"{\"models\": [{\"model\": \"a\", \"gpu-memory-utilization\": 0.5}]}",
         "models[0] (a): gpu-memory-utilization: expected at the top level of the file, since all share it"},
        {"{\"models\": [{\"model\": \"a\", \"port\": 1}]}",
         "models[0] (a): port: expected at the top level of the file, since all share it"},
        {"{\"models\": [{\"model\": \"a\", \"tensor-parallel-size\": 2}]}",
         "models[0] (a): tensor-parallel-size: expected 1: a model is served by one device here"},
        {"{\"models\": [{\"model\": \"a\", \"default-chat-template-kwargs\": \"[]\"}]}",
         "models[0] (a): default-chat-template-kwargs: expected a JSON object, found an array"},
        {"{\"models\": [{\"model\": \"a\", \"kv-cache-floor-bytes\": 2, \"kv-cache-ceiling-bytes\": 1}]}",
         "models[0] (a): kv-cache-floor-bytes: expected at most kv-cache-ceiling-bytes, which is 1, found 2"},
        {"{\"kv-cache-memory-bytes\": 9, \"models\": [{\"model\": \"a\", \"kv-cache-floor-bytes\": 4},"
         " {\"model\": \"b\", \"kv-cache-floor-bytes\": 6}]}",
         "models[1] (b): kv-cache-floor-bytes: expected at most kv-cache-memory-bytes, which is 9, of all models "
         "together, found 10"},
        {"{\"models\": [{\"model\": \"a\"}, {\"model\": \"a\"}]}",
         "models[1] (a): served-model-name: expected a name of its own, found \"a\", which is models[0] (a)'s too"},
        {"{\"models\": [{\"model\": \"a\", \"served-model-name\": [\"x\", \"y\"]}, {\"model\": \"b\"},"
         " {\"model\": \"c\", \"served-model-name\": [\"z\", \"y\"]}]}",
         "models[2] (c): served-model-name: expected a name of its own, found \"y\", which is models[0] (a)'s too"},
        {"{\"models\": [{\"model\": \"a\", \"role\": [\"draft\", \"small\"]}, {\"model\": \"b\", \"role\": \"draft\"},"
         " {\"model\": \"c\", \"role\": \"small\"}]}",
         "models[2] (c): role: expected one small model, found models[0] (a) to be it too"},
        {"{\"max-model-len\": 5, \"models\": [{\"model\": \"a\"}]}",
         "max-model-len: expected in the entries of \"models\" in PATH, one for each"},
        {"{\"model\": \"b\", \"models\": [{\"model\": \"a\"}]}",
         "model: expected in the entries of \"models\" in PATH, one for each"},
        {"{\"models\": [{\"model\": \"a\"}], \"modles\": []}", "unknown key modles; did you mean models?"},
        {"{\"models\": [{\"model\": \"a\"}], \"models\": []}", "models: expected once, found twice"},
        {"[]", "expected a JSON object, found an array"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct serve_config c;
        char wanted[1024], *at;
        write_file(bad[i].file);
        cr_assert_eq(RUN(&c, "--config", path), 2, "%s", bad[i].file);
        serve_config_deinit(&c);
        unlink(path);
        snprintf(wanted, sizeof wanted, "tandem serve: --config: %s: ", path);
        cr_expect(!strncmp(said, wanted, strlen(wanted)), "%s\ngave\n%s", bad[i].file, said);
        snprintf(wanted, sizeof wanted, "%s", bad[i].sentence);
        if ((at = strstr(wanted, "PATH"))) {
            char rest[256];
            snprintf(rest, sizeof rest, "%s", at + 4);
            snprintf(at, sizeof wanted - (size_t)(at - wanted), "%s%s", path, rest);
        }
        cr_expect_not_null(strstr(said, wanted), "%s\ngave\n%swanted\n%s", bad[i].file, said, wanted);
    }
}

/* What the file says of the models, the command line says no more. */
Test(serve_config, command_line_beside_models) {
    struct serve_config c;
    write_file("{\"models\": [{\"model\": \"a\"}]}");
    cr_assert_eq(RUN(&c, "dir", "--config", path), 2);
    cr_assert_not_null(strstr(said, "unexpected \"dir\""), "%s", said);
    serve_config_deinit(&c);
    cr_assert_eq(RUN(&c, "--config", path, "--max-num-seqs", "3"), 2);
    cr_assert_not_null(strstr(said, "--max-num-seqs: expected in the entries of \"models\" in "), "%s", said);
    serve_config_deinit(&c);
    cr_assert_eq(RUN(&c, "--config", path, "--no-enable-prefix-caching"), 2);
    serve_config_deinit(&c);
    cr_assert_eq(RUN(&c, "dir", "--models", "x"), 2);
    cr_assert_not_null(strstr(said, "unknown flag --models"), "%s", said);
    serve_config_deinit(&c);
    cr_assert_eq(RUN(&c, "dir", "--role", "small"), 2);
    serve_config_deinit(&c);
    unlink(path);
}
