// Exponentials and products of blocks of rows, and what follows from their sums.
//
// Shapes: see relation_unit.hpp.
#pragma once

#include <math.h>

#include "relation_rows.hpp"

namespace {
namespace relation {

void clear(float* from, long count) {
  for (long i = 0; i < count; i++) from[i] = 0.f;
}

// 2^x to 2e-7 relative; the coefficients are those of Cephes' exp2f. Below -125 it is 2.4e-38.
MINILM_INLINE F power_of(F x) {
  x = Vec::max(Vec::set1(-125.f), x);
  const F n = Vec::round(x), r = Vec::sub(x, n);
  F p = Vec::set1(1.535336188e-4f);
  p = Vec::fma(p, r, Vec::set1(1.339887440e-3f));
  p = Vec::fma(p, r, Vec::set1(9.618437357e-3f));
  p = Vec::fma(p, r, Vec::set1(5.550332471e-2f));
  p = Vec::fma(p, r, Vec::set1(2.402264791e-1f));
  p = Vec::fma(p, r, Vec::set1(6.931472028e-1f));
  p = Vec::fma(p, r, Vec::set1(1.f));
  return Vec::mul(p, Vec::power_of_two(n));
}

// The sum over rows of sum(e_t (z_t - z_s)) / S_t - log(S_t) + log(S_s), with scores in powers of two.
double loss_of(const Work& w) {
  double total = 0, quotient = 1;
  for (int i = 0; i < w.length; i++) {
    const double inverse = 1. / static_cast<double>(w.teacher_sum[i]);
    total += static_cast<double>(w.cross[i]) * inverse / kLog2e;
    quotient *= static_cast<double>(w.student_sum[i]) * inverse;
    if (i % kLogs == kLogs - 1 || i == w.length - 1) {
      total += log(quotient);
      quotient = 1;
    }
  }
  return total;
}

// The sums of rows become the factors that make slopes of exponentials.
void make_factors(const Work& w, double weight) {
  for (int i = 0; i < w.length; i++) {
    w.teacher_sum[i] = static_cast<float>(weight / static_cast<double>(w.teacher_sum[i]));
    w.student_sum[i] = static_cast<float>(weight / static_cast<double>(w.student_sum[i]));
    w.teacher_diagonal[i] *= static_cast<float>(weight);
  }
  for (long i = w.length; i < w.ld; i++) w.teacher_sum[i] = w.student_sum[i] = w.teacher_diagonal[i] = 0.f;
}

// ---------------------------------------------------------------------------------------------------- products

// One panel of scores of a block of rows: z[r][j] = sum_k a[k][r] b[k][j].
MINILM_INLINE void scores(const float* a, const float* b, long ld, int width, float* z, long stride) {
  F sums[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++) sums[r][0] = sums[r][1] = Vec::zero();
  for (int k = 0; k < width; k++) {
    const F first = Vec::load(b + k * ld), second = Vec::load(b + k * ld + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      const F one = Vec::set1(a[k * kRows + r]);
      sums[r][0] = Vec::fma(one, first, sums[r][0]);
      sums[r][1] = Vec::fma(one, second, sums[r][1]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++) {
    Vec::store(z + r * stride, sums[r][0]);
    Vec::store(z + r * stride + kLanes, sums[r][1]);
  }
}

// Slopes G of a block of rows and `count` columns: sums += G b (kept by lanes), gradient_b += G^T a.
MINILM_INLINE void add_gradients(const float* slopes, const float* a, const float* b, int count, const Work& w,
                                 float* lanes, float* gradient_b) {
  for (int k = 0; k < w.student_width; k++, lanes += kRows * kLanes) {
    F sums[kRows], rows[kRows];
    float* to = gradient_b + k * w.ld;
    const float* column = b + k * w.ld;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      sums[r] = Vec::load(lanes + r * kLanes);
      rows[r] = Vec::set1(a[k * kRows + r]);
    }
    for (int j = 0; j < count; j += kLanes) {
      const F here = Vec::load(column + j);
      F found = Vec::load(to + j);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; r++) {
        const F slope = Vec::load(slopes + r * kChunk + j);
        sums[r] = Vec::fma(slope, here, sums[r]);
        found = Vec::fma(slope, rows[r], found);
      }
      Vec::store(to + j, found);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) Vec::store(lanes + r * kLanes, sums[r]);
  }
}

// The lanes of the gradients of a block of rows are added up into the columns of its rows.
MINILM_INLINE void end_rows(int row, const float* lanes, const Work& w) {
  const int count = w.length - row < kRows ? w.length - row : kRows;
  for (int k = 0; k < w.student_width; k++) {
    for (int r = 0; r < count; r++) {
      w.gradient_a[k * w.ld + row + r] += Vec::sum(Vec::load(lanes + (static_cast<long>(k) * kRows + r) * kLanes));
    }
  }
}

// The diagonal has separate sums: where it dominates a row, its slope is the small difference of two numbers close to
// 1, and exact only as the negative sum of the others. Here its scores become ones whose exponentials are about 0.
MINILM_INLINE void hide(int at, int count, float bound_t, float bound_s, float* teacher, float* student) {
  if (at < 0 || at >= count) return;
  teacher[at] = bound_t - kHidden;
  student[at] = bound_s - kHidden;
}

// Adds the diagonal to the sums of all rows, and replaces its scores by its slopes.
MINILM_INLINE void add_diagonal(float bound_t, float bound_s, const Work& w) {
  for (int j = 0; j < w.length; j += kLanes) {
    const F x = Vec::sub(Vec::load(w.teacher_diagonal + j), Vec::set1(bound_t));
    const F y = Vec::sub(Vec::load(w.student_diagonal + j), Vec::set1(bound_s));
    const F e = power_of(x), others_t = Vec::load(w.teacher_sum + j), others_s = Vec::load(w.student_sum + j);
    const F sum_t = Vec::add(others_t, e), sum_s = Vec::add(others_s, power_of(y));
    Vec::store(w.teacher_sum + j, sum_t);
    Vec::store(w.student_sum + j, sum_s);
    Vec::store(w.cross + j, Vec::fma(e, Vec::sub(x, y), Vec::load(w.cross + j)));
    Vec::store(w.teacher_diagonal + j, Vec::sub(Vec::div(others_t, sum_t), Vec::div(others_s, sum_s)));
  }
}

// The same for one row.
MINILM_INLINE void add_own(int row, float bound_t, float bound_s, const Work& w) {
  const float x = w.teacher_diagonal[row] - bound_t, y = w.student_diagonal[row] - bound_s;
  float e[kLanes], f[kLanes];
  Vec::store(e, power_of(Vec::set1(x)));
  Vec::store(f, power_of(Vec::set1(y)));
  const float others_t = w.teacher_sum[row], others_s = w.student_sum[row];
  w.teacher_sum[row] = others_t + e[0];
  w.student_sum[row] = others_s + f[0];
  w.cross[row] += e[0] * (x - y);
  w.teacher_diagonal[row] = others_t / w.teacher_sum[row] - others_s / w.student_sum[row];
}

}  // namespace relation
}  // namespace
