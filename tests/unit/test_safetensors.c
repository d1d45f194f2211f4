/* weights.h, tensors: each validation's sentence, shards, writing, and that opening a large checkpoint is free. */
#include "kernels/status.h"
#include "weights/weights.h"
#include "tests/unit/temporary_folder.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char err[ERR_BYTES];

static void setup(void) {
    folder_make("test_safetensors");
}

TestSuite(safetensors, .init = setup, .fini = folder_remove);

static const char *path_of(const char *name) {
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const void *data, size_t bytes) {
    FILE *f = fopen(path_of(name), "wb");
    cr_assert(f && fwrite(data, 1, bytes, f) == bytes && !fclose(f));
}

/* The last sentence is "FOLDER/rest". */
static void expect_sentence(const char *rest) {
    char expected[ERR_BYTES];
    snprintf(expected, sizeof expected, "%s/%s", folder, rest);
    cr_expect_str_eq(err, expected);
}

/* ---- one image -------------------------------------------------------------------------------------------------- */

/* An image with this header, filled up so that the data begin at a multiple of 8, and `data_bytes` bytes 0, 1, 2, ...
 */
static char *image_of(const char *header, size_t data_bytes, size_t *bytes) {
    size_t n = strlen(header), padded = (n + 7) / 8 * 8;
    *bytes = 8 + padded + data_bytes;
    char *image = malloc(*bytes);
    for (int i = 0; i < 8; i++) image[i] = (char)(padded >> (8 * i));
    memset(image + 8, ' ', padded);
    memcpy(image + 8, header, n);
    for (size_t i = 0; i < data_bytes; i++) image[8 + padded + i] = (char)i;
    return image;
}

static void refused_image(const void *image, size_t bytes, int status, const char *sentence) {
    struct tensor *tensors = (struct tensor *)err;
    size_t n = 7;
    cr_expect_eq(safetensors_parse(&tensors, &n, image, bytes, "F", err, sizeof err), status);
    cr_expect_str_eq(err, sentence);
    cr_expect(tensors == NULL && n == 0);
}

static void refused(const char *header, size_t data_bytes, int status, const char *sentence) {
    size_t bytes;
    char *image = image_of(header, data_bytes, &bytes);
    refused_image(image, bytes, status, sentence);
    free(image);
}

/* One tensor "a" with these fields. */
static void refused_tensor(const char *fields, size_t data_bytes, int status, const char *rest) {
    char header[512], sentence[ERR_BYTES];
    snprintf(header, sizeof header, "{\"a\":{%s}}", fields);
    snprintf(sentence, sizeof sentence, "F: tensor a: expected %s", rest);
    refused(header, data_bytes, status, sentence);
}

Test(safetensors, parse) {
    struct tensor *t;
    size_t n, bytes;
    char *image = image_of("{\"c\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[4,28]},"
                           "\"__metadata__\":{\"format\":\"pt\"},"
                           "\"b\":{\"data_offsets\":[0,4],\"shape\":[],\"dtype\":\"I32\"},"
                           "\"a\":{\"dtype\":\"BF16\",\"shape\":[0,5],\"data_offsets\":[4,4]},"
                           "\"d\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[28,30]}}",
                           30, &bytes);
    cr_assert_eq(safetensors_parse(&t, &n, image, bytes, "F", err, sizeof err), 0, "%s", err);
    cr_assert_eq(n, 4);
    cr_expect_str_eq(t[0].name, "a");
    cr_expect(t[0].dtype == DTYPE_BF16 && t[0].n_dims == 2 && t[0].dims[0] == 0 && t[0].dims[1] == 5 && !t[0].bytes);
    cr_expect_str_eq(t[1].name, "b");
    cr_expect(t[1].dtype == DTYPE_I32 && t[1].n_dims == 0 && t[1].bytes == 4);
    cr_expect_eq(((const char *)t[1].data)[0], 0);
    cr_expect_str_eq(t[2].name, "c");
    cr_expect(t[2].dtype == DTYPE_F32 && t[2].n_dims == 2 && t[2].dims[0] == 2 && t[2].dims[1] == 3 &&
              t[2].bytes == 24);
    cr_expect_eq(((const char *)t[2].data)[0], 4);
    cr_expect(t[3].dtype == DTYPE_F16 && ((const char *)t[3].data)[1] == 29);
    safetensors_free(t, n);
    free(image);

    image = image_of("{}", 0, &bytes);
    cr_expect_eq(safetensors_parse(&t, &n, image, bytes, "F", err, sizeof err), 0, "%s", err);
    cr_expect_eq(n, 0);
    safetensors_free(t, n);
    free(image);
}

