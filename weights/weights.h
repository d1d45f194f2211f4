/* weights.h - checkpoints: from a folder in Hugging Face layout to validated tensors and a model configuration.
 *
 * Owns: finding the folder, config.json, generation_config.json, sentence-transformers' files, safetensors by mmap, and
 * the check that exactly the tensors which the architecture needs are there with the right shapes. Knows no engine and
 * no device. Every number read from a file is untrusted until it has been checked here; each failure is one sentence
 * that names the file or tensor, what was expected and what was found. Called at start-up by one thread; afterwards
 * read-only.
 *
 * Format sources: https://github.com/huggingface/safetensors#format and transformers' configuration_qwen2/qwen3. */
#pragma once

#include "kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- where a model is ----------------------------------------------------------------------------------------- */

/* Finds the folder for what a user typed: a folder that holds config.json, or a name "org/name" in the local Hugging
 * Face cache ($HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub: the first that
 * is set; refs/main or the only snapshot). A file NAME.json (a shape file: a config.json without a checkpoint) is found
 * as itself. Writes the path. STATUS_NOT_FOUND says where it looked. */
int model_find(const char *name, char *path, size_t path_bytes, char *err, size_t err_bytes);

/* ---- config.json, generation_config.json ----------------------------------------------------------------------- */

enum model_arch { ARCH_QWEN2, ARCH_QWEN3, ARCH_COUNT };

#define MODEL_MAX_EOS 16
#define MODEL_MAX_SKIPPED 16

/* quantization_config: the linear layers of the decoder are in AutoAWQ's "gemm" form, but for those that a word of
 * `skipped` (modules_to_not_convert) occurs in the name of. Embedding and lm_head never are. */
enum quantization { QUANTIZATION_NONE, QUANTIZATION_AWQ };
struct model_quantization {
    enum quantization method;
    int group; /* inputs that share a scale and a zero point: 128 */
    int n_skipped;
    char skipped[MODEL_MAX_SKIPPED][64];
};

struct model_config {
    enum model_arch arch;
    char arch_name[64];    /* as in the file: "Qwen3ForCausalLM" */
    enum dtype dtype;      /* dtype, else torch_dtype, else the checkpoint's (of the embedding): f32, bf16 or f16 */
    int n_layers;          /* L */
    int hidden;            /* C */
    int n_heads;           /* H */
    int n_kv_heads;        /* K */
    int head_dim;          /* D: head_dim, else Qwen2: C / H, Qwen3: 128 */
    int ffn;               /* F */
    int vocab;             /* V, rows of the embedding */
    int max_positions;     /* max_position_embeddings */
    float rms_eps;
    float rope_theta;      /* rope_theta, or rope_parameters.rope_theta (transformers >= 5) */
    bool tied;             /* tie_word_embeddings: lm_head is the embedding */
    bool qkv_bias;         /* Qwen2: yes; Qwen3: no */
    bool qk_norm;          /* Qwen3: yes; Qwen2: no */
    struct model_quantization quantization;
};

/* Reads FOLDER/config.json, or `folder` itself where that is a file. Both the classic form (torch_dtype, rope_theta,
 * rope_scaling) and the one of transformers 5 (dtype, rope_parameters). Fields that give the model its shape must be
 * there; the others have the defaults of transformers' class (max_position_embeddings 32768, rms_norm_eps 1e-6,
 * rope_theta 10000, tie_word_embeddings false). An absent dtype is the checkpoint's, as with Hugging Face's
 * dtype="auto": that of the embedding, and float32 where there is no checkpoint either.
 *
 * Bounds: every count is positive and at most 2^20 (vocab 2^22, layers 1024), H % K == 0, D even and <= 256. Refused
 * by name: unknown architectures, quantisation other than AutoAWQ's "gemm" form (GPTQ, llm-awq's, ...), a rope type
 * other than default, sliding windows that are on, attention_bias in Qwen3 (it adds a bias to o_proj), activations
 * other than silu. */
int model_config_load(struct model_config *config, const char *folder, char *err, size_t err_bytes);

/* Parameters in all (embedding counted once when tied), and bytes per token of K and V of all layers in a given KV
 * dtype (with the f32 scale per token and head for fp8). */
int64_t model_config_n_params(const struct model_config *config);
int64_t model_config_kv_bytes(const struct model_config *config, enum dtype kv_dtype);

