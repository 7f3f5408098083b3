// Attention: the keys and values of a head in panels, and with them the scores, exponentials and sums of its queries.
//
// Both products are those of products.hpp. D head width, in groups of 32 bits.
#pragma once

#include "products.hpp"

namespace {

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
      const char* panel = reinterpret_cast<const char*>(w->keys + static_cast<long>(key) * groups);
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
      const char* panel = reinterpret_cast<const char*>(w->values + column * key_groups);
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

}  // namespace
