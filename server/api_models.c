/* api_models.c - which names this server answers to: what requests mean by them, and /v1/models. */
#include "server/server_internal.h"

#include "weights/json.h"

#include <stdio.h>
#include <string.h>

enum kinds { GENERATORS = 1, ENCODERS = 2, ALL_KINDS = 3 };

/* "`a`", "`a`, `b`": all names of all models of these kinds, as far as they fit. */
static const char *all_names(const struct server *s, enum kinds kinds, char *buffer, size_t buffer_bytes) {
    size_t n = 0;
    for (int i = 0; i < s->n_models; i++)
        for (int k = 0; k < s->models[i].n_names && kinds & (s->models[i].info->is_encoder ? ENCODERS : GENERATORS);
             k++) {
            char shown[128];
            const char *name = json_quote(s->models[i].names[k], shown, sizeof shown);
            if (n + strlen(name) + 5 > buffer_bytes) return buffer;
            n += (size_t)snprintf(buffer + n, buffer_bytes - n, "%s`%s`", n ? ", " : "", name);
        }
    return buffer;
}

static const struct server_model *find_model(const struct server *s, const char *name, const char **own) {
    for (int i = 0; i < s->n_models; i++)
        for (int k = 0; k < s->models[i].n_names; k++)
            if (!strcmp(name, s->models[i].names[k])) {
                *own = s->models[i].names[k];
                return &s->models[i];
            }
    return NULL;
}

int api_model_find(const struct server *s, const char *name, const struct server_model **model, const char **own,
                   struct api_error *error) {
    char names[API_MESSAGE_BYTES / 2] = "", shown[128];
    if (!name && s->n_models > 1)
        return api_error_set(error, 400, "model", "model: expected the name of one of this server's models, %s",
                             all_names(s, ALL_KINDS, names, sizeof names));
    const struct server_model *found = name ? find_model(s, name, own) : s->models;
    if (!found)
        return api_error_set(error, 404, "model", "The model `%s` does not exist; this server has %s.",
                             json_quote(name, shown, sizeof shown), all_names(s, ALL_KINDS, names, sizeof names));
    if (!name) *own = found->names[0];
    *model = found;
    return 0;
}

int api_model_check(const struct server *s, const struct server_model *model, const char *name, bool embeds,
                    struct api_error *error) {
    char names[API_MESSAGE_BYTES / 2] = "", shown[128];
    if (model->info->is_encoder == embeds) return 0;
    all_names(s, embeds ? ENCODERS : GENERATORS, names, sizeof names);
    return api_error_set(error, 400, "model", "The model `%s` %s; %s%s.", json_quote(name, shown, sizeof shown),
                         embeds ? "generates text, it does not turn texts into vectors"
                                : "turns texts into vectors (/v1/embeddings), it does not generate text",
                         *names ? "of this server's models these do: " : "no model of this server does", names);
}

static void out_card(const struct server *s, const struct server_model *m, const char *name, struct out *out) {
    out_text(out, "{\"id\":");
    json_out_cstring(out, name);
    out_format(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"tandem\",\"root\":", (long long)s->created);
    json_out_cstring(out, m->options->engine.model);
    out_format(out,
               ",\"parent\":null,\"max_model_len\":%d,\"permission\":[{\"id\":\"modelperm-%lld\","
               "\"object\":\"model_permission\",\"created\":%lld,\"allow_create_engine\":false,"
               "\"allow_sampling\":true,\"allow_logprobs\":true,\"allow_search_indices\":false,"
               "\"allow_view\":true,\"allow_fine_tuning\":false,\"organization\":\"*\",\"group\":null,"
               "\"is_blocking\":false}],\"roles\":[",
               m->info->max_model_len, (long long)s->created, (long long)s->created);
    for (int i = 0, n = 0; server_role_names[i]; i++)
        if (m->options->roles >> i & 1) out_format(out, "%s\"%s\"", n++ ? "," : "", server_role_names[i]);
    out_text(out, "]}");
}

void api_models(struct call *c) {
    const struct server *s = c->server;
    struct out out = {0};
    out_text(&out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < s->n_models; i++)
        for (int k = 0; k < s->models[i].n_names; k++) {
            if (i || k) out_char(&out, ',');
            out_card(s, &s->models[i], s->models[i].names[k], &out);
        }
    out_text(&out, "]}");
    call_respond_json(c, &out);
}

void api_model(struct call *c) {
    const char *name = http_path(c->x) + strlen("/v1/models/"), *own;
    const struct server_model *model;
    struct out out = {0};
    if (api_model_find(c->server, name, &model, &own, &c->error)) {
        call_fail(c, c->error.status, c->error.param, c->error.message);
        return;
    }
    out_card(c->server, model, own, &out);
    call_respond_json(c, &out);
}
