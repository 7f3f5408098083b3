// The readable twin of relation.hpp: a row at a time in plain loops, without symmetry, and its oracle.
//
// Shapes: see relation_unit.hpp.
#pragma once

#include <math.h>

#include "relation_unit.hpp"

namespace {
namespace relation {

using minilm::RelationPair;
using minilm::RelationSide;

float number(const RelationSide& side, long row, long column) {
  const long index = row * side.stride + column;
  if (!side.bf16) return static_cast<const float*>(side.rows)[index];
  const auto bits = static_cast<uint32_t>(static_cast<const uint16_t*>(side.rows)[index]) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// Scores of one row, and the logarithm of the sum of their exponentials.
double scores(const RelationSide& a, const RelationSide& b, long first, int row, int length, long column, int width,
              float* z) {
  const float scale = 1.f / sqrtf(static_cast<float>(width));
  float largest = -INFINITY;
  for (int j = 0; j < length; j++) {
    z[j] = 0;
    for (int k = 0; k < width; k++) z[j] += number(a, first + row, column + k) * number(b, first + j, column + k);
    z[j] *= scale;
    largest = z[j] > largest || z[j] != z[j] ? z[j] : largest;
  }
  double sum = 0;
  for (int j = 0; j < length; j++) sum += exp(static_cast<double>(z[j]) - static_cast<double>(largest));
  return static_cast<double>(largest) + log(sum);
}

size_t bytes(const RelationPair*, int longest) { return 2 * sizeof(float) * static_cast<size_t>(longest); }

double run(const RelationPair* pair, long first, int length, int head, double weight, void* scratch) {
  const RelationSide& teacher_b = pair->symmetric ? pair->teacher_a : pair->teacher_b;
  const RelationSide& student_b = pair->symmetric ? pair->student_a : pair->student_b;
  const int width = pair->student_width;
  const long column_t = static_cast<long>(head) * pair->teacher_width, column_s = static_cast<long>(head) * width;
  const long stride = static_cast<long>(pair->heads) * width;
  const double scale = weight / sqrt(static_cast<double>(width));
  float *teacher = static_cast<float*>(scratch), *student = teacher + length;
  float *to_a = pair->gradient_a, *to_b = pair->symmetric ? to_a : pair->gradient_b;
  for (long i = first; to_a && i < first + length; i++) {
    for (int k = 0; k < width; k++) to_a[i * stride + column_s + k] = to_b[i * stride + column_s + k] = 0;
  }
  double loss = 0;
  for (int i = 0; i < length; i++) {
    const double lse_t = scores(pair->teacher_a, teacher_b, first, i, length, column_t, pair->teacher_width, teacher);
    const double lse_s = scores(pair->student_a, student_b, first, i, length, column_s, width, student);
    for (int j = 0; j < length; j++) {
      const double t = static_cast<double>(teacher[j]) - lse_t, s = static_cast<double>(student[j]) - lse_s;
      loss += exp(t) * (t - s);
      const auto slope = static_cast<float>(scale * (exp(s) - exp(t)));
      for (int k = 0; to_a && k < width; k++) {
        to_a[(first + i) * stride + column_s + k] += slope * number(student_b, first + j, column_s + k);
        to_b[(first + j) * stride + column_s + k] += slope * number(pair->student_a, first + i, column_s + k);
      }
    }
  }
  return loss;
}

}  // namespace relation
}  // namespace

namespace minilm {
extern const RelationUnit relation_scalar;
const RelationUnit relation_scalar = {relation::bytes, relation::run};
}  // namespace minilm
