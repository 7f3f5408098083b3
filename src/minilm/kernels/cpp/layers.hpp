// The steps of a layer besides attention: embeddings before the first, projections, output map, feed-forward, norms.
//
// Rows of floats in, rows of floats out, all in the memory of work.hpp.
#pragma once

#include <string.h>

#include "products.hpp"

namespace {

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

}  // namespace
