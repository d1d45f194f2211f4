/* cmd_serve.c - `tandem serve`: the server, as flags and config files want it (serve_config.h). */
#include "server/server.h"
#include "tools/serve_config.h"

#include "kernels/status.h"

#include <stdio.h>
#include <stdlib.h>

int cmd_serve(int argc, char **argv);

int cmd_serve(int argc, char **argv) {
    struct serve_config c = {0};
    char err[ERR_BYTES];
    const char *key = getenv("VLLM_API_KEY");
    int exit_code;

    if (serve_config_parse(&c, argc, argv, &exit_code)) {
        if (!c.server.n_api_keys && key && *key) {
            c.server.api_keys = &key;
            c.server.n_api_keys = 1;
        }
        if (server_run(&c.server, err, sizeof err)) {
            if (c.flags.models)
                fprintf(stderr, "tandem serve --config %s: %s\n", c.options.config_path, err);
            else
                fprintf(stderr, "tandem serve: %s\n", err);
            exit_code = 1;
        }
    }
    serve_config_deinit(&c);
    return exit_code;
}