Test(safetensors, header) {
    refused_image("1234567", 7, STATUS_INVALID, "F: expected a safetensors file of at least 8 bytes, found 7");
    refused_image("\x01\xe1\xf5\x05\0\0\0\0{", 9, STATUS_TOO_LARGE,
                  "F: expected a header of at most 100000000 bytes, found 100000001; is this a safetensors file?");
    refused_image("\xff\xff\xff\xff\xff\xff\xff\xff{", 9, STATUS_TOO_LARGE,
                  "F: expected a header of at most 100000000 bytes, found 18446744073709551615; is this a safetensors "
                  "file?");
    refused_image(
        "\3\0\0\0\0\0\0\0{}", 10, STATUS_INVALID,
        "F: expected a header of 3 bytes, found 2 bytes left in the file; it is cut short: download it again");
    refused_image("\0\0\0\0\0\0\0\0{}", 10, STATUS_INVALID, "F: expected a header that begins with '{', found another");
    refused(" {}", 0, STATUS_INVALID, "F: expected a header that begins with '{', found another");
    refused("{\"a\":}", 0, STATUS_INVALID, "F: header: invalid JSON at byte 5: expected a value, found '}'");
    refused("{\"a\":{\"shape\":[[1]]}}", 0, STATUS_TOO_LARGE,
            "F: header: JSON at byte 15: expected at most 3 nested arrays and objects, found more");
    refused("{}", 5, STATUS_INVALID, "F: expected 0 bytes of data, as many as its tensors have, found 5");
    refused("{\"a\":1}", 0, STATUS_INVALID, "F: tensor a: expected an object, found 1");
}

Test(safetensors, tensor) {
    refused_tensor("\"shape\":[1],\"data_offsets\":[0,4]", 4, STATUS_INVALID,
                   "dtype F32, BF16, F16, I32 or I64, found nothing");
    refused_tensor("\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]", 4, STATUS_INVALID,
                   "dtype F32, BF16, F16, I32 or I64, found 7");
    refused_tensor("\"dtype\":\"I16\",\"shape\":[1],\"data_offsets\":[0,2]", 2, STATUS_UNSUPPORTED,
                   "dtype F32, BF16, F16, I32 or I64, found \"I16\"");
    refused_tensor("\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]", 4, STATUS_INVALID,
                   "dtype, shape and data_offsets once each, found \"dtype\"");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"order\":\"C\"", 4, STATUS_INVALID,
                   "dtype, shape and data_offsets once each, found \"order\"");
    refused_tensor("\"dtype\":\"F32\",\"data_offsets\":[0,4]", 4, STATUS_INVALID,
                   "shape to be an array, found nothing");
    refused_tensor("\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]", 4, STATUS_INVALID,
                   "shape to be an array, found 4");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1,-1],\"data_offsets\":[0,4]", 4, STATUS_INVALID,
                   "a shape of non-negative integers, found -1");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[0.5],\"data_offsets\":[0,4]", 4, STATUS_INVALID,
                   "a shape of non-negative integers, found 0.5");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1e300],\"data_offsets\":[0,4]", 4, STATUS_INVALID,
                   "a shape of non-negative integers, found 1e+300");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]", 4, STATUS_INVALID,
                   "a shape of non-negative integers, found \"1\"");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]", 4, STATUS_TOO_LARGE,
                   "at most 8 dimensions, found more");
    /* 2^32 x 2^32 x 4 bytes are 0 in 64 bits */
    refused_tensor("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]", 0, STATUS_TOO_LARGE,
                   "a shape whose bytes fit 63 bits, found one that overflows");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,0],\"data_offsets\":[0,0]", 0, STATUS_TOO_LARGE,
                   "a shape whose bytes fit 63 bits, found one that overflows");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]", 0, STATUS_TOO_LARGE,
                   "a shape whose bytes fit 63 bits, found one that overflows");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]", 4, STATUS_INVALID,
                   "data_offsets to be two non-negative integers, found something else");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]", 4, STATUS_INVALID,
                   "data_offsets to be two non-negative integers, found something else");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]", 4, STATUS_INVALID,
                   "data_offsets to be two non-negative integers, found something else");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1]", 4, STATUS_INVALID,
                   "data_offsets to be two non-negative integers, found something else");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]", 4, STATUS_INVALID,
                   "data_offsets in ascending order, found [4, 0]");
    refused_tensor(
        "\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]", 4, STATUS_INVALID,
        "its data inside the 4 bytes after the header, found bytes 0 to 8; the file is cut short: download it "
        "again");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]", 4, STATUS_INVALID,
                   "8 bytes of data for its shape and dtype, found 4");
    refused_tensor(
        "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]", 6, STATUS_INVALID,
        "data aligned to the 4 bytes of its dtype, found it at byte 66 of the file; save the model again with "
        "a current safetensors");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]", 8, STATUS_INVALID,
                   "data from byte 0 on, found it at byte 4: there is a hole before it");
}

