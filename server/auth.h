/* auth.h - API keys, tenants, and what keeps tenants' caches apart.
 *
 * A key is known by its SHA-256 only. Each key belongs to a tenant: the name in the key file, or "key-N" for the N-th
 * key of the command line. Comparing takes the same time whichever key is presented. Read-only after auth_open. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AUTH_HASH_BYTES   32
#define AUTH_HEX_BYTES    65 /* with the terminating zero */
#define AUTH_TENANT_BYTES 64 /* likewise */
#define AUTH_MAX_KEYS     65536

struct auth; /* owned */

/* keys: [n_keys] in plain text. key_file: NULL, or a file of lines "SHA256HEX TENANT"; '#' starts a comment line.
 * Without any key every caller is let in as tenant "". STATUS_* and a sentence naming the line at fault. */
int auth_open(struct auth **out, const char *const *keys, size_t n_keys, const char *key_file, char *err,
              size_t err_bytes);
void auth_close(struct auth *a); /* NULL is fine */

/* How many keys there are. */
size_t auth_n_keys(const struct auth *a);

/* The tenant that an Authorization header ("Bearer KEY"; NULL: there is none) stands for, NULL if it is refused. */
const char *auth_check(const struct auth *a, const char *authorization);

/* The salt of prefix blocks for a tenant and the request's cache_salt (NULL: none): keyed with a secret of this
 * process, so nobody can compute two names that fall together. */
uint64_t auth_salt(const struct auth *a, const char *tenant, const char *cache_salt);

/* A key's hash as the key file wants it. */
void auth_hash_hex(const char *key, char hex[AUTH_HEX_BYTES]);
/* Whether a name may stand in the key file: 1..63 letters, digits, '.', '_', '-', '@'. */
bool auth_tenant_valid(const char *name);
