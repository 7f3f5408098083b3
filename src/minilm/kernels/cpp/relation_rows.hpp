// The rows of one head of a sequence in scratch memory, and back: what relation.hpp computes with.
//
// Shapes: see relation_unit.hpp.
#pragma once

#include <math.h>

#include "relation_unit.hpp"
#include "rows.hpp"

namespace {
namespace relation {

using minilm::RelationPair;
using minilm::RelationSide;

constexpr int kRows = Vec::kRows;      // of a block
constexpr int kPanel = 2 * kLanes;     // columns of a block of scores
constexpr int kChunk = 128;            // columns that stay in L1 while blocks of rows pass over them
constexpr int kTogether = 4;           // blocks of rows that pass over a chunk in turn
constexpr size_t kKept = size_t{5} << 15;  // floats of the exponentials that are kept, of each side: 512 tokens
constexpr float kWidest = 86.f;        // spread of the diagonal up to which one bound serves all rows
constexpr float kHidden = 150.f;       // below the bound: the exponential is the smallest there is
constexpr int kAhead = 32;             // rows that are fetched before they are read
constexpr double kLog2e = 1.4426950408889634;
constexpr int kLogs = 8;               // quotients whose product is taken before their logarithm

// A side of a head: rows in blocks of kRows, [block][W][row], and transposed, [W][ld]; 0 beyond N. Both are scaled, so
// that the product of two is the score in powers of two: z log2(e), with z = a b^T / sqrt(W).
struct Side {
  float *blocks, *columns;
};

struct Work {
  int length, blocks, teacher_width, student_width;
  long ld;  // of all rows of N numbers; a panel that begins at any vector below N ends before it
  Side teacher, student;           // `blocks` of a, `columns` of b
  float *gradient_a, *gradient_b;  // [W][ld], of the scaled rows; the same where symmetric
  // [ld]: sum(e_t), sum(e_s) and sum(e_t (z_t - z_s)) of each row; scores and, of the teacher, slopes of the diagonal.
  float *teacher_sum, *student_sum, *cross, *teacher_diagonal, *student_diagonal;
  float *sums;                     // lanes of the gradients of blocks of rows: [block][W][kRows][lane]
  float *slopes;                   // [kRows][kChunk]
  float *teacher_chunk, *student_chunk;  // exponentials: [kRows][kChunk]
  // Symmetric: of blocks of rows one after the other, as many as are kept; else of all columns of one block.
  float *teacher_exponentials, *student_exponentials;
  size_t kept;
};

MINILM_INLINE size_t greater(size_t a, size_t b) { return a > b ? a : b; }
MINILM_INLINE size_t lesser(size_t a, size_t b) { return a < b ? a : b; }
MINILM_INLINE long columns_of(int length) { return round_up(length, kLanes) + round_up(kRows, kLanes); }
MINILM_INLINE long blocks_of(int length) { return (length + kRows - 1) / kRows; }

// Where the columns of a block of rows begin, and how many there are, in whole panels.
MINILM_INLINE int first_column(int row) { return row / kLanes * kLanes; }
MINILM_INLINE int width_from(int column, int length) { return round_up(length - column, kPanel); }

// Floats of the exponentials of a symmetric pair, all blocks of rows of one side together.
MINILM_INLINE size_t triangle(int length) {
  size_t count = 0;
  for (int row = 0; row < length; row += kRows) {
    count += static_cast<size_t>(kRows) * static_cast<size_t>(width_from(first_column(row), length));
  }
  return count;
}

// Divides memory among the arrays of a head, or with null only adds up: no shorter sequence needs more.
MINILM_INLINE size_t lay_out(const RelationPair* pair, int length, float* memory, Work* w) {
  const auto ld = static_cast<size_t>(columns_of(length)), rows = static_cast<size_t>(blocks_of(length) * kRows);
  const auto wide_t = static_cast<size_t>(pair->teacher_width), wide_s = static_cast<size_t>(pair->student_width);
  const size_t block = kRows * static_cast<size_t>(width_from(0, length));
  const size_t all = pair->symmetric && pair->gradient_a ? triangle(length) : 0;
  size_t used = 0;
  const auto take = [&](size_t count) {
    float* from = memory ? memory + used : nullptr;
    used += (count + 15) / 16 * 16;
    return from;
  };
  *w = {};
  w->length = length;
  w->blocks = static_cast<int>(blocks_of(length));
  w->teacher_width = pair->teacher_width;
  w->student_width = pair->student_width;
  w->ld = static_cast<long>(ld);
  w->kept = lesser(all, kKept);
  w->teacher = {take(rows * wide_t + kLanes), take(ld * wide_t)};
  w->student = {take(rows * wide_s + kLanes), take(ld * wide_s)};
  w->gradient_a = pair->gradient_a ? take(ld * wide_s) : nullptr;
  w->gradient_b = pair->gradient_a && !pair->symmetric ? take(ld * wide_s) : w->gradient_a;
  w->teacher_sum = take(ld);
  w->student_sum = take(ld);
  w->cross = take(ld);
  w->teacher_diagonal = take(ld);
  w->student_diagonal = take(ld);
  w->sums = take(kTogether * wide_s * static_cast<size_t>(kRows * kLanes));
  w->slopes = take(static_cast<size_t>(kRows) * kChunk);
  w->teacher_chunk = take(static_cast<size_t>(kRows) * kChunk);
  w->student_chunk = take(static_cast<size_t>(kRows) * kChunk);
  w->teacher_exponentials = take(greater(w->kept, block));
  w->student_exponentials = take(greater(w->kept, block));
  return used;
}

size_t bytes(const RelationPair* pair, int longest) {
  Work w;
  return sizeof(float) * lay_out(pair, longest, nullptr, &w);
}

// ---------------------------------------------------------------------------------------------------- in and out

// A square of a side of a head, scaled, as a transposed square; 0 beyond `rows` and `columns`.
MINILM_INLINE void read_square(const RelationSide& side, long from, int rows, int columns, float scale, float* to) {
  alignas(64) float square[kLanes * kLanes];
  for (int r = 0; r < kLanes; r++) {
    float* row = square + r * kLanes;
    const long begin = from + r * side.stride;
    F numbers = Vec::zero();
    if (r < rows && side.bf16) {
      const auto* words = static_cast<const uint16_t*>(side.rows) + begin;
      uint32_t bits[kLanes] = {};
      for (int k = 0; k < columns; k++) bits[k] = static_cast<uint32_t>(words[k]) << 16;
      __builtin_memcpy(row, bits, sizeof bits);
      numbers = Vec::load(row);
    } else if (r < rows) {
      numbers = Vec::load_first(static_cast<const float*>(side.rows) + begin, columns);
    }
    Vec::store(row, Vec::mul(numbers, Vec::set1(scale)));
  }
  Vec::transpose(square, kLanes, to, kLanes);
}

// The rows of a head, scaled and transposed.
void read_columns(const RelationSide& side, long first_row, int head, int width, const Work& w, float* to) {
  const auto scale = static_cast<float>(sqrt(kLog2e / sqrt(static_cast<double>(width))));
  const long begin = first_row * side.stride + static_cast<long>(head) * width;
  alignas(64) float square[kLanes * kLanes];
  for (int j = 0; j < w.ld; j += kLanes) {
    for (int r = 0; r < kLanes && j + kAhead + r < w.length; r++) {
      const long index = begin + (j + kAhead + r) * side.stride;
      __builtin_prefetch(static_cast<const char*>(side.rows) + index * (side.bf16 ? 2 : 4));
    }
    for (int k = 0; k < width; k += kLanes) {
      const int columns = width - k < kLanes ? width - k : kLanes;
      read_square(side, begin + j * side.stride + k, w.length - j, columns, scale, square);
      for (int c = 0; c < columns; c++) Vec::store(to + (k + c) * w.ld + j, Vec::load(square + c * kLanes));
    }
  }
}

// Transposed rows in blocks; what the last store writes too much lies beyond them.
MINILM_INLINE void read_blocks(const float* columns, int width, const Work& w, float* to) {
  for (int block = 0; block < w.blocks; block++) {
    for (int k = 0; k < width; k++, to += kRows) {
      for (int r = 0; r < kRows; r += kLanes) Vec::store(to + r, Vec::load(columns + k * w.ld + block * kRows + r));
    }
  }
}

// Gradients of the scaled rows, [W][ld], as gradients of the rows.
void write(const float* gradient, const RelationPair* pair, long first_row, int head, const Work& w, float* to) {
  const int width = w.student_width;
  const F scale = Vec::set1(static_cast<float>(1. / sqrt(kLog2e * sqrt(static_cast<double>(width)))));
  const long stride = static_cast<long>(pair->heads) * width;
  alignas(64) float square[kLanes * kLanes], turned[kLanes * kLanes];
  for (int j = 0; j < w.length; j += kLanes) {
    const int rows = w.length - j < kLanes ? w.length - j : kLanes;
    for (int k = 0; k < width; k += kLanes) {
      const int columns = width - k < kLanes ? width - k : kLanes;
      for (int c = 0; c < kLanes; c++) {
        const F row = c < columns ? Vec::mul(scale, Vec::load(gradient + (k + c) * w.ld + j)) : Vec::zero();
        Vec::store(square + c * kLanes, row);
      }
      Vec::transpose(square, kLanes, turned, kLanes);
      float* row = to + (first_row + j) * stride + static_cast<long>(head) * width + k;
      for (int r = 0; r < rows; r++, row += stride) {
        for (int c = 0; c < columns; c++) row[c] = turned[r * kLanes + c];
      }
    }
  }
}

}  // namespace relation
}  // namespace
