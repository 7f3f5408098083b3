// Vectors of 8 floats for AVX2 with FMA, and products of bytes with AVX2 or AVX-VNNI (MINILM_AVXVNNI).
//
// Everything is in an anonymous namespace: each unit has its own copy, compiled with its own instruction set.
#pragma once

#include <immintrin.h>

#include "engine.hpp"
#include "transpose8.hpp"

namespace {

struct Vec {
  using F = __m256;   // 8 floats
  using I = __m256i;  // 8 groups of 32 bits: a float, or several narrow integers
  static constexpr int kLanes = 8;
  static constexpr int kRows = 6;  // of a block of the product: 6 x 2 accumulators leave 4 of 16 registers
#ifdef MINILM_AVXVNNI
  static constexpr int kInt8Group = 4;
#else
  static constexpr int kInt8Group = 2;  // widened to 16 bits: vpmaddubsw would saturate
#endif
  static constexpr bool kHasBf16 = false;

  static MINILM_INLINE F zero() { return _mm256_setzero_ps(); }
  static MINILM_INLINE F set1(float value) { return _mm256_set1_ps(value); }
  static MINILM_INLINE F load(const float* from) { return _mm256_loadu_ps(from); }
  static MINILM_INLINE void store(float* to, F v) { _mm256_storeu_ps(to, v); }
  static MINILM_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
  static MINILM_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static MINILM_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static MINILM_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
  static MINILM_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static MINILM_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
  static MINILM_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
  static MINILM_INLINE F round(F v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

  // 2^n for whole n in [-126, 127].
  static MINILM_INLINE F power_of_two(F n) {
    const I bits = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_castsi256_ps(bits);
  }

  // `v`, but 0 where `x < bound`; where x is NaN, `v`.
  static MINILM_INLINE F zero_below(F x, float bound, F v) {
    return _mm256_and_ps(_mm256_cmp_ps(x, set1(bound), _CMP_NLT_UQ), v);
  }

  static MINILM_INLINE I first_lanes(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static MINILM_INLINE F load_first(const float* from, int n) { return _mm256_maskload_ps(from, first_lanes(n)); }
  static MINILM_INLINE void store_first(float* to, F v, int n) { _mm256_maskstore_ps(to, first_lanes(n), v); }
  // The first n lanes of `v`, the others of `rest`.
  static MINILM_INLINE F select_first(F v, F rest, int n) {
    return _mm256_blendv_ps(rest, v, _mm256_castsi256_ps(first_lanes(n)));
  }

  static MINILM_INLINE float sum(F v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
  }
  static MINILM_INLINE float largest(F v) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
  }

  // In a register, with a value that the compiler does not know.
  static MINILM_INLINE void keep([[maybe_unused]] I& v) { asm("" : "+v"(v)); }
  static MINILM_INLINE void pause() { _mm_pause(); }

  // Groups of 32 bits and the products that accumulate them.
  static MINILM_INLINE I zero_groups() { return _mm256_setzero_si256(); }
  static MINILM_INLINE I load_groups(const uint32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const I*>(from));
  }
  static MINILM_INLINE I load_bytes(const char* from) { return _mm256_loadu_si256(reinterpret_cast<const I*>(from)); }
  static MINILM_INLINE void store_groups(uint32_t* to, I v) { _mm256_storeu_si256(reinterpret_cast<I*>(to), v); }
  static MINILM_INLINE I repeat_group(uint32_t group) { return _mm256_set1_epi32(static_cast<int>(group)); }
  static MINILM_INLINE F as_floats(I v) { return _mm256_castsi256_ps(v); }
  static MINILM_INLINE F to_floats(I v) { return _mm256_cvtepi32_ps(v); }

  // kBytes: of a group of weights in memory.
  struct Fp32 {
    static constexpr int kGroup = 1, kBytes = 4;
    static MINILM_INLINE I load_columns(const char* from) { return load_bytes(from); }
    static MINILM_INLINE I dot(I sum, I a, I b) {
      return _mm256_castps_si256(_mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b),
                                                 _mm256_castsi256_ps(sum)));
    }
  };
  struct Int8 {
    static constexpr int kGroup = kInt8Group, kBytes = kInt8Group;
    static MINILM_INLINE I load_columns(const char* from) {
#ifdef MINILM_AVXVNNI
      return load_bytes(from);
#else
      return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#endif
    }
    static MINILM_INLINE I dot(I sum, I a, I b) {
#ifdef MINILM_AVXVNNI
      return _mm256_dpbusd_avx_epi32(sum, a, b);
#else
      return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
    }
  };

  // Whole numbers 0..255 as the elements of a group: bytes, or 16 bits each.
  static MINILM_INLINE void store_quantised(uint8_t* to, F v) {
    const I whole = _mm256_cvtps_epi32(v);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    if (kInt8Group == 2) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), words);
    } else {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
    }
  }

  // The 8 x 8 block at `from`, transposed.
  static MINILM_INLINE void transpose(const float* from, long from_stride, float* to, long to_stride) {
    transpose8(from, from_stride, to, to_stride);
  }
};

}  // namespace
