// How the threads of a team share a tile, and the memory that they work in.
//
// Included after the vectors of one instruction set; shapes: see engine.hpp.
#pragma once

#include <sched.h>

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
constexpr int kSpins = 2000;         // before a waiting thread gives its core away

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
      Vec::pause();
    } else {
      sched_yield();
    }
  }
}

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

}  // namespace
