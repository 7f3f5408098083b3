// A tile of whole sequences through all layers, for the instruction set whose `Vec` was included before this file.
//
// Every number is computed by the same operations in the same order whatever else is in the tile and however many
// threads share it: sums over inputs run in order, sums over keys and lanes depend on a sequence's own length alone.
// A team splits the columns of products, the sequences and heads of attention, and the rows of everything else.
//
// Shapes: see engine.hpp. S keys of a sequence; a block has up to kRows rows, a panel kPanel columns.
#pragma once

#include <math.h>
#include <sched.h>
#include <string.h>

#include "rows.hpp"

namespace {

using minilm::Linear;
using minilm::Model;
using minilm::Team;
using minilm::Tile;
using minilm::Wanted;

constexpr int kRows = Vec::kRows;
constexpr int kPanel = 2 * kLanes;
// Rows that a panel meets while it is in L1, and whose feed-forward activations are kept at once: enough that loading
// the weights is a small part of the work, few enough that the rows stay in L2.
constexpr int kRowsAtOnce = 132 / kRows * kRows;
constexpr long kGroupsAtOnce = 192;  // of a panel, which then stays in L1 beside the rows of a block
constexpr long kGroupsOfLine = 16;
constexpr int kSpins = 2000;         // before a waiting thread gives its core away

// ---------------------------------------------------------------------------------------------------- team

struct Share {
  int begin, end;
};

MINILM_INLINE Share share_of(int n, const Team* team) {
  const long size = team->size;
  return {static_cast<int>(n * static_cast<long>(team->rank) / size),
          static_cast<int>(n * (team->rank + 1L) / size)};
}

// Waits until all threads of the team have come here.
void meet(const Team* team) {
  if (team->size == 1) return;
  const int before = __atomic_fetch_add(team->arrived, 1, __ATOMIC_ACQ_REL);
  const int round_end = (before / team->size + 1) * team->size;
  for (int spins = 0; __atomic_load_n(team->arrived, __ATOMIC_ACQUIRE) < round_end; spins++) {
    if (spins < kSpins) {
      _mm_pause();
    } else {
      sched_yield();
    }
  }
}

// ---------------------------------------------------------------------------------------------------- memory

// A row of each kind is one cache line longer than its width, so that the rows of a block do not share a cache set.
struct Work {
  long stride, qkv_stride, ffn_stride, operand_stride, ffn_operand_stride;  // in floats; operands in groups of 32 bits
  float *hidden, *qkv, *attended, *ffn;
  uint32_t *operand, *ffn_operand;
  float *scale, *zero, *ffn_scale, *ffn_zero;
  float *keys, *values, *scores;  // of one thread
};

MINILM_INLINE int attended_width(const Model* m) { return m->heads * m->head_stride; }

template <class T>
MINILM_INLINE T* take(char*& memory, size_t count) {
  char* from = memory;
  memory += (count * sizeof(T) + 63) / 64 * 64;
  return reinterpret_cast<T*>(from);
}

MINILM_INLINE void lay_out(const Model* m, Work* w) {
  const int wide = attended_width(m) > m->hidden_padded ? attended_width(m) : m->hidden_padded;
  w->stride = wide + 16;
  w->qkv_stride = 3L * attended_width(m) + 16;
  w->ffn_stride = m->ffn_padded + 16L;
  w->operand_stride = wide / 2 + 16;
  w->ffn_operand_stride = m->ffn_padded / 2 + 16L;
}

MINILM_INLINE char* take_shared(int tokens, char* memory, Work* w) {
  const long rows = tokens, ffn_rows = tokens < kRowsAtOnce ? tokens : kRowsAtOnce;
  w->hidden = take<float>(memory, rows * w->stride);
  w->attended = take<float>(memory, rows * w->stride);
  w->qkv = take<float>(memory, rows * w->qkv_stride);
  w->ffn = take<float>(memory, ffn_rows * w->ffn_stride);
  w->operand = take<uint32_t>(memory, rows * w->operand_stride);
  w->ffn_operand = take<uint32_t>(memory, ffn_rows * w->ffn_operand_stride);
  w->scale = take<float>(memory, rows);
  w->zero = take<float>(memory, rows);
  w->ffn_scale = take<float>(memory, ffn_rows);
  w->ffn_zero = take<float>(memory, ffn_rows);
  return memory;
}

MINILM_INLINE char* take_private(const Model* m, int longest, char* memory, Work* w) {
  const long keys = round_up(longest, kPanel);
  w->keys = take<float>(memory, keys * m->head_stride);
  w->values = take<float>(memory, keys * m->head_stride);
  w->scores = take<float>(memory, kRows * (keys + 16));
  return memory;
}

size_t shared_bytes(const Model* m, int tokens) {
  Work w;
  lay_out(m, &w);
  return static_cast<size_t>(take_shared(tokens, nullptr, &w) - static_cast<char*>(nullptr));
}

size_t private_bytes(const Model* m, int longest) {
  Work w;
  return static_cast<size_t>(take_private(m, longest, nullptr, &w) - static_cast<char*>(nullptr));
}

// ---------------------------------------------------------------------------------------------------- products

// A block of a product: `kBlock` rows of groups times one panel, `kVectors` vectors wide. With `kMore` the sums continue
// from those in `to`.
template <class Dot, int kBlock, int kVectors, bool kMore>
MINILM_INLINE void block(const uint32_t* a, long a_stride, const uint32_t* panel, long groups, uint32_t* to,
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
      columns[v] = Vec::load_groups(panel + k * kPanel + v * kLanes);
      asm("" : "+v"(columns[v]));  // in a register, not read again for each row
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
__attribute__((noinline)) void product(int rows, const uint32_t* a, long a_stride, const uint32_t* panel, long groups,
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
MINILM_INLINE void prefetch(const uint32_t* from, long groups, int share, int shares) {
  const long lines = groups / kGroupsOfLine;
  for (long line = lines * share / shares; line < lines * (share + 1) / shares; line++) {
    __builtin_prefetch(from + line * kGroupsOfLine, 0, 2);
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
  constexpr bool kQuantised = Dot::kGroup == Vec::kInt8Group && !__is_same(Dot, typename Vec::Fp32)
#ifdef MINILM_BF16
                              && !__is_same(Dot, typename Vec::Bf16)
#endif
      ;
  alignas(64) uint32_t sums[kRowsAtOnce * kPanel];
  const long groups = l.in / Dot::kGroup;
  const long pieces = (groups + kGroupsAtOnce - 1) / kGroupsAtOnce, piece = (groups + pieces - 1) / pieces;
  const int chunk = even_part(rows, kRowsAtOnce);
  for (int begin = 0; begin < rows; begin += chunk) {
    const int here = rows - begin < chunk ? rows - begin : chunk, step = even_part(here, kRows);
    const int blocks = (here + step - 1) / step;
    for (int panel = first; panel < last; panel++) {
      const uint32_t* weights = static_cast<const uint32_t*>(l.weights) + panel * groups * kPanel;
      for (long k = 0; k < groups; k += piece) {
        const long count = groups - k < piece ? groups - k : piece;
        const auto run = k ? product<Dot, 2, true> : product<Dot, 2, false>;
        for (int row = 0, block = 0; row < here; row += step, block++) {
          prefetch(weights + (k + piece) * kPanel, count * kPanel, block, blocks);
          run(here - row < step ? here - row : step, a.rows + (begin + row) * a.stride + k, a.stride,
              weights + k * kPanel, count, sums + row * kPanel, kPanel);
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

// ---------------------------------------------------------------------------------------------------- attention

// A sequence's keys as panels of kPanel keys, [head width][key], and its values as panels of columns, [key][column].
template <class Dot>
MINILM_INLINE void prepare_head(const uint32_t* keys, const uint32_t* values, long stride, int num_keys, int groups,
                                Work* w) {
  for (int panel = 0; panel < num_keys; panel += kPanel) {
    float* to = w->keys + static_cast<long>(panel) * groups;
    for (int key = panel; key < panel + kPanel; key += kLanes) {
      const int here = num_keys - key;
      for (int d = 0; d < groups; d += kLanes) {
        const float* from = reinterpret_cast<const float*>(keys + key * stride + d);
        float* column = to + static_cast<long>(d) * kPanel + (key - panel);
        if (here >= kLanes) {
          Vec::transpose(from, stride, column, kPanel);
        } else if (here <= 0) {
          for (int j = 0; j < kLanes; j++) Vec::store(column + j * kPanel, Vec::zero());
        } else {
          alignas(64) float last[kLanes * kLanes];
          for (int i = 0; i < kLanes; i++) {
            Vec::store(last + i * kLanes, i < here ? Vec::load(from + i * stride) : Vec::zero());
          }
          Vec::transpose(last, kLanes, column, kPanel);
        }
      }
    }
  }
#ifdef MINILM_BF16
  if constexpr (Dot::kGroup == 2) {
    static const uint16_t kNone[kLanes] = {};
    const int width = 2 * groups;
    for (int column = 0; column < width; column += kLanes) {
      uint32_t* to = reinterpret_cast<uint32_t*>(w->values) +
                     static_cast<long>(column / kPanel) * ((num_keys + 1) / 2) * kPanel + column % kPanel;
      for (int key = 0; key < num_keys; key += 2, to += kPanel) {
        const uint16_t* even = reinterpret_cast<const uint16_t*>(values + key * stride) + column;
        const uint16_t* odd = key + 1 < num_keys ? even + 2 * stride : kNone;
        Vec::store_groups(to, Vec::interleave_bf16(even, odd));
      }
    }
    return;
  }
#endif
  for (int column = 0; column < groups; column += kLanes) {
    float* to = w->values + static_cast<long>(column / kPanel) * num_keys * kPanel + column % kPanel;
    const float* from = reinterpret_cast<const float*>(values) + column;
    for (int key = 0; key < num_keys; key++) Vec::store(to + static_cast<long>(key) * kPanel, Vec::load(from + key * stride));
  }
}

// Attention of some query rows of one head, over a sequence whose keys and values are prepared.
template <class Dot>
MINILM_INLINE void attend_head(const uint32_t* queries, long stride, int num_queries, int num_keys, int groups,
                               int head_stride, float scale, float* to, long to_stride, Work* w) {
  const long scores_stride = round_up(num_keys, kPanel) + 16L;
  const int step = even_part(num_queries, kRows);
  alignas(64) float sums[kRows * kPanel];
  float inverse[kRows];
  for (int row = 0; row < num_queries; row += step) {
    const int count = num_queries - row < step ? num_queries - row : step;
    for (int key = 0; key < num_keys; key += kPanel) {
      const auto* panel = reinterpret_cast<const uint32_t*>(w->keys) + static_cast<long>(key) * groups;
      auto* scores = reinterpret_cast<uint32_t*>(w->scores) + key;
      if (num_keys - key > kLanes) {
        product<Dot, 2>(count, queries + row * stride, stride, panel, groups, scores, scores_stride);
      } else {
        product<Dot, 1>(count, queries + row * stride, stride, panel, groups, scores, scores_stride);
      }
    }
    for (int r = 0; r < count; r++) {
      float* scores = w->scores + r * scores_stride;
      inverse[r] = exp_row(scores, num_keys, scale);
#ifdef MINILM_BF16
      if constexpr (Dot::kGroup == 2) {
        for (int k = 0; k < num_keys; k += kLanes) {
          Vec::store_bf16(reinterpret_cast<uint16_t*>(scores) + k, Vec::load(scores + k));
        }
      }
#endif
    }
    const long key_groups = (num_keys + Dot::kGroup - 1) / Dot::kGroup;
    for (int column = 0; column < head_stride; column += kPanel) {
      const auto* panel = reinterpret_cast<const uint32_t*>(w->values) + column * key_groups;
      product<Dot, 2>(count, reinterpret_cast<const uint32_t*>(w->scores), scores_stride, panel, key_groups,
                      reinterpret_cast<uint32_t*>(sums), kPanel);
      for (int r = 0; r < count; r++) {
        const F share = Vec::set1(inverse[r]);
        float* row_to = to + (row + r) * to_stride + column;
        for (int v = 0; v < kPanel; v += kLanes) Vec::store(row_to + v, Vec::mul(share, Vec::load(sums + r * kPanel + v)));
      }
    }
  }
}

// Attention of all heads and sequences. With `first_only`, the query of sequence i is in row i of `qkv`.
template <class Dot>
void attend(const Model* m, const Tile* tile, bool first_only, Work* w, const Team* team) {
  const float scale = 1.f / __builtin_sqrtf(static_cast<float>(m->head_size));
  const int groups = m->head_stride / Dot::kGroup;
  const long between = attended_width(m) / Dot::kGroup;  // from a query to its key, in groups
  const Share part = share_of(tile->num_sequences * m->heads, team);
  const auto* qkv = reinterpret_cast<const uint32_t*>(w->qkv);
  long start = 0;
  for (int sequence = 0; sequence < tile->num_sequences; start += tile->lengths[sequence], sequence++) {
    const int length = tile->lengths[sequence];
    const long query_row = first_only ? sequence : start;
    for (int head = 0; head < m->heads; head++) {
      const int item = sequence * m->heads + head;
      if (item < part.begin || item >= part.end) continue;
      const uint32_t* keys = qkv + start * w->qkv_stride + between + head * groups;
      prepare_head<Dot>(keys, keys + between, w->qkv_stride, length, groups, w);
      attend_head<Dot>(qkv + query_row * w->qkv_stride + head * groups, w->qkv_stride, first_only ? 1 : length, length,
                       groups, m->head_stride, scale, w->attended + query_row * w->stride + head * m->head_stride,
                       w->stride, w);
    }
  }
}

// ---------------------------------------------------------------------------------------------------- layers

void embed(const Model* m, const Tile* tile, Work* w, const Team* team) {
  const Share part = share_of(tile->num_tokens, team);
  int row = 0;
  for (int sequence = 0; sequence < tile->num_sequences; sequence++) {
    for (int place = 0; place < tile->lengths[sequence]; place++, row++) {
      if (row < part.begin || row >= part.end) continue;
      const float* word = m->word + static_cast<long>(tile->ids[row]) * m->hidden;
      const float* position = m->position + static_cast<long>(m->first_position + place) * m->hidden;
      const int kind = tile->segments ? tile->segments[row] : 0;
      const float* segment = m->segment ? m->segment + static_cast<long>(kind) * m->hidden : nullptr;
      float* to = w->hidden + row * w->stride;
      for (int k = 0; k < m->hidden_padded; k += kLanes) {
        const int here = m->hidden - k < kLanes ? m->hidden - k : kLanes;
        if (here <= 0) {
          Vec::store(to + k, Vec::zero());
          continue;
        }
        F x = Vec::load_first(word + k, here);
        if (segment) x = Vec::add(x, Vec::load_first(segment + k, here));
        Vec::store(to + k, Vec::add(x, Vec::load_first(position + k, here)));
      }
      layer_norm(to, m->hidden, m->embedding_norm.weight, m->embedding_norm.bias, m->eps);
    }
  }
  meet(team);
}

void norm_rows(const Model* m, const minilm::Norm& norm, int rows, Work* w, const Team* team) {
  const Share part = share_of(rows, team);
  for (int row = part.begin; row < part.end; row++) {
    layer_norm(w->hidden + row * w->stride, m->hidden, norm.weight, norm.bias, m->eps);
  }
  meet(team);
}

// Queries, keys and values of a layer. With `first_only`, the first row of each sequence moves to row i of `hidden`,
// and queries are computed for these rows only.
void project(const Model* m, const minilm::Layer& layer, const Tile* tile, bool first_only, bool bf16, Work* w,
             const Team* team) {
  const Linear& l = layer.qkv;
  const auto run = [&](const Operand& a, int rows, Share part, int column) {
#ifdef MINILM_BF16
    if (bf16) return linear<StoreBf16>(l, a, rows, part, w->qkv + column / 2, 2 * w->qkv_stride);
#endif
    linear<StoreTo>(l, a, rows, part, w->qkv + column, w->qkv_stride);
  };
  const auto operand = [&](int rows) {
    return operand_of(l, w->hidden, w->stride, rows, w->operand, w->operand_stride, w->scale, w->zero, team);
  };
  const int query_panels = first_only ? attended_width(m) / kPanel : 0;
  const Share rest = share_of(l.out / kPanel - query_panels, team);
  const Share part = {query_panels + rest.begin, query_panels + rest.end};
  run(operand(tile->num_tokens), tile->num_tokens, part, part.begin * kPanel);
  meet(team);
  if (first_only) {
    if (team->rank == 0) {
      long start = 0;
      for (int i = 0; i < tile->num_sequences; start += tile->lengths[i], i++) {
        if (start != i) memcpy(w->hidden + i * w->stride, w->hidden + start * w->stride, sizeof(float) * m->hidden_padded);
      }
    }
    meet(team);
    const Share queries = share_of(query_panels, team);
    run(operand(tile->num_sequences), tile->num_sequences, queries, queries.begin * kPanel);
    meet(team);
  }
  (void)bf16;
}

template <Activation kKind>
void ffn_in(const Linear& l, const Linear& next, const Operand& a, int rows, Work* w, const Team* team) {
  const Share part = all_panels(l, team);
  float* to = w->ffn + part.begin * kPanel;
#ifdef MINILM_BF16
  if (next.precision == minilm::kBf16) {
    return linear<ActivateBf16<kKind>>(l, a, rows, part, w->ffn + part.begin * kPanel / 2, 2 * w->ffn_stride);
  }
#endif
  (void)next;
  linear<ActivateTo<kKind>>(l, a, rows, part, to, w->ffn_stride);
}

// What follows attention: output map, residual, norm, feed-forward network, residual, norm, of the first `rows` rows.
void finish(const Model* m, const minilm::Layer& layer, int rows, Work* w, const Team* team) {
  const Linear &out = layer.attention_out, &in = layer.ffn_in, &ffn_out = layer.ffn_out;
  Operand a = operand_of(out, w->attended, w->stride, rows, w->operand, w->operand_stride, w->scale, w->zero, team);
  Share part = all_panels(out, team);
  linear<AddTo>(out, a, rows, part, w->hidden + part.begin * kPanel, w->stride);
  meet(team);
  norm_rows(m, layer.attention_norm, rows, w, team);
  a = operand_of(in, w->hidden, w->stride, rows, w->operand, w->operand_stride, w->scale, w->zero, team);
  const int step = even_part(rows, kRowsAtOnce);
  for (int row = 0; row < rows; row += step) {
    const int count = rows - row < step ? rows - row : step;
    const Operand here = {a.rows + row * a.stride, a.stride, a.scale ? a.scale + row : nullptr,
                          a.zero ? a.zero + row : nullptr};
    switch (m->activation) {
      case minilm::kGeluTanh: ffn_in<minilm::kGeluTanh>(in, ffn_out, here, count, w, team); break;
      case minilm::kRelu: ffn_in<minilm::kRelu>(in, ffn_out, here, count, w, team); break;
      default: ffn_in<minilm::kGelu>(in, ffn_out, here, count, w, team);
    }
    meet(team);
    const Operand inner =
        ffn_out.precision == minilm::kBf16
            ? Operand{reinterpret_cast<const uint32_t*>(w->ffn), w->ffn_stride, nullptr, nullptr}
            : operand_of(ffn_out, w->ffn, w->ffn_stride, count, w->ffn_operand, w->ffn_operand_stride, w->ffn_scale,
                         w->ffn_zero, team);
    part = all_panels(ffn_out, team);
    linear<AddTo>(ffn_out, inner, count, part, w->hidden + row * w->stride + part.begin * kPanel, w->stride);
    meet(team);
  }
  norm_rows(m, layer.ffn_norm, rows, w, team);
}

// ---------------------------------------------------------------------------------------------------- outputs

MINILM_INLINE void store_row(float* to, const float* from, int width) {
  memcpy(to, from, sizeof(float) * static_cast<size_t>(width));
}

// One vector of the rows of a sequence, without the first `skipped`, as sentence-transformers pools them.
void pool(const float* rows, long stride, int length, int skipped, int mode, int width, float* to) {
  const int kept = length - skipped;
  if (mode == minilm::kCls) return store_row(to, rows + (kept > 0 ? skipped : 0) * stride, width);
  if (kept <= 0) {  // the prompt takes all tokens
    for (int k = 0; k < width; k++) to[k] = mode == minilm::kMax ? -__builtin_inff() : 0.f;
    return;
  }
  if (mode == minilm::kLastToken) return store_row(to, rows + (length - 1L) * stride, width);
  float total = 0;
  for (int r = skipped; r < length; r++) total += static_cast<float>(r + 1);
  const float divisor = mode == minilm::kMean ? static_cast<float>(kept)
                        : mode == minilm::kMeanSqrtLength ? __builtin_sqrtf(static_cast<float>(kept)) : total;
  for (int k = 0; k < width; k += kLanes) {
    F sum = mode == minilm::kMax ? Vec::set1(-__builtin_inff()) : Vec::zero();
    for (int r = skipped; r < length; r++) {
      const F row = Vec::load(rows + r * stride + k);
      if (mode == minilm::kMax) {
        sum = Vec::max(sum, row);
      } else if (mode == minilm::kWeightedMean) {
        sum = Vec::fma(row, Vec::set1(static_cast<float>(r + 1)), sum);
      } else {
        sum = Vec::add(sum, row);
      }
    }
    if (mode != minilm::kMax) sum = Vec::div(sum, Vec::set1(divisor));
    Vec::store_first(to + k, sum, width - k < kLanes ? width - k : kLanes);
  }
}

// `first_only`: the first row of sequence i is row i.
void write_pooled(const Model* m, const Tile* tile, const Wanted* wanted, bool first_only, const Work* w,
                  const Team* team) {
  const Share part = share_of(tile->num_sequences, team);
  long start = 0;
  for (int i = 0; i < tile->num_sequences; start += tile->lengths[i], i++) {
    if (i < part.begin || i >= part.end) continue;
    for (int mode = 0; mode < wanted->num_pooling; mode++) {
      float* to = tile->out + (static_cast<long>(i) * wanted->num_pooling + mode) * m->hidden;
      const long row = first_only ? i : start;
      pool(w->hidden + row * w->stride, w->stride, tile->lengths[i], wanted->skipped, wanted->pooling[mode], m->hidden,
           to);
    }
  }
}

// Scores of the head for the first `rows` rows. The padded scores go panel by panel through the rows of `qkv`.
void write_scores(const Model* m, const float* hidden, long stride, int rows, const Tile* tile, Work* w,
                  const Team* team) {
  const Operand a = {reinterpret_cast<const uint32_t*>(hidden), stride, nullptr, nullptr};
  const int total = m->head.out / kPanel;
  const int at_once = static_cast<int>(w->qkv_stride / kPanel);
  for (int first = 0; first < total; first += at_once) {
    const int count = total - first < at_once ? total - first : at_once;
    const Share part = share_of(count, team);
    linear<StoreTo>(m->head, a, rows, {first + part.begin, first + part.end}, w->qkv + part.begin * kPanel,
                    w->qkv_stride);
    meet(team);
    const Share mine = share_of(rows, team);
    const int columns = m->labels - first * kPanel < count * kPanel ? m->labels - first * kPanel : count * kPanel;
    for (int row = mine.begin; row < mine.end; row++) {
      store_row(tile->out + static_cast<long>(row) * m->labels + static_cast<long>(first) * kPanel,
                w->qkv + row * w->qkv_stride, columns);
    }
    meet(team);
  }
}

template <Activation kKind>
void pooler(const Model* m, int rows, Work* w, const Team* team) {
  const Operand a = {reinterpret_cast<const uint32_t*>(w->hidden), w->stride, nullptr, nullptr};
  const Share part = all_panels(m->pooler, team);
  linear<ActivateTo<kKind>>(m->pooler, a, rows, part, w->attended + part.begin * kPanel, w->stride);
  meet(team);
}

void write_classes(const Model* m, const Tile* tile, Work* w, const Team* team) {
  const int rows = tile->num_sequences;
  switch (m->pooler_activation) {
    case minilm::kGelu: pooler<minilm::kGelu>(m, rows, w, team); break;
    case minilm::kRelu: pooler<minilm::kRelu>(m, rows, w, team); break;
    default: pooler<minilm::kTanh>(m, rows, w, team);
  }
  write_scores(m, w->attended, w->stride, rows, tile, w, team);
}

// Queries, keys and values without the padding between heads.
void write_relations(const Model* m, const Tile* tile, const Work* w, const Team* team) {
  const Share part = share_of(tile->num_tokens, team);
  float* const outs[3] = {tile->out, tile->keys_out, tile->values_out};
  for (int row = part.begin; row < part.end; row++) {
    for (int kind = 0; kind < 3; kind++) {
      for (int head = 0; head < m->heads; head++) {
        store_row(outs[kind] + static_cast<long>(row) * m->hidden + head * m->head_size,
                  w->qkv + row * w->qkv_stride + kind * attended_width(m) + head * m->head_stride, m->head_size);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------- entry points

void run(const Model* m, const Tile* tile, const Wanted* wanted, void* shared, void* own, const Team* team) {
  Work w;
  lay_out(m, &w);
  take_shared(tile->num_tokens, static_cast<char*>(shared), &w);
  int longest = 0;
  for (int i = 0; i < tile->num_sequences; i++) longest = tile->lengths[i] > longest ? tile->lengths[i] : longest;
  take_private(m, longest, static_cast<char*>(own), &w);
  const bool reads_first = wanted->output == minilm::kClassify ||
                           (wanted->output == minilm::kPooled && wanted->num_pooling == 1 && wanted->skipped == 0 &&
                            wanted->pooling[0] == minilm::kCls);
  embed(m, tile, &w, team);
  for (int number = 0; number < m->num_layers; number++) {
    const minilm::Layer& layer = m->layers[number];
    const bool relations = wanted->output == minilm::kRelations && number == wanted->layer;
    const bool first_only = reads_first && number == m->num_layers - 1;
    const bool bf16 = Vec::kHasBf16 && m->attention_bf16 && !relations;
    project(m, layer, tile, first_only, bf16, &w, team);
    if (relations) return write_relations(m, tile, &w, team);
#ifdef MINILM_BF16
    if (bf16) {
      attend<Vec::Bf16>(m, tile, first_only, &w, team);
    } else
#endif
      attend<Vec::Fp32>(m, tile, first_only, &w, team);
    meet(team);
    finish(m, layer, first_only ? tile->num_sequences : tile->num_tokens, &w, team);
  }
  if (wanted->output == minilm::kPooled) write_pooled(m, tile, wanted, reads_first, &w, team);
  if (wanted->output == minilm::kClassify) write_classes(m, tile, &w, team);
  if (wanted->output == minilm::kTokens) write_scores(m, w.hidden, w.stride, tile->num_tokens, tile, &w, team);
}

MINILM_INLINE int group_of(minilm::Precision precision) {
  return precision == minilm::kInt8 ? Vec::kInt8Group : precision == minilm::kBf16 ? 2 : 1;
}

size_t linear_bytes(minilm::Precision precision, int in, int out) {
  const int group = group_of(precision);
  return sizeof(uint32_t) * static_cast<size_t>(round_up(in, kLanes) / group) * static_cast<size_t>(round_up(out, kPanel));
}

MINILM_INLINE uint16_t to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// `linear` holds zeroed memory; `weights` are [out, in]. A padded weight, bias, scale or sum stays 0.
void pack(Linear* l, const float* weights, const float* bias, int in, int out) {
  l->in = round_up(in, kLanes);
  l->out = round_up(out, kPanel);
  memcpy(l->bias, bias, sizeof(float) * static_cast<size_t>(out));
  const int group = group_of(l->precision);
  const long groups = l->in / group;
  for (int n = 0; n < out; n++) {
    const float* row = weights + static_cast<long>(n) * in;
    float largest = 0;
    for (int k = 0; k < in; k++) {
      const float weight = l->smoothing ? row[k] / l->smoothing[k] : row[k];
      largest = fabsf(weight) > largest ? fabsf(weight) : largest;
    }
    const float step = largest / 127.f;
    const float inverse = step > 0 ? 1.f / step : 0.f;
    long sum = 0;
    for (int k = 0; k < in; k++) {
      const long at = (static_cast<long>(n / kPanel) * groups + k / group) * kPanel + n % kPanel;
      if (l->precision == minilm::kInt8) {
        const float weight = l->smoothing ? row[k] / l->smoothing[k] : row[k];
        const int whole = static_cast<int>(__builtin_rintf(weight * inverse));
        sum += whole;
        if (group == 4) {
          static_cast<int8_t*>(l->weights)[at * 4 + k % 4] = static_cast<int8_t>(whole);
        } else {
          static_cast<int16_t*>(l->weights)[at * 2 + k % 2] = static_cast<int16_t>(whole);
        }
      } else if (l->precision == minilm::kBf16) {
        static_cast<uint16_t*>(l->weights)[at * 2 + k % 2] = to_bf16(row[k]);
      } else {
        static_cast<float*>(l->weights)[at] = row[k];
      }
    }
    if (l->precision == minilm::kInt8) {
      l->scale[n] = step;
      l->column_sum[n] = static_cast<float>(sum);
    }
  }
}

// The whole sums of an int8 product, [rows, out padded], for rows of bytes of the padded width.
void int8_product(const uint8_t* rows, const Linear* l, int num_rows, int32_t* out) {
  const long groups = l->in / Vec::kInt8Group;
  for (int row = 0; row < num_rows; row++) {
    uint32_t operand[4096];
    for (int k = 0; k < l->in; k++) {
      if (Vec::kInt8Group == 4) {
        reinterpret_cast<uint8_t*>(operand)[k] = rows[static_cast<long>(row) * l->in + k];
      } else {
        reinterpret_cast<uint16_t*>(operand)[k] = rows[static_cast<long>(row) * l->in + k];
      }
    }
    for (int panel = 0; panel < l->out / kPanel; panel++) {
      product<Vec::Int8, 2>(1, operand, groups, static_cast<const uint32_t*>(l->weights) + panel * groups * kPanel, groups,
                            reinterpret_cast<uint32_t*>(out) + static_cast<long>(row) * l->out + panel * kPanel, kPanel);
    }
  }
}

template <Activation kKind>
void activate_row(float* row, int width) {
  for (int k = 0; k < width; k += kLanes) {
    const int here = width - k < kLanes ? width - k : kLanes;
    Vec::store_first(row + k, activate<kKind>(Vec::load_first(row + k, here)), here);
  }
}

// Rows lie `width` rounded up to 16 apart.
void rowwise(int kind, int detail, float* rows, int num_rows, int width, const float* weight, const float* bias) {
  const long stride = round_up(width, 16);
  for (int row = 0; row < num_rows; row++) {
    float* here = rows + row * stride;
    if (kind == 0) {
      switch (detail) {
        case minilm::kGelu: activate_row<minilm::kGelu>(here, width); break;
        case minilm::kGeluTanh: activate_row<minilm::kGeluTanh>(here, width); break;
        case minilm::kRelu: activate_row<minilm::kRelu>(here, width); break;
        default: activate_row<minilm::kTanh>(here, width);
      }
    } else if (kind == 1) {
      const float inverse = exp_row(here, width, 1.f);
      for (int k = 0; k < width; k++) here[k] *= inverse;
    } else {
      layer_norm(here, width, weight, bias, 1e-12f);
    }
  }
}

// Products in registers alone, as many at once as a block has: what no memory slows down. Returns operations.
template <class Dot>
double peak_products(long rounds) {
  constexpr int kSums = 2 * kRows;
  Vec::I sums[kSums];
  Vec::I a = Vec::repeat_group(0x3c003c00u);
  const Vec::I b = Vec::repeat_group(0x01010101u);
#pragma GCC unroll 32
  for (int i = 0; i < kSums; i++) sums[i] = Vec::zero_groups();
  for (long k = 0; k < rounds; k++) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; i++) {
      asm volatile("" : "+v"(a));  // as if it were another one: no product is left out
      sums[i] = Dot::dot(sums[i], a, b);
      asm volatile("" : "+v"(sums[i]));
    }
  }
  return static_cast<double>(rounds) * kSums * kLanes * 2 * Dot::kGroup;
}

double peak(minilm::Precision precision, long rounds) {
  if (precision == minilm::kInt8) return peak_products<Vec::Int8>(rounds);
#ifdef MINILM_BF16
  if (precision == minilm::kBf16) return peak_products<Vec::Bf16>(rounds);
#endif
  return precision == minilm::kFp32 ? peak_products<Vec::Fp32>(rounds) : 0;
}

}  // namespace

#define MINILM_UNIT(identifier, text)                                                                       \
  namespace minilm {                                                                                        \
  extern const Unit identifier;                                                                             \
  const Unit identifier = {text, Vec::kHasBf16, kPanel, linear_bytes, pack, shared_bytes, private_bytes, run, \
                           int8_product, rowwise, peak};                                                          \
  }
