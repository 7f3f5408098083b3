// In the place of the compiler's header for the emulated build: the AVX-512, VNNI and BF16 functions that the kernels
// call, lane by lane as Intel's manual defines them, for a processor with AVX2 and FMA. For GCC.
//
// The flags of the units stay as they are, so the pragma takes the instructions away that these functions stand for.
// A function that the kernels use and that is not here does not compile: the real one needs what the pragma forbids.
#pragma once

#pragma GCC target("no-avx512f,no-avx512bw,no-avx512dq,no-avx512vl,no-avx512vnni,no-avx512bf16,no-avxvnni")

#include_next <immintrin.h>

// The only use in the kernels: a hint about a register that is not there.
#define asm(...)

namespace {
namespace emulated {

#define MINILM_EMULATED static inline __attribute__((always_inline))

typedef int Ints __attribute__((vector_size(64)));
typedef short Shorts __attribute__((vector_size(64)));
typedef unsigned short UnsignedShorts __attribute__((vector_size(64)));
typedef signed char Bytes __attribute__((vector_size(64)));
typedef unsigned char UnsignedBytes __attribute__((vector_size(64)));

template <class To, class From>
MINILM_EMULATED To as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <class Vector, class Of>
MINILM_EMULATED Vector each(Of of) {
  Vector to;
  for (unsigned i = 0; i < sizeof(Vector) / sizeof(to[0]); i++) to[i] = of(i);
  return to;
}

template <class Of>
MINILM_EMULATED __mmask16 mask(Of of) {
  unsigned found = 0;
  for (unsigned i = 0; i < 16; i++) found |= static_cast<unsigned>(of(i)) << i;
  return static_cast<__mmask16>(found);
}

MINILM_EMULATED bool has(__mmask16 m, unsigned i) { return m >> i & 1; }

// ------------------------------------------------------------------------------------------ memory, constants

MINILM_EMULATED __m512 setzero_ps() { return __m512{}; }
MINILM_EMULATED __m512i setzero_si512() { return __m512i{}; }
MINILM_EMULATED __m512 set1_ps(float x) {
  return each<__m512>([=](unsigned) { return x; });
}
MINILM_EMULATED __m512i set1_epi32(int x) {
  return as<__m512i>(each<Ints>([=](unsigned) { return x; }));
}
template <class Vector>
MINILM_EMULATED Vector load(const void* from) {
  Vector to;
  __builtin_memcpy(&to, from, sizeof to);
  return to;
}
template <class Vector>
MINILM_EMULATED void store(void* to, Vector v) {
  __builtin_memcpy(to, &v, sizeof v);
}
MINILM_EMULATED __m512 maskz_loadu_ps(__mmask16 m, const float* from) {
  return each<__m512>([=](unsigned i) { return has(m, i) ? from[i] : 0.f; });
}
MINILM_EMULATED void mask_storeu_ps(float* to, __mmask16 m, __m512 v) {
  for (unsigned i = 0; i < 16; i++) {
    if (has(m, i)) to[i] = v[i];
  }
}
MINILM_EMULATED __m512 mask_mov_ps(__m512 rest, __mmask16 m, __m512 v) {
  return each<__m512>([=](unsigned i) { return has(m, i) ? v[i] : rest[i]; });
}
MINILM_EMULATED __m512 maskz_mov_ps(__mmask16 m, __m512 v) { return mask_mov_ps(setzero_ps(), m, v); }

// ------------------------------------------------------------------------------------------ floats

MINILM_EMULATED __m512 add_ps(__m512 a, __m512 b) { return a + b; }
MINILM_EMULATED __m512 sub_ps(__m512 a, __m512 b) { return a - b; }
MINILM_EMULATED __m512 mul_ps(__m512 a, __m512 b) { return a * b; }
MINILM_EMULATED __m512 div_ps(__m512 a, __m512 b) { return a / b; }
MINILM_EMULATED __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return each<__m512>([=](unsigned i) { return __builtin_fmaf(a[i], b[i], c[i]); });
}
// Where one is NaN, and of two zeros, the second.
MINILM_EMULATED __m512 max_ps(__m512 a, __m512 b) { return a > b ? a : b; }
MINILM_EMULATED __m512 min_ps(__m512 a, __m512 b) { return a < b ? a : b; }
MINILM_EMULATED __m512 roundscale_ps(__m512 v, int how) {
  static_assert((_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC) == 8);
  if (how != 8) __builtin_trap();
  return each<__m512>([=](unsigned i) { return __builtin_nearbyintf(v[i]); });
}
MINILM_EMULATED __mmask16 cmp_ps_mask(__m512 a, __m512 b, int how) {
  if (how != _CMP_NLT_UQ) __builtin_trap();
  return mask([=](unsigned i) { return !(a[i] < b[i]); });
}
// Halves first, then halves of these.
template <class Of>
MINILM_EMULATED float reduced(__m512 v, Of of) {
  for (unsigned width = 8; width; width /= 2) {
    for (unsigned i = 0; i < width; i++) v[i] = of(v[i], v[i + width]);
  }
  return v[0];
}
MINILM_EMULATED float reduce_add_ps(__m512 v) {
  return reduced(v, [](float a, float b) { return a + b; });
}
MINILM_EMULATED float reduce_max_ps(__m512 v) {
  return reduced(v, [](float a, float b) { return a > b ? a : b; });
}

// ------------------------------------------------------------------------------------------ whole numbers

MINILM_EMULATED __m512i add_epi32(__m512i a, __m512i b) { return as<__m512i>(as<Ints>(a) + as<Ints>(b)); }
MINILM_EMULATED __m512i or_si512(__m512i a, __m512i b) { return a | b; }
MINILM_EMULATED __m512i slli_epi32(__m512i a, unsigned bits) {
  return as<__m512i>(as<Ints>(a) << static_cast<int>(bits));
}
MINILM_EMULATED __m512 cvtepi32_ps(__m512i v) {
  const Ints whole = as<Ints>(v);
  return each<__m512>([=](unsigned i) { return static_cast<float>(whole[i]); });
}
MINILM_EMULATED __m512i cvtps_epi32(__m512 v) {
  return as<__m512i>(each<Ints>([=](unsigned i) { return _mm_cvtss_si32(_mm_set_ss(v[i])); }));
}
MINILM_EMULATED __m256i cvtepi32_epi16(__m512i v) {
  typedef short Half __attribute__((vector_size(32)));
  const Ints whole = as<Ints>(v);
  return as<__m256i>(each<Half>([=](unsigned i) { return static_cast<short>(whole[i]); }));
}
MINILM_EMULATED __m128i cvtepi32_epi8(__m512i v) {
  typedef signed char Quarter __attribute__((vector_size(16)));
  const Ints whole = as<Ints>(v);
  return as<__m128i>(each<Quarter>([=](unsigned i) { return static_cast<signed char>(whole[i]); }));
}
MINILM_EMULATED __m512i cvtepu16_epi32(__m256i v) {
  typedef unsigned short Half __attribute__((vector_size(32)));
  const Half narrow = as<Half>(v);
  return as<__m512i>(each<Ints>([=](unsigned i) { return static_cast<int>(narrow[i]); }));
}
MINILM_EMULATED __m512i cvtepi8_epi16(__m256i v) {
  typedef signed char Half __attribute__((vector_size(32)));
  const Half narrow = as<Half>(v);
  return as<__m512i>(each<Shorts>([=](unsigned i) { return static_cast<short>(narrow[i]); }));
}
// Each sum of 32 bits has two products of 16 bits.
MINILM_EMULATED __m512i madd_epi16(__m512i a, __m512i b) {
  const Shorts x = as<Shorts>(a), y = as<Shorts>(b);
  return as<__m512i>(each<Ints>([=](unsigned i) { return x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1]; }));
}
// Four products of bytes, those of `a` without a sign, those of `b` with one.
MINILM_EMULATED __m512i dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  const UnsignedBytes x = as<UnsignedBytes>(a);
  const Bytes y = as<Bytes>(b);
  const Ints before = as<Ints>(sum);
  return as<__m512i>(each<Ints>([=](unsigned i) {
    int products = 0;
    for (unsigned k = 4 * i; k < 4 * i + 4; k++) products += x[k] * y[k];
    return before[i] + products;
  }));
}
MINILM_EMULATED __m256i dpbusd_avx_epi32(__m256i sum, __m256i a, __m256i b) {
  const auto wide = [](__m256i v) { return as<__m512i>(each<__m512i>([=](unsigned i) { return i < 4 ? v[i] : 0; })); };
  const __m512i found = dpbusd_epi32(wide(sum), wide(a), wide(b));
  return each<__m256i>([=](unsigned i) { return found[i]; });
}

