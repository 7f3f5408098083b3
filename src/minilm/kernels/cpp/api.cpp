// The library's C interface: models, runs, threads. Compiled for the baseline of the platform.
//
// In: pointers to arrays of numpy, sizes. Out: arrays that the caller owns; every function that can fail returns 0, or
// another number and a message for `minilm_error`. No exception leaves the library.
//
// A model keeps pointers to the embedding tables (they may be memory-mapped files) and copies everything else.
#include <math.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "engine.hpp"
#include "pool.hpp"
#include "relation_run.hpp"
#include "search_run.hpp"
#include "source_hash.hpp"
#include "units.hpp"

#define MINILM_API extern "C" __attribute__((visibility("default")))

namespace {

using namespace minilm;

// ---------------------------------------------------------------------------------------------------- model

struct Engine {
  const Unit* unit;
  Model model{};
  std::vector<Layer> layers;
  std::vector<Memory> memory;
  std::vector<Memory> shared, own;  // scratch of each thread
  Workers workers;
  int tile_tokens = 0;

  template <class T>
  T* zeros(size_t count) {
    memory.emplace_back(count * sizeof(T));
    return static_cast<T*>(memory.back().get());
  }

  const float* padded(const float* from, int count, int width) {
    auto* to = zeros<float>(static_cast<size_t>(width));
    memcpy(to, from, sizeof(float) * static_cast<size_t>(count));
    return to;
  }
};

// Weights of an int8 map stay finite when they are divided by a factor and multiplied by 127.
void require_moderate(const float* values, size_t count) {
  for (size_t i = 0; i < count; i++) {
    require(fabsf(values[i]) <= 1e30f, "a weight is not a finite number below 1e30, as int8 needs");
  }
}

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

Linear make_linear(Engine& engine, Precision precision, const float* weights, const float* bias, int in, int out,
                   const float* smoothing) {
  require(precision == kFp32 || precision == kInt8 || (precision == kBf16 && engine.unit->has_bf16),
          std::string("the instruction set ") + engine.unit->name + " has no products of this precision");
  if (precision == kInt8) require_moderate(weights, static_cast<size_t>(in) * static_cast<size_t>(out));
  const auto padded = static_cast<size_t>(round_up(out, engine.unit->column_panel));
  Linear l{};
  l.precision = precision;
  l.weights = engine.zeros<char>(engine.unit->linear_bytes(precision, in, out));
  l.bias = engine.zeros<float>(padded);
  if (precision == kInt8) {
    l.scale = engine.zeros<float>(padded);
    l.column_sum = engine.zeros<float>(padded);
  }
  if (precision == kInt8 && smoothing) {
    for (int k = 0; k < in; k++) {
      require(smoothing[k] >= 1e-6f && smoothing[k] <= 1e6f, "a smoothing factor is not from 1e-6 to 1e6");
    }
    l.smoothing = const_cast<float*>(engine.padded(smoothing, in, round_up(in, 64)));
  }
  engine.unit->pack(&l, weights, bias, in, out);
  return l;
}

// Rows of `heads` heads of `size`, each padded to `stride` rows of zeros: [heads * size, in] -> [heads * stride, in].
void spread_rows(const float* from, int heads, int size, int stride, int in, float* to) {
  for (int head = 0; head < heads; head++) {
    memcpy(to + static_cast<long>(head) * stride * in, from + static_cast<long>(head) * size * in,
           sizeof(float) * static_cast<size_t>(size) * static_cast<size_t>(in));
  }
}

size_t cache_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (bytes > 0) return static_cast<size_t>(bytes);
#endif
  return size_t{1} << 20;
}

// As many tokens as twice a core's L2 holds the rows of a layer of (hidden, attended, queries, keys, values). Larger
// tiles read the weights less often, smaller ones keep their rows closer; measured on cores with 512 KiB and 1 MiB.
int tokens_of_cache(const Engine& engine) {
  const auto bytes = [&](int tokens) { return engine.unit->shared_bytes(&engine.model, tokens); };
  const size_t of_a_token = (bytes(1024) - bytes(512)) / 512;
  return std::clamp(static_cast<int>(2 * cache_bytes() / of_a_token), 48, 512);
}

