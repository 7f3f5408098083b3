// The relation loss of one head of one sequence, and its gradients, for the instruction set whose `Vec` was included
// before this file.
//
// Scores z = a b^T / sqrt(W), relations P = softmax(z). The loss of a row is KL(P_teacher || P_student), and its
// gradient in the student's scores is G = P_student - P_teacher: all gradients follow from what the loss computes, a
// block of rows at a time. da = G b, db = G^T a.
//
// Where a and b are one projection x, scores are symmetric: only those on and above the diagonal are computed, each
// serves its row and its column, and dx = (G + G^T) x. The largest score of a symmetric product is on its diagonal, so
// one bound serves all rows and each exponential is needed once. Of the first rows they are kept for the gradient
// (kKept), of the others computed again: the same bits.
//
// Every sum runs in an order that depends on N and W alone. Shapes: see relation_unit.hpp.
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
    const double sum = static_cast<double>(w.teacher_sum[i]);
    total += static_cast<double>(w.cross[i]) / sum / kLog2e;
    quotient *= static_cast<double>(w.student_sum[i]) / sum;
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
                                 float* gradient_b) {
  for (int k = 0; k < w.student_width; k++) {
    F sums[kRows], rows[kRows];
    float *lanes = w.sums + static_cast<long>(k) * kRows * kLanes, *to = gradient_b + k * w.ld;
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
MINILM_INLINE void end_rows(int row, const Work& w) {
  const int count = w.length - row < kRows ? w.length - row : kRows;
  for (int k = 0; k < w.student_width; k++) {
    for (int r = 0; r < count; r++) {
      w.gradient_a[k * w.ld + row + r] += Vec::sum(Vec::load(w.sums + (static_cast<long>(k) * kRows + r) * kLanes));
    }
  }
}

// ---------------------------------------------------------------------------------------------------- symmetric pairs

// How often a score of a block of rows counts: not at all below the block and beyond N, half in the block, where row
// and column both have it, else once.
MINILM_INLINE void shares(int row, int column, int length, float* to) {
  for (int j = 0; j < kPanel; j++) {
    const int at = column + j;
    to[j] = at < row || at >= length ? 0.f : at < row + kRows ? 0.5f : 1.f;
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

// Exponentials of a block of rows and one panel, in place; with `kSums` also their sums over rows and columns.
template <bool kEdge, bool kSums>
MINILM_INLINE void exponentials_of(float* teacher, float* student, long stride, const float* share, F bound_t,
                                   F bound_s, float* row_sums, const Work& w, int rows, int column) {
  for (int half = 0; half < kPanel && column + half < w.length; half += kLanes) {
    F down_t = Vec::zero(), down_s = Vec::zero(), down_c = Vec::zero();
    for (int r = 0; r < rows; r++) {
      float *t = teacher + r * stride + half, *s = student + r * stride + half;
      const F x = Vec::sub(Vec::load(t), bound_t), y = Vec::sub(Vec::load(s), bound_s);
      F e = power_of(x), f = power_of(y);
      if constexpr (kEdge) {
        e = Vec::mul(e, Vec::load(share + half));
        f = Vec::mul(f, Vec::load(share + half));
      }
      Vec::store(t, e);
      Vec::store(s, f);
      if constexpr (kSums) {
        const F c = Vec::mul(e, Vec::sub(x, y));
        float* sums = row_sums + r * 3 * kLanes;
        Vec::store(sums, Vec::add(Vec::load(sums), e));
        Vec::store(sums + kLanes, Vec::add(Vec::load(sums + kLanes), f));
        Vec::store(sums + 2 * kLanes, Vec::add(Vec::load(sums + 2 * kLanes), c));
        down_t = Vec::add(down_t, e);
        down_s = Vec::add(down_s, f);
        down_c = Vec::add(down_c, c);
      }
    }
    if constexpr (kSums) {
      const int at = column + half;
      Vec::store(w.teacher_sum + at, Vec::add(Vec::load(w.teacher_sum + at), down_t));
      Vec::store(w.student_sum + at, Vec::add(Vec::load(w.student_sum + at), down_s));
      Vec::store(w.cross + at, Vec::add(Vec::load(w.cross + at), down_c));
    }
  }
}

// Exponentials of a block of rows, columns from the diagonal on.
template <bool kSums>
MINILM_INLINE void block_exponentials(int row, float bound_t, float bound_s, float* teacher, float* student,
                                      const Work& w) {
  const int first = first_column(row), count = width_from(first, w.length);
  const float* a_t = w.teacher.blocks + static_cast<long>(row) * w.teacher_width;
  const float* a_s = w.student.blocks + static_cast<long>(row) * w.student_width;
  const int rows = w.length - row < kRows ? w.length - row : kRows;
  float row_sums[kRows * 3 * kLanes], share[kPanel];
  if constexpr (kSums) {
    for (float& sum : row_sums) sum = 0.f;
  }
  const F top_t = Vec::set1(bound_t), top_s = Vec::set1(bound_s);
  for (int j = 0; j < count; j += kPanel) {
    scores(a_t, w.teacher.columns + first + j, w.ld, w.teacher_width, teacher + j, count);
    scores(a_s, w.student.columns + first + j, w.ld, w.student_width, student + j, count);
    if (first + j < row + kRows || j + kPanel >= count) {
      shares(row, first + j, w.length, share);
      for (int r = 0; r < rows; r++) {
        hide(row + r - first - j, kPanel, bound_t, bound_s, teacher + r * count + j, student + r * count + j);
      }
      exponentials_of<true, kSums>(teacher + j, student + j, count, share, top_t, top_s, row_sums, w, rows, first + j);
    } else {
      exponentials_of<false, kSums>(teacher + j, student + j, count, share, top_t, top_s, row_sums, w, rows, first + j);
    }
  }
  if constexpr (kSums) {
    float* const sums[3] = {w.teacher_sum, w.student_sum, w.cross};
    for (int r = 0; r < rows; r++) {
      for (int kind = 0; kind < 3; kind++) {
        sums[kind][row + r] += Vec::sum(Vec::load(row_sums + (r * 3 + kind) * kLanes));
      }
    }
  }
}

// Slopes of scores and of their mirror images, (P_s - P_t)[i][j] + (P_s - P_t)[j][i], and what they give.
MINILM_INLINE void block_gradients(int row, const float* teacher, const float* student, const Work& w) {
  const int first = first_column(row), stride = width_from(first, w.length);
  const int count = round_up(w.length - first, kLanes);
  const float* a = w.student.blocks + static_cast<long>(row) * w.student_width;
  clear(w.sums, static_cast<long>(w.student_width) * kRows * kLanes);
  for (int begin = 0; begin < count; begin += kChunk) {
    const int end = count - begin < kChunk ? count : begin + kChunk;
    for (int r = 0; r < kRows; r++) {
      const F own_t = Vec::set1(w.teacher_sum[row + r]), own_s = Vec::set1(w.student_sum[row + r]);
      for (int j = begin; j < end; j += kLanes) {
        const F of_t = Vec::add(own_t, Vec::load(w.teacher_sum + first + j));
        const F of_s = Vec::add(own_s, Vec::load(w.student_sum + first + j));
        const F target = Vec::mul(Vec::load(teacher + static_cast<long>(r) * stride + j), of_t);
        const F guess = Vec::mul(Vec::load(student + static_cast<long>(r) * stride + j), of_s);
        Vec::store(w.slopes + r * kChunk + j - begin, Vec::sub(guess, target));
      }
      const int own = row + r - first - begin;
      if (own >= 0 && own < end - begin) w.slopes[r * kChunk + own] = w.teacher_diagonal[row + r];
    }
    add_gradients(w.slopes, a, w.student.columns + first + begin, end - begin, w, w.gradient_a + first + begin);
  }
  end_rows(row, w);
}

// Computes the diagonal; its largest number, and whether no other is much smaller: a NaN is.
MINILM_INLINE bool bound_of(const float* columns, int width, const Work& w, float* diagonal, float* bound) {
  for (long j = 0; j < w.ld; j += kLanes) {
    F sum = Vec::zero();
    for (int k = 0; k < width; k++) {
      const F x = Vec::load(columns + k * w.ld + j);
      sum = Vec::fma(x, x, sum);
    }
    Vec::store(diagonal + j, sum);
  }
  float largest = diagonal[0], smallest = largest;
  bool within = true;
  for (int j = 0; j < w.length; j++) {
    within = within && diagonal[j] < __builtin_inff();
    largest = diagonal[j] > largest ? diagonal[j] : largest;
    smallest = diagonal[j] < smallest ? diagonal[j] : smallest;
  }
  *bound = largest;
  return within && largest - smallest <= kWidest;
}

// Where the exponentials of a block of rows are, after those of all before it or, if not `kept`, beyond all of these.
struct Place {
  size_t at;
  bool kept;
};

MINILM_INLINE size_t size_of(int row, const Work& w) {
  return static_cast<size_t>(kRows) * static_cast<size_t>(width_from(first_column(row), w.length));
}

MINILM_INLINE Place place_of(size_t before, int row, const Work& w) {
  return before + size_of(row, w) <= w.kept ? Place{before, true} : Place{w.kept, false};
}

MINILM_INLINE double symmetric(double weight, float bound_t, float bound_s, const Work& w) {
  clear(w.teacher_sum, w.ld);
  clear(w.student_sum, w.ld);
  clear(w.cross, w.ld);
  size_t before = 0;
  for (int row = 0; row < w.length; row += kRows) {
    const size_t at = place_of(before, row, w).at;
    block_exponentials<true>(row, bound_t, bound_s, w.teacher_exponentials + at, w.student_exponentials + at, w);
    before += size_of(row, w);
  }
  add_diagonal(bound_t, bound_s, w);
  const double loss = loss_of(w);
  if (!w.gradient_a) return loss;
  make_factors(w, weight);
  before = 0;
  for (int row = 0; row < w.length; row += kRows) {
    const Place place = place_of(before, row, w);
    float *teacher = w.teacher_exponentials + place.at, *student = w.student_exponentials + place.at;
    if (!place.kept) block_exponentials<false>(row, bound_t, bound_s, teacher, student, w);
    block_gradients(row, teacher, student, w);
    before += size_of(row, w);
  }
  return loss;
}

// ---------------------------------------------------------------------------------------------------- any pair

// Exponentials of one row of scores, in place, and its sums; where symmetric the diagonal is hidden, as above.
MINILM_INLINE void row_exponentials(int row, float* teacher, float* student, bool same, const Work& w) {
  const int whole = w.length / kLanes * kLanes, rest = w.length - whole;
  F high_t = Vec::set1(-__builtin_inff()), high_s = high_t;
  for (int j = 0; j < whole; j += kLanes) {
    high_t = Vec::max(high_t, Vec::load(teacher + j));
    high_s = Vec::max(high_s, Vec::load(student + j));
  }
  if (rest) {
    high_t = Vec::max(high_t, Vec::select_first(Vec::load(teacher + whole), high_t, rest));
    high_s = Vec::max(high_s, Vec::select_first(Vec::load(student + whole), high_s, rest));
  }
  const float bound_t = Vec::largest(high_t), bound_s = Vec::largest(high_s);
  if (same) {
    w.teacher_diagonal[row] = teacher[row];
    w.student_diagonal[row] = student[row];
    hide(row, w.length, bound_t, bound_s, teacher, student);
  }
  F sum_t = Vec::zero(), sum_s = Vec::zero(), cross = Vec::zero();
  for (int j = 0; j < w.length; j += kLanes) {
    const F x = Vec::sub(Vec::load(teacher + j), Vec::set1(bound_t));
    const F y = Vec::sub(Vec::load(student + j), Vec::set1(bound_s));
    F e = power_of(x), f = power_of(y);
    if (j == whole) {
      e = Vec::select_first(e, Vec::zero(), rest);
      f = Vec::select_first(f, Vec::zero(), rest);
    }
    sum_t = Vec::add(sum_t, e);
    sum_s = Vec::add(sum_s, f);
    cross = Vec::fma(e, Vec::sub(x, y), cross);
    Vec::store(teacher + j, e);
    Vec::store(student + j, f);
  }
  w.teacher_sum[row] = Vec::sum(sum_t);
  w.student_sum[row] = Vec::sum(sum_s);
  w.cross[row] = Vec::sum(cross);
  if (same) add_own(row, bound_t, bound_s, w);
}

MINILM_INLINE void row_gradients(int row, double weight, const float* teacher, const float* student, long stride,
                                 bool same, const Work& w) {
  const float* a = w.student.blocks + static_cast<long>(row) * w.student_width;
  const int count = round_up(w.length, kLanes);
  clear(w.sums, static_cast<long>(w.student_width) * kRows * kLanes);
  for (int begin = 0; begin < count; begin += kChunk) {
    const int end = count - begin < kChunk ? count : begin + kChunk;
    for (int r = 0; r < kRows; r++) {
      const bool exists = row + r < w.length;
      const F of_t = Vec::set1(exists ? static_cast<float>(weight / static_cast<double>(w.teacher_sum[row + r])) : 0.f);
      const F of_s = Vec::set1(exists ? static_cast<float>(weight / static_cast<double>(w.student_sum[row + r])) : 0.f);
      for (int j = begin; j < end; j += kLanes) {
        const F target = Vec::mul(Vec::load(teacher + r * stride + j), of_t);
        const F guess = Vec::mul(Vec::load(student + r * stride + j), of_s);
        Vec::store(w.slopes + r * kChunk + j - begin, Vec::sub(guess, target));
      }
      const int own = row + r - begin;
      if (same && exists && own >= 0 && own < end - begin) {
        w.slopes[r * kChunk + own] = static_cast<float>(weight) * w.teacher_diagonal[row + r];
      }
    }
    add_gradients(w.slopes, a, w.student.columns + begin, end - begin, w, w.gradient_b + begin);
  }
  end_rows(row, w);
}

MINILM_INLINE double by_rows(double weight, bool same, const Work& w) {
  const int count = width_from(0, w.length);
  float *teacher = w.teacher_exponentials, *student = w.student_exponentials;
  const float *a_t = w.teacher.blocks, *a_s = w.student.blocks;
  for (int row = 0; row < w.length; row += kRows) {
    for (int j = 0; j < count; j += kPanel) {
      scores(a_t, w.teacher.columns + j, w.ld, w.teacher_width, teacher + j, count);
      scores(a_s, w.student.columns + j, w.ld, w.student_width, student + j, count);
    }
    for (int r = 0; r < kRows && row + r < w.length; r++) {
      const long from = static_cast<long>(r) * count;
      row_exponentials(row + r, teacher + from, student + from, same, w);
    }
    if (w.gradient_a) row_gradients(row, weight, teacher, student, count, same, w);
    a_t += static_cast<long>(kRows) * w.teacher_width;
    a_s += static_cast<long>(kRows) * w.student_width;
  }
  return loss_of(w);
}

void read(const RelationSide& a, const RelationSide& b, bool same, long first_row, int head, int width, const Work& w,
          const Side& to) {
  read_columns(a, first_row, head, width, w, to.columns);
  read_blocks(to.columns, width, w, to.blocks);
  if (!same) read_columns(b, first_row, head, width, w, to.columns);
}

double run(const RelationPair* pair, long first_row, int length, int head, double weight, void* scratch) {
  if (length == 0) return 0;
  Work w;
  (void)lay_out(pair, length, static_cast<float*>(scratch), &w);
  const bool same = pair->symmetric;
  read(pair->teacher_a, pair->teacher_b, same, first_row, head, w.teacher_width, w, w.teacher);
  read(pair->student_a, pair->student_b, same, first_row, head, w.student_width, w, w.student);
  if (w.gradient_a) {
    clear(w.gradient_a, w.ld * w.student_width);
    if (!same) clear(w.gradient_b, w.ld * w.student_width);
  }
  float bound_t = 0, bound_s = 0;
  const bool bounded = same && bound_of(w.teacher.columns, w.teacher_width, w, w.teacher_diagonal, &bound_t) &&
                       bound_of(w.student.columns, w.student_width, w, w.student_diagonal, &bound_s);
  const double loss = bounded ? symmetric(weight, bound_t, bound_s, w) : by_rows(weight, same, w);
  if (w.gradient_a) write(w.gradient_a, pair, first_row, head, w, pair->gradient_a);
  if (w.gradient_a && !same) write(w.gradient_b, pair, first_row, head, w, pair->gradient_b);
  return loss;
}

}  // namespace relation
}  // namespace

#define MINILM_RELATION_UNIT(identifier)                            \
  namespace minilm {                                                \
  extern const RelationUnit identifier;                             \
  const RelationUnit identifier = {relation::bytes, relation::run}; \
  }
