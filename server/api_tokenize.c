/* api_tokenize.c - /tokenize and /detokenize. The work was done by api_prepare. */
#include "server/server_internal.h"

void api_tokenize(struct call *c) {
    const struct ids *ids = &c->prompts[0];
    struct out out = {0};
    out_format(&out, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":", ids->n, c->server->info->max_model_len);
    response_ids(&out, ids->data, ids->n);
    out_text(&out, ",\"token_strs\":");
    if (c->request.return_token_strs) {
        out_char(&out, '[');
        for (size_t i = 0; i < ids->n; i++) {
            if (i) out_char(&out, ',');
            response_token(&out, call_token_style(c), ids->data[i]);
        }
        out_char(&out, ']');
    } else
        out_text(&out, "null");
    out_char(&out, '}');
    call_respond_json(c, &out);
}

void api_detokenize(struct call *c) {
    struct out out = {0};
    out_text(&out, "{\"prompt\":");
    json_out_string(&out, c->text, c->text_bytes);
    out_char(&out, '}');
    call_respond_json(c, &out);
}