// ---------------------------------------------------------------------------------------------------- runs

struct Request {
  const int32_t *ids, *segments, *ends;  // `ends` is [B + 1]: where each sequence begins, then T
  int num_sequences;
  Wanted wanted;
  float *out, *keys_out, *values_out;
};

// Everything that a run reads; relations end in the layer that they are of.
void require_weights(const Model& m, const Wanted& wanted) {
  const auto there = [](const void* weights, const char* what, int layer) {
    if (!weights) throw std::invalid_argument("the model has no weights for " + std::string(what) + " of layer " + std::to_string(layer));
  };
  require(m.word && m.position && m.embedding_norm.weight, "the model has no weights for the embeddings");
  for (int i = 0; i < m.num_layers; i++) {
    const Layer& layer = m.layers[i];
    there(layer.qkv.weights, "qkv", i);
    if (wanted.output == kRelations && wanted.layer == i) return;
    there(layer.attention_out.weights, "attention_out", i);
    there(layer.attention_norm.weight, "attention_norm", i);
    there(layer.ffn_in.weights, "ffn_in", i);
    there(layer.ffn_out.weights, "ffn_out", i);
    there(layer.ffn_norm.weight, "ffn_norm", i);
  }
}

void check(const Engine& engine, const Request& request) {
  const Model& m = engine.model;
  require(request.num_sequences >= 1, "expected at least one sequence");
  require(request.ends[0] == 0, "the first sequence does not begin at 0");
  for (int i = 0; i < request.num_sequences; i++) {
    const long length = static_cast<long>(request.ends[i + 1]) - request.ends[i];
    if (length < 1) throw std::invalid_argument("sequence " + std::to_string(i) + " is empty");
    if (length > m.positions - m.first_position) {
      throw std::invalid_argument("sequence " + std::to_string(i) + " has " + std::to_string(length) +
                                  " tokens, but the model has " + std::to_string(m.positions - m.first_position) +
                                  " positions");
    }
  }
  const int total = request.ends[request.num_sequences];
  for (int t = 0; t < total; t++) {
    if (request.ids[t] < 0 || request.ids[t] >= m.vocab) {
      throw std::invalid_argument("token " + std::to_string(t) + " has the id " + std::to_string(request.ids[t]) +
                                  "; expected 0 to " + std::to_string(m.vocab - 1));
    }
    if (request.segments && m.segment && (request.segments[t] < 0 || request.segments[t] >= m.segments)) {
      throw std::invalid_argument("token " + std::to_string(t) + " has a segment that the model does not have");
    }
  }
  const Wanted& wanted = request.wanted;
  require(wanted.output >= kPooled && wanted.output <= kRelations, "unknown output");
  if (wanted.output == kPooled) {
    require(wanted.num_pooling >= 1 && wanted.skipped >= 0, "no pooling");
    for (int i = 0; i < wanted.num_pooling; i++) {
      require(wanted.pooling[i] >= kCls && wanted.pooling[i] <= kWeightedMean, "unknown pooling");
    }
  }
  if (wanted.output == kClassify) require(m.pooler.weights && m.head.weights, "the model has no classifier");
  if (wanted.output == kTokens) require(m.head.weights && !m.pooler.weights, "the model has no head for tokens");
  if (wanted.output == kRelations) require(wanted.layer >= 0 && wanted.layer < m.num_layers, "no such layer");
  require_weights(m, wanted);
}

