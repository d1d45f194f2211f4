/* model_find.c - from what a user typed to a folder in Hugging Face layout.
 *
 * The cache's layout, as huggingface_hub writes it:
 *     models--ORG--NAME/refs/main                     the commit that main meant when it was downloaded
 *     models--ORG--NAME/snapshots/COMMIT/config.json  (links into blobs/) */
#include "kernels/status.h"
#include "weights/model_name.h"
#include "weights/weights.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool is_folder(const char *path) {
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static bool is_file(const char *path) {
    struct stat st;
    return !stat(path, &st) && S_ISREG(st.st_mode);
}

static bool has_config(const char *folder) {
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/config.json", folder) < (int)sizeof path && is_file(path);
}

/* One to 96 of the characters that the Hub allows, not beginning or ending with '.' or '-', no "--" or "..". */
static bool name_part_is_valid(const char *part, size_t n) {
    if (n == 0 || n > 96 || strchr(".-", part[0]) || strchr(".-", part[n - 1])) return false;
    for (size_t i = 0; i < n; i++) {
        char c = part[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
        if (!word && c != '.' && c != '-') return false;
        if (!word && i && part[i - 1] == c) return false;
    }
    return true;
}

bool model__name_is_valid(const char *name) {
    const char *slash = strchr(name, '/');
    if (!slash) return name_part_is_valid(name, strlen(name));
    return name_part_is_valid(name, (size_t)(slash - name)) && name_part_is_valid(slash + 1, strlen(slash + 1));
}

/* Where huggingface_hub keeps its cache. Empty when nothing in the environment says so. */
static void cache_root(char *root, size_t bytes) {
    static const struct {
        const char *variable, *rest;
    } places[] = {{"HF_HUB_CACHE", ""},
                  {"HF_HOME", "/hub"},
                  {"XDG_CACHE_HOME", "/huggingface/hub"},
                  {"HOME", "/.cache/huggingface/hub"}};
    root[0] = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const char *value = getenv(places[i].variable);
        if (!value || !*value) continue;
        snprintf(root, bytes, "%s%s", value, places[i].rest);
        return;
    }
}

/* The commit in refs/main, or else the name of the only snapshot. Returns how many snapshots there were to choose from:
 * 1 when `commit` was written. */
static int find_snapshot(const char *repo, char *commit, size_t bytes) {
    char path[PATH_MAX];
    int n = 0;
    if (snprintf(path, sizeof path, "%s/refs/main", repo) >= (int)sizeof path) return 0;
    FILE *f = fopen(path, "r");
    if (f) {
        n = fgets(commit, (int)bytes, f) != NULL;
        fclose(f);
        commit[n ? strcspn(commit, "\r\n") : 0] = 0;
        if (n && name_part_is_valid(commit, strlen(commit))) return 1;
        n = 0;
    }
    if (snprintf(path, sizeof path, "%s/snapshots", repo) >= (int)sizeof path) return 0;
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.') continue;
        n++;
        snprintf(commit, bytes, "%s", entry->d_name);
    }
    if (dir) closedir(dir);
    return n;
}

/* A name in the cache. Its faults say what to do: the name is right, only the files are not all there. */
static int find_in_cache(const char *root, const char *name, char *path, size_t path_bytes, char *err,
                         size_t err_bytes) {
    char repo[PATH_MAX], folder[PATH_MAX], commit[NAME_MAX + 1];
    const char *slash = strchr(name, '/');
    int org = slash ? (int)(slash - name) : 0;
    if (snprintf(repo, sizeof repo, "%s/models--%.*s%s%s", root, org, name, slash ? "--" : "",
                 slash ? slash + 1 : name) >= (int)sizeof repo ||
        !is_folder(repo))
        return fail(err, err_bytes, STATUS_NOT_FOUND,
                    "%s: expected a folder with config.json or a model in the Hugging Face cache %s, found neither; "
                    "\"tandem pull %s\" downloads it",
                    name, root, name);
    int n = find_snapshot(repo, commit, sizeof commit);
    if (n > 1)
        return fail(err, err_bytes, STATUS_NOT_FOUND,
                    "%s: expected refs/main or a single snapshot in %s, found %d snapshots; give the folder of one",
                    name, repo, n);
    if (n == 0 || snprintf(folder, sizeof folder, "%s/snapshots/%s", repo, commit) >= (int)sizeof folder ||
        !has_config(folder))
        return fail(err, err_bytes, STATUS_NOT_FOUND,
                    "%s: expected a snapshot with config.json in %s, found none; its download is not complete", name,
                    repo);
    if (snprintf(path, path_bytes, "%s", folder) >= (int)path_bytes)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "%s: its path is longer than %zu bytes", name, path_bytes);
    return 0;
}

int model_find(const char *name, char *path, size_t path_bytes, char *err, size_t err_bytes) {
    char root[PATH_MAX];
    size_t n = strlen(name);
    bool shape_file = n > 5 && !strcmp(name + n - 5, ".json") && is_file(name);
    if (shape_file || has_config(name)) {
        if (snprintf(path, path_bytes, "%s", name) >= (int)path_bytes)
            return fail(err, err_bytes, STATUS_TOO_LARGE, "the model's path is longer than %zu bytes", path_bytes);
        return 0;
    }
    if (is_folder(name))
        return fail(err, err_bytes, STATUS_NOT_FOUND,
                    "%s: expected a model in Hugging Face layout, found a folder without config.json", name);
    if (!model__name_is_valid(name))
        return fail(err, err_bytes, STATUS_NOT_FOUND,
                    "%.200s: expected a folder with config.json or a name like Qwen/Qwen3-0.6B, found no such folder",
                    name);
    cache_root(root, sizeof root);
    return find_in_cache(root, name, path, path_bytes, err, err_bytes);
}
