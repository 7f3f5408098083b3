// A tile of whole sequences through all layers, for the instruction set whose `Vec` was included before this file.
//
// Every number is computed by the same operations in the same order whatever else is in the tile and however many
// threads share it: sums over inputs run in order, sums over keys and lanes depend on a sequence's own length alone.
// A team splits the columns of products, the sequences and heads of attention, and the rows of everything else.
#pragma once

#include "attention.hpp"
#include "compare.hpp"
#include "layers.hpp"
#include "outputs.hpp"
#include "pack.hpp"
#include "probes.hpp"

namespace {

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

}  // namespace

#define MINILM_UNIT(identifier, text)                                                                       \
  namespace minilm {                                                                                        \
  extern const Unit identifier;                                                                             \
  const Unit identifier = {text, Vec::kHasBf16, kPanel, linear_bytes, pack, shared_bytes, private_bytes, run, \
                           compare, int8_product, rowwise, peak};                                                 \
  }