// Whole sequences, in order, in tiles of at most `most` tokens; a longer sequence is a separate tile.
std::vector<Tile> tiles_of(const Engine& engine, const Request& request, const int32_t* lengths, int most) {
  const Model& m = engine.model;
  const Wanted& wanted = request.wanted;
  std::vector<Tile> tiles;
  for (int i = 0; i < request.num_sequences; i++) {
    if (tiles.empty() || tiles.back().num_tokens + lengths[i] > most) {
      const long begin = request.ends[i];
      const long per_sequence = wanted.output == kPooled ? static_cast<long>(wanted.num_pooling) * m.hidden : m.labels;
      const long offset = wanted.output == kRelations ? begin * m.hidden
                          : wanted.output == kTokens  ? begin * m.labels
                                                      : i * per_sequence;
      const bool relations = wanted.output == kRelations;
      tiles.push_back({request.ids + begin, request.segments && m.segment ? request.segments + begin : nullptr,
                       lengths + i, 0, 0, request.out + offset, relations ? request.keys_out + offset : nullptr,
                       relations ? request.values_out + offset : nullptr});
    }
    tiles.back().num_sequences++;
    tiles.back().num_tokens += lengths[i];
  }
  return tiles;
}

void run(Engine& engine, const Request& request) {
  const auto lock = engine.workers.reserved("model");
  check(engine, request);
  std::vector<int32_t> lengths(static_cast<size_t>(request.num_sequences));
  int longest = 0;
  for (size_t i = 0; i < lengths.size(); i++) {
    lengths[i] = request.ends[i + 1] - request.ends[i];
    longest = std::max(longest, lengths[i]);
  }
  const int total = request.ends[request.num_sequences], threads = engine.workers.size();
  // Tiles become smaller where there would be fewer than two for each thread, down to what still fills a block.
  const int even = (total + 2 * threads - 1) / (2 * threads);
  const std::vector<Tile> tiles =
      tiles_of(engine, request, lengths.data(), std::min(engine.tile_tokens, std::max(even, 48)));
  int largest = 0;
  for (const Tile& tile : tiles) largest = std::max(largest, tile.num_tokens);
  // Fewer tiles than threads: all threads share each tile.
  const bool together = threads > 1 && (static_cast<int>(tiles.size()) < threads || largest * threads > 2 * total);
  const int used = together ? threads : std::min(threads, static_cast<int>(tiles.size()));
  reserve(engine.shared, together ? 1 : static_cast<size_t>(used), engine.unit->shared_bytes(&engine.model, largest));
  reserve(engine.own, static_cast<size_t>(used), engine.unit->private_bytes(&engine.model, longest));
  std::atomic<size_t> next{0};
  std::vector<int> arrived(tiles.size(), 0);
  engine.workers.run(used, [&](int rank) {
    const auto thread = static_cast<size_t>(rank);
    if (together) {
      for (size_t i = 0; i < tiles.size(); i++) {
        const Team team = {rank, used, &arrived[i]};
        engine.unit->run(&engine.model, &tiles[i], &request.wanted, engine.shared[0].get(), engine.own[thread].get(), &team);
        // Scratch is shared: the next tile starts when all threads have left this one.
        __atomic_fetch_add(&arrived[i], 1, __ATOMIC_ACQ_REL);
        while (__atomic_load_n(&arrived[i], __ATOMIC_ACQUIRE) % used != 0) std::this_thread::yield();
      }
      return;
    }
    const Team team = {0, 1, nullptr};
    for (size_t i = next++; i < tiles.size(); i = next++) {
      engine.unit->run(&engine.model, &tiles[i], &request.wanted, engine.shared[thread].get(), engine.own[thread].get(), &team);
    }
  });
}

Engine& engine_of(void* handle) { return *static_cast<Engine*>(handle); }

}  // namespace

// ---------------------------------------------------------------------------------------------------- C interface

// Sizes of a model; the Python side has the same fields in the same order.
struct MinilmShape {
  int32_t hidden, heads, ffn, layers, vocab, positions, segments, first_position, labels, activation, pooler_activation;
  float eps;
};

MINILM_API const char* minilm_kernels_source_hash() { return MINILM_SOURCE_HASH; }

MINILM_API const char* minilm_error() { return last_error.c_str(); }

// The instruction sets in the library, best first, separated by spaces; one that this processor lacks ends in "-".
MINILM_API const char* minilm_kernels_isas() {
  static const std::string names = [] {
    std::string all;
    for (const Candidate& one : candidates()) {
      all += std::string(all.empty() ? "" : " ") + one.unit->name + (one.supported ? "" : "-");
    }
    return all;
  }();
  return names.c_str();
}

