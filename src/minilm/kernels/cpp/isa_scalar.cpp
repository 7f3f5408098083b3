// The readable twin: the same computation in plain loops, for any processor, and the oracle of the other units.
//
// No padding, no panels: a linear map keeps its weights as [out, in] rows.
#include <math.h>
#include <string.h>

#include "engine.hpp"
#include "relation_scalar.hpp"
#include "stored.hpp"

namespace {

using namespace minilm;

float gelu(float x) { return 0.5f * x * (1.f + erff(x * 0.70710678f)); }

float activate(Activation kind, float x) {
  switch (kind) {
    case kGelu: return gelu(x);
    case kGeluTanh: return 0.5f * x * (1.f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case kRelu: return x < 0 ? 0 : x;
    default: return tanhf(x);
  }
}

void softmax(float* row, int n, float scale) {
  float largest = row[0];
  for (int i = 1; i < n; i++) largest = row[i] > largest || row[i] != row[i] ? row[i] : largest;
  float sum = 0;
  for (int i = 0; i < n; i++) sum += row[i] = expf((row[i] - largest) * scale);
  for (int i = 0; i < n; i++) row[i] /= sum;
}

void layer_norm(float* row, int width, const float* weight, const float* bias, float eps) {
  float mean = 0, variance = 0;
  for (int k = 0; k < width; k++) mean += row[k];
  mean /= static_cast<float>(width);
  for (int k = 0; k < width; k++) variance += (row[k] - mean) * (row[k] - mean);
  // Squares that overflow give NaN, not the bias alone.
  const float factor = 1.f / sqrtf(variance / static_cast<float>(width) + eps) + 0.f * variance;
  for (int k = 0; k < width; k++) row[k] = (row[k] - mean) * factor * weight[k] + bias[k];
}

struct Quantised {
  float scale, zero;
};

// x is about scale * (u - zero), with whole numbers u of 0..255. A NaN or an infinity makes the scale NaN.
Quantised quantise(const float* row, int width, const float* smoothing, uint8_t* to) {
  float top = 0, bottom = 0, finite = 0;
  for (int k = 0; k < width; k++) {
    const float x = smoothing ? row[k] * smoothing[k] : row[k];
    top = x > top ? x : top;
    bottom = x < bottom ? x : bottom;
    finite += x * 0;
  }
  float step = (top - bottom) / 255.f;
  if (!(step > 1e-30f)) step = 1e-30f;
  if (!(step < 1e30f)) step = 1e30f;
  const float zero = rintf(-bottom / step);
  for (int k = 0; k < width; k++) {
    const float x = smoothing ? row[k] * smoothing[k] : row[k];
    const float u = rintf(x * (1.f / step) + zero);
    to[k] = static_cast<uint8_t>(u > 0 ? (u < 255 ? u : 255) : 0);
  }
  return {step + finite, zero};
}

int32_t dot(const uint8_t* row, const int8_t* weights, int width) {
  int32_t sum = 0;
  for (int k = 0; k < width; k++) sum += row[k] * weights[k];
  return sum;
}

// y = x W^T + b for one row.
void linear(const Linear& l, const float* row, float* to) {
  if (l.precision == kInt8) {
    uint8_t quantised[4096];
    const Quantised q = quantise(row, l.in, l.smoothing, quantised);
    for (int n = 0; n < l.out; n++) {
      const auto sum = static_cast<float>(dot(quantised, static_cast<int8_t*>(l.weights) + static_cast<long>(n) * l.in, l.in));
      to[n] = (sum - q.zero * l.column_sum[n]) * (q.scale * l.scale[n]) + l.bias[n];
    }
    return;
  }
  for (int n = 0; n < l.out; n++) {
    const float* weights = static_cast<float*>(l.weights) + static_cast<long>(n) * l.in;
    float sum = 0;
    for (int k = 0; k < l.in; k++) sum += row[k] * weights[k];
    to[n] = sum + l.bias[n];
  }
}

struct Work {
  float *hidden, *qkv, *attended, *ffn, *scores;  // [T, E], [T, 3E], [T, E], [F], [N]
};

size_t shared_bytes(const Model* m, int tokens) {
  return sizeof(float) * (5UL * static_cast<size_t>(m->hidden) * static_cast<size_t>(tokens) + static_cast<size_t>(m->ffn));
}

size_t private_bytes(const Model*, int longest) { return sizeof(float) * static_cast<size_t>(longest); }

void embed(const Model* m, const Tile* tile, const Work& w) {
  for (int sequence = 0, row = 0; sequence < tile->num_sequences; sequence++) {
    for (int place = 0; place < tile->lengths[sequence]; place++, row++) {
      float* to = w.hidden + static_cast<long>(row) * m->hidden;
      for (int k = 0; k < m->hidden; k++) {
        to[k] = m->word[static_cast<long>(tile->ids[row]) * m->hidden + k];
        if (m->segment) to[k] += m->segment[static_cast<long>(tile->segments ? tile->segments[row] : 0) * m->hidden + k];
        to[k] += m->position[static_cast<long>(m->first_position + place) * m->hidden + k];
      }
      layer_norm(to, m->hidden, m->embedding_norm.weight, m->embedding_norm.bias, m->eps);
    }
  }
}

void attend(const Model* m, const Tile* tile, const Work& w) {
  const int width = m->hidden, size = m->head_size;
  const float scale = 1.f / sqrtf(static_cast<float>(size));
  long start = 0;
  for (int sequence = 0; sequence < tile->num_sequences; start += tile->lengths[sequence], sequence++) {
    const int length = tile->lengths[sequence];
    for (int head = 0; head < m->heads; head++) {
      const float* base = w.qkv + start * 3 * width + head * size;
      for (int query = 0; query < length; query++) {
        for (int key = 0; key < length; key++) {
          w.scores[key] = 0;
          for (int d = 0; d < size; d++) w.scores[key] += base[query * 3L * width + d] * base[key * 3L * width + width + d];
        }
        softmax(w.scores, length, scale);
        float* to = w.attended + (start + query) * width + head * size;
        for (int d = 0; d < size; d++) {
          to[d] = 0;
          for (int key = 0; key < length; key++) to[d] += w.scores[key] * base[key * 3L * width + 2 * width + d];
        }
      }
    }
  }
}

void finish(const Model* m, const Layer& layer, int rows, const Work& w) {
  for (int row = 0; row < rows; row++) {
    float *hidden = w.hidden + static_cast<long>(row) * m->hidden, *mixed = w.qkv;
    linear(layer.attention_out, w.attended + static_cast<long>(row) * m->hidden, mixed);
    for (int k = 0; k < m->hidden; k++) hidden[k] += mixed[k];
    layer_norm(hidden, m->hidden, layer.attention_norm.weight, layer.attention_norm.bias, m->eps);
    linear(layer.ffn_in, hidden, w.ffn);
    for (int k = 0; k < m->ffn; k++) w.ffn[k] = activate(m->activation, w.ffn[k]);
    linear(layer.ffn_out, w.ffn, mixed);
    for (int k = 0; k < m->hidden; k++) hidden[k] += mixed[k];
    layer_norm(hidden, m->hidden, layer.ffn_norm.weight, layer.ffn_norm.bias, m->eps);
  }
}

// One vector of the rows of a sequence, without the first `skipped`, as sentence-transformers pools them.
void pool(const float* rows, int length, int skipped, int mode, int width, float* to) {
  const int kept = length - skipped;
  for (int k = 0; k < width; k++) {
    if (mode == kCls) {
      to[k] = rows[(kept > 0 ? skipped : 0) * static_cast<long>(width) + k];
      continue;
    }
    if (kept > 0 && mode == kLastToken) {
      to[k] = rows[(length - 1L) * width + k];
      continue;
    }
    float sum = mode == kMax ? -INFINITY : 0, weights = 0;
    for (int r = skipped; r < length; r++) {
      const float x = rows[static_cast<long>(r) * width + k], weight = mode == kWeightedMean ? static_cast<float>(r + 1) : 1;
      sum = mode == kMax ? (x > sum || x != x ? x : sum) : sum + weight * x;
      weights += weight;
    }
    const float divisor = mode == kMeanSqrtLength ? sqrtf(weights) : weights;
    to[k] = mode == kMax || kept <= 0 ? sum : sum / divisor;
  }
}

void write_outputs(const Model* m, const Tile* tile, const Wanted* wanted, const Work& w) {
  if (wanted->output == kTokens) {
    for (int row = 0; row < tile->num_tokens; row++) {
      linear(m->head, w.hidden + static_cast<long>(row) * m->hidden, tile->out + static_cast<long>(row) * m->labels);
    }
    return;
  }
  long start = 0;
  for (int i = 0; i < tile->num_sequences; start += tile->lengths[i], i++) {
    const float* first = w.hidden + start * m->hidden;
    if (wanted->output == kClassify) {
      linear(m->pooler, first, w.attended);
      for (int k = 0; k < m->hidden; k++) w.attended[k] = activate(m->pooler_activation, w.attended[k]);
      linear(m->head, w.attended, tile->out + static_cast<long>(i) * m->labels);
      continue;
    }
    for (int p = 0; p < wanted->num_pooling; p++) {
      float* to = tile->out + (static_cast<long>(i) * wanted->num_pooling + p) * m->hidden;
      pool(first, tile->lengths[i], wanted->skipped, wanted->pooling[p], m->hidden, to);
    }
  }
}

void write_relations(const Model* m, const Tile* tile, const Work& w) {
  float* const outs[3] = {tile->out, tile->keys_out, tile->values_out};
  const size_t bytes = sizeof(float) * static_cast<size_t>(m->hidden);
  for (long row = 0; row < tile->num_tokens; row++) {
    for (int kind = 0; kind < 3; kind++) {
      memcpy(outs[kind] + row * m->hidden, w.qkv + (row * 3 + kind) * m->hidden, bytes);
    }
  }
}

// The first thread of a team does the work.
void run(const Model* m, const Tile* tile, const Wanted* wanted, void* shared, void* own, const Team* team) {
  if (team->rank) return;
  const long width = m->hidden, rows = tile->num_tokens;
  auto* memory = static_cast<float*>(shared);
  const Work w = {memory, memory + rows * width, memory + 4 * rows * width, memory + 5 * rows * width,
                  static_cast<float*>(own)};
  embed(m, tile, w);
  for (int number = 0; number < m->num_layers; number++) {
    const Layer& layer = m->layers[number];
    for (long row = 0; row < rows; row++) linear(layer.qkv, w.hidden + row * width, w.qkv + row * 3 * width);
    if (wanted->output == kRelations && number == wanted->layer) return write_relations(m, tile, w);
    attend(m, tile, w);
    finish(m, layer, tile->num_tokens, w);
  }
  write_outputs(m, tile, wanted, w);
}

size_t linear_bytes(Precision precision, int in, int out) {
  return static_cast<size_t>(in) * static_cast<size_t>(out) * (precision == kInt8 ? 1 : sizeof(float));
}

void pack(Linear* l, const float* weights, const float* bias, int in, int out) {
  l->in = in;
  l->out = out;
  memcpy(l->bias, bias, sizeof(float) * static_cast<size_t>(out));
  if (l->precision != kInt8) {
    memcpy(l->weights, weights, linear_bytes(l->precision, in, out));
    return;
  }
  for (long n = 0; n < out; n++) {
    float largest = 0;
    for (int k = 0; k < in; k++) {
      const float weight = fabsf(l->smoothing ? weights[n * in + k] / l->smoothing[k] : weights[n * in + k]);
      largest = weight > largest ? weight : largest;
    }
    l->scale[n] = largest / 127.f >= kLeastStep ? largest / 127.f : 0.f;
    const float inverse = l->scale[n] > 0 ? 1.f / l->scale[n] : 0.f;
    long sum = 0;
    for (int k = 0; k < in; k++) {
      const float weight = l->smoothing ? weights[n * in + k] / l->smoothing[k] : weights[n * in + k];
      const auto whole = static_cast<int8_t>(rintf(weight * inverse));
      static_cast<int8_t*>(l->weights)[n * in + k] = whole;
      sum += whole;
    }
    l->column_sum[n] = static_cast<float>(sum);
  }
}

int compare(const StoredVectors* stored, int64_t first, int count, const Linear* queries, int num_queries, float* numbers,
            float* scores) {
  float finite = 0;
  for (int row = 0; row < count; row++) {
    numbers_of(*stored, first + row, queries->in, numbers);
    float squares = 0, *to = scores + static_cast<long>(row) * queries->out;
    for (int k = 0; k < queries->in; k++) {
      squares += numbers[k] * numbers[k];
      finite += numbers[k] * 0;
    }
    linear(*queries, numbers, to);
    const float length = sqrtf(squares);
    for (int n = 0; stored->cosine && n < num_queries; n++) to[n] /= length > kLeastLength ? length : kLeastLength;
  }
  return finite == 0;
}

void int8_product(const uint8_t* rows, const Linear* l, int num_rows, int32_t* out) {
  for (long row = 0; row < num_rows; row++) {
    for (long n = 0; n < l->out; n++) {
      out[row * l->out + n] = dot(rows + row * l->in, static_cast<int8_t*>(l->weights) + n * l->in, l->in);
    }
  }
}

// Rows lie `width` rounded up to 16 apart.
void rowwise(int kind, int detail, float* rows, int num_rows, int width, const float* weight, const float* bias) {
  for (long row = 0; row < num_rows; row++) {
    float* here = rows + row * ((width + 15L) / 16 * 16);
    if (kind == 0) {
      for (int k = 0; k < width; k++) here[k] = activate(static_cast<Activation>(detail), here[k]);
    } else if (kind == 1) {
      softmax(here, width, 1.f);
    } else {
      layer_norm(here, width, weight, bias, 1e-12f);
    }
  }
}

double peak(Precision precision, long rounds) {
  if (precision != kFp32) return 0;
  float sums[8] = {};
  for (long k = 0; k < rounds; k++) {
    for (float& sum : sums) {
      sum = sum * 0.999f + 1.f;
      asm volatile("" : "+g"(sum));
    }
  }
  return static_cast<double>(rounds) * 16;
}

}  // namespace

namespace minilm {
extern const Unit unit_scalar;
const Unit unit_scalar = {"scalar", 0, 1, linear_bytes, pack, shared_bytes, private_bytes, run, compare, int8_product, rowwise, peak};
}  // namespace minilm
