// The kernels against stored vectors, through their C interface alone: a program for machines without Python.
//
// In: expected.bin, which reference.py has written and describes. Out: one line for each instruction set that this
// processor has, or the one that is named, and each precision; the status is 1 if one is wrong. Weights and token ids
// come from the generator of reference.py.
//
// What is checked: the stored vectors within a tolerance; the same bits for a sequence alone and in company, for one
// thread and three, for small tiles and large; int8 sums exactly; activations, softmax, LayerNorm and the relation loss
// against double precision, also of numbers that are huge, tiny or no numbers; that a bad batch is an error.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "common.hpp"
#include "relations.hpp"

namespace {

enum { kPooled, kClassify, kTokens, kRelations };
enum { kFp32, kBf16, kInt8 };
const char* const kPrecisions[] = {"fp32", "bf16", "int8"};

// Largest difference from the float64 reference, of max(1, |expected|); for int8 and bf16 the length of the difference
// of two vectors in lengths of the expected one. The reference rounds to int8 too, but some inputs lie between two
// whole numbers; in bf16 the expected vectors are those of fp32.
constexpr double kTolerances[] = {2e-6, 1e-2, 3e-4};
constexpr double kToleranceOfBf16Attention = 1e-2;  // of int8 where attention is bf16

float scale_of(int inputs) {
  int bits = 0;
  while (inputs >> bits) bits++;
  return 1.f / static_cast<float>(1 << bits / 2);
}

// ---------------------------------------------------------------------------------------------------- cases

struct Expectation {
  int output, precision, layer, skipped;
  std::vector<int32_t> modes;
  Floats numbers;
};

struct Case {
  std::string name;
  MinilmShape shape;
  std::vector<int32_t> lengths, ends, ids, segments;
  std::vector<Expectation> expectations;
};

template <class T>
std::vector<T> counted(std::istream& from) {
  size_t count = 0;
  from >> count;
  std::vector<T> found(count);
  for (T& one : found) from >> one;
  return found;
}

void fill_batch(Case& one) {
  one.ends = {0};
  for (const int32_t length : one.lengths) one.ends.push_back(one.ends.back() + length);
  for (int32_t t = 0; t < one.ends.back(); t++) {
    const auto index = static_cast<uint32_t>(t);
    one.ids.push_back(static_cast<int32_t>(hashed(254, index) % static_cast<uint32_t>(one.shape.vocab)));
    one.segments.push_back(
        static_cast<int32_t>(hashed(255, index) % static_cast<uint32_t>(std::max(1, one.shape.segments))));
  }
}

std::vector<Case> read_cases(const char* path) {
  std::ifstream file(path, std::ios::binary);
  require(file.is_open(), std::string("cannot open ") + path);
  std::vector<Case> cases;
  std::string line, word;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    words >> word;
    if (word == "model") {
      Case& one = cases.emplace_back();
      words >> one.name;
      for (int32_t* field = &one.shape.hidden; field <= &one.shape.pooler_activation; field++) words >> *field;
      one.shape.eps = 1e-12f;
    } else if (word == "lengths") {
      cases.back().lengths = counted<int32_t>(words);
      fill_batch(cases.back());
    } else {
      require(word == "expect" && !cases.empty(), std::string(path) + " is damaged");
      Expectation& one = cases.back().expectations.emplace_back();
      words >> one.output >> one.precision >> one.layer >> one.skipped;
      one.modes = counted<int32_t>(words);
      size_t count = 0;
      words >> count;
      one.numbers.resize(count);
      file.read(reinterpret_cast<char*>(one.numbers.data()), static_cast<std::streamsize>(count * sizeof(float)));
      require(static_cast<bool>(std::getline(file, line)) && line.empty(), std::string(path) + " is damaged");
    }
  }
  require(!cases.empty(), std::string(path) + " is empty");
  return cases;
}

// ---------------------------------------------------------------------------------------------------- models

