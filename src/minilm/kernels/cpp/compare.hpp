// Products of stored vectors with queries, which are the weights of a linear map.
//
// Included after the products of one instruction set. A product has the same bits whatever else is computed with it.
#pragma once

#include "products.hpp"
#include "stored.hpp"

namespace {

// As `panels`, of a map with one panel of which the first vector of columns is enough.
void few_columns(const Linear& queries, const float* numbers, long stride, int rows, float* scores) {
  for (int row = 0; row < rows; row += kRows) {
    const auto* from = reinterpret_cast<const uint32_t*>(numbers + row * stride);
    auto* to = reinterpret_cast<uint32_t*>(scores + static_cast<long>(row) * queries.out);
    product<Vec::Fp32, 1>(rows - row < kRows ? rows - row : kRows, from, stride,
                          static_cast<const char*>(queries.weights), queries.in, to, queries.out);
  }
}

int compare(const minilm::StoredVectors* stored, int64_t first, int count, const Linear* queries, int num_queries,
            float* numbers, float* scores) {
  const long stride = queries->in + minilm::kComparedPadding;
  F finite = Vec::zero();
  for (int row = 0; row < count; row++) {
    float* to = numbers + row * stride;
    numbers_of(*stored, first + row, queries->in, to);
    F squares = Vec::zero();
    for (int k = 0; k < queries->in; k += kLanes) {
      const F x = Vec::load(to + k);
      squares = Vec::fma(x, x, squares);
      finite = Vec::fma(x, Vec::zero(), finite);
    }
    if (stored->cosine) {
      const float length = __builtin_sqrtf(Vec::sum(squares));
      to[queries->in] = 1.f / (length > minilm::kLeastLength ? length : minilm::kLeastLength);
    }
  }
  if (num_queries <= kLanes) {
    few_columns(*queries, numbers, stride, count, scores);
  } else {
    const Operand vectors = {reinterpret_cast<const uint32_t*>(numbers), stride, nullptr, nullptr};
    panels<Vec::Fp32, StoreTo>(*queries, vectors, count, 0, queries->out / kPanel, scores, queries->out);
  }
  for (int row = 0; stored->cosine && row < count; row++) {
    const F factor = Vec::set1(numbers[row * stride + queries->in]);
    float* here = scores + static_cast<long>(row) * queries->out;
    for (int k = 0; k < num_queries; k += kLanes) Vec::store(here + k, Vec::mul(Vec::load(here + k), factor));
  }
  return Vec::sum(finite) == 0;
}

}  // namespace
