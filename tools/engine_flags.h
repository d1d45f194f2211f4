/* engine_flags.h - the flags that every command which opens an engine shares: vLLM's names and meanings. */
#pragma once

#include "engine/engine.h"
#include "tools/options.h"

/* Rows of option tables; `o` is a struct engine_options preset by engine_default_options(). Those of the model: */
#define ENGINE_MODEL_FLAGS(o)                                                                                          \
    FLAG(STRING, "dtype", &(o).dtype, "TYPE", "auto, bfloat16, float16 or float32; auto is the checkpoint's",          \
         .shown = "auto"),                                                                                             \
        FLAG(STRING, "kv-cache-dtype", &(o).kv_cache_dtype, "TYPE", "auto, fp8 or fp8_e4m3", .shown = "auto"),         \
        FLAG(INT, "max-model-len", &(o).max_model_len, "N", "longest prompt and answer together, in tokens", .low = 0, \
             .high = 1 << 22, .shown = "the model's"),                                                                 \
        FLAG(INT, "max-num-seqs", &(o).max_num_seqs, "N", "sequences in one step, at most", .low = 1, .high = 4096),   \
        FLAG(INT, "max-num-batched-tokens", &(o).max_num_batched_tokens, "N", "tokens in one step, at most", .low = 1, \
             .high = 1 << 17),                                                                                         \
        FLAG(INT, "long-prefill-token-threshold", &(o).long_prefill_token_threshold, "N",                              \
             "longest piece of one prompt in a step; 0: no bound", .low = 0, .high = 1 << 22),                         \
        FLAG(INT, "block-size", &(o).block_size, "N", "tokens per KV block", .low = 1, .high = 256),                   \
        FLAG(STRING, "quantization", &(o).quantization, "NAME", "awq or awq_marlin: expect an AWQ checkpoint",         \
             .shown = "the checkpoint's"),                                                                             \
        FLAG(STRING, "load-format", &(o).load_format, "NAME", "auto, safetensors, or dummy: random weights",           \
             .shown = "auto"),                                                                                         \
        FLAG(BOOL, "enforce-eager", &(o).enforce_eager, NULL, "no CUDA graphs"),                                       \
        FLAG(INT, "num-gpu-blocks-override", &(o).num_blocks_override, "N", "exactly so many KV blocks", .low = 0,     \
             .high = 1 << 28, .shown = "from the memory"),                                                             \
        FLAG(BOOL, "enable-prefix-caching", &(o).enable_prefix_caching, NULL, "reuse the KV of repeated prefixes"),    \
        FLAG(STRING, "speculative-config", &(o).speculative_config, "JSON",                                            \
             "speculative decoding, e.g. '{\"method\": \"ngram\"}'; server/README.md has all", .shown = "none")

/* Those of the device, which all models of a process share: */
#define ENGINE_DEVICE_FLAGS(o)                                                                                         \
    FLAG(STRING, "device", &(o).backend, "NAME", "cpu or cuda", .shown = "cuda where there is a GPU"),                 \
        FLAG(DOUBLE, "gpu-memory-utilization", &(o).gpu_memory_utilization, "X", "share of a GPU's memory to use",     \
             .low = 0.01, .high = 1),                                                                                  \
        FLAG(SIZE, "kv-cache-memory-bytes", &(o).kv_cache_memory_bytes, "BYTES", "memory of the KV pool",              \
             .shown = "GPU: the rest of its share; CPU: up to a quarter of what is free"),                             \
        FLAG(INT, "threads", &(o).n_threads, "N", "of the CPU backend", .low = 0, .high = 1024,                        \
             .shown = "one per core")

#define ENGINE_FLAGS(o) FLAG_TITLE("Engine"), ENGINE_MODEL_FLAGS(o), ENGINE_DEVICE_FLAGS(o)
