/* options.c - table-driven flags; see options.h. */
#include "tools/options.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NAMES   256
#define HELP_COLUMN 38 /* where the help texts begin */

/* ---- names ------------------------------------------------------------------------------------------------------- */

/* Flags are compared with '_' read as '-'. */
static bool name_equal(const char *flag, size_t bytes, const char *name) {
    if (!name || strlen(name) != bytes) return false;
    for (size_t i = 0; i < bytes; i++)
        if ((flag[i] == '_' ? '-' : flag[i]) != name[i]) return false;
    return true;
}

static const struct option_spec *find_spec(const struct option_spec *specs, const char *flag, size_t bytes) {
    for (const struct option_spec *s = specs; s->name; s++)
        if (s->kind != OPTION_TITLE && (name_equal(flag, bytes, s->name) || name_equal(flag, bytes, s->alias)))
            return s;
    return NULL;
}

static size_t edit_distance(const char *a, const char *b) {
    size_t na = strlen(a), nb = strlen(b), row[128];
    if (na >= 128 || nb >= 128) return SIZE_MAX;
    for (size_t j = 0; j <= nb; j++) row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[nb];
}

const char *options_nearest(const char *word, const char *const *names) {
    const char *best = NULL;
    size_t bound = strlen(word) / 3 + 2; /* a near miss: about a third of the letters */
    for (; *names; names++) {
        size_t d = edit_distance(word, *names);
        if (d < bound) {
            bound = d;
            best = *names;
        }
    }
    return best;
}

/* "unknown flag --NAME; did you mean --OTHER?", or "unknown key NAME; ..." in a file. */
static int unknown_name(const struct option_spec *specs, bool in_file, const char *name, size_t bytes, char *err,
                        size_t err_bytes) {
    const char *names[MAX_NAMES], *nearest, *what = in_file ? "key " : "flag --";
    char word[128], quoted[160];
    size_t n = 0;
    for (const struct option_spec *s = specs; s->name && n < MAX_NAMES - 2; s++)
        if (s->kind != OPTION_TITLE && (in_file ? s->kind != OPTION_CONFIG : s->kind != OPTION_ENTRIES))
            names[n++] = s->name;
    if (!in_file) names[n++] = "help";
    names[n] = NULL;
    snprintf(word, sizeof word, "%.*s", (int)(bytes < 127 ? bytes : 127), name);
    for (char *c = word; *c; c++)
        if (*c == '_') *c = '-';
    nearest = options_nearest(word, names);
    json_quote(word, quoted, sizeof quoted);
    if (!nearest) return fail(err, err_bytes, STATUS_INVALID, "unknown %s%s", what, quoted);
    return fail(err, err_bytes, STATUS_INVALID, "unknown %s%s; did you mean %s%s?", what, quoted, in_file ? "" : "--",
                nearest);
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

bool options_number(const char *text, double *value) {
    static const struct {
        char suffix;
        double factor;
    } factors[] = {{'k', 1e3},    {'m', 1e6},    {'g', 1e9},    {'t', 1e12},
                   {'K', 0x1p10}, {'M', 0x1p20}, {'G', 0x1p30}, {'T', 0x1p40}};
    char *end;
    if (!isdigit((unsigned char)text[0]) && text[0] != '-' && text[0] != '.') return false;
    double v = strtod(text, &end);
    if (end == text || !isfinite(v)) return false;
    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++)
        if (*end == factors[i].suffix) {
            v = factors[i].factor * v;
            /* 25.6k is 25600, though 25.6 has no exact double */
            if (fabs(v - round(v)) < 1e-6 * fabs(v)) v = round(v);
            end++;
            break;
        }
    *value = v;
    return *end == 0;
}

static void list_push(struct option_list *list, const char *item) {
    list->items = realloc(list->items, (list->n + 1) * sizeof *list->items);
    CHECK(list->items);
    list->items[list->n++] = item;
}

static void ints_push(struct option_ints *list, int item) {
    list->items = realloc(list->items, (list->n + 1) * sizeof *list->items);
    CHECK(list->items);
    list->items[list->n++] = item;
}

static bool is_list(const struct option_spec *s) {
    return s->kind == OPTION_LIST || s->kind == OPTION_INTS;
}

static void empty_list(const struct option_spec *s) {
    if (s->kind == OPTION_LIST) {
        free(((struct option_list *)s->out)->items);
        *(struct option_list *)s->out = (struct option_list){0};
    } else if (s->kind == OPTION_INTS) {
        free(((struct option_ints *)s->out)->items);
        *(struct option_ints *)s->out = (struct option_ints){0};
    }
}

