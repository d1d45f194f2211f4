/* The command line: kinds of flags, numbers with suffixes, lists, the config file, refusals. */
#include "tools/options.c" /* the parser belongs to the command, not to a library */

#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <unistd.h>

static const char *const colours[] = {"red", "blue", NULL};

static struct values {
    bool on, off;
    int count;
    size_t bytes;
    double share;
    const char *name, *colour, *config;
    struct option_list words;
    struct option_ints sizes;
} v;

static const struct option_spec specs[] = {
    FLAG_TITLE("Things"),
    FLAG(BOOL, "turned-on", &v.on, NULL, "a boolean"),
    FLAG(BOOL, "turned-off", &v.off, NULL, "a boolean"),
    FLAG(INT, "count", &v.count, "N", "a number", .low = 0, .high = 100000, .alias = "c"),
    FLAG(SIZE, "bytes", &v.bytes, "BYTES", "a size"),
    FLAG(DOUBLE, "share", &v.share, "X", "a share", .low = 0, .high = 1),
    FLAG(STRING, "name", &v.name, "NAME", "a name"),
    FLAG(STRING, "colour", &v.colour, "NAME", "a colour", .choices = colours),
    FLAG(LIST, "words", &v.words, "WORD...", "words"),
    FLAG(INTS, "sizes", &v.sizes, "N...", "numbers", .low = 1, .high = 8192),
    FLAG(CONFIG, "config", &v.config, "FILE", "all of these"),
    {0},
};
static const struct command_help help = {"test", "MODEL", "Tests.", "tandem test x", 1, 1};

/* Parses "test ARGS..." (NULL-terminated); the exit code, or -1 when the command may go on. */
static int run(struct options *o, const char **args) {
    char *argv[32] = {"test"};
    int argc = 1, exit_code;
    for (; *args; args++) argv[argc++] = (char *)*args;
    v = (struct values){.off = true};
    bool go_on = options_parse(o, &help, specs, argc, argv, &exit_code);
    cr_assert(!go_on || exit_code == 0);
    return go_on ? -1 : exit_code;
}
#define RUN(o, ...) run(o, (const char *[]){__VA_ARGS__, NULL})

Test(options, all_kinds) {
    struct options o = {0};
    cr_assert_eq(RUN(&o, "--turned-on", "--no-turned-off", "--count", "7", "--bytes=4K", "--share", ".5", "--name",
                     "-x", "--colour", "blue", "model"),
                 -1);
    cr_assert(v.on && !v.off && v.count == 7 && v.bytes == 4096 && v.share == 0.5);
    cr_assert_str_eq(v.name, "-x");
    cr_assert_str_eq(v.colour, "blue");
    cr_assert_eq(o.operands.n, 1);
    cr_assert_str_eq(o.operands.items[0], "model");
    options_deinit(&o);
}

Test(options, spellings) {
    struct options o = {0};
    cr_assert_eq(RUN(&o, "m", "--turned_on=true", "--turned_off", "-c", "3", "--no_turned_off"), -1);
    cr_assert(v.on && !v.off && v.count == 3);
    options_deinit(&o);
    cr_assert_eq(RUN(&o, "--", "--count"), -1);
    cr_assert_str_eq(o.operands.items[0], "--count");
    options_deinit(&o);
}

Test(options, lists) {
    struct options o = {0};
    cr_assert_eq(RUN(&o, "m", "--words", "a", "b", "--count", "1", "--words=c"), -1);
    cr_assert_eq(v.words.n, 3);
    cr_assert_str_eq(v.words.items[2], "c");
    options_deinit(&o);
    cr_assert_eq(RUN(&o, "m", "--sizes", "1", "4K", "--count", "1", "--sizes=2"), -1);
    cr_assert(v.sizes.n == 3 && v.sizes.items[0] == 1 && v.sizes.items[1] == 4096 && v.sizes.items[2] == 2);
    options_deinit(&o);
    cr_assert(!v.sizes.n && !v.sizes.items);
}

Test(options, numbers) {
    static const struct {
        const char *text;
        double value;
    } good[] = {{"0", 0},       {"1k", 1000},           {"1K", 1024}, {"25.6k", 25600}, {"2g", 2e9},
                {"2G", 0x1p31}, {"1.5M", 1.5 * 0x1p20}, {"-3", -3},   {"1e3", 1000}};
    static const char *const wrong[] = {"", "k", "1kk", "1 ", "0x", "x1", "1q", "nan", "inf", "+-1", "1e999"};
    double value;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cr_assert(options_number(good[i].text, &value), "%s", good[i].text);
        cr_assert_eq(value, good[i].value, "%s is %g", good[i].text, value);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        cr_assert_not(options_number(wrong[i], &value), "\"%s\" was read as %g", wrong[i], value);
}

