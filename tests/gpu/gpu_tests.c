/* gpu_tests - all tests of this folder in one program, for a machine that it is carried to: the kernels are most of it,
 * and so they travel once.
 *
 *     gpu_tests --list              the names
 *     gpu_tests NAME [argument...]  the test_*.c of that name; arguments: see gpu_test.h */
#include "gpu_test_list.h" /* made by CMake: GPU_TESTS(X), X(name) for each test_*.c */

#include <stdio.h>
#include <string.h>

#define X(name) int name##_main(int argc, char **argv);
GPU_TESTS(X)
#undef X

static const struct {
    const char *name;
    int (*main)(int argc, char **argv);
} tests[] = {
#define X(name) {#name, name##_main},
    GPU_TESTS(X)
#undef X
};

int main(int argc, char **argv) {
    const size_t n = sizeof tests / sizeof *tests;
    const int is_list = argc == 2 && !strcmp(argv[1], "--list");
    for (size_t i = 0; i < n; i++) {
        if (is_list) puts(tests[i].name);
        if (argc > 1 && !strcmp(argv[1], tests[i].name)) return tests[i].main(argc - 1, argv + 1);
    }
    if (is_list) return 0;
    fprintf(stderr, "usage: gpu_tests --list | NAME [argument...]\n");
    return 2;
}
