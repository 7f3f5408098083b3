// Weights of a linear map, [out, in] floats, into the panels that products.hpp reads: rounded, with the scale and sum
// of each column where they are int8.
#pragma once

#include <math.h>
#include <string.h>

#include "work.hpp"

namespace {

MINILM_INLINE int group_of(minilm::Precision precision) {
  return precision == minilm::kInt8 ? Vec::kInt8Group : precision == minilm::kBf16 ? 2 : 1;
}

size_t linear_bytes(minilm::Precision precision, int in, int out) {
  const size_t bytes = precision == minilm::kInt8 ? 1 : precision == minilm::kBf16 ? 2 : 4;
  return bytes * static_cast<size_t>(round_up(in, kLanes)) * static_cast<size_t>(round_up(out, kPanel));
}

MINILM_INLINE uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// `n` numbers, from input `first` on, to their places in a column of a panel; `first` is a multiple of the group.
template <int kGroup, class To, class Convert>
MINILM_INLINE void spread(const float* from, int first, int n, To* column, Convert convert) {
  To* to = column + static_cast<long>(first) * kPanel;
  for (int k = 0; k < n; k++) to[static_cast<long>(k / kGroup) * kPanel * kGroup + k % kGroup] = convert(from[k]);
}

// One vector of a row of weights, divided by the smoothing factors of their inputs; 0 beyond its end.
MINILM_INLINE F smoothed(const float* row, const float* smoothing, int k, int in) {
  const int here = in - k < kLanes ? in - k : kLanes;
  const F weights = Vec::load_first(row + k, here);
  if (!smoothing) return weights;
  return Vec::select_first(Vec::div(weights, Vec::load_first(smoothing + k, here)), Vec::zero(), here);
}

// A row of weights as whole numbers in its column; returns the scale, and the sum of the column in `column_sum`.
float pack_int8(const float* row, const float* smoothing, int in, int8_t* column, float* column_sum) {
  F most = Vec::zero();
  for (int k = 0; k < in; k += kLanes) {
    const F x = smoothed(row, smoothing, k, in);
    most = Vec::max(most, Vec::max(x, Vec::sub(Vec::zero(), x)));
  }
  float step = Vec::largest(most) / 127.f;
  if (!(step >= minilm::kLeastStep)) step = 0;
  const F inverse = Vec::set1(step > 0 ? 1.f / step : 0.f);
  F sum = Vec::zero();  // of whole numbers, which is exact
  for (int k = 0; k < in; k += kLanes) {
    const F whole = Vec::round(Vec::mul(smoothed(row, smoothing, k, in), inverse));
    sum = Vec::add(sum, whole);
    alignas(64) float numbers[kLanes];
    Vec::store(numbers, whole);
    int8_t bytes[kLanes];
    for (int i = 0; i < kLanes; i++) bytes[i] = static_cast<int8_t>(static_cast<int>(numbers[i]));
    for (int i = 0; i < kLanes; i += Vec::kInt8Group) {
      memcpy(column + static_cast<long>(k + i) * kPanel, bytes + i, Vec::kInt8Group);
    }
  }
  *column_sum = Vec::sum(sum);
  return step;
}

// `linear` holds zeroed memory; `weights` are [out, in]. A padded weight, bias, scale or sum stays 0.
void pack(Linear* l, const float* weights, const float* bias, int in, int out) {
  l->in = round_up(in, kLanes);
  l->out = round_up(out, kPanel);
  memcpy(l->bias, bias, sizeof(float) * static_cast<size_t>(out));
  const int group = group_of(l->precision);
  for (int n = 0; n < out; n++) {
    const float* row = weights + static_cast<long>(n) * in;
    const long at = static_cast<long>(n / kPanel) * l->in * kPanel + static_cast<long>(n % kPanel) * group;
    if (l->precision == minilm::kInt8) {
      l->scale[n] = pack_int8(row, l->smoothing, in, static_cast<int8_t*>(l->weights) + at, l->column_sum + n);
    } else if (l->precision == minilm::kBf16) {
      spread<2>(row, 0, in, static_cast<uint16_t*>(l->weights) + at, to_bf16);
    } else {
      spread<1>(row, 0, in, static_cast<float*>(l->weights) + at, [](float x) { return x; });
    }
  }
}

}  // namespace
