/* safetensors_parse on any bytes. Besides not crashing: tensors that come out lie in the image, cover its data exactly,
 * are in name order, and every byte of them can be read.
 *
 * The mutator keeps the length prefix true most of the time (a wrong one ends the parse at once) and begins with a
 * small valid file, so that the time goes into the header. */
#include "kernels/status.h"
#include "weights/weights.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t max_bytes, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t max_bytes);

static const char SEED[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                           "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]},"
                           "\"__metadata__\":{\"format\":\"pt\"}}     ";
#define SEED_DATA 32

static void set_header(uint8_t *data, size_t header_bytes) {
    for (int i = 0; i < 8; i++) data[i] = (uint8_t)((uint64_t)header_bytes >> (8 * i));
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t max_bytes, unsigned seed) {
    const size_t header = sizeof SEED - 1;
    if (bytes < 8 + SEED_DATA || seed % 1000 == 0) {
        if (max_bytes < 8 + header + SEED_DATA) return LLVMFuzzerMutate(data, bytes, max_bytes);
        set_header(data, header);
        memcpy(data + 8, SEED, header);
        memset(data + 8 + header, 7, SEED_DATA);
        bytes = 8 + header + SEED_DATA;
    }
    if (seed % 10 == 0) return LLVMFuzzerMutate(data, bytes, max_bytes);
    /* the last SEED_DATA bytes stay the data, the rest is the header */
    size_t n = LLVMFuzzerMutate(data + 8, bytes - 8 - SEED_DATA, max_bytes - 8 - SEED_DATA);
    memset(data + 8 + n, 7, SEED_DATA);
    set_header(data, n);
    return 8 + n + SEED_DATA;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    char err[ERR_BYTES];
    struct tensor *tensors;
    size_t n, sum = 0;
    unsigned checksum = 0;
    int status = safetensors_parse(&tensors, &n, data, bytes, "input", err, sizeof err);
    CHECK((status == 0) == (tensors != NULL));
    if (status) return 0;
    for (size_t i = 0; i < n; i++) {
        const struct tensor *t = &tensors[i];
        const uint8_t *first = t->data;
        CHECK(first >= data && first + t->bytes <= data + bytes);
        CHECK_EQ((size_t)(first - data) % dtype_bytes(t->dtype), 0);
        CHECK(i == 0 || strcmp(tensors[i - 1].name, t->name) < 0);
        size_t expected = dtype_bytes(t->dtype);
        for (int d = 0; d < t->n_dims; d++) expected *= (size_t)t->dims[d];
        CHECK_EQ(t->bytes, expected);
        for (size_t k = 0; k < t->bytes; k++) checksum += first[k];
        sum += t->bytes;
    }
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--) header = header << 8 | data[i];
    CHECK_EQ(sum, bytes - 8 - header);
    CHECK(checksum + 1); /* a sum of few bytes: keeps the reads */
    safetensors_free(tensors, n);
    return 0;
}
