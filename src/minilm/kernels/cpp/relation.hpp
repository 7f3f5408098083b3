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

#include "relation_symmetric.hpp"

namespace {
namespace relation {

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
    add_gradients(w.slopes, a, w.student.columns + begin, end - begin, w, w.sums, w.gradient_b + begin);
  }
  end_rows(row, w.sums, w);
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
