/* api_tokenize.c - what /tokenize and /detokenize answer. Pure: a long text's answer is written on a worker too. */
#include "server/server_internal.h"

#include <stdlib.h>

void api_tokenize_write(const struct call *c, struct out *out) {
    const struct ids *ids = &c->prompts[0];
    out_format(out, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":", ids->n, c->model->info->max_model_len);
    response_ids(out, ids->data, ids->n);
    out_text(out, ",\"token_strs\":");
    if (c->request.return_token_strs) {
        out_char(out, '[');
        for (size_t i = 0; i < ids->n; i++) {
            if (i) out_char(out, ',');
            response_token(out, call_token_style(c), ids->data[i]);
        }
        out_char(out, ']');
    } else
        out_text(out, "null");
    out_char(out, '}');
}

void api_detokenize_write(const struct call *c, struct out *out) {
    const struct api_prompt *p = &c->request.prompts[0];
    size_t bytes;
    char *text = tokenizer_decode(c->model->tokenizer, p->ids, p->n_ids, false, &bytes);
    out_text(out, "{\"prompt\":");
    json_out_string(out, text, bytes);
    out_char(out, '}');
    free(text);
}
