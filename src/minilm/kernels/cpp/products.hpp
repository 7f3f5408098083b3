// Linear maps: rows times weights in panels, and what is done with a finished block before it is stored.
//
// A block has up to kRows rows, a panel kPanel columns; groups of 32 bits hold a float or several narrow numbers.
#pragma once

#include "work.hpp"

namespace {

constexpr long kGroupsAtOnce = 192;  // of a panel, which then stays in L1 beside the rows of a block
constexpr long kLine = 64;           // bytes of a cache line

// A block of a product: `kBlock` rows of groups times one panel, `kVectors` vectors wide. With `kMore` the sums continue
// from those in `to`.
template <class Dot, int kBlock, int kVectors, bool kMore>
MINILM_INLINE void block(const uint32_t* a, long a_stride, const char* panel, long groups, uint32_t* to,
                         long to_stride) {
  Vec::I sums[kBlock][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kBlock; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) {
      sums[r][v] = kMore ? Vec::load_groups(to + r * to_stride + v * kLanes) : Vec::zero_groups();
    }
  }
  for (long k = 0; k < groups; k++) {
    Vec::I columns[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) {
      columns[v] = Dot::load_columns(panel + (k * kPanel + v * kLanes) * Dot::kBytes);
      Vec::keep(columns[v]);  // not read again for each row
    }
#pragma GCC unroll 16
    for (int r = 0; r < kBlock; r++) {
      const Vec::I row = Vec::repeat_group(a[r * a_stride + k]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) sums[r][v] = Dot::dot(sums[r][v], row, columns[v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kBlock; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) Vec::store_groups(to + r * to_stride + v * kLanes, sums[r][v]);
  }
}

template <class Dot, int kVectors, bool kMore = false, int kBlock = kRows>
__attribute__((noinline)) void product(int rows, const uint32_t* a, long a_stride, const char* panel, long groups,
                                       uint32_t* to, long to_stride) {
  if (rows == kBlock) {
    block<Dot, kBlock, kVectors, kMore>(a, a_stride, panel, groups, to, to_stride);
  } else if constexpr (kBlock > 1) {
    product<Dot, kVectors, kMore, kBlock - 1>(rows, a, a_stride, panel, groups, to, to_stride);
  }
}

// Rows of a part if `n` rows are split into the fewest parts of at most `most` rows, all of nearly the same size.
MINILM_INLINE int even_part(int n, int most) {
  const int parts = (n + most - 1) / most;
  return (n + parts - 1) / parts;
}

// Asks for one of `shares` shares of the weights that come next: they are in L2 when they are needed.
MINILM_INLINE void prefetch(const char* from, long bytes, int share, int shares) {
  const long lines = bytes / kLine;
  for (long line = lines * share / shares; line < lines * (share + 1) / shares; line++) {
    __builtin_prefetch(from + line * kLine, 0, 2);
  }
}

// Where the results of a product go, `index` being that of a vector in `to`.
struct StoreTo {
  static MINILM_INLINE void put(float* to, long index, F v) { Vec::store(to + index, v); }
};
struct AddTo {
  static MINILM_INLINE void put(float* to, long index, F v) { Vec::store(to + index, Vec::add(v, Vec::load(to + index))); }
};
template <Activation kKind>
struct ActivateTo {
  static MINILM_INLINE void put(float* to, long index, F v) { Vec::store(to + index, activate<kKind>(v)); }
};
#ifdef MINILM_BF16
// Half as many floats: `index` counts numbers of 16 bits.
struct StoreBf16 {
  static MINILM_INLINE void put(float* to, long index, F v) { Vec::store_bf16(reinterpret_cast<uint16_t*>(to) + index, v); }
};
template <Activation kKind>
struct ActivateBf16 {
  static MINILM_INLINE void put(float* to, long index, F v) {
    Vec::store_bf16(reinterpret_cast<uint16_t*>(to) + index, activate<kKind>(v));
  }
};
#endif

// The left operand of a linear map: rows of groups, and for int8 what a step of each row is worth.
struct Operand {
  const uint32_t* rows;
  long stride;
  const float *scale, *zero;
};

// `rows` of `a` times the panels [first, last) of `l`; column 0 of `to` belongs to panel `first`.
template <class Dot, class Put>
void panels(const Linear& l, const Operand& a, int rows, int first, int last, float* to, long to_stride) {
  constexpr bool kQuantised = __is_same(Dot, Vec::Int8);
  alignas(64) uint32_t sums[kRowsAtOnce * kPanel];
  const long groups = l.in / Dot::kGroup;
  const long pieces = (groups + kGroupsAtOnce - 1) / kGroupsAtOnce, piece = (groups + pieces - 1) / pieces;
  constexpr long kGroupBytes = static_cast<long>(kPanel) * Dot::kBytes;
  const int chunk = even_part(rows, kRowsAtOnce);
  for (int begin = 0; begin < rows; begin += chunk) {
    const int here = rows - begin < chunk ? rows - begin : chunk, step = even_part(here, kRows);
    const int blocks = (here + step - 1) / step;
    for (int panel = first; panel < last; panel++) {
      const char* weights = static_cast<const char*>(l.weights) + panel * groups * kGroupBytes;
      for (long k = 0; k < groups; k += piece) {
        const long count = groups - k < piece ? groups - k : piece;
        const auto run = k ? product<Dot, 2, true> : product<Dot, 2, false>;
        for (int row = 0, block = 0; row < here; row += step, block++) {
          prefetch(weights + (k + piece) * kGroupBytes, count * kGroupBytes, block, blocks);
          run(here - row < step ? here - row : step, a.rows + (begin + row) * a.stride + k, a.stride,
              weights + k * kGroupBytes, count, sums + row * kPanel, kPanel);
        }
      }
      const float* bias = l.bias + panel * kPanel;
      for (int row = 0; row < here; row++) {
        const long at = (begin + row) * to_stride + static_cast<long>(panel - first) * kPanel;
#pragma GCC unroll 2
        for (int v = 0; v < kPanel; v += kLanes) {
          const Vec::I sum = Vec::load_groups(sums + row * kPanel + v);
          if constexpr (kQuantised) {
            const float* scale = l.scale + panel * kPanel + v;
            const float* column_sum = l.column_sum + panel * kPanel + v;
            const F shift = Vec::mul(Vec::set1(a.zero[begin + row]), Vec::load(column_sum));
            const F factor = Vec::mul(Vec::set1(a.scale[begin + row]), Vec::load(scale));
            Put::put(to, at + v, Vec::fma(Vec::sub(Vec::to_floats(sum), shift), factor, Vec::load(bias + v)));
          } else {
            Put::put(to, at + v, Vec::add(Vec::as_floats(sum), Vec::load(bias + v)));
          }
        }
      }
    }
  }
}

template <class Put>
void linear(const Linear& l, const Operand& a, int rows, Share part, float* to, long to_stride) {
  if (l.precision == minilm::kInt8) {
    panels<Vec::Int8, Put>(l, a, rows, part.begin, part.end, to, to_stride);
#ifdef MINILM_BF16
  } else if (l.precision == minilm::kBf16) {
    panels<Vec::Bf16, Put>(l, a, rows, part.begin, part.end, to, to_stride);
#endif
  } else {
    panels<Vec::Fp32, Put>(l, a, rows, part.begin, part.end, to, to_stride);
  }
}

MINILM_INLINE Share all_panels(const Linear& l, const Team* team) { return share_of(l.out / kPanel, team); }

// The left operand of `l` made of rows of floats; a whole team calls it, each thread converts its share.
Operand operand_of(const Linear& l, const float* rows, long stride, int count, uint32_t* to, long to_stride,
                   float* scale, float* zero, const Team* team) {
  if (l.precision == minilm::kFp32) return {reinterpret_cast<const uint32_t*>(rows), stride, nullptr, nullptr};
  const Share part = share_of(count, team);
  for (int row = part.begin; row < part.end; row++) {
    const float* from = rows + row * stride;
    uint32_t* groups = to + row * to_stride;
    if (l.precision == minilm::kInt8) {
      quantise_row(from, round_up(l.in, kLanes), l.smoothing, reinterpret_cast<uint8_t*>(groups), scale + row,
                   zero + row);
    }
#ifdef MINILM_BF16
    if (l.precision == minilm::kBf16) {
      for (int k = 0; k < l.in; k += kLanes) Vec::store_bf16(reinterpret_cast<uint16_t*>(groups) + k, Vec::load(from + k));
    }
#endif
  }
  meet(team);
  return {to, to_stride, scale, zero};
}

}  // namespace