Test(safetensors, tensors_together) {
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
            12, STATUS_INVALID,
            "F: tensor b: expected data from byte 8 on, where tensor a ends, found it at byte 4: they overlap");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
            "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}",
            16, STATUS_INVALID,
            "F: tensor b: expected data from byte 8 on, found it at byte 12: there is a hole before it");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, STATUS_INVALID,
            "F: expected 8 bytes of data, as many as its tensors have, found 9");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
            "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
            8, STATUS_INVALID, "F: tensor a: expected one of that name, found two");
    refused("{\"\\u001b[2Jx\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8, STATUS_INVALID,
            "F: tensor ?[2Jx: expected 4 bytes of data for its shape and dtype, found 8");
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

Test(safetensors, write_and_open) {
    float f[3] = {1, 2, 3};
    uint16_t h[3] = {4, 5, 6};
    int32_t i[1] = {7};
    struct tensor tensors[] = {
        {.name = "half \"quoted\" \xe2\x82\xac",
         .dtype = DTYPE_BF16,
         .n_dims = 2,
         .dims = {3, 1},
         .bytes = 6,
         .data = h},
        {.name = "float", .dtype = DTYPE_F32, .n_dims = 1, .dims = {3}, .bytes = 12, .data = f},
        {.name = "empty", .dtype = DTYPE_F16, .n_dims = 1, .dims = {0}, .bytes = 0, .data = NULL},
        {.name = "int", .dtype = DTYPE_I32, .n_dims = 0, .bytes = 4, .data = i},
    };
    cr_assert_eq(safetensors_write(path_of("model.safetensors"), tensors, 4, err, sizeof err), 0, "%s", err);
    struct checkpoint *c;
    cr_assert_eq(checkpoint_open(&c, folder, err, sizeof err), 0, "%s", err);
    cr_assert_eq(checkpoint_n_tensors(c), 4);
    cr_expect_str_eq(checkpoint_tensor(c, 0)->name, "empty", "name order");
    cr_expect_null(checkpoint_find(c, "Float"));
    for (int k = 0; k < 4; k++) {
        const struct tensor *t = checkpoint_find(c, tensors[k].name);
        cr_assert_not_null(t, "%s", tensors[k].name);
        cr_expect(t->dtype == tensors[k].dtype && t->n_dims == tensors[k].n_dims && t->bytes == tensors[k].bytes);
        cr_expect_eq(memcmp(t->dims, tensors[k].dims, sizeof t->dims), 0);
        cr_expect(t->bytes == 0 || !memcmp(t->data, tensors[k].data, t->bytes));
    }
    /* the widest dtype comes first, at a multiple of 64 */
    cr_expect_eq((uintptr_t)checkpoint_find(c, "float")->data % 64, 0);
    checkpoint_close(c);

    cr_assert_eq(safetensors_write(path_of("model.safetensors"), tensors, 0, err, sizeof err), 0, "%s", err);
    cr_assert_eq(checkpoint_open(&c, folder, err, sizeof err), 0, "%s", err);
    cr_expect_eq(checkpoint_n_tensors(c), 0);
    cr_expect_null(checkpoint_find(c, "float"));
    checkpoint_close(c);

    cr_expect_eq(safetensors_write("/nonexistent/x.safetensors", tensors, 4, err, sizeof err), STATUS_IO);
    cr_expect(strstr(err, "cannot be created: No such file or directory"), "%s", err);
}