/* Sentences about values leave the flag's name to the callers, who put it in front. */
static int wrong_value(const char *expected, const char *found, char *err, size_t err_bytes) {
    char quoted[96];
    return fail(err, err_bytes, STATUS_INVALID, "expected %s, found \"%s\"", expected,
                json_quote(found, quoted, sizeof quoted));
}

static int set_number(const struct option_spec *s, const char *text, char *err, size_t err_bytes) {
    char expected[96];
    double v, low = s->low, high = s->high;
    const bool is_int = s->kind == OPTION_INT || s->kind == OPTION_INTS, whole = s->kind != OPTION_DOUBLE;
    if (low >= high) {
        low = s->kind == OPTION_SIZE ? 0 : is_int ? INT_MIN : -INFINITY;
        high = s->kind == OPTION_SIZE ? 0x1p53 : is_int ? INT_MAX : INFINITY;
    }
    if (!options_number(text, &v) || v < low || v > high || (whole && v != floor(v))) {
        snprintf(expected, sizeof expected, "%s from %.15g to %.15g", whole ? "an integer" : "a number", low, high);
        return wrong_value(expected, text, err, err_bytes);
    }
    if (s->kind == OPTION_INTS)
        ints_push(s->out, (int)v);
    else if (s->kind == OPTION_INT)
        *(int *)s->out = (int)v;
    else if (s->kind == OPTION_SIZE)
        *(size_t *)s->out = (size_t)v;
    else
        *(double *)s->out = v;
    return 0;
}

static int set_string(const struct option_spec *s, const char *text, char *err, size_t err_bytes) {
    if (s->choices) {
        char expected[256] = "";
        const char *const *c = s->choices;
        for (; *c && strcmp(*c, text); c++)
            snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%s%s",
                     *expected ? ", " : "one of ", *c);
        if (!*c) return wrong_value(expected, text, err, err_bytes);
    }
    if (s->kind == OPTION_LIST)
        list_push(s->out, text);
    else
        *(const char **)s->out = text;
    return 0;
}

/* One value, from the command line or a file. */
static int set_value(const struct option_spec *s, const char *text, char *err, size_t err_bytes) {
    switch (s->kind) {
    case OPTION_BOOL:
        if (strcmp(text, "true") && strcmp(text, "false")) return wrong_value("true or false", text, err, err_bytes);
        *(bool *)s->out = text[0] == 't';
        return 0;
    case OPTION_INT:
    case OPTION_SIZE:
    case OPTION_DOUBLE:
    case OPTION_INTS:
        return set_number(s, text, err, err_bytes);
    default:
        return set_string(s, text, err, err_bytes);
    }
}

/* ---- the config file --------------------------------------------------------------------------------------------- */

static int wrong_kind(const struct option_spec *s, const cJSON *item, char *err, size_t err_bytes) {
    static const char *const kinds[] = {
        [OPTION_BOOL] = "true or false",
        [OPTION_INT] = "a number",
        [OPTION_SIZE] = "a number",
        [OPTION_DOUBLE] = "a number",
        [OPTION_STRING] = "a string",
        [OPTION_LIST] = "a string or an array of strings",
        [OPTION_INTS] = "a number or an array of numbers",
        [OPTION_ENTRIES] = "an array of objects",
    };
    return fail(err, err_bytes, STATUS_INVALID, "expected %s, found %s", kinds[s->kind], json_kind(item));
}

static int set_item(const struct option_spec *s, const cJSON *item, char *err, size_t err_bytes) {
    const cJSON *entry;
    char number[40];
    if (s->kind == OPTION_ENTRIES) {
        if (!cJSON_IsArray(item)) return wrong_kind(s, item, err, err_bytes);
        *(const cJSON **)s->out = item;
        return 0;
    }
    if (cJSON_IsString(item)) return set_value(s, item->valuestring, err, err_bytes);
    if (cJSON_IsBool(item) && s->kind == OPTION_BOOL)
        return set_value(s, cJSON_IsTrue(item) ? "true" : "false", err, err_bytes);
    if (cJSON_IsNumber(item) && s->kind != OPTION_STRING && s->kind != OPTION_LIST && s->kind != OPTION_BOOL) {
        snprintf(number, sizeof number, "%.17g", item->valuedouble);
        return set_value(s, number, err, err_bytes);
    }
    if (!cJSON_IsArray(item) || !is_list(s)) return wrong_kind(s, item, err, err_bytes);
    cJSON_ArrayForEach(entry, item) {
        if (s->kind == OPTION_LIST ? !cJSON_IsString(entry) : !cJSON_IsNumber(entry))
            return wrong_kind(s, entry, err, err_bytes);
        const int status = set_item(s, entry, err, err_bytes);
        if (status) return status;
    }
    return 0;
}

