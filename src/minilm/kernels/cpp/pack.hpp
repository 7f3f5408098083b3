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
  const int group = group_of(precision);
  return sizeof(uint32_t) * static_cast<size_t>(round_up(in, kLanes) / group) * static_cast<size_t>(round_up(out, kPanel));
}

MINILM_INLINE uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// `linear` holds zeroed memory; `weights` are [out, in]. A padded weight, bias, scale or sum stays 0.
void pack(Linear* l, const float* weights, const float* bias, int in, int out) {
  l->in = round_up(in, kLanes);
  l->out = round_up(out, kPanel);
  memcpy(l->bias, bias, sizeof(float) * static_cast<size_t>(out));
  const int group = group_of(l->precision);
  const long groups = l->in / group;
  for (int n = 0; n < out; n++) {
    const float* row = weights + static_cast<long>(n) * in;
    float largest = 0;
    for (int k = 0; k < in; k++) {
      const float weight = l->smoothing ? row[k] / l->smoothing[k] : row[k];
      largest = fabsf(weight) > largest ? fabsf(weight) : largest;
    }
    const float step = largest / 127.f;
    const float inverse = step > 0 ? 1.f / step : 0.f;
    long sum = 0;
    for (int k = 0; k < in; k++) {
      const long at = (static_cast<long>(n / kPanel) * groups + k / group) * kPanel + n % kPanel;
      if (l->precision == minilm::kInt8) {
        const float weight = l->smoothing ? row[k] / l->smoothing[k] : row[k];
        const int whole = static_cast<int>(__builtin_rintf(weight * inverse));
        sum += whole;
        if (group == 4) {
          static_cast<int8_t*>(l->weights)[at * 4 + k % 4] = static_cast<int8_t>(whole);
        } else {
          static_cast<int16_t*>(l->weights)[at * 2 + k % 2] = static_cast<int16_t>(whole);
        }
      } else if (l->precision == minilm::kBf16) {
        static_cast<uint16_t*>(l->weights)[at * 2 + k % 2] = to_bf16(row[k]);
      } else {
        static_cast<float*>(l->weights)[at] = row[k];
      }
    }
    if (l->precision == minilm::kInt8) {
      l->scale[n] = step;
      l->column_sum[n] = static_cast<float>(sum);
    }
  }
}

}  // namespace