struct generation_config {
    int n_eos;
    int32_t eos[MODEL_MAX_EOS]; /* generation_config.json, else config.json; each in 0..V-1; may be empty */
    float temperature;          /* defaults for requests that say nothing: 1, 1, 0 (off), 0 (off), 1 */
    float top_p;
    int top_k;
    float min_p;
    float repetition_penalty;
};

/* A missing generation_config.json is no error. do_sample: false gives temperature 0. */
int generation_config_load(struct generation_config *config, const struct model_config *model, const char *folder,
                           char *err, size_t err_bytes);

/* ---- encoders: BERT, with what sentence-transformers puts beside it -------------------------------------------- */

struct encoder_config {
    char arch_name[64];    /* "BertModel" */
    enum dtype dtype;      /* as model_config's */
    int n_layers;          /* L */
    int hidden;            /* C */
    int n_heads;           /* H */
    int head_dim;          /* D = C / H */
    int ffn;               /* F */
    int vocab;             /* V */
    int max_positions;     /* rows of the position embedding */
    int n_token_types;     /* rows of the token type embedding, of which the first is used */
    float norm_eps;        /* layer_norm_eps */
    enum pooling pooling;  /* what a text's vector is made of */
    bool normalize;        /* and whether it is brought to length 1 */
    int max_len;           /* tokens of a text, [CLS] and [SEP] included: max_seq_length, else max_positions */
};

/* Whether config.json (in a folder, or a shape file) is an encoder's: model_type "bert". */
int model_is_encoder(bool *is_encoder, const char *folder, char *err, size_t err_bytes);

/* Reads config.json of a BertModel and, in a folder, modules.json, the pooling's config.json,
 * sentence_bert_config.json, tokenizer_config.json (model_max_length) and config_sentence_transformers.json. Bounds as
 * model_config_load's. Refused by name: other architectures, activations other than gelu (by erf), relative positions,
 * decoders, quantisation, pooling other than CLS or mean, modules other than Transformer, Pooling, Normalize, a default
 * prompt. A folder without modules.json gives the mean, not normalised, as in sentence-transformers. */
int encoder_config_load(struct encoder_config *config, const char *folder, char *err, size_t err_bytes);
int64_t encoder_config_n_params(const struct encoder_config *config);

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

#define TENSOR_MAX_DIMS 8

struct tensor {
    const char *name;  /* owned by the checkpoint */
    enum dtype dtype;  /* F32, BF16, F16, I32, I64 */
    int n_dims;
    int64_t dims[TENSOR_MAX_DIMS];
    size_t bytes;
    const void *data;  /* view of the mapped file: read-only, aligned to the dtype, valid until checkpoint_close */
};

struct checkpoint; /* owned: the mappings and the index */

/* Opens model.safetensors, or else every shard that model.safetensors.index.json names, in `folder`. Validated before
 * use: header size (<= 100 MB and inside the file), strict JSON, dtypes, shapes (product must not overflow), offsets
 * (in the file, equal to shape x dtype, aligned to the dtype, neither overlapping nor leaving holes), names unique,
 * index and shards agreeing. Reads headers only; the data pages are read when someone looks at them. The files must not
 * be truncated while they are open (looking at the lost part would be a bus error).
 *
 * Checkpoints of the bare decoder (Qwen3-Embedding) name their tensors without "model."; they get that prefix here.
 * Those of BERT inside a larger model name theirs with "bert."; they lose it. */
int checkpoint_open(struct checkpoint **out, const char *folder, char *err, size_t err_bytes);
void checkpoint_close(struct checkpoint *c); /* NULL is fine */

/* NULL if there is none of that name. */
const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name);
size_t checkpoint_n_tensors(const struct checkpoint *c);
const struct tensor *checkpoint_tensor(const struct checkpoint *c, size_t i); /* in name order */

/* Parses one safetensors image in memory into tensors in name order (the fuzz entry; checkpoint_open uses it for each
 * file). Reads the header only. On success *tensors is malloc'ed (n of them; names and array freed by safetensors_free)
 * and data points into the image. `label` names the file. STATUS_UNSUPPORTED for a dtype other than the five. */
int safetensors_parse(struct tensor **tensors, size_t *n, const void *image, size_t bytes, const char *label,
                      char *err, size_t err_bytes);
void safetensors_free(struct tensor *tensors, size_t n);

/* Writes tensors as one safetensors file (atomically: a temporary file, then rename), with metadata {"format": "pt"} as
 * Hugging Face wants it. Order and alignment are made here; names must be unique, `bytes` must fit shape and dtype. */