/* ---- shards ----------------------------------------------------------------------------------------------------- */

static const float FLOATS[4] = {1, 2, 3, 4};

static void write_shard(const char *file, const char *first, const char *second) {
    struct tensor t[2] = {{.name = first, .n_dims = 1, .dims = {1}, .bytes = 4, .data = FLOATS},
                          {.name = second, .n_dims = 1, .dims = {2}, .bytes = 8, .data = FLOATS + 2}};
    cr_assert_eq(safetensors_write(path_of(file), t, second ? 2 : 1, err, sizeof err), 0, "%s", err);
}

static int open_with_index(struct checkpoint **c, const char *index) {
    write_file("model.safetensors.index.json", index, strlen(index));
    return checkpoint_open(c, folder, err, sizeof err);
}

static void refused_index(const char *index, int status, const char *rest) {
    struct checkpoint *c = (struct checkpoint *)err;
    cr_expect_eq(open_with_index(&c, index), status, "%s", index);
    cr_expect_null(c);
    expect_sentence(rest);
}

Test(safetensors, shards) {
    struct checkpoint *c;
    write_shard("1.safetensors", "d", "a");
    write_shard("2.safetensors", "b", NULL);
    cr_assert_eq(open_with_index(&c, "{\"metadata\":{\"total_size\":16},\"weight_map\":{\"d\":\"1.safetensors\","
                                     "\"b\":\"2.safetensors\",\"a\":\"1.safetensors\"}}"),
                 0, "%s", err);
    cr_assert_eq(checkpoint_n_tensors(c), 3);
    cr_expect_str_eq(checkpoint_tensor(c, 0)->name, "a");
    cr_expect_str_eq(checkpoint_tensor(c, 2)->name, "d");
    cr_expect_eq(*(const float *)checkpoint_find(c, "b")->data, 1);
    cr_expect_eq(*(const float *)checkpoint_find(c, "a")->data, 3);
    checkpoint_close(c);

    refused_index("{}", STATUS_INVALID,
                  "model.safetensors.index.json: weight_map: expected an object with tensors, found nothing");
    refused_index("{\"weight_map\":{}}", STATUS_INVALID,
                  "model.safetensors.index.json: weight_map: expected an object with tensors, found an empty one");
    refused_index(
        "{\"weight_map\":{\"a\":\"../1.safetensors\"}}", STATUS_INVALID,
        "model.safetensors.index.json: tensor a: expected the name of a .safetensors file in this folder, found "
        "\"../1.safetensors\"");
    refused_index("{\"weight_map\":{\"a\":\"x/1.safetensors\"}}", STATUS_INVALID,
                  "model.safetensors.index.json: tensor a: expected the name of a .safetensors file in this folder, "
                  "found \"x/1.safetensors\"");
    refused_index(
        "{\"weight_map\":{\"a\":[]}}", STATUS_INVALID,
        "model.safetensors.index.json: tensor a: expected the name of a .safetensors file in this folder, found "
        "an array");
    refused_index("{\"weight_map\":{\"b\":\"2.safetensors\",\"b\":\"2.safetensors\"}}", STATUS_INVALID,
                  "model.safetensors.index.json: tensor b: expected one entry, found two");
    refused_index("{\"weight_map\":{\"a\":\"1.safetensors\"}}", STATUS_INVALID,
                  "model.safetensors.index.json: tensor d: expected an entry for 1.safetensors, which holds it, found "
                  "none");
    refused_index("{\"weight_map\":{\"b\":\"2.safetensors\",\"c\":\"2.safetensors\"}}", STATUS_INVALID,
                  "2.safetensors: tensor c: expected here by the index, found no such tensor; download the file again");
    refused_index("{\"weight_map\":{\"b\":\"3.safetensors\"}}", STATUS_NOT_FOUND,
                  "3.safetensors: cannot be opened: No such file or directory; download the model again");
    /* the same tensor in two files: one of them disagrees with the index */
    write_shard("3.safetensors", "e", "b");
    refused_index("{\"weight_map\":{\"b\":\"2.safetensors\",\"e\":\"3.safetensors\"}}", STATUS_INVALID,
                  "model.safetensors.index.json: tensor b: expected an entry for 3.safetensors, which holds it, found "
                  "none");
    cr_assert_eq(truncate(path_of("2.safetensors"), 100), 0);
    cr_expect_eq(open_with_index(&c, "{\"weight_map\":{\"b\":\"2.safetensors\"}}"), STATUS_INVALID);
    cr_expect(strstr(err, "it is cut short: download it again"), "%s", err);

    /* a single file wins over the index */
    write_shard("model.safetensors", "only", NULL);
    cr_assert_eq(checkpoint_open(&c, folder, err, sizeof err), 0, "%s", err);
    cr_expect_eq(checkpoint_n_tensors(c), 1);
    checkpoint_close(c);
}

