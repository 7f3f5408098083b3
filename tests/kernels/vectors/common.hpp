// The C interface of the kernels as their sources state it, and the numbers that reference.py and the program share.
#pragma once

#include <stdint.h>

#include <stdexcept>
#include <string>
#include <vector>

extern "C" {
struct MinilmShape {
  int32_t hidden, heads, ffn, layers, vocab, positions, segments, first_position, labels, activation, pooler_activation;
  float eps;
};
struct MinilmRelationSide {
  const void* rows;
  long stride;
  int32_t bf16;
};
struct MinilmRelationPair {
  MinilmRelationSide teacher_a, teacher_b, student_a, student_b;
  int32_t heads, teacher_width, student_width, symmetric;
  float *gradient_a, *gradient_b;
};
const char* minilm_error();
const char* minilm_kernels_isas();
int minilm_kernels_has_bf16(const char*);
int minilm_create(const MinilmShape*, const char* isa, int threads, int tile_tokens, void** handle);
void minilm_free(void*);
int minilm_set_embeddings(void*, const float*, const float*, const float*, const float*, const float*);
int minilm_set_linear(void*, int layer, int which, int precision, const float* const*, const float* const*,
                      const float*);
int minilm_set_norm(void*, int layer, int which, const float*, const float*);
int minilm_set_head(void*, const float*, const float*, const float*, const float*);
int minilm_run(void*, const int32_t* ids, const int32_t* segments, const int32_t* ends, int num_sequences, int output,
               const int32_t* pooling, int num_pooling, int skipped, int layer, float*, float*, float*);
int minilm_relation_create(const char* isa, int threads, void** handle);
void minilm_relation_free(void*);
int minilm_relation_run(void*, const MinilmRelationPair*, const int32_t* ends, int num_sequences, const double* weights,
                        double* losses);
int minilm_test_int8_product(const char*, const uint8_t*, int, const float*, int, int, int32_t*);
int minilm_test_rowwise(const char*, int kind, int detail, float*, int, int, const float*, const float*);
}

namespace {

using Floats = std::vector<float>;

void require(bool holds, const std::string& message) {
  if (!holds) throw std::runtime_error(message);
}

void done(int status) { require(status == 0, minilm_error()); }

uint32_t hashed(int array, uint32_t index) {
  uint32_t x = index + (static_cast<uint32_t>(array) << 24);
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

Floats numbers(int array, size_t count, float scale, float offset = 0) {
  Floats found(count);
  for (size_t i = 0; i < count; i++) {
    const auto whole = static_cast<int>(hashed(array, static_cast<uint32_t>(i)) >> 16) - 32768;
    found[i] = offset + static_cast<float>(whole) * (scale / 32768.f);
  }
  return found;
}

}  // namespace
