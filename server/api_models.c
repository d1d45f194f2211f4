/* api_models.c - /v1/models: which names this server answers to. */
#include "server/server_internal.h"

#include "weights/json.h"

#include <string.h>

static void out_card(const struct server *s, const char *name, struct out *out) {
    out_text(out, "{\"id\":");
    json_out_cstring(out, name);
    out_format(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"tandem\",\"root\":", (long long)s->created);
    json_out_cstring(out, s->options->engine.model);
    out_format(out,
               ",\"parent\":null,\"max_model_len\":%d,\"permission\":[{\"id\":\"modelperm-%lld\","
               "\"object\":\"model_permission\",\"created\":%lld,\"allow_create_engine\":false,"
               "\"allow_sampling\":true,\"allow_logprobs\":true,\"allow_search_indices\":false,"
               "\"allow_view\":true,\"allow_fine_tuning\":false,\"organization\":\"*\",\"group\":null,"
               "\"is_blocking\":false}]}",
               s->info->max_model_len, (long long)s->created, (long long)s->created);
}

void api_models(struct call *c) {
    const struct server *s = c->server;
    struct out out = {0};
    out_text(&out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < s->n_names; i++) {
        if (i) out_char(&out, ',');
        out_card(s, s->names[i], &out);
    }
    out_text(&out, "]}");
    call_respond_json(c, &out);
}

void api_model(struct call *c) {
    const struct server *s = c->server;
    const char *name = http_path(c->x) + strlen("/v1/models/");
    char message[256], shown[128];
    struct out out = {0};
    for (int i = 0; i < s->n_names; i++)
        if (!strcmp(name, s->names[i])) {
            out_card(s, name, &out);
            call_respond_json(c, &out);
            return;
        }
    snprintf(message, sizeof message, "The model `%s` does not exist.", json_quote(name, shown, sizeof shown));
    call_fail(c, 404, "model", message);
}