Test(safetensors, files) {
    struct checkpoint *c;
    char expected[ERR_BYTES];
    cr_expect_eq(checkpoint_open(&c, folder, err, sizeof err), STATUS_NOT_FOUND);
    snprintf(
        expected, sizeof expected,
        "%s: expected model.safetensors or model.safetensors.index.json, found neither; other formats are not read",
        folder);
    cr_expect_str_eq(err, expected);
    write_file("model.safetensors", "", 0);
    cr_expect_eq(checkpoint_open(&c, folder, err, sizeof err), STATUS_INVALID);
    expect_sentence("model.safetensors: expected a safetensors file of at least 8 bytes, found 0");
    cr_assert(!unlink(path_of("model.safetensors")) && !mkdir(path_of("model.safetensors"), 0700));
    cr_expect_eq(checkpoint_open(&c, folder, err, sizeof err), STATUS_IO);
    expect_sentence("model.safetensors: expected a regular file, found something else");
    checkpoint_close(NULL);
}

/* The bare decoder of an embedding model names its tensors without "model.". */
Test(safetensors, prefix) {
    struct checkpoint *c;
    write_shard("model.safetensors", "layers.0.input_layernorm.weight", "embed_tokens.weight");
    cr_assert_eq(checkpoint_open(&c, folder, err, sizeof err), 0, "%s", err);
    cr_expect_not_null(checkpoint_find(c, "model.embed_tokens.weight"));
    cr_expect_not_null(checkpoint_find(c, "model.layers.0.input_layernorm.weight"));
    cr_expect_null(checkpoint_find(c, "embed_tokens.weight"));
    checkpoint_close(c);
    write_shard("model.safetensors", "model.embed_tokens.weight", "embed_tokens.weight");
    cr_assert_eq(checkpoint_open(&c, folder, err, sizeof err), 0, "%s", err);
    cr_expect_not_null(checkpoint_find(c, "embed_tokens.weight"), "both are there: nothing is renamed");
    checkpoint_close(c);
}

