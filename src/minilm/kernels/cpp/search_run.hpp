// The best of stored vectors for each query: threads take tiles of vectors, each keeps the best that it has seen.
//
// Included by api.cpp alone. The order is total (the higher score, then the earlier row), and a score does not depend on
// the tile that it is computed in: so neither do the best on the threads.
//
// Shapes: Q queries, D dimensions, K best.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "pool.hpp"
#include "units.hpp"

namespace {

constexpr int kTileVectors = 128;

// Threads and their scratch memory.
struct SearchEngine {
  SearchEngine(const Unit& of, int threads) : unit(&of) { workers.make(threads); }

  const Unit* unit;
  Workers workers;
  std::vector<Memory> scratch;
};

struct Hit {
  float score;
  int64_t row;
};

bool is_better(const Hit& a, const Hit& b) { return a.score > b.score || (a.score == b.score && a.row < b.row); }

// The best that one thread has seen: of each query a heap whose first is the worst of them.
class Best {
 public:
  // `scores` are those of the best before, [Q, K]. Memory is taken here: a thread must not run out of it.
  Best(size_t queries, size_t k, size_t count, const float* scores) : k_(k), heaps_(queries), floors_(queries) {
    for (size_t q = 0; q < queries; q++) {
      heaps_[q].reserve(std::min(k, count));
      floors_[q] = scores[q * k + k - 1];
    }
  }

  // Scores of one vector; false if one is not a finite number.
  bool add(const float* scores, int64_t row) {
    for (size_t q = 0; q < heaps_.size(); q++) {
      if (scores[q] <= floors_[q]) continue;
      if (!std::isfinite(scores[q])) return false;
      keep(q, {scores[q], row});
    }
    return true;
  }

  const std::vector<Hit>& of(size_t query) const { return heaps_[query]; }

 private:
  void keep(size_t query, Hit hit) {
    std::vector<Hit>& heap = heaps_[query];
    if (heap.size() == k_) {
      std::pop_heap(heap.begin(), heap.end(), is_better);
      heap.pop_back();
    }
    heap.push_back(hit);
    std::push_heap(heap.begin(), heap.end(), is_better);
    if (heap.size() == k_) floors_[query] = std::max(floors_[query], heap.front().score);
  }

  size_t k_;
  std::vector<std::vector<Hit>> heaps_;
  std::vector<float> floors_;
};

// Queries as the weights of a linear map, [Q, D].
struct PackedQueries {
  Memory weights, bias;
  Linear linear{};

  PackedQueries(const Unit& unit, const float* queries, int count, int dimensions)
      : weights(unit.linear_bytes(kFp32, dimensions, count)),
        bias(sizeof(float) * static_cast<size_t>(count + unit.column_panel)) {
    linear.precision = kFp32;
    linear.weights = weights.get();
    linear.bias = static_cast<float*>(bias.get());
    const std::vector<float> zeros(static_cast<size_t>(count));
    unit.pack(&linear, queries, zeros.data(), dimensions, count);
  }
};

// The vectors of one call, and the best before it: `scores` and `rows`, [Q, K], best first, -inf where there is none.
struct Search {
  const StoredVectors* stored;
  int64_t count, begin;  // of the vectors; the number of the first one
  const float* queries;
  int num_queries, k;
  float* scores;
  int64_t* rows;
};

// The best of those before and of those that the threads found, in order.
void merge(const std::vector<Best>& found, const Search& search) {
  const auto k = static_cast<size_t>(search.k);
  std::vector<Hit> all;
  for (size_t q = 0; q < static_cast<size_t>(search.num_queries); q++) {
    all.clear();
    for (size_t i = q * k; i < (q + 1) * k; i++) all.push_back({search.scores[i], search.rows[i]});
    for (const Best& best : found) all.insert(all.end(), best.of(q).begin(), best.of(q).end());
    if (all.size() == k) continue;
    std::partial_sort(all.begin(), all.begin() + search.k, all.end(), is_better);
    for (size_t i = 0; i < k; i++) {
      search.scores[q * k + i] = all[i].score;
      search.rows[q * k + i] = all[i].row;
    }
  }
}

// Improves the best by some vectors; returns false, and leaves the best as they were, if a score is not finite.
bool run_search(SearchEngine& engine, const Search& search) {
  const auto lock = engine.workers.reserved("kernel");
  require(search.count >= 0 && search.num_queries >= 1 && search.k >= 1, "expected vectors, queries and a number of best");
  require(search.stored->dimensions >= 1, "expected at least one dimension");
  const PackedQueries queries(*engine.unit, search.queries, search.num_queries, search.stored->dimensions);
  const auto width = static_cast<size_t>(queries.linear.in + kComparedPadding), out = static_cast<size_t>(queries.linear.out);
  const int64_t tiles = (search.count + kTileVectors - 1) / kTileVectors;
  const int used = static_cast<int>(std::clamp<int64_t>(tiles, 1, engine.workers.size()));
  reserve(engine.scratch, static_cast<size_t>(used), sizeof(float) * kTileVectors * (width + out));
  std::vector<Best> found;
  for (int i = 0; i < used; i++) {
    found.emplace_back(static_cast<size_t>(search.num_queries), static_cast<size_t>(search.k),
                       static_cast<size_t>(search.count), search.scores);
  }
  std::atomic<int64_t> next{0};
  std::atomic<bool> finite{true};
  engine.workers.run(used, [&](int rank) {
    auto* numbers = static_cast<float*>(engine.scratch[static_cast<size_t>(rank)].get());
    float* scores = numbers + kTileVectors * width;
    for (int64_t tile = next++; tile < tiles && finite; tile = next++) {
      const int64_t first = tile * kTileVectors;
      const int here = static_cast<int>(std::min<int64_t>(kTileVectors, search.count - first));
      bool good = engine.unit->compare(search.stored, first, here, &queries.linear, search.num_queries, numbers, scores);
      for (int row = 0; row < here && good; row++) {
        good = found[static_cast<size_t>(rank)].add(scores + static_cast<size_t>(row) * out, search.begin + first + row);
      }
      if (!good) finite = false;
    }
  });
  if (finite) merge(found, search);
  return finite;
}

}  // namespace
