// Vectors of 8 floats in two registers of NEON, and products of bytes widened to 16 bits.
//
// Everything is in an anonymous namespace: each unit has its own copy, compiled with its own instruction set.
// Lanes are added in the order of vec_avx2.hpp: the two units compute the same bits.
#pragma once

#include <arm_neon.h>

#include "engine.hpp"

namespace {

struct Vec {
  struct F {
    float32x4_t low, high;  // 8 floats
  };
  struct I {
    uint32x4_t low, high;  // 8 groups of 32 bits: a float, or several narrow integers
  };
  static constexpr int kLanes = 8;
  static constexpr int kRows = 6;  // of a block of the product: 6 x 4 accumulators leave 8 of 32 registers
  static constexpr int kInt8Group = 2;
  static constexpr bool kHasBf16 = false;

  static MINILM_INLINE F zero() { return set1(0.f); }
  static MINILM_INLINE F set1(float value) { return {vdupq_n_f32(value), vdupq_n_f32(value)}; }
  static MINILM_INLINE F load(const float* from) { return {vld1q_f32(from), vld1q_f32(from + 4)}; }
  static MINILM_INLINE void store(float* to, F v) {
    vst1q_f32(to, v.low);
    vst1q_f32(to + 4, v.high);
  }
  static MINILM_INLINE F add(F a, F b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
  static MINILM_INLINE F sub(F a, F b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
  static MINILM_INLINE F mul(F a, F b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
  static MINILM_INLINE F div(F a, F b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
  static MINILM_INLINE F fma(F a, F b, F c) {
    return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
  }
  static MINILM_INLINE F max(F a, F b) { return {vmaxq_f32(a.low, b.low), vmaxq_f32(a.high, b.high)}; }
  static MINILM_INLINE F min(F a, F b) { return {vminq_f32(a.low, b.low), vminq_f32(a.high, b.high)}; }
  static MINILM_INLINE F round(F v) { return {vrndnq_f32(v.low), vrndnq_f32(v.high)}; }

  // 2^n for whole n in [-126, 127].
  static MINILM_INLINE F power_of_two(F n) { return {power_of_two(n.low), power_of_two(n.high)}; }
  static MINILM_INLINE float32x4_t power_of_two(float32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
  }

  // `v`, but 0 where `x < bound`; where x is NaN, `v`.
  static MINILM_INLINE F zero_below(F x, float bound, F v) {
    return {zero_below(x.low, bound, v.low), zero_below(x.high, bound, v.high)};
  }
  static MINILM_INLINE float32x4_t zero_below(float32x4_t x, float bound, float32x4_t v) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), vcltq_f32(x, vdupq_n_f32(bound))));
  }

  // What lies behind the first n floats may be another's memory.
  static MINILM_INLINE F load_first(const float* from, int n) {
    if (n >= kLanes) return load(from);
    float some[kLanes] = {};
    for (int i = 0; i < n; i++) some[i] = from[i];
    return load(some);
  }
  static MINILM_INLINE void store_first(float* to, F v, int n) {
    if (n >= kLanes) return store(to, v);
    float some[kLanes];
    store(some, v);
    for (int i = 0; i < n; i++) to[i] = some[i];
  }
  // The first n lanes of `v`, the others of `rest`.
  static MINILM_INLINE F select_first(F v, F rest, int n) {
    static const int32_t kNumbers[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7};
    const int32x4_t count = vdupq_n_s32(n);
    return {vbslq_f32(vcgtq_s32(count, vld1q_s32(kNumbers)), v.low, rest.low),
            vbslq_f32(vcgtq_s32(count, vld1q_s32(kNumbers + 4)), v.high, rest.high)};
  }

  static MINILM_INLINE float sum(F v) {
    const float32x4_t four = vaddq_f32(v.low, v.high);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }
  static MINILM_INLINE float largest(F v) { return vmaxvq_f32(vmaxq_f32(v.low, v.high)); }

  // In a register, with a value that the compiler does not know.
  static MINILM_INLINE void keep(I& v) { asm("" : "+w"(v.low), "+w"(v.high)); }
  static MINILM_INLINE void pause() { asm volatile("yield"); }

