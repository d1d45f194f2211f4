/* serve_config.h - what `tandem serve` is told, by flags and by --config files, as options of the server.
 *
 * One model: its name is the operand and its flags stand among the server's, on the command line or in the file.
 * Several: the file has "models", an array of objects with "model", "role" and each model's own flags; the server's and
 * the device's stay at the file's top level and on the command line.
 *
 *     struct serve_config c = {0};
 *     if (serve_config_parse(&c, argc, argv, &exit_code)) server_run(&c.server, err, sizeof err);
 *     serve_config_deinit(&c);                                                                                      */
#pragma once

#include "server/server.h"
#include "tools/options.h"

enum { SERVE_MAX_FLAGS = 80 };

/* Values that need a second look before they are options. */
struct serve_model_flags {
    struct option_list names, roles;
    const char *policy, *generation_config, *reasoning_parser, *tool_parser, *template_kwargs;
    int seed, tensor_parallel, pipeline_parallel, data_parallel;
    bool expert_parallel, trust_remote_code;
};

struct serve_flags {
    struct option_list keys;
    const char *log_format, *log_level, *cors, *config;
    bool disable_log_requests;
    double header_timeout, body_timeout, idle_timeout, write_timeout;
    const cJSON *models; /* view of the config file's array, or NULL */
};

struct serve_config { /* zero-initialise; must not move once it is parsed */
    struct server_options server;
    struct server_model_options models[DEPLOYMENT_MAX_MODELS];

    /* what these point into */
    struct options options;
    struct option_spec specs[SERVE_MAX_FLAGS];
    struct serve_flags flags;
    struct serve_model_flags model_flags[DEPLOYMENT_MAX_MODELS];
};

/* False when there is nothing to serve: *exit_code is 0 after --help and 2 after wrong usage, with a sentence on
 * standard error that names the file, the model and the key at fault. Opens nothing but the config file. */
bool serve_config_parse(struct serve_config *c, int argc, char **argv, int *exit_code);
void serve_config_deinit(struct serve_config *c);
