/* temporary_folder.h - a folder of its own for each test, gone afterwards: make it in the suite's .init, remove it in
 * .fini. */
#pragma once

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

static char folder[64];

static void folder_make(const char *test) {
    snprintf(folder, sizeof folder, "/tmp/%s_XXXXXX", test);
    cr_assert(mkdtemp(folder));
}

static int folder__remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static void folder_remove(void) { nftw(folder, folder__remove_one, 8, FTW_DEPTH | FTW_PHYS); }