// A model of the library, and the tables that it reads where they are.
class Encoder {
 public:
  Encoder(const Case& one, const std::string& isa, int precision, bool pooler, int threads, int tile_tokens)
      : case_(one) {
    const MinilmShape& shape = one.shape;
    done(minilm_create(&shape, isa.c_str(), threads, tile_tokens, &handle_));
    const auto width = static_cast<size_t>(shape.hidden);
    const auto next = [this](size_t count, float scale, float offset = 0) {
      return numbers(array_++, count, scale, offset);
    };
    for (const int rows : {shape.vocab, shape.positions, shape.segments})
      tables_.push_back(next(static_cast<size_t>(rows) * width, 1.f));
    {
      const Floats weight = next(width, 0.25f, 1.f), bias = next(width, 0.25f);
      done(minilm_set_embeddings(handle_, tables_[0].data(), tables_[1].data(),
                                 shape.segments ? tables_[2].data() : nullptr, weight.data(), bias.data()));
    }
    for (int layer = 0; layer < shape.layers; layer++) {
      for (int which = 0; which < 4; which++) set_linear(layer, which, precision);
      for (int which = 0; which < 2; which++) {
        const Floats weight = next(width, 0.25f, 1.f), bias = next(width, 0.25f);
        done(minilm_set_norm(handle_, layer, which, weight.data(), bias.data()));
      }
    }
    const auto labels = static_cast<size_t>(shape.labels);
    const Floats first = next(width * width, scale_of(shape.hidden)), first_bias = next(width, 0.25f);
    const Floats head = next(labels * width, scale_of(shape.hidden)), bias = next(labels, 0.25f);
    done(minilm_set_head(handle_, pooler ? first.data() : nullptr, first_bias.data(), head.data(), bias.data()));
  }
  ~Encoder() { minilm_free(handle_); }
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;

  // What is asked of the sequences [first, last), with whatever shares the batch with them.
  Floats run(const Expectation& asked, size_t first, size_t last) const {
    const auto begin = one().ends[first], tokens = one().ends[last] - begin;
    std::vector<int32_t> ends;
    for (size_t i = first; i <= last; i++) ends.push_back(one().ends[i] - begin);
    const auto rows = static_cast<size_t>(tokens), width = static_cast<size_t>(one().shape.hidden);
    const auto labels = static_cast<size_t>(one().shape.labels);
    const size_t count = asked.output == kPooled     ? (last - first) * asked.modes.size() * width
                         : asked.output == kClassify ? (last - first) * labels
                         : asked.output == kTokens   ? rows * labels
                                                     : 3 * rows * width;
    Floats found(count);
    float* const out = found.data();
    const bool three = asked.output == kRelations;
    done(minilm_run(handle_, one().ids.data() + begin, one().segments.data() + begin, ends.data(),
                    static_cast<int>(last - first), asked.output, asked.modes.data(),
                    static_cast<int>(asked.modes.size()), asked.skipped, asked.layer, out,
                    three ? out + rows * width : nullptr, three ? out + 2 * rows * width : nullptr));
    return found;
  }
  Floats run(const Expectation& asked) const { return run(asked, 0, one().lengths.size()); }

  // Fills the tables of embeddings with one number of both signs; their norm is multiplied by another number.
  void set_tables(float value, float weight) {
    for (Floats& table : tables_) std::fill(table.begin(), table.end(), value);
    for (size_t i = 0; i < tables_[0].size(); i += 2) tables_[0][i] = -value;
    const auto width = static_cast<size_t>(one().shape.hidden);
    const Floats weights(width, weight), bias(width);
    done(minilm_set_embeddings(handle_, tables_[0].data(), tables_[1].data(), nullptr, weights.data(), bias.data()));
  }

 private:
  const Case& one() const { return case_; }