Test(options, refusals, .init = cr_redirect_stderr) {
    static const char *const bad[][4] = {
        {"m", "--count", "-1"},
        {"m", "--count", "100001"},
        {"m", "--count", "1.5"},
        {"m", "--count", "x"},
        {"m", "--count"},
        {"m", "--count", "--name"},
        {"m", "--share", "1.1"},
        {"m", "--bytes", "-1"},
        {"m", "--colour", "green"},
        {"m", "--turned-on=yes"},
        {"m", "--no-count"},
        {"m", "--nothing"},
        {"m", "n"},
        {"--turned-on"},
        {"m", "-q"},
        {"m", "--config", "/no/such/file"},
        {"m", "--sizes", "1", "0"},
        {"m", "--sizes", "1", "8193"},
        {"m", "--sizes", "1", "x"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct options o = {0};
        const char *args[5] = {0};
        memcpy(args, bad[i], sizeof bad[i]);
        cr_assert_eq(run(&o, args), 2, "%s %s %s", args[0], args[1] ? args[1] : "", args[2] ? args[2] : "");
        options_deinit(&o);
    }
}

Test(options, help_is_no_failure, .init = cr_redirect_stdout) {
    struct options o = {0};
    cr_assert_eq(RUN(&o, "--help"), 0);
    options_deinit(&o);
}

static int run_it(int argc, char **argv) {
    return argc == 2 && !strcmp(argv[0], "it") && !strcmp(argv[1], "x") ? 7 : 8;
}

Test(options, commands, .init = cr_redirect_stdout) {
    static const struct command commands[] = {{"it", "Does it.", run_it}, {0}};
    static const struct command_table table = {"test", "COMMAND", "command", "", "", commands};
    cr_redirect_stderr();
    cr_assert_eq(command_run(&table, 3, (char *[]){"test", "it", "x"}), 7);
    cr_assert_eq(command_run(&table, 2, (char *[]){"test", "--help"}), 0);
    cr_assert_eq(command_run(&table, 2, (char *[]){"test", "if"}), 2);
    cr_assert_eq(command_run(&table, 1, (char *[]){"test"}), 2);
}

Test(options, nearest) {
    static const char *const names[] = {"max-model-len", "max-num-seqs", "port", NULL};
    cr_assert_str_eq(options_nearest("max-model-length", names), "max-model-len");
    cr_assert_str_eq(options_nearest("prot", names), "port");
    cr_assert_null(options_nearest("something-else-entirely", names));
}

static const char *write_file(const char *text) {
    static char path[] = "/tmp/tandem-config-XXXXXX";
    strcpy(path + sizeof path - 7, "XXXXXX");
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    return path;
}

Test(options, config_file) {
    struct options o = {0};
    const char *path = write_file("{\"model\": \"from file\", \"turned_on\": true, \"count\": 5, \"bytes\": \"1K\","
                                  " \"words\": [\"x\", \"y\"], \"sizes\": [3, 4], \"name\": \"n\"}");
    cr_assert_eq(RUN(&o, "--count", "6", "--config", path), -1);
    cr_assert(v.on && v.count == 6 && v.bytes == 1024 && v.words.n == 2);
    cr_assert(v.sizes.n == 2 && v.sizes.items[1] == 4);
    cr_assert_str_eq(v.name, "n");
    cr_assert_str_eq(o.operands.items[0], "from file");
    options_deinit(&o);
    cr_assert_eq(RUN(&o, "mine", "--config", path, "--words", "z", "--sizes", "5"), -1);
    cr_assert(v.words.n == 1 && v.sizes.n == 1 && v.sizes.items[0] == 5);
    cr_assert_str_eq(o.operands.items[0], "mine");
    options_deinit(&o);
    unlink(path);
}

Test(options, bad_config_files, .init = cr_redirect_stderr) {
    static const char *const files[] = {"",
                                        "[]",
                                        "{\"count\": true}",
                                        "{\"nothing\": 1}",
                                        "{\"words\": [1]}",
                                        "{\"sizes\": [\"1\"]}",
                                        "{\"sizes\": [0]}",
                                        "{\"name\": 5}",
                                        "{\"model\": 5}",
                                        "{\"count\": 100001}"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct options o = {0};
        const char *path = write_file(files[i]);
        cr_assert_eq(RUN(&o, "m", "--config", path), 2, "%s", files[i]);
        options_deinit(&o);
        unlink(path);
    }
}