/* Whether an earlier member of the object is the same flag, perhaps spelled otherwise. */
static bool is_repeated(const struct option_spec *specs, const cJSON *object, const cJSON *item) {
    for (const cJSON *c = object->child; c != item; c = c->next)
        if (find_spec(specs, c->string, strlen(c->string)) == find_spec(specs, item->string, strlen(item->string)))
            return true;
    return false;
}

static int read_member(const struct option_spec *specs, const struct option_spec *outer, const cJSON *object,
                       const cJSON *item, char *err, size_t err_bytes) {
    const size_t bytes = strlen(item->string);
    const struct option_spec *s = find_spec(specs, item->string, bytes),
                             *around = !s && outer ? find_spec(outer, item->string, bytes) : NULL;
    char reason[ERR_BYTES];
    if (around && around->kind != OPTION_CONFIG)
        return fail(err, err_bytes, STATUS_INVALID, "%s: expected at the top level of the file, since all share it",
                    item->string);
    if (!s || s->kind == OPTION_CONFIG) return unknown_name(specs, true, item->string, bytes, err, err_bytes);
    if (is_repeated(specs, object, item))
        return fail(err, err_bytes, STATUS_INVALID, "%s: expected once, found twice", item->string);
    const int status = set_item(s, item, reason, sizeof reason);
    return status ? fail(err, err_bytes, status, "%s: %s", item->string, reason) : 0;
}

int options_read_object(const struct option_spec *specs, const struct option_spec *outer, const cJSON *object,
                        char *err, size_t err_bytes) {
    const cJSON *item;
    cJSON_ArrayForEach(item, object) {
        const int status = read_member(specs, outer, object, item, err, err_bytes);
        if (status) return status;
    }
    return 0;
}

static const struct option_spec *find_kind(const struct option_spec *specs, enum option_kind kind) {
    for (const struct option_spec *s = specs; s->name; s++)
        if (s->kind == kind) return s;
    return NULL;
}

/* The config file's array of entries, or NULL. */
static const cJSON *entries_of(const struct options *o) {
    const struct option_spec *s = find_kind(o->specs, OPTION_ENTRIES);
    return s ? json_find(o->config, s->name) : NULL;
}

static int belongs_into_entry(const struct options *o, const char *name, char *err, size_t err_bytes) {
    return fail(err, err_bytes, STATUS_INVALID, "%s: expected in the entries of \"%s\" in %s, one for each", name,
                entries_of(o)->string, o->config_path);
}

static int read_config(struct options *o, char *err, size_t err_bytes) {
    int status = json_parse_file(&o->config, o->config_path, (struct json_limits){1 << 20, 32}, err, err_bytes);
    char reason[ERR_BYTES];
    const cJSON *item;
    if (status) return status;
    if (!cJSON_IsObject(o->config))
        return fail(err, err_bytes, STATUS_INVALID, "%s: expected a JSON object, found %s", o->config_path,
                    json_kind(o->config));
    cJSON_ArrayForEach(item, o->config) {
        const struct option_spec *s = find_spec(o->specs, item->string, strlen(item->string));
        if (entries_of(o) && ((s && s->per_entry) || !strcmp(item->string, "model")))
            status = belongs_into_entry(o, item->string, reason, sizeof reason);
        else if (s || strcmp(item->string, "model"))
            status = read_member(o->specs, NULL, o->config, item, reason, sizeof reason);
        else if (!cJSON_IsString(item))
            status = fail(reason, sizeof reason, STATUS_INVALID, "model: expected a string, found %s", json_kind(item));
        else
            list_push(&o->operands, item->valuestring);
        if (status) return fail(err, err_bytes, status, "%s: %s", o->config_path, reason);
    }
    return 0;
}

static int load_config(struct options *o, const struct command_help *help) {
    char err[ERR_BYTES];
    const int status = read_config(o, err, sizeof err);
    if (status) fprintf(stderr, "tandem %s: --config: %s\n", help->name, err);
    return status;
}