// ------------------------------------------------------------------------------------------ bfloat16

MINILM_EMULATED float widened(unsigned short x) { return as<float>(static_cast<unsigned>(x) << 16); }
// The odd product first; numbers too small for the usual form count as zero, as the caller's mode has it too.
MINILM_EMULATED __m512 dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  const UnsignedShorts x = as<UnsignedShorts>(a), y = as<UnsignedShorts>(b);
  return each<__m512>([=](unsigned i) {
    const float odd = __builtin_fmaf(widened(x[2 * i + 1]), widened(y[2 * i + 1]), sum[i]);
    return __builtin_fmaf(widened(x[2 * i]), widened(y[2 * i]), odd);
  });
}
// To the nearest, to the even one of two.
MINILM_EMULATED __m256bh cvtneps_pbh(__m512 v) {
  typedef unsigned short Half __attribute__((vector_size(32)));
  return as<__m256bh>(each<Half>([=](unsigned i) {
    const unsigned bits = as<unsigned>(v[i]);
    if (v[i] != v[i]) return static_cast<unsigned short>(bits >> 16 | 0x40);
    if (!(bits & 0x7f800000)) return static_cast<unsigned short>(bits >> 16 & 0x8000);
    return static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }));
}

}  // namespace emulated
}  // namespace