/* 28 GB in two sparse shards: opening reads the headers and no page of data. */
Test(safetensors, opening_reads_headers_only, .timeout = 30) {
    const size_t data_bytes = (size_t)14 << 30, page = (size_t)sysconf(_SC_PAGESIZE);
    struct checkpoint *c;
    for (int i = 0; i < 2; i++) {
        char name[32], header[128];
        size_t bytes;
        snprintf(name, sizeof name, "%d.safetensors", i);
        snprintf(header, sizeof header, "{\"t%d\":{\"dtype\":\"BF16\",\"shape\":[%zu,1024],\"data_offsets\":[0,%zu]}}",
                 i, data_bytes / 2048, data_bytes);
        char *image = image_of(header, 0, &bytes);
        write_file(name, image, bytes);
        free(image);
        if (truncate(path_of(name), (off_t)(bytes + data_bytes)))
            cr_skip_test("this file system has no sparse files of 14 GB");
    }
    cr_assert_eq(open_with_index(&c, "{\"weight_map\":{\"t0\":\"0.safetensors\",\"t1\":\"1.safetensors\"}}"), 0, "%s",
                 err);
    for (size_t i = 0; i < 2; i++) {
        const struct tensor *t = checkpoint_tensor(c, i);
        cr_assert_eq(t->bytes, data_bytes);
        char *first = (char *)((uintptr_t)t->data & ~(page - 1));
        size_t n_pages = data_bytes / page, n_resident = 0;
        unsigned char *resident = malloc(n_pages);
        cr_assert_eq(mincore(first, n_pages * page, resident), 0);
        for (size_t k = 0; k < n_pages; k++) n_resident += resident[k] & 1;
        free(resident);
        cr_expect_leq(n_resident * page, 4u << 20, "the kernel's read-ahead, no more: found %zu pages", n_resident);
    }
    checkpoint_close(c);
}

/* ---- the check -------------------------------------------------------------------------------------------------- */

static const struct model_config SMALL = {.arch = ARCH_QWEN3,
                                          .arch_name = "Qwen3ForCausalLM",
                                          .n_layers = 2,
                                          .hidden = 8,
                                          .n_heads = 4,
                                          .n_kv_heads = 2,
                                          .head_dim = 4,
                                          .ffn = 12,
                                          .vocab = 10,
                                          .tied = true,
                                          .qk_norm = true};

/* The tensors of a model, for a test to damage. */
struct model {
    struct tensor t[64];
    char names[64][MODEL_TENSOR_NAME];
    int n;
};

static void make_model(struct model *m, const struct model_config *config) {
    static const char zeros[4096];
    memset(m, 0, sizeof *m);
    m->n = model_n_tensors(config);
    for (int i = 0; i < m->n; i++) {
        struct tensor *t = &m->t[i];
        t->n_dims = model_tensor(config, i, m->names[i], t->dims);
        t->name = m->names[i];
        t->dtype = DTYPE_BF16;
        t->bytes = 2;
        for (int d = 0; d < t->n_dims; d++) t->bytes *= (size_t)t->dims[d];
        t->data = zeros;
        cr_assert_leq(t->bytes, sizeof zeros);
    }
}

static int find(const struct model *m, const char *name) {
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->t[i].name, name)) return i;
    cr_assert_fail("no tensor %s", name);
    return -1;
}

static int check(const struct model *m, const struct model_config *config) {
    struct checkpoint *c;
    cr_assert_eq(safetensors_write(path_of("model.safetensors"), m->t, (size_t)m->n, err, sizeof err), 0, "%s", err);
    cr_assert_eq(checkpoint_open(&c, folder, err, sizeof err), 0, "%s", err);
    err[0] = 0;
    int status = checkpoint_check(c, config, err, sizeof err);
    checkpoint_close(c);
    return status;
}

static void refused_model(const struct model *m, const struct model_config *config, const char *sentence) {
    cr_expect_eq(check(m, config), STATUS_INVALID);
    cr_expect_str_eq(err, sentence);
}