/* The file is read before the flags, so the path is looked up first. A missing value is reported later. */
static const char *config_path(const struct option_spec *specs, int argc, char **argv) {
    const bool any = find_kind(specs, OPTION_CONFIG) != NULL;
    for (int i = 1; any && i < argc && strcmp(argv[i], "--"); i++) {
        if (!strncmp(argv[i], "--config=", 9)) return argv[i] + 9;
        if (!strcmp(argv[i], "--config")) return i + 1 < argc ? argv[i + 1] : NULL;
    }
    return NULL;
}

/* ---- help -------------------------------------------------------------------------------------------------------- */

static void show_default(const struct option_spec *s) {
    if (s->shown) {
        if (*s->shown) printf(" [%s]", s->shown);
        return;
    }
    switch (s->kind) {
    case OPTION_BOOL:
        printf(" [%s]", *(bool *)s->out ? "on" : "off");
        break;
    case OPTION_INT:
        printf(" [%d]", *(int *)s->out);
        break;
    case OPTION_SIZE:
        printf(" [%zu]", *(size_t *)s->out);
        break;
    case OPTION_DOUBLE:
        printf(" [%g]", *(double *)s->out);
        break;
    case OPTION_STRING:
        if (*(const char **)s->out) printf(" [%s]", *(const char **)s->out);
        break;
    default:
        break;
    }
}

static void show_help(const struct command_help *help, const struct option_spec *specs) {
    printf("Usage: tandem %s %s%s[flags]\n\n%s\n", help->name, help->operands, *help->operands ? " " : "",
           help->summary);
    if (specs->kind != OPTION_TITLE) printf("\n");
    for (const struct option_spec *s = specs; s->name; s++) {
        char left[128];
        if (s->kind == OPTION_ENTRIES) continue;
        if (s->kind == OPTION_TITLE) {
            printf("\n%s\n", s->name);
            continue;
        }
        int n = snprintf(left, sizeof left, "  --%s%s%s%s%s", s->name, s->alias ? ", -" : "", s->alias ? s->alias : "",
                         s->metavar ? " " : "", s->metavar ? s->metavar : "");
        if (n >= HELP_COLUMN)
            printf("%s\n%*s", left, HELP_COLUMN, "");
        else
            printf("%-*s", HELP_COLUMN, left);
        printf("%s", s->help);
        if (s->choices) {
            printf(": ");
            for (const char *const *c = s->choices; *c; c++) printf("%s%s", c == s->choices ? "" : "|", *c);
        }
        show_default(s);
        printf("\n");
    }
    printf("\nBooleans are turned off with --no-NAME. Numbers take k, m, g (thousands) and K, M, G (1024s).\n");
    printf("\nExample:\n  %s\n", help->example);
}

/* ---- parsing ----------------------------------------------------------------------------------------------------- */

/* argv[*i] is a flag; advances *i over its values. */
static int parse_flag(const struct options *o, int argc, char **argv, int *i, char *err, size_t err_bytes) {
    const struct option_spec *specs = o->specs;
    const char *flag = argv[*i] + (argv[*i][1] == '-' ? 2 : 1), *equals = strchr(flag, '=');
    size_t bytes = equals ? (size_t)(equals - flag) : strlen(flag);
    const struct option_spec *s = find_spec(specs, flag, bytes);
    char reason[ERR_BYTES];
    bool negated = false;

    if (!s && bytes > 3 && (!strncmp(flag, "no-", 3) || !strncmp(flag, "no_", 3))) {
        s = find_spec(specs, flag + 3, bytes - 3);
        negated = s && s->kind == OPTION_BOOL && !equals;
        if (!negated) s = NULL;
    }
    if (!s || s->kind == OPTION_ENTRIES) return unknown_name(specs, false, flag, bytes, err, err_bytes);
    if (s->per_entry && entries_of(o)) {
        belongs_into_entry(o, s->name, reason, sizeof reason);
        return fail(err, err_bytes, STATUS_INVALID, "--%s", reason);
    }
    if (!equals && s->kind == OPTION_BOOL) {
        *(bool *)s->out = !negated;
        return 0;
    }
    if (!equals && (*i + 1 >= argc || !strncmp(argv[*i + 1], "--", 2)))
        return fail(err, err_bytes, STATUS_INVALID, "--%s needs a value", s->name);
    int status = set_value(s, equals ? equals + 1 : argv[++*i], reason, sizeof reason);
    while (!status && !equals && is_list(s) && *i + 1 < argc && argv[*i + 1][0] != '-')
        status = set_value(s, argv[++*i], reason, sizeof reason);
    return status ? fail(err, err_bytes, status, "--%s: %s", s->name, reason) : 0;
}

