/* options.h - the command line: one table of flags per command, one parser, one --help.
 *
 * A command presets its variables with the defaults, lists them in a table that ends with {0}, and parses. Flags are
 * spelled --name VALUE or --name=VALUE, with '-' or '_' between words; booleans are --name and --no-name. Numbers take
 * the suffixes k, m, g (thousands: "25.6k") and K, M, G (1024s: "4K"). "--" ends the flags.
 *
 * Every command with OPTION_CONFIG in its table also takes --config FILE: a JSON object whose members are named like
 * the flags. What the command line says counts more than the file. With OPTION_ENTRIES the file may hold an array of
 * objects, one for each thing of a kind; the flags of such a thing (per_entry) then stand in its object, which the
 * command reads with options_read_object, and neither beside the array nor on the command line.
 *
 *     int port = 8000;
 *     const struct option_spec specs[] = {
 *         FLAG(INT, "port", &port, "N", "port to listen on", .low = 0, .high = 65535),
 *         {0},
 *     };
 *     static const struct command_help help = {"serve", "MODEL", "Serves a model.", "tandem serve DIR", 1, 1};
 *     struct options o = {0};
 *     int exit_code;
 *     if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
 *     ... o.operands.items[0] ...
 *     done: options_deinit(&o);                                                                                   */
#pragma once

#include "weights/json.h"

#include <stdbool.h>
#include <stddef.h>

struct option_list {
    const char **items; /* owned array; the strings belong to argv or to the options */
    size_t n;
};

struct option_ints {
    int *items; /* owned */
    size_t n;
};

enum option_kind {
    OPTION_BOOL,    /* bool *                 --name, --no-name, --name=true|false */
    OPTION_INT,     /* int *                  */
    OPTION_SIZE,    /* size_t *               bytes or counts */
    OPTION_DOUBLE,  /* double *               */
    OPTION_STRING,  /* const char **          borrowed from argv or the options */
    OPTION_LIST,    /* struct option_list *   --name a b c, --name=a, and repeated */
    OPTION_INTS,    /* struct option_ints *   as a list; each within the range */
    OPTION_CONFIG,  /* const char **          --config FILE */
    OPTION_ENTRIES, /* const cJSON **         no flag: an array of objects in the config file, which owns it */
    OPTION_TITLE,   /* no flag: a heading in --help (name is the text) */
};

struct option_spec {
    const char *name;
    enum option_kind kind;
    void *out;           /* where the value goes; holds the default before parsing */
    const char *metavar; /* "N", "FILE", ... */
    const char *help;
    double low, high;           /* numbers: the range when low < high */
    const char *const *choices; /* strings and lists of them: what is allowed, NULL-terminated, or NULL */
    const char *alias;          /* a second name; a short one is spelled with one dash: "tp" is -tp and --tp */
    const char *shown;          /* the default as --help shows it, where the variable cannot tell */
    bool per_entry;             /* with entries in the config file: belongs into them */
};

/* One row of a table: FLAG(KIND, name, out, metavar, help) and any further fields by name. */
#define FLAG(KIND, name_, out_, metavar_, help_, ...)                                                                  \
    { .name = (name_), .kind = OPTION_##KIND, .out = (out_), .metavar = (metavar_), .help = (help_), __VA_ARGS__ }
#define FLAG_TITLE(text)                                                                                               \
    { .name = (text), .kind = OPTION_TITLE }

struct command_help {
    const char *name;     /* "serve" */
    const char *operands; /* "MODEL", "" */
    const char *summary;  /* one sentence */
    const char *example;  /* one or more lines */
    int min_operands, max_operands;
};

struct options { /* zero-initialise */
    struct option_list operands;     /* empty where the config file has entries */
    const struct option_spec *specs; /* borrowed */
    cJSON *config;                   /* owned: the parsed --config file */
    const char *config_path;         /* borrowed from argv; NULL: none */
};

/* argv[0] is the command's name. False when the command must not go on: *exit_code is 0 after --help (printed to
 * standard output) and 2 after wrong usage (a sentence on standard error). */
bool options_parse(struct options *o, const struct command_help *help, const struct option_spec *specs, int argc,
                   char **argv, int *exit_code);
/* Frees operands, lists and the config file; strings taken from them end here. */
void options_deinit(struct options *o);

/* Reads an object's members into a table as those of a config file are read. outer: the table of the object around it,
 * for the sentence about a member that belongs there, or NULL. STATUS_INVALID and "NAME: expected .., found ..".
 * Strings are views of the object; the lists are the caller's to free. */
int options_read_object(const struct option_spec *specs, const struct option_spec *outer, const cJSON *object,
                        char *err, size_t err_bytes);

/* A command that is a table of commands: `tandem`, `tandem bench`. */
struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* argv[0] is its name; returns the exit code */
};
struct command_table {
    const char *name;    /* "tandem" */
    const char *operand; /* "COMMAND" */
    const char *what;    /* "command" */
    const char *summary; /* what stands before the usage */
    const char *end;     /* last lines of --help */
    const struct command *commands; /* ends with {0} */
};
/* Runs the one that argv[1] names. The exit code: also of --help, and 2 where there is none of that name. */
int command_run(const struct command_table *table, int argc, char **argv);

/* Reads "4096", "1k", "25.6k", "4K", "2g" into *value; false if it is no such number. */
bool options_number(const char *text, double *value);

/* The entry of a NULL-terminated list that `word` is probably a misspelling of, or NULL. */
const char *options_nearest(const char *word, const char *const *names);