// The name of the unit that `name` stands for ("": the best), or null and an error.
MINILM_API const char* minilm_kernels_selected(const char* name) {
  const char* chosen = nullptr;
  guarded([&] { chosen = choose(name).name; });
  return chosen;
}

MINILM_API int minilm_kernels_has_bf16(const char* name) {
  int has = 0;
  guarded([&] { has = choose(name).has_bf16; });
  return has;
}

MINILM_API int minilm_create(const MinilmShape* shape, const char* isa, int threads, int tile_tokens, void** handle) {
  return guarded([&] {
    require_threads(threads);
    require(tile_tokens >= 0, "tile tokens is negative");
    const auto within = [](const char* name, long value, long low, long high) {
      require(value >= low && value <= high, std::string(name) + " is " + std::to_string(value) + "; expected " +
                                                 std::to_string(low) + " to " + std::to_string(high));
    };
    within("hidden", shape->hidden, 8, 1024);
    within("ffn", shape->ffn, 8, 4096);
    require(shape->hidden % 8 == 0 && shape->ffn % 8 == 0, "a width is not a multiple of 8");
    within("heads", shape->heads, 1, shape->hidden);
    require(shape->hidden % shape->heads == 0, "heads does not divide hidden");
    within("head size", shape->hidden / shape->heads, 1, 256);
    within("layers", shape->layers, 1, 1000);
    within("vocab", shape->vocab, 1, 1L << 26);
    within("positions", shape->positions, 1, 1L << 18);
    within("segments", shape->segments, 0, 1L << 18);
    within("first position", shape->first_position, 0, shape->positions - 1);
    within("labels", shape->labels, 0, 1L << 20);
    within("activation", shape->activation, kGelu, kTanh);
    within("pooler activation", shape->pooler_activation, kGelu, kTanh);
    auto engine = std::make_unique<Engine>();
    engine->unit = &choose(isa);
    Model& m = engine->model;
    m.hidden = shape->hidden;
    m.heads = shape->heads;
    m.head_size = shape->hidden / shape->heads;
    m.ffn = shape->ffn;
    m.num_layers = shape->layers;
    m.vocab = shape->vocab;
    m.positions = shape->positions;
    m.segments = shape->segments;
    m.first_position = shape->first_position;
    m.labels = shape->labels;
    m.activation = static_cast<Activation>(shape->activation);
    m.pooler_activation = static_cast<Activation>(shape->pooler_activation);
    m.eps = shape->eps;
    m.hidden_padded = round_up(m.hidden, engine->unit->column_panel);
    m.head_stride = round_up(m.head_size, engine->unit->column_panel);
    m.ffn_padded = round_up(m.ffn, engine->unit->column_panel);
    engine->layers.resize(static_cast<size_t>(m.num_layers));
    m.layers = engine->layers.data();
    engine->workers.make(threads);
    engine->tile_tokens = tile_tokens ? tile_tokens : tokens_of_cache(*engine);
    *handle = engine.release();
  });
}

MINILM_API void minilm_free(void* handle) { delete static_cast<Engine*>(handle); }

// The tables are kept, not copied; `segment` may be null.
MINILM_API int minilm_set_embeddings(void* handle, const float* word, const float* position, const float* segment,
                                     const float* weight, const float* bias) {
  return guarded([&] {
    Engine& engine = engine_of(handle);
    Model& m = engine.model;
    m.word = word;
    m.position = position;
    m.segment = segment;
    m.embedding_norm = {engine.padded(weight, m.hidden, m.hidden_padded), engine.padded(bias, m.hidden, m.hidden_padded)};
  });
}

