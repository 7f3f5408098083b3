// Stored vectors as floats, in plain loops that each unit compiles for its instruction set.
#pragma once

#include <string.h>

#include "engine.hpp"

namespace {

// A separate function: else the compiler does not see that the arrays do not overlap, and converts one by one.
__attribute__((noinline)) void values_of(const int8_t* codes, int n, const float* __restrict lowest,
                                         const float* __restrict steps, float* __restrict to) {
  for (int k = 0; k < n; k++) to[k] = static_cast<float>(codes[k] + 128) * steps[k] + lowest[k];
}

// The vector of a row, then zeros up to `width`; a last byte of signs may write up to seven numbers more.
MINILM_INLINE void numbers_of(const minilm::StoredVectors& from, int64_t row, int width, float* to) {
  const char* at = static_cast<const char*>(from.rows) + row * from.row_bytes;
  const int n = from.dimensions;
  if (from.kind == minilm::kCodes) {
    values_of(reinterpret_cast<const int8_t*>(at), n, from.lowest, from.steps, to);
  } else if (from.kind == minilm::kSigns) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(at);
    for (int k = 0; k < n; k += 8) memcpy(to + k, from.signs + 8 * bytes[k / 8], 8 * sizeof(float));
  } else {
    memcpy(to, at, sizeof(float) * static_cast<size_t>(n));
  }
  for (int k = n; k < width; k++) to[k] = 0;
}

}  // namespace
