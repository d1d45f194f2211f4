/* json_parse on any bytes. Besides not crashing: what the checker accepts, cJSON must accept; what comes out can be
 * printed, and parses to the same again. */
#include "kernels/status.h"
#include "weights/json.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void read_fields(const cJSON *root) {
    char err[ERR_BYTES], shown[20];
    const cJSON *item;
    cJSON_ArrayForEach(item, root) {
        int64_t i = 0;
        double d = 0;
        bool b = false;
        const char *s = "", *name = item->string ? item->string : "";
        if (!json_get_int(root, name, -5, INT64_MAX, &i, err, sizeof err)) CHECK_LE(-5, i);
        if (!json_get_double(root, name, 0, 1, &d, err, sizeof err)) CHECK(d >= 0 && d <= 1);
        (void)json_get_bool(root, name, &b, err, sizeof err);
        if (!json_get_string(root, name, &s, err, sizeof err)) CHECK(s);
        CHECK_LT(strlen(json_quote(name, shown, sizeof shown)), sizeof shown);
        CHECK_LT(strlen(json_show(item, shown, sizeof shown)), sizeof shown);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct json_limits limits = {.max_bytes = 1 << 20, .max_depth = bytes % 2 ? JSON_MAX_DEPTH : 5};
    char err[ERR_BYTES];
    cJSON *root, *again;
    int status = json_parse(&root, (const char *)data, bytes, limits, err, sizeof err);
    CHECK(status == 0 || status == STATUS_INVALID || status == STATUS_TOO_LARGE);
    CHECK((status == 0) == (root != NULL));
    if (status) return 0;
    read_fields(root);
    char *text = cJSON_PrintUnformatted(root);
    CHECK(text);
    CHECK_EQ(json_parse(&again, text, strlen(text), limits, err, sizeof err), 0);
    char *text_again = cJSON_PrintUnformatted(again);
    CHECK(text_again && !strcmp(text, text_again));
    cJSON_free(text_again);
    cJSON_Delete(again);
    cJSON_free(text);
    cJSON_Delete(root);
    return 0;
}