  // 0 queries, keys and values, 1 output of attention, 2 and 3 the feed-forward maps; int8 inputs of 1 and 2 are
  // smoothed.
  void set_linear(int layer, int which, int precision) {
    const MinilmShape& shape = one().shape;
    const int in = which == 3 ? shape.ffn : shape.hidden, out = which == 2 ? shape.ffn : shape.hidden;
    std::vector<Floats> arrays;
    for (int part = 0; part < (which == 0 ? 3 : 1); part++) {
      arrays.push_back(numbers(array_++, static_cast<size_t>(in) * static_cast<size_t>(out), scale_of(in)));
      arrays.push_back(numbers(array_++, static_cast<size_t>(out), 0.25f));
    }
    const Floats smoothing = numbers(array_++, static_cast<size_t>(in), 0.5f, 1.f);
    std::vector<const float*> weights, biases;
    for (size_t i = 0; i < arrays.size(); i += 2)
      weights.push_back(arrays[i].data()), biases.push_back(arrays[i + 1].data());
    const bool smoothed = precision == kInt8 && (which == 1 || which == 2);
    done(minilm_set_linear(handle_, layer, which, precision, weights.data(), biases.data(),
                           smoothed ? smoothing.data() : nullptr));
  }

  const Case& case_;
  void* handle_ = nullptr;
  int array_ = 0;
  std::vector<Floats> tables_;
};

// ---------------------------------------------------------------------------------------------------- checks

// The largest difference of two arrays as `kTolerances` counts it; rows of `width` numbers.
double difference(const Floats& found, const Floats& expected, int precision, size_t width) {
  require(found.size() == expected.size(), "another number of numbers");
  double worst = 0;
  for (size_t begin = 0; begin < found.size(); begin += width) {
    double square = 0, norm = 0;
    for (size_t i = begin; i < begin + width; i++) {
      const double x = found[i], y = expected[i];
      if (x == y) continue;  // infinities too
      require(isfinite(x), "a number that is not finite");
      if (precision == kFp32) worst = std::max(worst, fabs(x - y) / std::max(1.0, fabs(y)));
      square += (x - y) * (x - y);
      norm += y * y;
    }
    if (precision != kFp32 && square > 0) worst = std::max(worst, sqrt(square / norm));
  }
  return worst;
}

size_t width_of(const Case& one, const Expectation& asked) {
  return static_cast<size_t>(asked.output == kPooled || asked.output == kRelations ? one.shape.hidden
                                                                                   : one.shape.labels);
}

double check_vectors(const Case& one, const std::string& isa, int precision) {
  double worst = 0;
  for (const Expectation& asked : one.expectations) {
    if (asked.precision != (precision == kInt8 ? kInt8 : kFp32)) continue;
    if (precision == kBf16 && asked.output != kPooled)
      continue;  // scores and relations near 0 have no length to compare
    const Encoder encoder(one, isa, precision, asked.output != kTokens, 1, 512);
    worst = std::max(worst, difference(encoder.run(asked), asked.numbers, precision, width_of(one, asked)));
  }
  return worst;
}

void check_company(const Case& one, const std::string& isa, int precision) {
  const Encoder plain(one, isa, precision, true, 1, 512), team(one, isa, precision, true, 3, 512),
      small(one, isa, precision, true, 3, 8);
  const std::vector<Expectation> questions = {{kPooled, 0, 0, 0, {3, 2}, {}},
                                              {kPooled, 0, 0, 0, {0}, {}},
                                              {kClassify, 0, 0, 0, {}, {}},
                                              {kRelations, 0, one.shape.layers - 1, 0, {}, {}}};
  for (const Expectation& asked : questions) {
    const Floats expected = plain.run(asked);
    require(team.run(asked) == expected, one.name + ": other bits with three threads");
    require(small.run(asked) == expected, one.name + ": other bits in small tiles");
    if (asked.output == kRelations) continue;
    const size_t each = expected.size() / one.lengths.size();
    for (size_t i = 0; i < one.lengths.size(); i++) {
      const Floats alone = plain.run(asked, i, i + 1), shared = team.run(asked, i, i + 1);
      require(std::equal(alone.begin(), alone.end(), expected.begin() + static_cast<long>(i * each)),
              one.name + ": sequence " + std::to_string(i) + " has other bits alone");
      require(shared == alone, one.name + ": sequence " + std::to_string(i) + " has other bits when threads share it");
    }
  }
}

