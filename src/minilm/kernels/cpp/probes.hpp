// Parts of the computation alone, for tests: int8 products, functions of rows; and the peak of the processor's units.
#pragma once

#include "products.hpp"

namespace {

// The whole sums of an int8 product, [rows, out padded], for rows of bytes of the padded width.
void int8_product(const uint8_t* rows, const Linear* l, int num_rows, int32_t* out) {
  const long groups = l->in / Vec::kInt8Group;
  for (int row = 0; row < num_rows; row++) {
    uint32_t operand[4096];
    for (int k = 0; k < l->in; k++) {
      if (Vec::kInt8Group == 4) {
        reinterpret_cast<uint8_t*>(operand)[k] = rows[static_cast<long>(row) * l->in + k];
      } else {
        reinterpret_cast<uint16_t*>(operand)[k] = rows[static_cast<long>(row) * l->in + k];
      }
    }
    for (int panel = 0; panel < l->out / kPanel; panel++) {
      const char* weights = static_cast<const char*>(l->weights) + panel * groups * kPanel * Vec::Int8::kBytes;
      product<Vec::Int8, 2>(1, operand, groups, weights, groups,
                            reinterpret_cast<uint32_t*>(out) + static_cast<long>(row) * l->out + panel * kPanel, kPanel);
    }
  }
}

template <Activation kKind>
void activate_row(float* row, int width) {
  for (int k = 0; k < width; k += kLanes) {
    const int here = width - k < kLanes ? width - k : kLanes;
    Vec::store_first(row + k, activate<kKind>(Vec::load_first(row + k, here)), here);
  }
}

// Rows lie `width` rounded up to 16 apart.
void rowwise(int kind, int detail, float* rows, int num_rows, int width, const float* weight, const float* bias) {
  const long stride = round_up(width, 16);
  for (int row = 0; row < num_rows; row++) {
    float* here = rows + row * stride;
    if (kind == 0) {
      switch (detail) {
        case minilm::kGelu: activate_row<minilm::kGelu>(here, width); break;
        case minilm::kGeluTanh: activate_row<minilm::kGeluTanh>(here, width); break;
        case minilm::kRelu: activate_row<minilm::kRelu>(here, width); break;
        default: activate_row<minilm::kTanh>(here, width);
      }
    } else if (kind == 1) {
      const float inverse = exp_row(here, width, 1.f);
      for (int k = 0; k < width; k++) here[k] *= inverse;
    } else {
      layer_norm(here, width, weight, bias, 1e-12f);
    }
  }
}

// Products in registers alone, as many at once as a block has: what no memory slows down. Returns operations.
template <class Dot>
double peak_products(long rounds) {
  constexpr int kSums = 2 * kRows;
  Vec::I sums[kSums];
  Vec::I a = Vec::repeat_group(0x3c003c00u);
  const Vec::I b = Vec::repeat_group(0x01010101u);
#pragma GCC unroll 32
  for (int i = 0; i < kSums; i++) sums[i] = Vec::zero_groups();
  for (long k = 0; k < rounds; k++) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; i++) {
      Vec::keep(a);  // as if it were another one: no product is left out
      sums[i] = Dot::dot(sums[i], a, b);
      Vec::keep(sums[i]);
    }
  }
  uint32_t result[kLanes];
#pragma GCC unroll 32
  for (int i = 0; i < kSums; i++) {
    Vec::store_groups(result, sums[i]);
    asm volatile("" : : "r"(result) : "memory");  // as if it were read
  }
  return static_cast<double>(rounds) * kSums * kLanes * 2 * Dot::kGroup;
}

double peak(minilm::Precision precision, long rounds) {
  if (precision == minilm::kInt8) return peak_products<Vec::Int8>(rounds);
#ifdef MINILM_BF16
  if (precision == minilm::kBf16) return peak_products<Vec::Bf16>(rounds);
#endif
  return precision == minilm::kFp32 ? peak_products<Vec::Fp32>(rounds) : 0;
}

}  // namespace