  // Groups of 32 bits and the products that accumulate them.
  static MINILM_INLINE I zero_groups() { return repeat_group(0); }
  static MINILM_INLINE I load_groups(const uint32_t* from) { return {vld1q_u32(from), vld1q_u32(from + 4)}; }
  static MINILM_INLINE I load_bytes(const char* from) { return load_groups(reinterpret_cast<const uint32_t*>(from)); }
  static MINILM_INLINE void store_groups(uint32_t* to, I v) {
    vst1q_u32(to, v.low);
    vst1q_u32(to + 4, v.high);
  }
  static MINILM_INLINE I repeat_group(uint32_t group) { return {vdupq_n_u32(group), vdupq_n_u32(group)}; }
  static MINILM_INLINE F as_floats(I v) { return {vreinterpretq_f32_u32(v.low), vreinterpretq_f32_u32(v.high)}; }
  static MINILM_INLINE F to_floats(I v) {
    return {vcvtq_f32_s32(vreinterpretq_s32_u32(v.low)), vcvtq_f32_s32(vreinterpretq_s32_u32(v.high))};
  }

  // kBytes: of a group of weights in memory.
  struct Fp32 {
    static constexpr int kGroup = 1, kBytes = 4;
    static MINILM_INLINE I load_columns(const char* from) { return load_bytes(from); }
    static MINILM_INLINE I dot(I sum, I a, I b) { return {dot(sum.low, a.low, b.low), dot(sum.high, a.high, b.high)}; }
    static MINILM_INLINE uint32x4_t dot(uint32x4_t sum, uint32x4_t a, uint32x4_t b) {
      return vreinterpretq_u32_f32(
          vfmaq_f32(vreinterpretq_f32_u32(sum), vreinterpretq_f32_u32(a), vreinterpretq_f32_u32(b)));
    }
  };
  struct Int8 {
    static constexpr int kGroup = kInt8Group, kBytes = kInt8Group;
    static MINILM_INLINE I load_columns(const char* from) {
      const int8x16_t bytes = vld1q_s8(reinterpret_cast<const int8_t*>(from));
      return {vreinterpretq_u32_s16(vmovl_s8(vget_low_s8(bytes))),
              vreinterpretq_u32_s16(vmovl_s8(vget_high_s8(bytes)))};
    }
    static MINILM_INLINE I dot(I sum, I a, I b) { return {dot(sum.low, a.low, b.low), dot(sum.high, a.high, b.high)}; }
    // 255 times 127 has 15 bits: a product of 16 bits is exact, and two of them are added to a sum of 32.
    static MINILM_INLINE uint32x4_t dot(uint32x4_t sum, uint32x4_t a, uint32x4_t b) {
      const int16x8_t products = vmulq_s16(vreinterpretq_s16_u32(a), vreinterpretq_s16_u32(b));
      return vreinterpretq_u32_s32(vpadalq_s16(vreinterpretq_s32_u32(sum), products));
    }
  };

  // Whole numbers 0..255 as the elements of a group, 16 bits each.
  static MINILM_INLINE void store_quantised(uint8_t* to, F v) {
    const int16x4_t low = vmovn_s32(vcvtnq_s32_f32(v.low)), high = vmovn_s32(vcvtnq_s32_f32(v.high));
    vst1q_s16(reinterpret_cast<int16_t*>(to), vcombine_s16(low, high));
  }

  // The 8 x 8 block at `from`, transposed: four blocks of 4 x 4.
  static MINILM_INLINE void transpose(const float* from, long from_stride, float* to, long to_stride) {
    for (int row = 0; row < 8; row += 4) {
      for (int column = 0; column < 8; column += 4) {
        transpose4(from + row * from_stride + column, from_stride, to + column * to_stride + row, to_stride);
      }
    }
  }
  static MINILM_INLINE void transpose4(const float* from, long from_stride, float* to, long to_stride) {
    const float32x4_t a = vld1q_f32(from), b = vld1q_f32(from + from_stride);
    const float32x4_t c = vld1q_f32(from + 2 * from_stride), d = vld1q_f32(from + 3 * from_stride);
    const float64x2_t ab = vreinterpretq_f64_f32(vtrn1q_f32(a, b)), ba = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
    const float64x2_t cd = vreinterpretq_f64_f32(vtrn1q_f32(c, d)), dc = vreinterpretq_f64_f32(vtrn2q_f32(c, d));
    vst1q_f32(to, vreinterpretq_f32_f64(vtrn1q_f64(ab, cd)));
    vst1q_f32(to + to_stride, vreinterpretq_f32_f64(vtrn1q_f64(ba, dc)));
    vst1q_f32(to + 2 * to_stride, vreinterpretq_f32_f64(vtrn2q_f64(ab, cd)));
    vst1q_f32(to + 3 * to_stride, vreinterpretq_f32_f64(vtrn2q_f64(ba, dc)));
  }
};

}  // namespace
