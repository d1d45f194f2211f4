/* test_log.c - lines of the log: messages and their figures, as text and as JSON. */
#include "server/log.h"
#include "weights/json.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* The line that one call writes. */
static char *line_of(bool json, enum log_level level) {
    static const struct log_figure figures[] = {{"weight_bytes", 10026000384}, {"weights_seconds", 0.25}};
    char *text;
    size_t bytes;
    struct log log = {.to = open_memstream(&text, &bytes), .json = json, .level = LOG_INFO};
    log_figures(&log, level, "loaded \"all\"", figures, 2);
    fclose(log.to);
    return text;
}

Test(log, figures_are_fields_in_json) {
    char *line = line_of(true, LOG_INFO), err[256];
    cJSON *tree;
    cr_assert_eq(json_parse(&tree, line, strlen(line), (struct json_limits){1 << 12, 4}, err, sizeof err), 0, "%s", err);
    cr_assert_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(tree, "level")), "info");
    cr_assert_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(tree, "message")), "loaded \"all\"");
    cr_assert_eq(cJSON_GetNumberValue(cJSON_GetObjectItem(tree, "weight_bytes")), 10026000384);
    cr_assert_eq(cJSON_GetNumberValue(cJSON_GetObjectItem(tree, "weights_seconds")), 0.25);
    cJSON_Delete(tree);
    free(line);
}

Test(log, text_is_the_message) {
    char *line = line_of(false, LOG_WARNING);
    cr_assert_str_eq(strchr(line, ' '), " warning loaded \"all\"\n");
    free(line);
}

Test(log, lines_below_the_level_are_left_out) {
    char *line = line_of(true, LOG_DEBUG);
    cr_assert_str_eq(line, "");
    free(line);
}