Test(safetensors, check) {
    struct model m;
    struct model_config config = SMALL;
    make_model(&m, &config);
    cr_expect_eq(m.n, 2 + 2 * 11);
    cr_expect_eq(check(&m, &config), 0, "%s", err);

    /* what may be there besides */
    m.t[m.n++] =
        (struct tensor){.name = "model.rotary_emb.inv_freq", .n_dims = 1, .dims = {2}, .bytes = 8, .data = FLOATS};
    m.t[m.n++] = (struct tensor){.name = "lm_head.weight", .n_dims = 1, .dims = {2}, .bytes = 8, .data = FLOATS};
    cr_expect_eq(check(&m, &config), 0, "%s", err);
    config.tied = false;
    refused_model(&m, &config, "tensor lm_head.weight: expected shape [10, 8] as config.json implies, found [2]");
    m.n--;
    refused_model(&m, &config, "tensor lm_head.weight: expected shape [10, 8], found no tensor of that name");

    config.tied = true;
    make_model(&m, &config);
    m.t[find(&m, "model.layers.1.self_attn.o_proj.weight")].name = "model.layers.2.self_attn.o_proj.weight";
    refused_model(
        &m, &config,
        "tensor model.layers.1.self_attn.o_proj.weight: expected shape [8, 16], found no tensor of that name, "
        "and 1 more");
    make_model(&m, &config);
    m.t[m.n++] = (struct tensor){.name = "score.weight", .n_dims = 1, .dims = {2}, .bytes = 8, .data = FLOATS};
    refused_model(
        &m, &config,
        "tensor score.weight: expected none of that name in a Qwen3ForCausalLM of 2 layers, found one of shape "
        "[2]");
    make_model(&m, &config);
    struct tensor *t = &m.t[find(&m, "model.layers.0.mlp.down_proj.weight")];
    t->dims[0] = 12, t->dims[1] = 8;
    refused_model(&m, &config,
                  "tensor model.layers.0.mlp.down_proj.weight: expected shape [8, 12] as config.json implies, found "
                  "[12, 8]");
    t->n_dims = 1, t->dims[0] = 96;
    refused_model(
        &m, &config,
        "tensor model.layers.0.mlp.down_proj.weight: expected shape [8, 12] as config.json implies, found [96]");
    make_model(&m, &config);
    t = &m.t[find(&m, "model.norm.weight")];
    t->dtype = DTYPE_I32, t->bytes = 32;
    refused_model(&m, &config, "tensor model.norm.weight: expected dtype float32, bfloat16 or float16, found int32");
    t->dtype = DTYPE_F32;
    cr_expect_eq(check(&m, &config), 0, "mixed float dtypes are fine: %s", err);
}

