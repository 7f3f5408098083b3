// What a caller gets of the rows after the last layer, or of the projections of one: pooled vectors, scores, relations.
#pragma once

#include <string.h>

#include "products.hpp"

namespace {

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
    F sum = mode == minilm::kMax ? Vec::set1(-__builtin_inff()) : Vec::zero(), finite = Vec::zero();
    for (int r = skipped; r < length; r++) {
      const F row = Vec::load(rows + r * stride + k);
      if (mode == minilm::kMax) {
        sum = Vec::max(sum, row);
        finite = Vec::fma(row, Vec::zero(), finite);  // NaN where a row has one: the next larger number would hide it
      } else if (mode == minilm::kWeightedMean) {
        sum = Vec::fma(row, Vec::set1(static_cast<float>(r + 1)), sum);
      } else {
        sum = Vec::add(sum, row);
      }
    }
    sum = mode == minilm::kMax ? Vec::add(sum, finite) : Vec::div(sum, Vec::set1(divisor));
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

}  // namespace
