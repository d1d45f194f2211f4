/* store_signatures.c - near-duplicates by MinHash.
 *
 * A signature of n words is cut into n / 4 bands of four words; a row per band holds the band's hash. Whatever shares a
 * band with the one that is looked for is compared word by word. */
#include "rag/store_internal.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { BAND = 4, MAX_CANDIDATES = 10000 };

static int check_signature(struct store *s, int n) {
    if (n > 0 && n <= STORE_MAX_SIGNATURE && n % BAND == 0) return 0;
    return store__fail(s, STATUS_INVALID, "signature: expected a multiple of %d up to %d words, found %d", BAND,
                       STORE_MAX_SIGNATURE, n);
}

static int64_t band_key(const uint32_t *signature, int band) {
    return (int64_t)XXH64(signature + BAND * band, BAND * sizeof *signature, 0);
}

int store_signature_put(struct store *s, const char *tenant, int64_t document, const uint32_t *signature, int n,
                        char *err, size_t err_bytes) {
    int status = store__check_tenant(s, tenant);
    if (!status) status = check_signature(s, n);
    if (!status) status = store__begin(s);
    if (!status) status = store__document(s, tenant, document, NULL);
    const struct db_value at[] = {V_TEXT(tenant), V_INT(document)};
    if (!status) status = store__exec(s, NULL, "DELETE FROM bands WHERE tenant = ?1 AND document = ?2", at, 2);
    if (!status)
        status = store__exec(s, NULL,
                             "INSERT INTO signatures (document, tenant, signature) VALUES (?1, ?2, ?3) "
                             "ON CONFLICT (document) DO UPDATE SET signature = excluded.signature",
                             VALUES(V_INT(document), V_TEXT(tenant), V_BLOB(signature, (size_t)n * sizeof *signature)));
    for (int band = 0; band < n / BAND && !status; band++)
        status = store__exec(s, NULL, "INSERT INTO bands (tenant, band, key, document) VALUES (?1, ?2, ?3, ?4)",
                             VALUES(V_TEXT(tenant), V_INT(band), V_INT(band_key(signature, band)), V_INT(document)));
    return store__done(s, store__end(s, status), err, err_bytes);
}

static int ascending(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int more_similar(const void *a, const void *b) {
    const struct store_similar *x = a, *y = b;
    if (x->similarity != y->similarity) return x->similarity < y->similarity ? 1 : -1;
    return (x->document > y->document) - (x->document < y->document);
}

/* Documents that share a band: ascending, each once. */
static int candidates(struct store *s, const char *tenant, const uint32_t *signature, int n, int64_t *ids, int *n_ids) {
    struct db_cursor c;
    int status = 0, k = 0;
    for (int band = 0; band < n / BAND && !status; band++) {
        status = s->db->query(s, &c,
                              "SELECT document FROM bands WHERE tenant = ?1 AND band = ?2 AND key = ?3 "
                              "ORDER BY document LIMIT 1000",
                              VALUES(V_TEXT(tenant), V_INT(band), V_INT(band_key(signature, band))));
        while (!status && (status = s->db->step(s, &c)) == 1) {
            if (k < MAX_CANDIDATES) ids[k++] = s->db->integer(&c, 0);
            status = 0;
        }
    }
    qsort(ids, (size_t)k, sizeof *ids, ascending);
    *n_ids = 0;
    for (int i = 0; i < k; i++)
        if (!i || ids[i] != ids[i - 1]) ids[(*n_ids)++] = ids[i];
    return status;
}

int store_signature_find(struct store *s, const char *tenant, const uint32_t *signature, int n, double least,
                         struct store_similar *out, int limit, int *n_found, char *err, size_t err_bytes) {
    int64_t *ids = malloc(MAX_CANDIDATES * sizeof *ids);
    struct store_similar *found = malloc(MAX_CANDIDATES * sizeof *found);
    struct db_cursor c;
    int n_ids = 0, k = 0;
    CHECK(ids && found);
    *n_found = 0;
    int status = store__check_tenant(s, tenant);
    if (!status) status = check_signature(s, n);
    if (!status) status = candidates(s, tenant, signature, n, ids, &n_ids);
    for (int i = 0; i < n_ids && !status; i++) {
        status = s->db->query(s, &c, "SELECT signature FROM signatures WHERE tenant = ?1 AND document = ?2",
                              VALUES(V_TEXT(tenant), V_INT(ids[i])));
        if (!status) status = s->db->step(s, &c);
        if (status != 1) continue; /* deleted meanwhile, or an error */
        size_t bytes;
        const char *words = s->db->bytes(&c, 0, &bytes);
        int same = 0;
        for (int j = 0; j < n && bytes == (size_t)n * sizeof *signature; j++)
            same += !memcmp(words + (size_t)j * sizeof *signature, &signature[j], sizeof *signature);
        s->db->close_cursor(s, &c);
        status = 0;
        if ((double)same / n >= least) found[k++] = (struct store_similar){ids[i], (double)same / n};
    }
    if (!status) {
        qsort(found, (size_t)k, sizeof *found, more_similar);
        *n_found = k < limit ? k : limit;
        memcpy(out, found, (size_t)*n_found * sizeof *out);
    }
    free(found);
    free(ids);
    return store__done(s, status, err, err_bytes);
}
