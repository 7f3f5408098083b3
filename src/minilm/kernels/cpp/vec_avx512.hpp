// Vectors of 16 floats for AVX-512 (F, BW, DQ, VL); products of bytes with VNNI (MINILM_VNNI), of bf16 (MINILM_BF16).
//
// Everything is in an anonymous namespace: each unit has its own copy, compiled with its own instruction set.
#pragma once

#include <immintrin.h>

#include "engine.hpp"
#include "transpose8.hpp"

namespace {

struct Vec {
  using F = __m512;   // 16 floats
  using I = __m512i;  // 16 groups of 32 bits: a float, or several narrow numbers
  static constexpr int kLanes = 16;
  static constexpr int kRows = 14;  // of a block of the product: 14 x 2 accumulators leave 4 of 32 registers
#ifdef MINILM_VNNI
  static constexpr int kInt8Group = 4;
#else
  static constexpr int kInt8Group = 2;  // widened to 16 bits: vpmaddubsw would saturate
#endif
#ifdef MINILM_BF16
  static constexpr bool kHasBf16 = true;
#else
  static constexpr bool kHasBf16 = false;
#endif

  static MINILM_INLINE F zero() { return _mm512_setzero_ps(); }
  static MINILM_INLINE F set1(float value) { return _mm512_set1_ps(value); }
  static MINILM_INLINE F load(const float* from) { return _mm512_loadu_ps(from); }
  static MINILM_INLINE void store(float* to, F v) { _mm512_storeu_ps(to, v); }
  static MINILM_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
  static MINILM_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static MINILM_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static MINILM_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
  static MINILM_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static MINILM_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
  static MINILM_INLINE F min(F a, F b) { return _mm512_min_ps(a, b); }
  static MINILM_INLINE F round(F v) {
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }

  // 2^n for whole n in [-126, 127].
  static MINILM_INLINE F power_of_two(F n) {
    const I bits = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    return _mm512_castsi512_ps(bits);
  }

  // `v`, but 0 where `x < bound`; where x is NaN, `v`.
  static MINILM_INLINE F zero_below(F x, float bound, F v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, set1(bound), _CMP_NLT_UQ), v);
  }

  static MINILM_INLINE __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static MINILM_INLINE F load_first(const float* from, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), from); }
  static MINILM_INLINE void store_first(float* to, F v, int n) { _mm512_mask_storeu_ps(to, first_lanes(n), v); }
  // The first n lanes of `v`, the others of `rest`.
  static MINILM_INLINE F select_first(F v, F rest, int n) { return _mm512_mask_mov_ps(rest, first_lanes(n), v); }

  static MINILM_INLINE float sum(F v) { return _mm512_reduce_add_ps(v); }
  static MINILM_INLINE float largest(F v) { return _mm512_reduce_max_ps(v); }

  // In a register, with a value that the compiler does not know.
  static MINILM_INLINE void keep([[maybe_unused]] I& v) { asm("" : "+v"(v)); }
  static MINILM_INLINE void pause() { _mm_pause(); }

  // Groups of 32 bits and the products that accumulate them.
  static MINILM_INLINE I zero_groups() { return _mm512_setzero_si512(); }
  static MINILM_INLINE I load_groups(const uint32_t* from) { return _mm512_loadu_si512(from); }
  static MINILM_INLINE void store_groups(uint32_t* to, I v) { _mm512_storeu_si512(to, v); }
  static MINILM_INLINE I repeat_group(uint32_t group) { return _mm512_set1_epi32(static_cast<int>(group)); }
  static MINILM_INLINE F as_floats(I v) { return _mm512_castsi512_ps(v); }
  static MINILM_INLINE F to_floats(I v) { return _mm512_cvtepi32_ps(v); }

  // kBytes: of a group of weights in memory.
  struct Fp32 {
    static constexpr int kGroup = 1, kBytes = 4;
    static MINILM_INLINE I load_columns(const char* from) { return _mm512_loadu_si512(from); }
    static MINILM_INLINE I dot(I sum, I a, I b) {
      return _mm512_castps_si512(_mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b),
                                                 _mm512_castsi512_ps(sum)));
    }
  };
  struct Int8 {
    static constexpr int kGroup = kInt8Group, kBytes = kInt8Group;
    static MINILM_INLINE I load_columns(const char* from) {
#ifdef MINILM_VNNI
      return _mm512_loadu_si512(from);
#else
      return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#endif
    }
    static MINILM_INLINE I dot(I sum, I a, I b) {
#ifdef MINILM_VNNI
      return _mm512_dpbusd_epi32(sum, a, b);
#else
      return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
    }
  };

  // Whole numbers 0..255 as the elements of a group: bytes, or 16 bits each.
  static MINILM_INLINE void store_quantised(uint8_t* to, F v) {
    const I whole = _mm512_cvtps_epi32(v);
    if (kInt8Group == 2) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(whole));
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(whole));
    }
  }

#ifdef MINILM_BF16
  struct Bf16 {
    static constexpr int kGroup = 2, kBytes = 4;
    static MINILM_INLINE I load_columns(const char* from) { return _mm512_loadu_si512(from); }
    static MINILM_INLINE I dot(I sum, I a, I b) {
      return _mm512_castps_si512(
          _mm512_dpbf16_ps(_mm512_castsi512_ps(sum), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
    }
  };
  static MINILM_INLINE void store_bf16(uint16_t* to, F v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
  }
  // 16 groups, each of a number of `even` and the one below it of `odd`.
  static MINILM_INLINE I interleave_bf16(const uint16_t* even, const uint16_t* odd) {
    const I low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
    const I high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd)));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  }
#endif

  // The 16 x 16 block at `from`, transposed: four blocks of 8 x 8, each in halves of a register.
  static MINILM_INLINE void transpose(const float* from, long from_stride, float* to, long to_stride) {
    for (int row = 0; row < 16; row += 8) {
      for (int column = 0; column < 16; column += 8) {
        transpose8(from + row * from_stride + column, from_stride, to + column * to_stride + row, to_stride);
      }
    }
  }
};

}  // namespace
