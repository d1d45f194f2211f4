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

static int unknown_flag(const struct command_help *help, const struct option_spec *specs, const char *flag,
                        size_t bytes) {
    const char *names[MAX_NAMES], *nearest;
    char word[128];
    size_t n = 0;
    for (const struct option_spec *s = specs; s->name && n < MAX_NAMES - 2; s++)
        if (s->kind != OPTION_TITLE) names[n++] = s->name;
    names[n++] = "help";
    names[n] = NULL;
    snprintf(word, sizeof word, "%.*s", (int)(bytes < 127 ? bytes : 127), flag);
    for (char *c = word; *c; c++)
        if (*c == '_') *c = '-';
    nearest = options_nearest(word, names);
    fprintf(stderr, "tandem %s: unknown flag --%s", help->name, word);
    if (nearest) fprintf(stderr, "; did you mean --%s?", nearest);
    fprintf(stderr, "\nAll flags: tandem %s --help\n", help->name);
    return STATUS_INVALID;
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

static int list_push(struct option_list *list, const char *item) {
    const char **items = realloc(list->items, (list->n + 1) * sizeof *items);
    if (!items) return STATUS_NO_MEMORY;
    list->items = items;
    list->items[list->n++] = item;
    return 0;
}

static int ints_push(struct option_ints *list, int item) {
    int *items = realloc(list->items, (list->n + 1) * sizeof *items);
    if (!items) return STATUS_NO_MEMORY;
    list->items = items;
    list->items[list->n++] = item;
    return 0;
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

static int wrong_value(const struct command_help *help, const struct option_spec *s, const char *expected,
                       const char *found) {
    char quoted[96];
    fprintf(stderr, "tandem %s: --%s: expected %s, found \"%s\"\n", help->name, s->name, expected,
            json_quote(found, quoted, sizeof quoted));
    return STATUS_INVALID;
}

static int set_number(const struct command_help *help, const struct option_spec *s, const char *text) {
    char expected[96];
    double v, low = s->low, high = s->high;
    const bool is_int = s->kind == OPTION_INT || s->kind == OPTION_INTS, whole = s->kind != OPTION_DOUBLE;
    if (low >= high) {
        low = s->kind == OPTION_SIZE ? 0 : is_int ? INT_MIN : -INFINITY;
        high = s->kind == OPTION_SIZE ? 0x1p53 : is_int ? INT_MAX : INFINITY;
    }
    if (!options_number(text, &v) || v < low || v > high || (whole && v != floor(v))) {
        snprintf(expected, sizeof expected, "%s from %.15g to %.15g", whole ? "an integer" : "a number", low, high);
        return wrong_value(help, s, expected, text);
    }
    if (s->kind == OPTION_INTS) return ints_push(s->out, (int)v);
    if (s->kind == OPTION_INT)
        *(int *)s->out = (int)v;
    else if (s->kind == OPTION_SIZE)
        *(size_t *)s->out = (size_t)v;
    else
        *(double *)s->out = v;
    return 0;
}

static int set_string(const struct command_help *help, const struct option_spec *s, const char *text) {
    if (s->choices) {
        char expected[256] = "";
        const char *const *c = s->choices;
        for (; *c && strcmp(*c, text); c++)
            snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%s%s",
                     *expected ? ", " : "one of ", *c);
        if (!*c) return wrong_value(help, s, expected, text);
    }
    *(const char **)s->out = text;
    return 0;
}

/* One value, from the command line or the file. */
static int set_value(const struct command_help *help, const struct option_spec *s, const char *text) {
    switch (s->kind) {
    case OPTION_BOOL:
        if (strcmp(text, "true") && strcmp(text, "false")) return wrong_value(help, s, "true or false", text);
        *(bool *)s->out = text[0] == 't';
        return 0;
    case OPTION_INT:
    case OPTION_SIZE:
    case OPTION_DOUBLE:
    case OPTION_INTS:
        return set_number(help, s, text);
    case OPTION_LIST:
        return list_push(s->out, text);
    default:
        return set_string(help, s, text);
    }
}

/* ---- the config file --------------------------------------------------------------------------------------------- */

static int set_config_item(const struct command_help *help, const struct option_spec *s, const cJSON *item) {
    const cJSON *entry;
    char number[40];
    if (cJSON_IsString(item)) return set_value(help, s, item->valuestring);
    if (cJSON_IsBool(item) && s->kind == OPTION_BOOL) return set_value(help, s, cJSON_IsTrue(item) ? "true" : "false");
    if (cJSON_IsNumber(item) && s->kind != OPTION_STRING && s->kind != OPTION_LIST) {
        snprintf(number, sizeof number, "%.17g", item->valuedouble);
        return set_value(help, s, number);
    }
    if (cJSON_IsArray(item) && is_list(s)) {
        const bool strings = s->kind == OPTION_LIST;
        cJSON_ArrayForEach(entry, item) {
            if (strings ? !cJSON_IsString(entry) : !cJSON_IsNumber(entry))
                return wrong_value(help, s, strings ? "strings" : "numbers", json_kind(entry));
            const int status = set_config_item(help, s, entry);
            if (status) return status;
        }
        return 0;
    }
    return wrong_value(help, s, "a value of the flag's kind", json_kind(item));
}

static int load_config(struct options *o, const struct command_help *help, const char *path) {
    char err[ERR_BYTES];
    cJSON *tree;
    const cJSON *item;
    int status = json_parse_file(&tree, path, (struct json_limits){1 << 20, 32}, err, sizeof err);
    if (!status && !cJSON_IsObject(tree))
        status = fail(err, sizeof err, STATUS_INVALID, "%s: expected a JSON object", path);
    if (status) {
        cJSON_Delete(tree);
        fprintf(stderr, "tandem %s: --config: %s\n", help->name, err);
        return status;
    }
    o->config = tree;
    cJSON_ArrayForEach(item, tree) {
        size_t bytes = strlen(item->string);
        const struct option_spec *s = find_spec(o->specs, item->string, bytes);
        if (!strcmp(item->string, "model") && !s) {
            if (!cJSON_IsString(item)) {
                fprintf(stderr, "tandem %s: %s: model: expected a string\n", help->name, path);
                return STATUS_INVALID;
            }
            status = list_push(&o->operands, item->valuestring);
        } else if (!s || s->kind == OPTION_CONFIG)
            status = unknown_flag(help, o->specs, item->string, bytes);
        else
            status = set_config_item(help, s, item);
        if (status) return status;
    }
    return 0;
}

/* The file is read before the flags, so the path is looked up first. A missing value is reported later. */
static const char *config_path(const struct option_spec *specs, int argc, char **argv) {
    const struct option_spec *s;
    for (s = specs; s->name && s->kind != OPTION_CONFIG; s++) {
    }
    for (int i = 1; s->name && i < argc && strcmp(argv[i], "--"); i++) {
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
static int parse_flag(const struct command_help *help, const struct option_spec *specs, int argc, char **argv, int *i) {
    const char *flag = argv[*i] + (argv[*i][1] == '-' ? 2 : 1), *equals = strchr(flag, '=');
    size_t bytes = equals ? (size_t)(equals - flag) : strlen(flag);
    const struct option_spec *s = find_spec(specs, flag, bytes);
    bool negated = false;

    if (!s && bytes > 3 && (!strncmp(flag, "no-", 3) || !strncmp(flag, "no_", 3))) {
        s = find_spec(specs, flag + 3, bytes - 3);
        negated = s && s->kind == OPTION_BOOL && !equals;
        if (!negated) s = NULL;
    }
    if (!s) return unknown_flag(help, specs, flag, bytes);
    if (equals) return set_value(help, s, equals + 1);
    if (s->kind == OPTION_BOOL) {
        *(bool *)s->out = !negated;
        return 0;
    }
    if (*i + 1 >= argc || !strncmp(argv[*i + 1], "--", 2)) {
        fprintf(stderr, "tandem %s: --%s needs a value\n", help->name, s->name);
        return STATUS_INVALID;
    }
    int status = set_value(help, s, argv[++*i]);
    while (!status && is_list(s) && *i + 1 < argc && argv[*i + 1][0] != '-')
        status = set_value(help, s, argv[++*i]);
    return status;
}

bool options_parse(struct options *o, const struct command_help *help, const struct option_spec *specs, int argc,
                   char **argv, int *exit_code) {
    struct option_list operands = {0};
    const char *path;
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
    path = config_path(specs, argc, argv);
    if (path && load_config(o, help, path)) return false;
    for (const struct option_spec *s = specs; s->name; s++) /* the command line's lists replace the file's */
        if (is_list(s) && path)
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
        else if (!flags_ended && argv[i][0] == '-' && argv[i][1])
            status = parse_flag(help, specs, argc, argv, &i);
        else
            status = list_push(&operands, argv[i]);
    }
    if (operands.n || !o->operands.n) {
        free(o->operands.items);
        o->operands = operands;
    } else
        free(operands.items);
    if (!status && ((int)o->operands.n < help->min_operands || (int)o->operands.n > help->max_operands)) {
        if ((int)o->operands.n > help->max_operands)
            fprintf(stderr, "tandem %s: unexpected \"%s\"\n", help->name, o->operands.items[help->max_operands]);
        else
            fprintf(stderr, "tandem %s: %s is missing\n", help->name, help->operands);
        fprintf(stderr, "Usage: tandem %s %s [flags]; all flags: tandem %s --help\n", help->name, help->operands,
                help->name);
        status = STATUS_INVALID;
    }
    if (status) return false;
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
