// The relation loss over the sequences of a batch: threads share the heads of sequences, sums are in their order.
//
// Included by api.cpp alone.
#pragma once

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "pool.hpp"
#include "relation_unit.hpp"
#include "units.hpp"

namespace minilm {
extern const RelationUnit relation_scalar;
#ifdef MINILM_HAS_AVX2
extern const RelationUnit relation_avx2;
#endif
#ifdef MINILM_HAS_AVX512
extern const RelationUnit relation_avx512;
#endif
#ifdef MINILM_HAS_NEON
extern const RelationUnit relation_neon;
#endif
}  // namespace minilm

namespace {

// The kernel for an instruction set: products of bytes and of bfloat16 make no difference to it.
const RelationUnit& relation_unit_of(const std::string& isa) {
  (void)isa;
#ifdef MINILM_HAS_AVX512
  if (isa.rfind("avx512", 0) == 0) return relation_avx512;
#endif
#ifdef MINILM_HAS_AVX2
  if (isa.rfind("avx", 0) == 0) return relation_avx2;
#endif
#ifdef MINILM_HAS_NEON
  if (isa == "neon") return relation_neon;
#endif
  return relation_scalar;
}

// Threads and their scratch memory.
struct RelationEngine {
  RelationEngine(const RelationUnit& of, int threads) : unit(&of) { workers.make(threads); }

  const RelationUnit* unit;
  Workers workers;
  std::vector<Memory> scratch;
};

void check(const RelationPair& pair, const int32_t* ends, int num_sequences) {
  require(pair.heads >= 1, "relation heads is " + std::to_string(pair.heads) + "; expected at least 1");
  require(pair.teacher_width >= 1 && pair.student_width >= 1, "the width of a relation head is less than 1");
  require(num_sequences >= 0 && ends[0] == 0, "the first sequence does not begin at 0");
  for (int i = 0; i < num_sequences; i++) {
    if (ends[i + 1] < ends[i]) throw std::invalid_argument("sequence " + std::to_string(i) + " ends before it begins");
  }
}

// `weights` and `losses` are those of each sequence: what a row and a head of it count, and the weighted sum over them.
void run_relation(RelationEngine& engine, const RelationPair& pair, const int32_t* ends, int num_sequences,
                  const double* weights, double* losses) {
  const auto lock = engine.workers.reserved("kernel");
  check(pair, ends, num_sequences);
  int longest = 0;
  for (int i = 0; i < num_sequences; i++) longest = std::max(longest, ends[i + 1] - ends[i]);
  const auto heads = static_cast<size_t>(pair.heads), items = heads * static_cast<size_t>(num_sequences);
  const int used = static_cast<int>(std::clamp<size_t>(items, 1, static_cast<size_t>(engine.workers.size())));
  reserve(engine.scratch, static_cast<size_t>(used), engine.unit->bytes(&pair, longest));
  std::vector<double> found(items);
  std::atomic<size_t> next{0};
  engine.workers.run(used, [&](int rank) {
    void* own = engine.scratch[static_cast<size_t>(rank)].get();
    // The last sequence first: in a sorted batch it is the longest.
    for (size_t taken = next++; taken < items; taken = next++) {
      const size_t item = items - 1 - taken, sequence = item / heads;
      found[item] = engine.unit->run(&pair, ends[sequence], ends[sequence + 1] - ends[sequence],
                                     static_cast<int>(item % heads), weights[sequence], own);
    }
  });
  for (size_t i = 0; i < static_cast<size_t>(num_sequences); i++) {
    double sum = 0;
    for (size_t head = 0; head < heads; head++) sum += found[i * heads + head];
    losses[i] = sum * weights[i];
  }
}

}  // namespace