// `which`: 0 queries, keys and values (three weights and biases), 1 output of attention, 2 and 3 the feed-forward maps.
MINILM_API int minilm_set_linear(void* handle, int layer, int which, int precision, const float* const* weights,
                                 const float* const* biases, const float* smoothing) {
  return guarded([&] {
    Engine& engine = engine_of(handle);
    const Model& m = engine.model;
    require(layer >= 0 && layer < m.num_layers && which >= 0 && which < 4, "no such linear map");
    Layer& to = engine.layers[static_cast<size_t>(layer)];
    const auto kind = static_cast<Precision>(precision);
    const int width = m.heads * m.head_stride;
    if (which == 0) {
      std::vector<float> rows(3UL * static_cast<size_t>(width) * static_cast<size_t>(m.hidden)), bias(3UL * static_cast<size_t>(width));
      for (int part = 0; part < 3; part++) {
        spread_rows(weights[part], m.heads, m.head_size, m.head_stride, m.hidden, rows.data() + static_cast<long>(part) * width * m.hidden);
        spread_rows(biases[part], m.heads, m.head_size, m.head_stride, 1, bias.data() + static_cast<long>(part) * width);
      }
      to.qkv = make_linear(engine, kind, rows.data(), bias.data(), m.hidden, 3 * width, smoothing);
    } else if (which == 1) {
      // The columns of a head begin where its values do.
      std::vector<float> rows(static_cast<size_t>(width) * static_cast<size_t>(m.hidden)), factors(static_cast<size_t>(width), 1.f);
      for (int row = 0; row < m.hidden; row++) {
        spread_rows(weights[0] + static_cast<long>(row) * m.hidden, m.heads, m.head_size, m.head_stride, 1, rows.data() + static_cast<long>(row) * width);
      }
      if (smoothing) spread_rows(smoothing, m.heads, m.head_size, m.head_stride, 1, factors.data());
      to.attention_out = make_linear(engine, kind, rows.data(), biases[0], width, m.hidden, smoothing ? factors.data() : nullptr);
    } else {
      (which == 2 ? to.ffn_in : to.ffn_out) = make_linear(engine, kind, weights[0], biases[0], which == 2 ? m.hidden : m.ffn,
                                                          which == 2 ? m.ffn : m.hidden, smoothing);
    }
    if (kind != kFp32 && engine.unit->has_bf16) engine.model.attention_bf16 = 1;
  });
}

// `which`: 0 after attention, 1 after the feed-forward network.
MINILM_API int minilm_set_norm(void* handle, int layer, int which, const float* weight, const float* bias) {
  return guarded([&] {
    Engine& engine = engine_of(handle);
    const Model& m = engine.model;
    require(layer >= 0 && layer < m.num_layers && which >= 0 && which < 2, "no such norm");
    Layer& to = engine.layers[static_cast<size_t>(layer)];
    (which ? to.ffn_norm : to.attention_norm) = {engine.padded(weight, m.hidden, m.hidden_padded),
                                                 engine.padded(bias, m.hidden, m.hidden_padded)};
  });
}

// A head of `labels` scores; with a pooler for one score of each sequence and label, without for each token.
MINILM_API int minilm_set_head(void* handle, const float* pooler, const float* pooler_bias, const float* weights,
                               const float* bias) {
  return guarded([&] {
    Engine& engine = engine_of(handle);
    Model& m = engine.model;
    require(m.labels >= 1, "the model has no labels");
    if (pooler) m.pooler = make_linear(engine, kFp32, pooler, pooler_bias, m.hidden, m.hidden, nullptr);
    m.head = make_linear(engine, kFp32, weights, bias, m.hidden, m.labels, nullptr);
  });
}

// See `Wanted` and `Tile` for what is written to `out`. Safe from several threads: one waits for the other.
MINILM_API int minilm_run(void* handle, const int32_t* ids, const int32_t* segments, const int32_t* ends, int num_sequences,
                          int output, const int32_t* pooling, int num_pooling, int skipped, int layer, float* out,
                          float* keys_out, float* values_out) {
  return guarded([&] {
    run(engine_of(handle), {ids, segments, ends, num_sequences, {static_cast<Output>(output), pooling, num_pooling, skipped, layer}, out, keys_out, values_out});
  });
}

MINILM_API int minilm_tile_tokens(void* handle) { return engine_of(handle).tile_tokens; }

