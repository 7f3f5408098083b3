// Functions of single rows: exp, GELU and other activations, softmax, LayerNorm, quantisation, pooling.
//
// Included after the vectors of one instruction set; see vec_*.hpp for why everything is in an anonymous namespace.
// NaN stays NaN: of two operands, min and max return the second where one is NaN, so constants come first.
#pragma once

namespace {

using minilm::Activation;
using F = Vec::F;
constexpr int kLanes = Vec::kLanes;

MINILM_INLINE int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// exp(x) to 2e-7 relative; the coefficients are those of Cephes' expf. Below -87 it is 1.6e-38, above 88 1.7e38.
MINILM_INLINE F exp_of(F x) {
  x = Vec::min(Vec::set1(88.f), Vec::max(Vec::set1(-87.f), x));
  const F n = Vec::round(Vec::mul(x, Vec::set1(1.44269504f)));
  F r = Vec::fma(n, Vec::set1(-0.693359375f), x);
  r = Vec::fma(n, Vec::set1(2.12194440e-4f), r);
  F p = Vec::set1(1.9875691500e-4f);
  p = Vec::fma(p, r, Vec::set1(1.3981999507e-3f));
  p = Vec::fma(p, r, Vec::set1(8.3334519073e-3f));
  p = Vec::fma(p, r, Vec::set1(4.1665795894e-2f));
  p = Vec::fma(p, r, Vec::set1(1.6666665459e-1f));
  p = Vec::fma(p, r, Vec::set1(5.0000001201e-1f));
  p = Vec::add(Vec::fma(p, Vec::mul(r, r), r), Vec::set1(1.f));
  return Vec::mul(p, Vec::power_of_two(n));
}

// x times the normal distribution function. That function minus 1/2 is odd, so it is x times a polynomial of x^2: a
// weighted Chebyshev fit of erf(x / sqrt(2)) / 2x on |x| <= 5.5, where it reaches 1/2 to the last bit of a float.
// Against erf in double precision: at most 6e-7 absolute, 3e-7 of max(1, |x|).
MINILM_INLINE F gelu(F x) {
  static const float kCoefficients[16] = {
      -0.0002146803f, 0.0006228324f, -0.000608862f, 0.0007511942f, -0.0023031076f, 0.0045788884f,
      -0.0069039827f, 0.010256734f,  -0.014966856f, 0.020354731f,  -0.026054475f,  0.032071825f,
      -0.03879227f,   0.047737535f,  -0.06417235f,  0.12855193f};
  constexpr float kBound = 5.5f;
  const F bounded = Vec::min(Vec::set1(kBound), Vec::max(Vec::set1(-kBound), x));
  const F v = Vec::fma(Vec::mul(bounded, bounded), Vec::set1(2.f / (kBound * kBound)), Vec::set1(-1.f));
  F p = Vec::set1(kCoefficients[0]);
#pragma GCC unroll 15
  for (int i = 1; i < 16; i++) p = Vec::fma(p, v, Vec::set1(kCoefficients[i]));
  const F share = Vec::fma(bounded, p, Vec::set1(0.5f));
  return Vec::mul(x, Vec::zero_below(x, -kBound, share));
}

// x / (1 + exp(-2u)), which equals x (1 + tanh(u)) / 2, with u = sqrt(2 / pi) (x + 0.044715 x^3).
MINILM_INLINE F gelu_tanh(F x) {
  const F cubic = Vec::fma(Vec::mul(Vec::mul(x, x), x), Vec::set1(0.044715f), x);
  const F e = exp_of(Vec::mul(cubic, Vec::set1(-2.f * 0.7978845608f)));
  return Vec::div(x, Vec::add(Vec::set1(1.f), e));
}

MINILM_INLINE F tanh_of(F x) {
  const F e = exp_of(Vec::mul(x, Vec::set1(2.f)));
  return Vec::sub(Vec::set1(1.f), Vec::div(Vec::set1(2.f), Vec::add(e, Vec::set1(1.f))));
}

template <Activation kKind>
MINILM_INLINE F activate(F x) {
  if constexpr (kKind == minilm::kGelu) return gelu(x);
  if constexpr (kKind == minilm::kGeluTanh) return gelu_tanh(x);
  if constexpr (kKind == minilm::kTanh) return tanh_of(x);
  return Vec::max(Vec::zero(), x);
}

// Replaces `n` scores by exp((score - largest) * scale) and returns 1 / their sum; the rest of the last vector is 0.
MINILM_INLINE float exp_row(float* row, int n, float scale) {
  const int whole = n / kLanes * kLanes, rest = n - whole;
  F largest = Vec::set1(-__builtin_inff());
  for (int j = 0; j < whole; j += kLanes) largest = Vec::max(largest, Vec::load(row + j));
  if (rest) largest = Vec::max(largest, Vec::select_first(Vec::load_first(row + whole, rest), largest, rest));
  const F top = Vec::set1(Vec::largest(largest)), factor = Vec::set1(scale);
  F sum = Vec::zero();
  for (int j = 0; j < whole; j += kLanes) {
    const F e = exp_of(Vec::mul(Vec::sub(Vec::load(row + j), top), factor));
    sum = Vec::add(sum, e);
    Vec::store(row + j, e);
  }
  if (rest) {
    const F e = exp_of(Vec::mul(Vec::sub(Vec::load_first(row + whole, rest), top), factor));
    const F kept = Vec::select_first(e, Vec::zero(), rest);
    sum = Vec::add(sum, kept);
    Vec::store(row + whole, kept);
  }
  return 1.f / Vec::sum(sum);
}

// LayerNorm in place: two passes over `width` numbers; columns up to the next whole vector must be 0 and stay 0.
MINILM_INLINE void layer_norm(float* row, int width, const float* weight, const float* bias, float eps) {
  const int whole = width / kLanes * kLanes, rest = width - whole, padded = round_up(width, kLanes);
  F sum = Vec::zero();
  for (int k = 0; k < padded; k += kLanes) sum = Vec::add(sum, Vec::load(row + k));
  const F mean = Vec::set1(Vec::sum(sum) / static_cast<float>(width));
  F squares = Vec::zero();
  for (int k = 0; k < whole; k += kLanes) {
    const F d = Vec::sub(Vec::load(row + k), mean);
    squares = Vec::fma(d, d, squares);
  }
  if (rest) {
    const F d = Vec::select_first(Vec::sub(Vec::load(row + whole), mean), Vec::zero(), rest);
    squares = Vec::fma(d, d, squares);
  }
  const float variance = Vec::sum(squares) / static_cast<float>(width);
  // Squares that overflow give NaN, not the bias alone.
  const F factor = Vec::set1(1.f / __builtin_sqrtf(variance + eps) + 0.f * variance);
  for (int k = 0; k < padded; k += kLanes) {
    const F normal = Vec::mul(Vec::sub(Vec::load(row + k), mean), factor);
    Vec::store(row + k, Vec::fma(normal, Vec::load(weight + k), Vec::load(bias + k)));
  }
}

// Quantises a row to whole numbers u of 0..255: x is about scale * (u - zero). `width` is a multiple of the lanes.
MINILM_INLINE void quantise_row(const float* row, int width, const float* smoothing, uint8_t* to, float* scale,
                                float* zero) {
  constexpr int kBytes = 4 / Vec::kInt8Group;
  F high = Vec::zero(), low = Vec::zero(), finite = Vec::zero();
  for (int k = 0; k < width; k += kLanes) {
    F x = Vec::load(row + k);
    if (smoothing) x = Vec::mul(x, Vec::load(smoothing + k));
    high = Vec::max(x, high);
    low = Vec::min(x, low);
    finite = Vec::fma(x, Vec::zero(), finite);
  }
  const float top = Vec::largest(high), bottom = -Vec::largest(Vec::sub(Vec::zero(), low));
  float step = (top - bottom) / 255.f;
  if (!(step > 1e-30f)) step = 1e-30f;
  if (!(step < 1e30f)) step = 1e30f;
  const float shift = __builtin_rintf(-bottom / step);
  *scale = step + Vec::sum(finite);  // NaN where the row has a NaN or an infinity, and so is what is computed from it
  *zero = shift;
  const F inverse = Vec::set1(1.f / step), offset = Vec::set1(shift), most = Vec::set1(255.f);
  for (int k = 0; k < width; k += kLanes) {
    F x = Vec::load(row + k);
    if (smoothing) x = Vec::mul(x, Vec::load(smoothing + k));
    const F u = Vec::min(Vec::max(Vec::round(Vec::fma(x, inverse, offset)), Vec::zero()), most);
    Vec::store_quantised(to + static_cast<long>(k) * kBytes, u);
  }
}

}  // namespace