void check_sums(const std::string& isa) {
  constexpr int kRows = 7, kOut = 64;
  const uint8_t bytes[] = {0, 1, 127, 254, 255};
  const int weights[] = {-127, -126, 0, 5, 127};
  for (const int in : {64, 384, 4096}) {
    std::vector<uint8_t> rows(static_cast<size_t>(kRows * in));
    std::vector<float> matrix(static_cast<size_t>(kOut * in));
    for (size_t i = 0; i < rows.size(); i++)
      rows[i] = i < static_cast<size_t>(in) ? 255 : bytes[hashed(1, static_cast<uint32_t>(i)) % 5];
    for (size_t i = 0; i < matrix.size(); i++) {
      const bool largest = i < static_cast<size_t>(in) || i % static_cast<size_t>(in) == 0;  // a step is exactly 1
      matrix[i] = static_cast<float>(largest ? 127 : weights[hashed(2, static_cast<uint32_t>(i)) % 5]);
    }
    std::vector<int32_t> sums(static_cast<size_t>(kRows * kOut));
    done(minilm_test_int8_product(isa.c_str(), rows.data(), kRows, matrix.data(), in, kOut, sums.data()));
    for (int row = 0; row < kRows; row++) {
      for (int column = 0; column < kOut; column++) {
        long expected = 0;
        for (int k = 0; k < in; k++)
          expected +=
              rows[static_cast<size_t>(row * in + k)] * static_cast<long>(matrix[static_cast<size_t>(column * in + k)]);
        require(sums[static_cast<size_t>(row * kOut + column)] == expected, "an int8 sum is not exact");
      }
    }
  }
}

double activation_of(int kind, double x) {
  if (kind == 0) return x * 0.5 * erfc(-x / sqrt(2.0));
  if (kind == 1) return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  return kind == 2 ? std::max(x, 0.0) : tanh(x);
}

void check_activations(const std::string& isa) {
  for (int kind = 0; kind < 4; kind++) {
    Floats row;
    for (int i = -12000; i <= 12000; i += 7) row.push_back(static_cast<float>(i) / 1000.f);
    row.insert(row.end(), {0.f, -0.f, 1e-30f, -1e-30f, 1e-44f, 50.f, -50.f, 90.f, -90.f, 1e4f, -1e4f, NAN});
    const auto width = row.size();
    Floats found = row;
    found.resize((width + 15) / 16 * 16);
    done(minilm_test_rowwise(isa.c_str(), 0, kind, found.data(), 1, static_cast<int>(width), found.data(),
                             found.data()));
    for (size_t i = 0; i < width; i++) {
      const double expected = activation_of(kind, row[i]);
      const std::string what = "activation " + std::to_string(kind) + " of " + std::to_string(row[i]);
      require(isnan(expected) ? isnan(found[i]) : fabs(found[i] - expected) <= 1e-6 * std::max(1.0, fabs(expected)),
              what);
    }
  }
}

void check_rows(const std::string& isa) {
  for (const int width : {1, 3, 8, 16, 17, 31, 64, 200}) {
    const auto n = static_cast<size_t>(width), padded = (n + 15) / 16 * 16;
    Floats scores = numbers(3, n, 40.f), row = numbers(4, n, 8.f), weight = numbers(5, n, 1.f),
           bias = numbers(6, n, 1.f);
    double total = 0, mean = 0, variance = 0;
    const double top = *std::max_element(scores.begin(), scores.end());
    for (size_t i = 0; i < n; i++) total += exp(scores[i] - top), mean += row[i] / static_cast<double>(n);
    for (size_t i = 0; i < n; i++) variance += (row[i] - mean) * (row[i] - mean) / static_cast<double>(n);
    Floats found = scores, normal = row;
    for (Floats* one : {&found, &normal, &weight, &bias}) one->resize(padded);
    done(minilm_test_rowwise(isa.c_str(), 1, 0, found.data(), 1, width, weight.data(), bias.data()));
    done(minilm_test_rowwise(isa.c_str(), 2, 0, normal.data(), 1, width, weight.data(), bias.data()));
    for (size_t i = 0; i < n; i++) {
      require(fabs(found[i] - exp(scores[i] - top) / total) <= 1e-6, "softmax of " + std::to_string(width));
      const double expected = (row[i] - mean) / sqrt(variance + 1e-12) * weight[i] + bias[i];
      require(width == 1 || fabs(normal[i] - expected) <= 5e-6, "LayerNorm of " + std::to_string(width));
    }
  }
}

