/* encoder_tensors.c - which tensors a BERT encoder has, and their shapes: one table, by the names of BertModel.
 *
 * Letters: V vocabulary, P positions, S token types (segments), C hidden, F feed-forward. */
#include "weights/tensor_table.h"

#include <string.h>

static const struct row {
    const char *name, *shape;
} BERT[] = {
    {"embeddings.word_embeddings.weight", "V C"},
    {"embeddings.position_embeddings.weight", "P C"},
    {"embeddings.token_type_embeddings.weight", "S C"},
    {"embeddings.LayerNorm.weight", "C"},
    {"embeddings.LayerNorm.bias", "C"},
    {"encoder.layer.*.attention.self.query.weight", "C C"},
    {"encoder.layer.*.attention.self.query.bias", "C"},
    {"encoder.layer.*.attention.self.key.weight", "C C"},
    {"encoder.layer.*.attention.self.key.bias", "C"},
    {"encoder.layer.*.attention.self.value.weight", "C C"},
    {"encoder.layer.*.attention.self.value.bias", "C"},
    {"encoder.layer.*.attention.output.dense.weight", "C C"},
    {"encoder.layer.*.attention.output.dense.bias", "C"},
    {"encoder.layer.*.attention.output.LayerNorm.weight", "C"},
    {"encoder.layer.*.attention.output.LayerNorm.bias", "C"},
    {"encoder.layer.*.intermediate.dense.weight", "F C"},
    {"encoder.layer.*.intermediate.dense.bias", "F"},
    {"encoder.layer.*.output.dense.weight", "C F"},
    {"encoder.layer.*.output.dense.bias", "C"},
    {"encoder.layer.*.output.LayerNorm.weight", "C"},
    {"encoder.layer.*.output.LayerNorm.bias", "C"},
};
#define N_ROWS (sizeof BERT / sizeof *BERT)

static int64_t letter_value(char letter, const void *of) {
    const struct encoder_config *config = of;
    switch (letter) {
    case 'V':
        return config->vocab;
    case 'P':
        return config->max_positions;
    case 'S':
        return config->n_token_types;
    case 'C':
        return config->hidden;
    case 'F':
        return config->ffn;
    }
    CHECK(!"a letter of the legend");
    return 0;
}

static int row_copies(const struct row *row, const struct encoder_config *config) {
    return strchr(row->name, '*') ? config->n_layers : 1;
}

static int expected_tensor(const void *of, int i, char name[MODEL_TENSOR_NAME], int64_t dims[TENSOR_MAX_DIMS]) {
    const struct encoder_config *config = of;
    CHECK_LE(0, i);
    for (size_t row = 0; row < N_ROWS; row++) {
        if (i < row_copies(&BERT[row], config)) {
            table__name(BERT[row].name, i, name);
            return table__shape(BERT[row].shape, letter_value, config, dims);
        }
        i -= row_copies(&BERT[row], config);
    }
    CHECK(!"a tensor that the model has");
    return 0;
}

static int expected_shape(const void *of, const char *name, int64_t dims[TENSOR_MAX_DIMS]) {
    const struct encoder_config *config = of;
    for (size_t row = 0; row < N_ROWS; row++)
        if (table__matches(BERT[row].name, name, config->n_layers))
            return table__shape(BERT[row].shape, letter_value, config, dims);
    return 0;
}

/* The pooler serves tasks other than ours; position_ids counts from 0. */
static bool is_ignored(const void *of, const char *name) {
    static const char *const names[] = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids",
                                        "embeddings.token_type_ids"};
    (void)of;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return true;
    return false;
}

int encoder_n_tensors(const struct encoder_config *config) {
    int n = 0;
    for (size_t row = 0; row < N_ROWS; row++) n += row_copies(&BERT[row], config);
    return n;
}

int encoder_check(const struct checkpoint *c, const struct encoder_config *config, char *err, size_t err_bytes) {
    const struct expectation x = {.arch_name = config->arch_name,
                                  .n_layers = config->n_layers,
                                  .config = config,
                                  .n = encoder_n_tensors(config),
                                  .tensor = expected_tensor,
                                  .shape = expected_shape,
                                  .is_ignored = is_ignored};
    return checkpoint__check(c, &x, err, err_bytes);
}

int64_t encoder_config_n_params(const struct encoder_config *config) {
    int64_t sum = 0, dims[TENSOR_MAX_DIMS];
    for (size_t row = 0; row < N_ROWS; row++) {
        int64_t product = row_copies(&BERT[row], config);
        const int n_dims = table__shape(BERT[row].shape, letter_value, config, dims);
        for (int d = 0; d < n_dims; d++) product *= dims[d];
        sum += product;
    }
    return sum;
}
