/* tokenizer_tree.h - shared by the tests of tokenizer files: a tokenizer.json as a tree, changed item by item. */
#pragma once

#include "engine/tokenizer.h"
#include "kernels/status.h"
#include "weights/json.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char err[ERR_BYTES]; /* of the last tree that was opened */

/* Frees the tree. */
static int open_tree(struct tokenizer **t, cJSON *root) {
    char *text = cJSON_PrintUnformatted(root);
    err[0] = 0;
    int status = tokenizer_open_json(t, text, strlen(text), err, sizeof err);
    cJSON_free(text);
    cJSON_Delete(root);
    return status;
}

/* Replaces, or with NULL removes, the item at a path like "model/merges/0". */
static void change(cJSON *root, const char *path, const char *json) {
    char copy[128], *rest = copy, *name = NULL;
    snprintf(copy, sizeof copy, "%s", path);
    cJSON *parent = NULL, *item = root;
    while ((name = strsep(&rest, "/"))) {
        parent = item;
        item = cJSON_IsArray(parent) ? cJSON_GetArrayItem(parent, atoi(name))
                                     : cJSON_GetObjectItemCaseSensitive(parent, name);
        if (!rest) break;
    }
    if (item) cJSON_Delete(cJSON_DetachItemViaPointer(parent, item));
    if (!json) return;
    cJSON *value = cJSON_Parse(json);
    cr_assert(value, "%s", json);
    if (cJSON_IsArray(parent))
        cJSON_InsertItemInArray(parent, atoi(name), value);
    else
        cJSON_AddItemToObject(parent, name, value);
}