void check_errors(const Case& one, const std::string& isa) {
  Case bad = one;
  bad.ids[0] = bad.shape.vocab;
  const Encoder encoder(bad, isa, kFp32, true, 2, 0);
  try {
    encoder.run({kPooled, 0, 0, 0, {0}, {}});
  } catch (const std::runtime_error& error) {
    return require(strstr(error.what(), "token 0 has the id"), error.what());
  }
  require(false, "an id beyond the table is no error");
}

// Numbers too small for the usual form count as zero, in the caller's thread and in others.
void check_tiny(const Case& one, const std::string& isa) {
  const Expectation relations = {kRelations, 0, 0, 0, {}, {}};
  for (const int threads : {1, 3}) {
    Encoder encoder(one, isa, kFp32, true, threads, 8);
    encoder.set_tables(1e-40f, 1e30f);
    const Floats found = encoder.run(relations);
    encoder.set_tables(0.f, 1e30f);
    require(found == encoder.run(relations), "numbers below 1e-38 are not zero");
  }
}

// Whether the check passes; its line.
bool passes(const std::string& what, const std::function<std::string()>& check) {
  std::string said;
  bool passed = true;
  try {
    said = check();
  } catch (const std::exception& error) {
    said = std::string("WRONG: ") + error.what();
    passed = false;
  }
  printf("%s: %s\n", what.c_str(), said.c_str());
  fflush(stdout);
  return passed;
}

bool check_unit(const std::vector<Case>& cases, const std::string& isa) {
  const bool bf16 = minilm_kernels_has_bf16(isa.c_str());
  bool fine = passes(isa + " functions", [&] {
    check_activations(isa);
    check_rows(isa);
    check_sums(isa);
    check_errors(cases[0], isa);
    check_tiny(cases[0], isa);
    check_relations(isa);
    return std::string("ok");
  });
  for (const int precision : {kFp32, kBf16, kInt8}) {
    if (precision == kBf16 && !bf16) continue;
    for (const Case& one : cases) {
      fine &= passes(isa + " " + kPrecisions[precision] + " " + one.name, [&] {
        const double limit = precision == kInt8 && bf16 ? kToleranceOfBf16Attention : kTolerances[precision];
        const double worst = check_vectors(one, isa, precision);
        char text[80];
        snprintf(text, sizeof text, "%.2g from the stored vectors, at most %.2g", worst, limit);
        require(worst <= limit, text);
        check_company(one, isa, precision);
        return std::string(text);
      });
    }
  }
  return fine;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || count > 3) return fprintf(stderr, "usage: check EXPECTED [INSTRUCTION-SET]\n"), 2;
  bool fine = true;
  fine &= passes("vectors", [&] {
    const std::vector<Case> cases = read_cases(arguments[1]);
    std::istringstream names(minilm_kernels_isas());
    std::string isa;
    while (names >> isa) {
      if (count == 3 && isa != arguments[2]) continue;
      if (isa.back() == '-') {
        printf("%s: not on this processor\n", isa.substr(0, isa.size() - 1).c_str());
      } else {
        fine &= check_unit(cases, isa);
      }
    }
    return std::string("all read");
  });
  printf(fine ? "passed\n" : "FAILED\n");
  return fine ? 0 : 1;
}