/* Whether there are as many operands as the command wants: none where the file lists what it is about. */
static int check_operands(const struct options *o, const struct command_help *help, char *err, size_t err_bytes) {
    const cJSON *entries = entries_of(o);
    const int n = (int)o->operands.n, max = entries ? 0 : help->max_operands;
    if (n > max && entries)
        return fail(err, err_bytes, STATUS_INVALID, "unexpected \"%s\": %s has \"%s\", so there is no %s beside it",
                    o->operands.items[0], o->config_path, entries->string, help->operands);
    if (n > max) return fail(err, err_bytes, STATUS_INVALID, "unexpected \"%s\"", o->operands.items[max]);
    if (n < help->min_operands && !entries)
        return fail(err, err_bytes, STATUS_INVALID, "%s is missing", help->operands);
    return 0;
}

bool options_parse(struct options *o, const struct command_help *help, const struct option_spec *specs, int argc,
                   char **argv, int *exit_code) {
    struct option_list operands = {0};
    char err[ERR_BYTES];
    bool flags_ended = false;
    int status = 0;

    o->specs = specs;
    *exit_code = 2;
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            show_help(help, specs);
            *exit_code = 0;
            return false;
        }
    o->config_path = config_path(specs, argc, argv);
    if (o->config_path && load_config(o, help)) return false;
    for (const struct option_spec *s = specs; s->name; s++) /* the command line's lists replace the file's */
        if (is_list(s) && o->config_path)
            for (int i = 1; i < argc; i++) {
                size_t n = strcspn(argv[i], "=");
                if (!strncmp(argv[i], "--", 2) && name_equal(argv[i] + 2, n - 2, s->name)) {
                    empty_list(s);
                    break;
                }
            }
    for (int i = 1; i < argc && !status; i++) {
        if (!flags_ended && !strcmp(argv[i], "--"))
            flags_ended = true;
        else if (!flags_ended && argv[i][0] == '-' && argv[i][1]) {
            status = parse_flag(o, argc, argv, &i, err, sizeof err);
            if (status) fprintf(stderr, "tandem %s: %s\nAll flags: tandem %s --help\n", help->name, err, help->name);
        } else
            list_push(&operands, argv[i]);
    }
    if (operands.n || !o->operands.n) {
        free(o->operands.items);
        o->operands = operands;
    } else
        free(operands.items);
    if (status) return false;
    if (check_operands(o, help, err, sizeof err)) {
        fprintf(stderr, "tandem %s: %s\nUsage: tandem %s %s [flags]; all flags: tandem %s --help\n", help->name, err,
                help->name, help->operands, help->name);
        return false;
    }
    *exit_code = 0;
    return true;
}

void options_deinit(struct options *o) {
    for (const struct option_spec *s = o->specs; s && s->name; s++) empty_list(s);
    free(o->operands.items);
    cJSON_Delete(o->config);
    *o = (struct options){0};
}

/* ---- tables of commands ------------------------------------------------------------------------------------------ */

static void show_commands(const struct command_table *table, FILE *to) {
    fprintf(to, "%sUsage: %s %s [operands] [flags]\n\n", table->summary, table->name, table->operand);
    for (const struct command *c = table->commands; c->name; c++) fprintf(to, "  %-12s %s\n", c->name, c->summary);
    fprintf(to, "\nFlags, defaults and an example of each: %s %s --help\n%s", table->name, table->operand, table->end);
}

int command_run(const struct command_table *table, int argc, char **argv) {
    const char *names[MAX_NAMES] = {0}, *nearest;
    if (argc < 2) {
        show_commands(table, stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        show_commands(table, stdout);
        return 0;
    }
    for (size_t i = 0; table->commands[i].name && i < MAX_NAMES - 1; i++) {
        if (!strcmp(argv[1], table->commands[i].name)) return table->commands[i].run(argc - 1, argv + 1);
        names[i] = table->commands[i].name;
    }
    nearest = options_nearest(argv[1], names);
    fprintf(stderr, "%s: unknown %s \"%s\"", table->name, table->what, argv[1]);
    if (nearest) fprintf(stderr, "; did you mean %s?", nearest);
    fprintf(stderr, "\nAll of them: %s --help\n", table->name);
    return 2;
}
