// The types that the API and the units of each instruction set share: sizes, prepacked weights, work, scratch memory.
//
// Only plain structs: this header is compiled with different instruction sets, so it must not define a function with
// external linkage, and the units include nothing of the standard library that does.
//
// Shapes: B sequences, T packed tokens, N tokens of one sequence, E hidden width, F feed-forward width, H heads,
// D head width, C labels, P pooling modes. "Padded" widths are multiples of a panel; padded columns are always zero.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define MINILM_INLINE inline __attribute__((always_inline))

namespace minilm {

// A row of int8 weights whose step is smaller counts as zeros: the inverse of a smaller one may be infinite.
constexpr float kLeastStep = 1e-30f;

// Numbers after each vector in scratch memory, so that vectors do not share a cache set.
constexpr int kComparedPadding = 16;
// A vector that is shorter counts as long, so that zeros have the cosine 0.
constexpr float kLeastLength = 1e-12f;

enum Precision : int32_t { kFp32 = 0, kBf16 = 1, kInt8 = 2 };
enum Activation : int32_t { kGelu = 0, kGeluTanh = 1, kRelu = 2, kTanh = 3 };
enum Pooling : int32_t { kCls = 0, kLastToken = 1, kMax = 2, kMean = 3, kMeanSqrtLength = 4, kWeightedMean = 5 };
enum Output : int32_t { kPooled = 0, kClassify = 1, kTokens = 2, kRelations = 3 };

// y = x W^T + b, with W prepacked for the unit that runs it.
struct Linear {
  Precision precision;
  int in, out;              // padded: `in` to a whole group, `out` to whole panels
  void* weights;            // [panel][group of inputs][column of the panel][input of the group]
  float* bias;              // [out]
  float* scale;             // int8: [out], what one step of a weight stands for
  float* column_sum;        // int8: [out], the sum of a column's quantised weights
  float* smoothing;         // int8: [in] factors of the inputs before they are quantised, or null
};

struct Norm {
  const float *weight, *bias;  // [E padded]
};

struct Layer {
  Linear qkv, attention_out, ffn_in, ffn_out;
  Norm attention_norm, ffn_norm;
};

struct Model {
  int hidden, heads, head_size, ffn, num_layers, vocab, positions, segments, first_position, labels;
  Activation activation, pooler_activation;
  float eps;
  // Widths of rows in memory, in elements. A head's columns begin at a multiple of `head_stride`.
  int hidden_padded, head_stride, ffn_padded;
  const float *word, *position, *segment;  // tables as in the file: [vocab, E], [positions, E], [segments, E] or null
  Norm embedding_norm;
  Layer* layers;
  Linear pooler, head;  // `weights` is null where the model has none
  int attention_bf16;   // queries, keys, values and probabilities are rounded to bf16
};

// A run of whole sequences that one thread, or one team of threads, takes through all layers.
struct Tile {
  const int32_t *ids, *segments, *lengths;  // `segments` may be null: all 0
  int num_sequences, num_tokens;
  float* out;  // pooled: [B, P * E]; classify: [B, C]; tokens: [T, C]; relations: queries [T, E]
  float *keys_out, *values_out;  // relations: [T, E]
};

struct Wanted {
  Output output;
  const int32_t* pooling;
  int num_pooling, skipped;
  int layer;  // relations: of this layer, from 0
};

// Threads that work on one tile together. They meet at `arrived`; a team of one never waits.
struct Team {
  int rank, size;
  int* arrived;
};

// Vectors in memory that queries are compared with; the Python side has the same fields in the same order.
enum StoredAs : int32_t { kFloats = 0, kCodes = 1, kSigns = 2 };
struct StoredVectors {
  const void* rows;
  int64_t row_bytes;
  StoredAs kind;
  int32_t dimensions;
  int32_t cosine;  // products are divided by the length of the vector
  // Codes are int8: the value of code -128 in each dimension, and what a step is worth, [D].
  const float *lowest, *steps;
  const float* signs;  // the eight numbers that a byte stands for, [256, 8]
};

// What a unit offers. `pack` reads [out, in] row-major weights.
struct Unit {
  const char* name;
  int has_bf16;
  int column_panel;   // columns of a panel: widths of rows are padded to it
  size_t (*linear_bytes)(Precision precision, int in, int out);
  void (*pack)(Linear* linear, const float* weights, const float* bias, int in, int out);
  size_t (*shared_bytes)(const Model*, int tokens);
  size_t (*private_bytes)(const Model*, int longest);
  void (*run)(const Model*, const Tile*, const Wanted*, void* shared, void* own, const Team*);
  // Products of `count` vectors, from a row on, with packed queries, of which the first are real: `scores` is [count,
  // queries->out]. Returns whether the vectors are finite. Scratch: `numbers`, [count, kComparedPadding + queries->in].
  int (*compare)(const StoredVectors*, int64_t first, int count, const Linear* queries, int num_queries, float* numbers,
                 float* scores);
  void (*int8_product)(const uint8_t* rows, const Linear*, int num_rows, int32_t* out);
  // The elementwise functions and the norm alone, for tests: kind 0 activation, 1 softmax of each row, 2 LayerNorm.
  void (*rowwise)(int kind, int detail, float* rows, int num_rows, int width, const float* weight, const float* bias);
  // Computes products in registers and returns the number of operations; 0 if the unit has none of this precision.
  double (*peak)(Precision precision, long rounds);
};

}  // namespace minilm
