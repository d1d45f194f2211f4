/* filter.c - attributes and filters: strict in, a flat tree of conditions to evaluate.
 *
 * A filter is an array of nodes in the order of a walk from the root: a node's children follow it, and `next` is the
 * node behind its last descendant. */
#include "rag/filter.h"

#include "engine/tokenizer_utf8.h"
#include "kernels/status.h"
#include "weights/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- attributes -------------------------------------------------------------------------------------------------- */

static size_t n_characters(const char *text) {
    size_t n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

static int value_of(struct value *out, struct arena *arena, const cJSON *item, const char *where, char *err,
                    size_t err_bytes) {
    char shown[80], key[80];
    *out = (struct value){0};
    if (cJSON_IsString(item)) {
        if (n_characters(item->valuestring) > ATTRIBUTES_MAX_VALUE)
            return fail(err, err_bytes, STATUS_INVALID, "%s: expected a string of at most %d characters, found %zu",
                        json_quote(where, key, sizeof key), ATTRIBUTES_MAX_VALUE, n_characters(item->valuestring));
        *out = (struct value){VALUE_STRING, 0, arena_text(arena, item->valuestring, strlen(item->valuestring))};
    } else if (cJSON_IsNumber(item) && isfinite(item->valuedouble)) {
        *out = (struct value){VALUE_NUMBER, item->valuedouble, NULL};
    } else if (cJSON_IsBool(item)) {
        *out = (struct value){VALUE_BOOLEAN, cJSON_IsTrue(item), NULL};
    } else {
        return fail(err, err_bytes, STATUS_INVALID, "%s: expected a string, a number or a boolean, found %s",
                    json_quote(where, key, sizeof key), json_show(item, shown, sizeof shown));
    }
    return 0;
}

static int check_key(const char *key, char *err, size_t err_bytes) {
    size_t n = n_characters(key);
    if (n >= 1 && n <= ATTRIBUTES_MAX_KEY) return 0;
    return fail(err, err_bytes, STATUS_INVALID, "expected a key of 1 to %d characters, found %zu", ATTRIBUTES_MAX_KEY,
                n);
}

static int attributes_of(struct attributes *out, struct arena *arena, const cJSON *object, char *err,
                         size_t err_bytes) {
    *out = (struct attributes){0};
    if (!cJSON_IsObject(object))
        return fail(err, err_bytes, STATUS_INVALID, "attributes: expected an object, found %s", json_kind(object));
    int n = cJSON_GetArraySize(object);
    if (n > ATTRIBUTES_MAX_PAIRS)
        return fail(err, err_bytes, STATUS_INVALID, "attributes: expected at most %d pairs, found %d",
                    ATTRIBUTES_MAX_PAIRS, n);
    struct attribute *data = arena_take(arena, (size_t)n * sizeof *data);
    const cJSON *item;
    int status = 0;
    cJSON_ArrayForEach(item, object) {
        for (int i = 0; i < out->n; i++)
            if (!strcmp(data[i].key, item->string)) {
                char key[80];
                return fail(err, err_bytes, STATUS_INVALID, "attributes: the key \"%s\" occurs twice",
                            json_quote(item->string, key, sizeof key));
            }
        status = check_key(item->string, err, err_bytes);
        if (!status) status = value_of(&data[out->n].value, arena, item, item->string, err, err_bytes);
        if (status) return status;
        data[out->n++].key = arena_text(arena, item->string, strlen(item->string));
    }
    out->data = data;
    return 0;
}

static int parse_text(cJSON **json, const char *text, char *err, size_t err_bytes) {
    return json_parse(json, text, strlen(text),
                      (struct json_limits){.max_bytes = ATTRIBUTES_MAX_BYTES, .max_depth = 2 * FILTER_MAX_DEPTH + 4},
                      err, err_bytes);
}

int attributes_parse(struct attributes *out, struct arena *arena, const char *text, char *err, size_t err_bytes) {
    *out = (struct attributes){0};
    if (!text) return 0;
    cJSON *json;
    int status = parse_text(&json, text, err, err_bytes);
    if (!status) status = attributes_of(out, arena, json, err, err_bytes);
    cJSON_Delete(json);
    return status;
}

int attributes_check(const char *text, char **compact, char *err, size_t err_bytes) {
    struct arena arena = {0};
    struct attributes attributes;
    cJSON *json = NULL;
    if (compact) *compact = NULL;
    int status = parse_text(&json, text ? text : "{}", err, err_bytes);
    if (!status) status = attributes_of(&attributes, &arena, json, err, err_bytes);
    if (!status && compact) {
        *compact = cJSON_PrintUnformatted(json);
        CHECK(*compact);
    }
    cJSON_Delete(json);
    arena_deinit(&arena);
    return status;
}

/* ---- filters ----------------------------------------------------------------------------------------------------- */

enum filter_type { EQ, NE, GT, GTE, LT, LTE, IN, NIN, AND, OR, N_TYPES };
static const char *const type_names[N_TYPES] = {"eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or"};

struct node {
    enum filter_type type;
    const char *key;
    const struct value *values; /* one, or those of in and nin */
    int n_values;
    int next; /* the node behind this one and all below it */
};

struct filter {
    struct arena arena;
    int n, n_values;
    struct node nodes[FILTER_MAX_NODES];
};

static int too_many(char *err, size_t err_bytes) {
    return fail(err, err_bytes, STATUS_INVALID, "filters: expected at most %d conditions and values in all",
                FILTER_MAX_NODES);
}

static int parse_values(struct filter *f, struct node *node, const cJSON *value, char *err, size_t err_bytes) {
    const bool many = node->type == IN || node->type == NIN, order = node->type >= GT && node->type <= LTE;
    if (many && !cJSON_IsArray(value))
        return fail(err, err_bytes, STATUS_INVALID, "filters: value: \"%s\" expects an array, found %s",
                    type_names[node->type], json_kind(value));
    node->n_values = many ? cJSON_GetArraySize(value) : 1;
    f->n_values += node->n_values;
    if (f->n_values > FILTER_MAX_NODES) return too_many(err, err_bytes);
    struct value *values = arena_take(&f->arena, (size_t)node->n_values * sizeof *values);
    node->values = values;
    const cJSON *one = many ? value->child : value;
    for (int i = 0; i < node->n_values; i++, one = one->next) {
        int status = value_of(&values[i], &f->arena, one, "filters: value", err, err_bytes);
        if (status) return status;
    }
    if (order && values[0].kind == VALUE_BOOLEAN)
        return fail(err, err_bytes, STATUS_INVALID,
                    "filters: value: \"%s\" expects a number or a string, found a boolean", type_names[node->type]);
    return 0;
}

static int parse_node(struct filter *f, const cJSON *json, int depth, char *err, size_t err_bytes) {
    char shown[80];
    const char *name = NULL, *key = NULL;
    if (depth > FILTER_MAX_DEPTH)
        return fail(err, err_bytes, STATUS_INVALID, "filters: expected a depth of at most %d", FILTER_MAX_DEPTH);
    if (f->n == FILTER_MAX_NODES) return too_many(err, err_bytes);
    if (!cJSON_IsObject(json))
        return fail(err, err_bytes, STATUS_INVALID, "filters: expected an object, found %s", json_kind(json));
    int status = json_get_string(json, "type", &name, err, err_bytes);
    if (status) return status;
    int type = 0;
    while (name && type < N_TYPES && strcmp(name, type_names[type])) type++;
    if (!name || type == N_TYPES)
        return fail(err, err_bytes, STATUS_INVALID,
                    "filters: type: expected eq, ne, gt, gte, lt, lte, in, nin, and, or; found %s",
                    name ? json_quote(name, shown, sizeof shown) : "nothing");
    struct node *node = &f->nodes[f->n++];
    *node = (struct node){.type = (enum filter_type)type};
    const bool group = node->type == AND || node->type == OR;
    const cJSON *item;
    cJSON_ArrayForEach(item, json) {
        const bool known =
            !strcmp(item->string, "type") ||
            (group ? !strcmp(item->string, "filters") : !strcmp(item->string, "key") || !strcmp(item->string, "value"));
        if (!known)
            return fail(err, err_bytes, STATUS_INVALID, "filters: \"%s\" has no field \"%s\"; it has %s", name,
                        json_quote(item->string, shown, sizeof shown), group ? "filters" : "key and value");
    }
    if (group) {
        const cJSON *filters = json_find(json, "filters");
        if (!cJSON_IsArray(filters) || !filters->child)
            return fail(err, err_bytes, STATUS_INVALID, "filters: \"%s\" expects an array of filters, found %s", name,
                        cJSON_IsArray(filters) ? "an empty one" : json_kind(filters));
        cJSON_ArrayForEach(item, filters) {
            status = parse_node(f, item, depth + 1, err, err_bytes);
            if (status) return status;
        }
    } else {
        status = json_get_string(json, "key", &key, err, err_bytes);
        if (!status && !key) status = fail(err, err_bytes, STATUS_INVALID, "filters: \"%s\" needs a key", name);
        if (!status) status = check_key(key, err, err_bytes);
        if (!status) status = parse_values(f, node, json_find(json, "value"), err, err_bytes);
        if (status) return status;
        node->key = arena_text(&f->arena, key, strlen(key));
    }
    node->next = f->n;
    return 0;
}

int filter_parse(struct filter **out, const cJSON *json, char *err, size_t err_bytes) {
    *out = NULL;
    if (!json || cJSON_IsNull(json)) return 0;
    struct filter *f = calloc(1, sizeof *f);
    CHECK(f);
    int status = parse_node(f, json, 1, err, err_bytes);
    if (status) {
        filter_close(f);
        return status;
    }
    *out = f;
    return 0;
}

int filter_parse_text(struct filter **out, const char *text, char *err, size_t err_bytes) {
    cJSON *json;
    *out = NULL;
    int status = parse_text(&json, text, err, err_bytes);
    if (!status) status = filter_parse(out, json, err, err_bytes);
    cJSON_Delete(json);
    return status;
}

void filter_close(struct filter *f) {
    if (!f) return;
    arena_deinit(&f->arena);
    free(f);
}

/* Sign of a - b where both have an order: numbers, or strings by bytes. */
static bool ordered(const struct value *a, const struct value *b, int *sign) {
    if (a->kind != b->kind || a->kind == VALUE_BOOLEAN) return false;
    if (a->kind == VALUE_NUMBER)
        *sign = (a->number > b->number) - (a->number < b->number);
    else
        *sign = strcmp(a->text, b->text);
    return true;
}

static bool equal(const struct value *a, const struct value *b) {
    if (a->kind != b->kind) return false;
    return a->kind == VALUE_STRING ? !strcmp(a->text, b->text) : a->number == b->number;
}

static bool condition(const struct node *node, const struct attributes *attributes) {
    const struct value *value = NULL;
    for (int i = 0; i < attributes->n && !value; i++)
        if (!strcmp(attributes->data[i].key, node->key)) value = &attributes->data[i].value;
    bool among = false;
    int sign = 0;
    for (int i = 0; value && i < node->n_values; i++) among |= equal(value, &node->values[i]);
    switch (node->type) {
    case EQ:
    case IN:
        return among;
    case NE:
    case NIN:
        return !among;
    default:
        break;
    }
    if (!value || !ordered(value, node->values, &sign)) return false;
    switch (node->type) {
    case GT:
        return sign > 0;
    case GTE:
        return sign >= 0;
    case LT:
        return sign < 0;
    default:
        return sign <= 0;
    }
}

static bool pass(const struct filter *f, int i, const struct attributes *attributes) {
    const struct node *node = &f->nodes[i];
    if (node->type != AND && node->type != OR) return condition(node, attributes);
    for (int j = i + 1; j < node->next; j = f->nodes[j].next)
        if (pass(f, j, attributes) != (node->type == AND)) return node->type == OR;
    return node->type == AND;
}

bool filter_pass(const struct filter *f, const struct attributes *attributes) {
    return !f || pass(f, 0, attributes);
}
