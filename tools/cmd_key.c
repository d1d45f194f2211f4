/* cmd_key.c - `tandem key`: a random API key and the line by which a server knows it. */
#include "server/auth.h"
#include "tools/options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define KEY_RANDOM_BYTES 32

int cmd_key(int argc, char **argv);

int cmd_key(int argc, char **argv) {
    static const struct command_help help = {
        .name = "key",
        .operands = "TENANT",
        .summary = "Makes an API key for a tenant. The key goes to standard error, once; its line for\n"
                   "--api-key-file, which holds only the key's SHA-256, goes to standard output.",
        .example = "tandem key alice >> keys.txt && tandem serve MODEL --api-key-file keys.txt",
        .min_operands = 1,
        .max_operands = 1,
    };
    const char *key = NULL;
    const struct option_spec specs[] = {
        FLAG(STRING, "key", &key, "KEY", "a key that exists already, instead of a random one"),
        {0},
    };
    struct options o = {0};
    char random_key[3 + 2 * KEY_RANDOM_BYTES + 1] = "sk-", hex[AUTH_HEX_BYTES];
    unsigned char bytes[KEY_RANDOM_BYTES];
    int exit_code;

    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    const char *tenant = o.operands.items[0];
    if (!auth_tenant_valid(tenant)) {
        fprintf(stderr, "tandem key: TENANT: expected 1 to %d letters, digits or . _ - @\n", AUTH_TENANT_BYTES - 1);
        exit_code = 2;
        goto done;
    }
    if (!key) {
        if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) {
            fprintf(stderr, "tandem key: the system's random generator gave nothing: %s\n", strerror(errno));
            exit_code = 1;
            goto done;
        }
        for (size_t i = 0; i < sizeof bytes; i++) snprintf(random_key + 3 + 2 * i, 3, "%02x", bytes[i]);
        fprintf(stderr, "key of %s: %s\n", tenant, random_key);
    }
    auth_hash_hex(key ? key : random_key, hex);
    printf("%s %s\n", hex, tenant);
done:
    options_deinit(&o);
    return exit_code;
}