Test(safetensors, check_awq) {
    struct model m;
    struct model_config config = SMALL;
    int64_t dims[TENSOR_MAX_DIMS];
    config.n_layers = 1;
    config.hidden = config.ffn = 128;
    config.n_heads = config.n_kv_heads = 1, config.head_dim = 128;
    config.quantization =
        (struct model_quantization){.method = QUANTIZATION_AWQ, .group = 128, .n_skipped = 1, .skipped = {"up_proj"}};
    cr_assert_eq(model_n_tensors(&config), 2 + 4 + 6 * 3 + 1);
    cr_expect_eq(model_tensor_shape(&config, "model.layers.0.mlp.down_proj.qweight", dims), 2);
    cr_expect(dims[0] == 128 && dims[1] == 16);
    cr_expect_eq(model_tensor_shape(&config, "model.layers.0.mlp.down_proj.scales", dims), 2);
    cr_expect(dims[0] == 1 && dims[1] == 128);
    cr_expect_eq(model_tensor_shape(&config, "model.layers.0.mlp.down_proj.weight", dims), 0);
    cr_expect_eq(model_tensor_shape(&config, "model.layers.0.mlp.up_proj.qweight", dims), 0);
    cr_expect_eq(model_tensor_shape(&config, "model.layers.0.mlp.up_proj.weight", dims), 2);

    static const char zeros[128 * 128 * 2];
    memset(&m, 0, sizeof m);
    m.n = model_n_tensors(&config);
    for (int i = 0; i < m.n; i++) {
        struct tensor *t = &m.t[i];
        t->n_dims = model_tensor(&config, i, m.names[i], t->dims);
        t->name = m.names[i];
        t->dtype =
            strstr(t->name, ".q") && (strstr(t->name, "weight") || strstr(t->name, "zeros")) ? DTYPE_I32 : DTYPE_F16;
        if (strstr(t->name, "norm")) t->dtype = DTYPE_F16;
        t->bytes = dtype_bytes(t->dtype);
        for (int d = 0; d < t->n_dims; d++) t->bytes *= (size_t)t->dims[d];
        t->data = zeros;
        cr_assert_leq(t->bytes, sizeof zeros);
    }
    cr_expect_eq(check(&m, &config), 0, "%s", err);
    struct tensor *scales = &m.t[find(&m, "model.layers.0.self_attn.o_proj.scales")];
    scales->dtype = DTYPE_BF16;
    refused_model(&m, &config,
                  "tensor model.layers.0.self_attn.o_proj.scales: expected dtype float16, found bfloat16");
    scales->dtype = DTYPE_F16;
    struct tensor *zero = &m.t[find(&m, "model.layers.0.self_attn.o_proj.qzeros")];
    zero->dtype = DTYPE_F32;
    refused_model(&m, &config, "tensor model.layers.0.self_attn.o_proj.qzeros: expected dtype int32, found float32");
}

Test(safetensors, check_qwen2) {
    struct model m;
    struct model_config config = SMALL;
    config.arch = ARCH_QWEN2;
    config.qk_norm = false;
    config.qkv_bias = true;
    make_model(&m, &config);
    cr_expect_eq(m.n, 2 + 2 * 12);
    find(&m, "model.layers.1.self_attn.k_proj.bias");
    cr_expect_eq(check(&m, &config), 0, "%s", err);
    cr_expect_eq(check(&m, &SMALL), STATUS_INVALID, "biases are surplus and norms are missing in Qwen3");
    cr_expect_str_eq(
        err, "tensor model.layers.0.self_attn.q_norm.weight: expected shape [4], found no tensor of that name, and "
             "9 more");
}

Test(safetensors, names) {
    int64_t dims[TENSOR_MAX_DIMS];
    cr_expect_eq(model_tensor_shape(&SMALL, "model.layers.1.self_attn.q_proj.weight", dims), 2);
    cr_expect(dims[0] == 16 && dims[1] == 8);
    cr_expect_eq(model_tensor_shape(&SMALL, "model.layers.0.self_attn.q_norm.weight", dims), 1);
    cr_expect_eq(dims[0], 4);
    static const char *const none[] = {"model.layers.2.mlp.up_proj.weight",
                                       "model.layers.00.mlp.up_proj.weight",
                                       "model.layers.-1.mlp.up_proj.weight",
                                       "model.layers..mlp.up_proj.weight",
                                       "model.layers.1.mlp.up_proj.weight2",
                                       "model.layers.1",
                                       "model.layers.4294967296.mlp.up_proj.weight",
                                       "lm_head.weight",
                                       ""};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) cr_expect_eq(model_tensor_shape(&SMALL, none[i], dims), 0);

    /* every name that the table gives is found again, with its shape */
    char name[MODEL_TENSOR_NAME];
    int64_t again[TENSOR_MAX_DIMS], product, sum = 0;
    for (int i = 0; i < model_n_tensors(&SMALL); i++) {
        int n = model_tensor(&SMALL, i, name, dims);
        cr_expect_eq(model_tensor_shape(&SMALL, name, again), n, "%s", name);
        cr_expect_eq(memcmp(dims, again, (size_t)n * sizeof *dims), 0, "%s", name);
        product = 1;
        for (int d = 0; d < n; d++) product *= dims[d];
        sum += product;
    }
    cr_expect_eq(sum, model_config_n_params(&SMALL));
}
