/* API keys, the key file, and the salts that keep tenants' caches apart. */
#include "server/auth.h"

#include "kernels/status.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char err[ERR_BYTES];

/* Opens with a key file of the given text; the status. */
static int open_file(struct auth **a, const char *text) {
    char path[] = "/tmp/tandem-keys-XXXXXX";
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    int status = auth_open(a, NULL, 0, path, err, sizeof err);
    unlink(path);
    return status;
}

Test(auth, known_hash) {
    char hex[AUTH_HEX_BYTES];
    auth_hash_hex("abc", hex); /* FIPS 180-2, B.1 */
    cr_assert_str_eq(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

Test(auth, without_keys_everyone_enters) {
    struct auth *a;
    cr_assert_eq(auth_open(&a, NULL, 0, NULL, err, sizeof err), 0);
    cr_assert_str_eq(auth_check(a, NULL), "");
    cr_assert_str_eq(auth_check(a, "Bearer anything"), "");
    auth_close(a);
}

Test(auth, keys_of_the_command_line) {
    static const char *const keys[] = {"first", "second"};
    struct auth *a;
    cr_assert_eq(auth_open(&a, keys, 2, NULL, err, sizeof err), 0);
    cr_assert_str_eq(auth_check(a, "Bearer first"), "key-1");
    cr_assert_str_eq(auth_check(a, "bearer second"), "key-2");
    static const char *const refused[] = {
        "Bearer third", "Bearer firs", "Bearer first2", "Bearer ", "first", "Basic first", ""};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        cr_assert_null(auth_check(a, refused[i]), "%s", refused[i]);
    cr_assert_null(auth_check(a, NULL));
    auth_close(a);
}

Test(auth, key_file) {
    struct auth *a;
    cr_assert_eq(open_file(&a, "# keys\n\n"
                               "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad alice\r\n"
                               "  E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855\tbob"),
                 0, "%s", err);
    cr_assert_eq(auth_n_keys(a), 2);
    cr_assert_str_eq(auth_check(a, "Bearer abc"), "alice");
    cr_assert_str_eq(auth_check(a, "Bearer "), "bob"); /* the hash of "" was put there on purpose */
    cr_assert_null(auth_check(a, "Bearer abd"));
    auth_close(a);
}

Test(auth, bad_key_files) {
    static const char *const files[] = {
        "",
        "# nothing\n",
        "ba78 alice\n",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad alice bob\n",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad al/ice\n",
        "zz7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad alice\n",
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct auth *a;
        cr_assert_eq(open_file(&a, files[i]), STATUS_INVALID, "file %zu", i);
        cr_assert_null(a);
        cr_assert(strlen(err) > 20);
    }
}

Test(auth, salts_differ_by_tenant_and_by_cache_salt) {
    struct auth *a, *b;
    cr_assert_eq(auth_open(&a, NULL, 0, NULL, err, sizeof err), 0);
    cr_assert_eq(auth_open(&b, NULL, 0, NULL, err, sizeof err), 0);
    uint64_t salts[] = {auth_salt(a, "", NULL),     auth_salt(a, "alice", NULL),  auth_salt(a, "bob", NULL),
                        auth_salt(a, "alice", ""),  auth_salt(a, "alice", "x"),   auth_salt(a, "bob", "x"),
                        auth_salt(b, "alice", "x"), auth_salt(a, "alicex", NULL), auth_salt(a, "", "alice")};
    size_t n = sizeof salts / sizeof *salts;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) cr_assert_neq(salts[i], salts[j], "%zu and %zu", i, j);
    cr_assert_eq(auth_salt(a, "alice", "x"), salts[4]);
    auth_close(a);
    auth_close(b);
}