#define _mm512_setzero_ps emulated::setzero_ps
#define _mm512_setzero_si512 emulated::setzero_si512
#define _mm512_set1_ps emulated::set1_ps
#define _mm512_set1_epi32 emulated::set1_epi32
#define _mm512_loadu_ps emulated::load<__m512>
#define _mm512_loadu_si512 emulated::load<__m512i>
#define _mm512_storeu_ps emulated::store<__m512>
#define _mm512_storeu_si512 emulated::store<__m512i>
#define _mm512_maskz_loadu_ps emulated::maskz_loadu_ps
#define _mm512_mask_storeu_ps emulated::mask_storeu_ps
#define _mm512_mask_mov_ps emulated::mask_mov_ps
#define _mm512_maskz_mov_ps emulated::maskz_mov_ps
#define _mm512_castps_si512 emulated::as<__m512i>
#define _mm512_castsi512_ps emulated::as<__m512>
#define _mm512_add_ps emulated::add_ps
#define _mm512_sub_ps emulated::sub_ps
#define _mm512_mul_ps emulated::mul_ps
#define _mm512_div_ps emulated::div_ps
#define _mm512_fmadd_ps emulated::fmadd_ps
#define _mm512_max_ps emulated::max_ps
#define _mm512_min_ps emulated::min_ps
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps emulated::roundscale_ps
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask emulated::cmp_ps_mask
#define _mm512_reduce_add_ps emulated::reduce_add_ps
#define _mm512_reduce_max_ps emulated::reduce_max_ps
#define _mm512_add_epi32 emulated::add_epi32
#define _mm512_or_si512 emulated::or_si512
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 emulated::slli_epi32
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#define _mm512_cvtps_epi32 emulated::cvtps_epi32
#define _mm512_cvtepi32_epi16 emulated::cvtepi32_epi16
#define _mm512_cvtepi32_epi8 emulated::cvtepi32_epi8
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#define _mm512_cvtepi8_epi16 emulated::cvtepi8_epi16
#define _mm512_madd_epi16 emulated::madd_epi16
#define _mm512_dpbusd_epi32 emulated::dpbusd_epi32
#define _mm256_dpbusd_avx_epi32 emulated::dpbusd_avx_epi32
#define _mm512_dpbf16_ps emulated::dpbf16_ps
#define _mm512_cvtneps_pbh emulated::cvtneps_pbh
