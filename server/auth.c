/* auth.c - API keys by their hash; see auth.h. */
#include "server/auth.h"

#include "kernels/status.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#define MAX_LINE_BYTES 1024

struct auth {
    struct auth_key {
        uint8_t hash[AUTH_HASH_BYTES];
        char tenant[AUTH_TENANT_BYTES];
    } * keys; /* owned */
    size_t n_keys, capacity;
    uint8_t secret[32]; /* of this process: keys the salts */
};

_Static_assert(AUTH_HASH_BYTES == SHA256_DIGEST_LENGTH, "keys are SHA-256 hashes");

bool auth_tenant_valid(const char *name) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-@";
    size_t n = strlen(name);
    return n > 0 && n < AUTH_TENANT_BYTES && strspn(name, allowed) == n;
}

void auth_hash_hex(const char *key, char hex[AUTH_HEX_BYTES]) {
    uint8_t hash[AUTH_HASH_BYTES];
    SHA256((const uint8_t *)key, strlen(key), hash);
    for (int i = 0; i < AUTH_HASH_BYTES; i++) snprintf(hex + 2 * i, 3, "%02x", hash[i]);
}

static int add_key(struct auth *a, const uint8_t hash[AUTH_HASH_BYTES], const char *tenant, char *err,
                   size_t err_bytes) {
    if (a->n_keys == AUTH_MAX_KEYS)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "expected at most %d API keys, found more", AUTH_MAX_KEYS);
    if (a->n_keys == a->capacity) {
        size_t capacity = a->capacity ? 2 * a->capacity : 16;
        struct auth_key *keys = realloc(a->keys, capacity * sizeof *keys);
        if (!keys) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for API keys");
        a->keys = keys;
        a->capacity = capacity;
    }
    struct auth_key *key = &a->keys[a->n_keys++];
    memcpy(key->hash, hash, AUTH_HASH_BYTES);
    snprintf(key->tenant, sizeof key->tenant, "%s", tenant);
    return 0;
}

static int hex_digit(int c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* "SHA256HEX TENANT", blanks around and between; an empty line or a comment adds nothing. */
static int add_line(struct auth *a, char *line, const char *path, int line_number, char *err, size_t err_bytes) {
    uint8_t hash[AUTH_HASH_BYTES];
    char *rest, *hex = strtok_r(line, " \t\r\n", &rest);
    if (!hex || hex[0] == '#') return 0;
    char *tenant = strtok_r(NULL, " \t\r\n", &rest);
    if (strlen(hex) != 2 * AUTH_HASH_BYTES || strspn(hex, "0123456789abcdefABCDEF") != 2 * AUTH_HASH_BYTES)
        return fail(err, err_bytes, STATUS_INVALID,
                    "%s:%d: expected a SHA-256 of 64 hexadecimal digits and a tenant's name; `tandem key NAME` makes "
                    "such a line",
                    path, line_number);
    if (!tenant || !auth_tenant_valid(tenant) || strtok_r(NULL, " \t\r\n", &rest))
        return fail(err, err_bytes, STATUS_INVALID,
                    "%s:%d: expected one tenant's name of 1 to %d letters, digits or . _ - @ after the hash", path,
                    line_number, AUTH_TENANT_BYTES - 1);
    for (int i = 0; i < AUTH_HASH_BYTES; i++)
        hash[i] = (uint8_t)(hex_digit(hex[2 * i]) << 4 | hex_digit(hex[2 * i + 1]));
    return add_key(a, hash, tenant, err, err_bytes);
}

static int add_file(struct auth *a, const char *path, char *err, size_t err_bytes) {
    char line[MAX_LINE_BYTES];
    size_t n_before = a->n_keys;
    int status = 0;
    FILE *f = fopen(path, "r");
    if (!f) return fail(err, err_bytes, STATUS_IO, "%s: %s", path, strerror(errno));
    for (int number = 1; !status && fgets(line, sizeof line, f); number++) {
        if (!strchr(line, '\n') && !feof(f))
            status = fail(err, err_bytes, STATUS_INVALID, "%s:%d: expected a line of at most %d bytes", path, number,
                          MAX_LINE_BYTES - 2);
        else
            status = add_line(a, line, path, number, err, err_bytes);
    }
    if (!status && ferror(f)) status = fail(err, err_bytes, STATUS_IO, "%s: %s", path, strerror(errno));
    fclose(f);
    if (!status && a->n_keys == n_before) /* an empty file must not open the door */
        status = fail(err, err_bytes, STATUS_INVALID, "%s: expected at least one API key, found none", path);
    return status;
}

int auth_open(struct auth **out, const char *const *keys, size_t n_keys, const char *key_file, char *err,
              size_t err_bytes) {
    int status = 0;
    *out = NULL;
    struct auth *a = calloc(1, sizeof *a);
    if (!a) return fail(err, err_bytes, STATUS_NO_MEMORY, "out of memory for API keys");
    if (getrandom(a->secret, sizeof a->secret, 0) != sizeof a->secret)
        status = fail(err, err_bytes, STATUS_IO, "the system's random generator gave nothing: %s", strerror(errno));
    for (size_t i = 0; !status && i < n_keys; i++) {
        uint8_t hash[AUTH_HASH_BYTES];
        char tenant[AUTH_TENANT_BYTES];
        if (!keys[i][0]) {
            status = fail(err, err_bytes, STATUS_INVALID, "expected an API key, found an empty one");
            break;
        }
        SHA256((const uint8_t *)keys[i], strlen(keys[i]), hash);
        snprintf(tenant, sizeof tenant, "key-%zu", i + 1);
        status = add_key(a, hash, tenant, err, err_bytes);
    }
    if (!status && key_file) status = add_file(a, key_file, err, err_bytes);
    if (status) {
        auth_close(a);
        return status;
    }
    *out = a;
    return 0;
}

void auth_close(struct auth *a) {
    if (!a) return;
    OPENSSL_cleanse(a->secret, sizeof a->secret);
    free(a->keys);
    free(a);
}

size_t auth_n_keys(const struct auth *a) {
    return a->n_keys;
}

const char *auth_check(const struct auth *a, const char *authorization) {
    uint8_t hash[AUTH_HASH_BYTES];
    size_t found = SIZE_MAX;
    if (!a->n_keys) return "";
    if (!authorization || strncasecmp(authorization, "Bearer ", 7)) return NULL;
    authorization += 7;
    while (*authorization == ' ') authorization++;
    SHA256((const uint8_t *)authorization, strlen(authorization), hash);
    for (size_t i = 0; i < a->n_keys; i++) /* all of them: the time must not tell which key came close */
        if (!CRYPTO_memcmp(a->keys[i].hash, hash, AUTH_HASH_BYTES)) found = i;
    return found == SIZE_MAX ? NULL : a->keys[found].tenant;
}

uint64_t auth_salt(const struct auth *a, const char *tenant, const char *cache_salt) {
    uint8_t text[sizeof a->secret + AUTH_TENANT_BYTES + 1 + AUTH_HASH_BYTES] = {0}, hash[AUTH_HASH_BYTES];
    uint64_t salt;
    memcpy(text, a->secret, sizeof a->secret);
    snprintf((char *)text + sizeof a->secret, AUTH_TENANT_BYTES, "%s", tenant);
    if (cache_salt) {
        text[sizeof a->secret + AUTH_TENANT_BYTES] = 1;
        SHA256((const uint8_t *)cache_salt, strlen(cache_salt), text + sizeof a->secret + AUTH_TENANT_BYTES + 1);
    }
    SHA256(text, sizeof text, hash);
    memcpy(&salt, hash, sizeof salt);
    return salt;
}
