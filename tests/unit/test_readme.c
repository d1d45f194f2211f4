/* test_readme.c - what the README shows is what the repository holds. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "%s is missing", path);
    char *text = calloc(1, 1 << 20);
    cr_assert_not_null(text);
    size_t n = fread(text, 1, (1 << 20) - 1, f);
    fclose(f);
    cr_assert_gt(n, 100u, "%s is nearly empty", path);
    return text;
}

Test(readme, holds_the_library_example_verbatim) {
    char *readme = read_file("README.md"), *example = read_file("tests/harness/library_example.c");
    cr_assert_not_null(strstr(readme, example), "README.md and tests/harness/library_example.c differ");
    int lines = 0;
    for (const char *p = example; *p; p++) lines += *p == '\n';
    cr_assert_leq(lines, 60, "the example has %d lines", lines);
    free(readme);
    free(example);
}

Test(readme, shows_the_example_of_a_deployment_verbatim) {
    char *readme = read_file("server/README.md"), *example = read_file("server/examples/deployment.json");
    cr_assert_not_null(strstr(readme, example), "server/README.md and server/examples/deployment.json differ");
    free(readme);
    free(example);
}

/* Every relative link leads to a file. */
Test(readme, links_lead_somewhere) {
    char *readme = read_file("README.md");
    int n = 0;
    for (const char *p = readme; (p = strstr(p, "](")); n++) {
        char path[256];
        p += 2;
        size_t bytes = strcspn(p, ")#");
        cr_assert_lt(bytes, sizeof path);
        memcpy(path, p, bytes);
        path[bytes] = 0;
        if (strstr(path, "://")) continue;
        FILE *f = fopen(path, "rb");
        cr_expect_not_null(f, "README.md links to %s, which is not there", path);
        if (f) fclose(f);
    }
    cr_assert_gt(n, 5);
    free(readme);
}
