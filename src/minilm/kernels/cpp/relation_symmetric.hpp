// Pairs of a projection with itself: scores on and above the diagonal, each for its row and its column.
//
// A few blocks of rows take a chunk of columns in turn, while it is in the first-level cache.
// Shapes: see relation_unit.hpp.
#pragma once

#include "relation_products.hpp"

namespace {
namespace relation {

// A block of rows: its columns begin at `first` and are `count`; its exponentials where they are kept, else null.
struct Block {
  int row, rows, first, count;
  const float *a_t, *a_s;
  float *teacher, *student;
};

// How often a score of a block of rows counts: not at all below the block and beyond N, half in the block, where row
// and column both have it, else once.
MINILM_INLINE void shares(int row, int column, int length, float* to) {
  for (int j = 0; j < kPanel; j++) {
    const int at = column + j;
    to[j] = at < row || at >= length ? 0.f : at < row + kRows ? 0.5f : 1.f;
  }
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

// Exponentials of a block of rows and `count` columns from `begin` on, counted from its first.
template <bool kSums>
MINILM_INLINE void chunk_exponentials(const Block& block, int begin, int count, float bound_t, float bound_s,
                                      float* teacher, float* student, long stride, float* row_sums, const Work& w) {
  float share[kPanel];
  const F top_t = Vec::set1(bound_t), top_s = Vec::set1(bound_s);
  for (int j = 0; j < count; j += kPanel, teacher += kPanel, student += kPanel) {
    const int column = block.first + begin + j;
    scores(block.a_t, w.teacher.columns + column, w.ld, w.teacher_width, teacher, stride);
    scores(block.a_s, w.student.columns + column, w.ld, w.student_width, student, stride);
    if (column < block.row + kRows || column + kPanel >= w.length) {
      shares(block.row, column, w.length, share);
      for (int r = 0; r < block.rows; r++) {
        hide(block.row + r - column, kPanel, bound_t, bound_s, teacher + r * stride, student + r * stride);
      }
      exponentials_of<true, kSums>(teacher, student, stride, share, top_t, top_s, row_sums, w, block.rows, column);
    } else {
      exponentials_of<false, kSums>(teacher, student, stride, share, top_t, top_s, row_sums, w, kRows, column);
    }
  }
}

// Slopes of scores and of their mirror images, (P_s - P_t)[i][j] + (P_s - P_t)[j][i].
MINILM_INLINE void chunk_slopes(const Block& block, int begin, int count, const float* teacher, const float* student,
                                long stride, const Work& w) {
  const int column = block.first + begin;
  for (int r = 0; r < kRows; r++) {
    const F own_t = Vec::set1(w.teacher_sum[block.row + r]), own_s = Vec::set1(w.student_sum[block.row + r]);
    for (int j = 0; j < count; j += kLanes) {
      const F of_t = Vec::add(own_t, Vec::load(w.teacher_sum + column + j));
      const F of_s = Vec::add(own_s, Vec::load(w.student_sum + column + j));
      const F target = Vec::mul(Vec::load(teacher + r * stride + j), of_t);
      const F guess = Vec::mul(Vec::load(student + r * stride + j), of_s);
      Vec::store(w.slopes + r * kChunk + j, Vec::sub(guess, target));
    }
    const int own = block.row + r - column;
    if (own >= 0 && own < count) w.slopes[r * kChunk + own] = w.teacher_diagonal[block.row + r];
  }
}

// The next few blocks of rows; `before` is the size of the exponentials of all blocks before them.
MINILM_INLINE int next_blocks(int row, size_t* before, const Work& w, Block* blocks) {
  int found = 0;
  for (; found < kTogether && row < w.length; found++, row += kRows) {
    Block& block = blocks[found];
    block.row = row;
    block.rows = w.length - row < kRows ? w.length - row : kRows;
    block.first = first_column(row);
    block.count = width_from(block.first, w.length);
    block.a_t = w.teacher.blocks + static_cast<long>(row) * w.teacher_width;
    block.a_s = w.student.blocks + static_cast<long>(row) * w.student_width;
    const size_t size = static_cast<size_t>(kRows) * static_cast<size_t>(block.count);
    const bool kept = *before + size <= w.kept;
    block.teacher = kept ? w.teacher_exponentials + *before : nullptr;
    block.student = kept ? w.student_exponentials + *before : nullptr;
    *before += size;
  }
  return found;
}

MINILM_INLINE void add_sums(float bound_t, float bound_s, const Work& w) {
  alignas(64) float row_sums[kTogether][kRows * 3 * kLanes];
  float* const sums[3] = {w.teacher_sum, w.student_sum, w.cross};
  Block blocks[kTogether];
  size_t before = 0;
  for (int row = 0; row < w.length; row += kTogether * kRows) {
    const int found = next_blocks(row, &before, w, blocks);
    for (int b = 0; b < found; b++) clear(row_sums[b], kRows * 3 * kLanes);
    for (int j = 0; j < blocks[0].count; j += kChunk) {
      for (int b = 0; b < found; b++) {
        const Block& block = blocks[b];
        const int count = block.count - j < kChunk ? block.count - j : kChunk;
        const bool kept = block.teacher != nullptr;
        float* teacher = kept ? block.teacher + j : w.teacher_chunk;
        float* student = kept ? block.student + j : w.student_chunk;
        chunk_exponentials<true>(block, j, count, bound_t, bound_s, teacher, student, kept ? block.count : kChunk,
                                 row_sums[b], w);
      }
    }
    for (int b = 0; b < found; b++) {
      for (int r = 0; r < blocks[b].rows; r++) {
        for (int kind = 0; kind < 3; kind++) {
          sums[kind][blocks[b].row + r] += Vec::sum(Vec::load(row_sums[b] + (r * 3 + kind) * kLanes));
        }
      }
    }
  }
}

MINILM_INLINE void add_symmetric_gradients(float bound_t, float bound_s, const Work& w) {
  const long size = static_cast<long>(w.student_width) * kRows * kLanes;
  Block blocks[kTogether];
  size_t before = 0;
  for (int row = 0; row < w.length; row += kTogether * kRows) {
    const int found = next_blocks(row, &before, w, blocks);
    clear(w.sums, found * size);
    for (int j = 0; j < blocks[0].count; j += kChunk) {
      for (int b = 0; b < found; b++) {
        const Block& block = blocks[b];
        const int left = round_up(w.length - block.first, kLanes) - j, count = left < kChunk ? left : kChunk;
        if (count <= 0) continue;
        if (block.teacher) {
          chunk_slopes(block, j, count, block.teacher + j, block.student + j, block.count, w);
        } else {
          chunk_exponentials<false>(block, j, round_up(count, kPanel), bound_t, bound_s, w.teacher_chunk,
                                    w.student_chunk, kChunk, nullptr, w);
          chunk_slopes(block, j, count, w.teacher_chunk, w.student_chunk, kChunk, w);
        }
        const long at = block.first + j;
        add_gradients(w.slopes, block.a_s, w.student.columns + at, count, w, w.sums + b * size, w.gradient_a + at);
      }
    }
    for (int b = 0; b < found; b++) end_rows(blocks[b].row, w.sums + b * size, w);
  }
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

MINILM_INLINE double symmetric(double weight, float bound_t, float bound_s, const Work& w) {
  clear(w.teacher_sum, w.ld);
  clear(w.student_sum, w.ld);
  clear(w.cross, w.ld);
  add_sums(bound_t, bound_s, w);
  add_diagonal(bound_t, bound_s, w);
  const double loss = loss_of(w);
  if (w.gradient_a) {
    make_factors(w, weight);
    add_symmetric_gradients(bound_t, bound_s, w);
  }
  return loss;
}

}  // namespace relation
}  // namespace