MINILM_API int minilm_relation_create(const char* isa, int threads, void** handle) {
  return guarded([&] { *handle = new RelationEngine(relation_unit_of(choose(isa).name), threads); });
}

MINILM_API void minilm_relation_free(void* handle) { delete static_cast<RelationEngine*>(handle); }

// Scratch memory of each thread for sequences of up to `longest` tokens.
MINILM_API long minilm_relation_bytes(void* handle, const RelationPair* pair, int longest) {
  return static_cast<long>(static_cast<RelationEngine*>(handle)->unit->bytes(pair, longest));
}

// The loss of each sequence [B], and gradients; see `run_relation`. Safe from several threads: one waits for the other.
MINILM_API int minilm_relation_run(void* handle, const RelationPair* pair, const int32_t* ends, int num_sequences,
                                   const double* weights, double* losses) {
  return guarded([&] {
    run_relation(*static_cast<RelationEngine*>(handle), *pair, ends, num_sequences, weights, losses);
  });
}

MINILM_API int minilm_search_create(const char* isa, int threads, void** handle) {
  return guarded([&] { *handle = new SearchEngine(choose(isa), threads); });
}

MINILM_API void minilm_search_free(void* handle) { delete static_cast<SearchEngine*>(handle); }

// See `Search`; `finite` becomes 0, and the best stay as they were, where a score is not a finite number.
MINILM_API int minilm_search_run(void* handle, const StoredVectors* stored, int64_t count, int64_t begin,
                                 const float* queries, int num_queries, int k, float* scores, int64_t* rows,
                                 int32_t* finite) {
  return guarded([&] {
    *finite = run_search(*static_cast<SearchEngine*>(handle), {stored, count, begin, queries, num_queries, k, scores, rows});
  });
}

// What the units of this processor can do at most: billions of operations a second of `threads` threads together, from
// registers alone; the best of five rounds of 20 ms. 0 if the instruction set has no such products, or on an error.
MINILM_API double minilm_peak(const char* isa, int precision, int threads) {
  double best = 0;
  guarded([&] {
    const Unit& unit = choose(isa);
    const auto kind = static_cast<Precision>(precision);
    require_threads(threads);
    if (unit.peak(kind, 1) == 0) return;
    Pool pool(threads);
    using Clock = std::chrono::steady_clock;
    for (int round = 0; round < 5; round++) {
      std::vector<double> done(static_cast<size_t>(threads));
      const auto begin = Clock::now();
      pool.run(threads, [&](int rank) {
        double& mine = done[static_cast<size_t>(rank)];
        while (Clock::now() - begin < std::chrono::milliseconds(20)) mine += unit.peak(kind, 20000);
      });
      const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      best = std::max(best, std::accumulate(done.begin(), done.end(), 0.0) / seconds / 1e9);
    }
  });
  return best;
}

// For tests: the whole sums of rows of bytes [rows, in] times int8 weights made of [out, in] floats; `in` is a multiple
// of 64 of at most 4,096, `out` of 64.
MINILM_API int minilm_test_int8_product(const char* isa, const uint8_t* rows, int num_rows, const float* weights, int in,
                                        int out, int32_t* sums) {
  return guarded([&] {
    require(in > 0 && in <= 4096 && in % 64 == 0 && out > 0 && out % 64 == 0, "a size is not a multiple of 64");
    Engine engine;
    engine.unit = &choose(isa);
    const std::vector<float> bias(static_cast<size_t>(out));
    const Linear l = make_linear(engine, kInt8, weights, bias.data(), in, out, nullptr);
    engine.unit->int8_product(rows, &l, num_rows, sums);
  });
}

// For tests: an activation (kind 0), softmax (1) or LayerNorm (2) of rows that lie `width` rounded up to 16 apart.
MINILM_API int minilm_test_rowwise(const char* isa, int kind, int detail, float* rows, int num_rows, int width,
                                   const float* weight, const float* bias) {
  return guarded([&] { choose(isa).rowwise(kind, detail, rows, num_rows, width, weight, bias); });
}
