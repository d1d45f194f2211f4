/* extractor.c - the program that reads hostile files: what a sandboxed child needs of rag/, and nothing else.
 *
 * It lies beside `tandem`, which starts it for each document (rag/sandbox.h). That it is a program of its own is a
 * matter of time: a build with CUDA takes half a second to load its libraries. */
#include "rag/sandbox.h"

#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc == 1 && !strcmp(argv[0], SANDBOX_CHILD_NAME)) sandbox__child();
    fputs("tandem-extractor reads documents for tandem, which starts it; see tandem extract --help\n", stderr);
    return 2;
}