int safetensors_write(const char *path, const struct tensor *tensors, size_t n, char *err, size_t err_bytes);

/* The same for what does not fit in memory: the tensors are announced (their data are not looked at), then put one by one
 * in any order, each whole and once; commit renames the file into place and frees, discard leaves nothing behind. */
struct safetensors_file; /* owned: a file being written */
int safetensors_create(struct safetensors_file **out, const char *path, const struct tensor *tensors, size_t n,
                       char *err, size_t err_bytes);
int safetensors_put(struct safetensors_file *f, const char *name, const void *data, char *err, size_t err_bytes);
int safetensors_commit(struct safetensors_file *f, char *err, size_t err_bytes); /* frees f, also when it fails */
void safetensors_discard(struct safetensors_file *f);                            /* NULL is fine */

/* Whether the linear layer of this name ("model.layers.3.mlp.up_proj", with or without ".weight") is quantised: its
 * weight [N, K] is then .qweight [K, N / 8] i32, .qzeros [K / group, N / 8] i32 and .scales [K / group, N] f16. */
bool model_is_quantized(const struct model_config *config, const char *name);

/* The tensors that `config` implies, from one table: model_n_tensors() of them, each with its Hugging Face name and
 * shape. model_tensor() writes the i-th (MODEL_TENSOR_NAME bytes suffice for any name) and returns its number of
 * dimensions; model_tensor_shape() looks one up by name and returns 0 if the model has none of that name. Layer 0 comes
 * first within each kind of tensor; a tied model has no lm_head.weight. */
#define MODEL_TENSOR_NAME 80
int model_n_tensors(const struct model_config *config);
int model_tensor(const struct model_config *config, int i, char name[MODEL_TENSOR_NAME], int64_t dims[TENSOR_MAX_DIMS]);
int model_tensor_shape(const struct model_config *config, const char *name, int64_t dims[TENSOR_MAX_DIMS]);

/* That the checkpoint holds exactly the tensors that `config` implies: none missing, none surplus (a tied model may
 * carry lm_head.weight; rotary inv_freq buffers are ignored), each of the shape and of a float dtype (qweight and
 * qzeros of int32, scales of float16). The first fault is the sentence; "and N more" is added. */
int checkpoint_check(const struct checkpoint *c, const struct model_config *config, char *err, size_t err_bytes);

/* The same for an encoder; the pooler's tensors and position_ids may be there and are ignored. */
int encoder_n_tensors(const struct encoder_config *config);
int encoder_check(const struct checkpoint *c, const struct encoder_config *config, char *err, size_t err_bytes);

/* ---- a new checkpoint's folder ----------------------------------------------------------------------------------- */

/* Makes the folder; one that is there must be empty. */
int model_folder_create(const char *folder, char *err, size_t err_bytes);
/* What stands beside the tensors, once they are there: source's *.json, *.txt and *.jinja (tokenizer, generation_config,
 * templates), and last config.json, source's with dtype float16 and a quantization_config as AutoAWQ writes it. Without
 * config.json no program takes the folder for a model. */
int model_folder_finish(const char *folder, const char *source, const struct model_quantization *quantization, char *err,
                        size_t err_bytes);

/* ---- download ---------------------------------------------------------------------------------------------------- */

struct pull_options {
    const char *repo;     /* "Qwen/Qwen3-0.6B" */
    const char *revision; /* "main" when NULL */
    const char *endpoint; /* "https://huggingface.co" when NULL ($HF_ENDPOINT is read by the caller) */
    const char *token;    /* bearer token or NULL */
    const char *folder;   /* where to put the files; created */
    /* May be NULL. Called often, from the calling thread. Return nonzero to stop. file_bytes is 0 while unknown. */
    int (*progress)(void *user, const char *file, int64_t done, int64_t file_bytes, int file_id, int n_files);
    void *user;
};

/* Downloads a model in Hugging Face layout: the file list from {endpoint}/api/models/{repo}/revision/{revision}
 * (with blobs), then *.json, *.safetensors, *.txt, *.jinja from {endpoint}/{repo}/resolve/{revision}/{file}. A file is
 * written to FILE.part and renamed when complete; an existing .part is resumed by a Range request; size, and SHA-256
 * for LFS files, are checked. File names that would leave the folder are refused. */
int model_pull(const struct pull_options *options, char *err, size_t err_bytes);
