// The relation loss and its gradients against whole matrices in double precision.
//
// N tokens of a sequence, W width of a relation head, [T, heads * W] rows.
#pragma once

#include <math.h>
#include <string.h>

#include <algorithm>

#include "common.hpp"

namespace {

using Doubles = std::vector<double>;

// One projection of one side, as float32 and rounded to bfloat16; which of them is used.
struct Projection {
  Floats wide;
  std::vector<uint16_t> narrow;
  bool bf16;

  Projection(int array, size_t count, bool bf16_) : wide(numbers(array, count, 2.f)), narrow(count), bf16(bf16_) {
    for (size_t i = 0; i < count && bf16; i++) {
      uint32_t bits;
      memcpy(&bits, &wide[i], 4);
      narrow[i] = static_cast<uint16_t>(bits >> 16);
      bits &= 0xffff0000u;
      memcpy(&wide[i], &bits, 4);
    }
  }
  MinilmRelationSide side(size_t stride) const {
    return {bf16 ? static_cast<const void*>(narrow.data()) : wide.data(), static_cast<long>(stride), bf16};
  }
};

// The head of a sequence of n rows that begins at `first`, in the rows of `from`.
struct Head {
  size_t first, n, column, width, stride;
  size_t at(size_t row, size_t k) const { return (first + row) * stride + column + k; }
};

// softmax(a b^T / sqrt(W)) in one row after the other.
Doubles relation(const Floats& a, const Floats& b, const Head& head) {
  Doubles found(head.n * head.n);
  for (size_t i = 0; i < head.n; i++) {
    double* row = found.data() + i * head.n;
    for (size_t j = 0; j < head.n; j++) {
      for (size_t k = 0; k < head.width; k++) row[j] += static_cast<double>(a[head.at(i, k)]) * b[head.at(j, k)];
      row[j] /= sqrt(static_cast<double>(head.width));
    }
    const double top = *std::max_element(row, row + head.n);
    double sum = 0;
    for (size_t j = 0; j < head.n; j++) sum += row[j] = exp(row[j] - top);
    for (size_t j = 0; j < head.n; j++) row[j] /= sum;
  }
  return found;
}

// A batch of both sides: random rows, or those of one projection twice.
struct Batch {
  static constexpr int kHeads = 2, kTeacherWidth = 20, kStudentWidth = 11;
  std::vector<int32_t> ends = {0, 1, 1, 18, 58};
  Doubles weights = {0.5, 1, 0.25, 0.125};
  bool same;
  Projection teacher_a, teacher_b, student_a, student_b;

  Batch(bool same_, bool bf16)
      : same(same_),
        teacher_a(10, size(kTeacherWidth), bf16),
        teacher_b(same_ ? 10 : 11, size(kTeacherWidth), bf16),
        student_a(12, size(kStudentWidth), bf16),
        student_b(same_ ? 12 : 13, size(kStudentWidth), bf16) {}
  static size_t size(int width) { return static_cast<size_t>(58 * kHeads * width); }

  Doubles losses, gradient_a = Doubles(size(kStudentWidth)), gradient_b = gradient_a;

  // Fills the losses and gradients with what they should be.
  void compute() {
    for (size_t i = 0; i < weights.size(); i++) {
      losses.push_back(0);
      for (size_t h = 0; h < kHeads; h++) {
        const auto first = static_cast<size_t>(ends[i]), n = static_cast<size_t>(ends[i + 1]) - first;
        const Head t = {first, n, h * kTeacherWidth, kTeacherWidth, kHeads * kTeacherWidth};
        const Head s = {first, n, h * kStudentWidth, kStudentWidth, kHeads * kStudentWidth};
        const Doubles target = relation(teacher_a.wide, teacher_b.wide, t);
        const Doubles guess = relation(student_a.wide, student_b.wide, s);
        for (size_t at = 0; at < n * n; at++) {
          losses[i] += weights[i] * target[at] * log(target[at] / guess[at]);
          const double slope = weights[i] * (guess[at] - target[at]) / sqrt(static_cast<double>(kStudentWidth));
          for (size_t k = 0; k < kStudentWidth; k++) {
            const size_t row = s.at(at / n, k), column = s.at(at % n, k);
            gradient_a[row] += slope * student_b.wide[column];
            (same ? gradient_a : gradient_b)[column] += slope * student_a.wide[row];
          }
        }
      }
    }
  }
};

void check_relation(const std::string& isa, bool same, bool bf16) {
  Batch batch(same, bf16);
  batch.compute();
  Floats gradient_a(batch.gradient_a.size()), gradient_b = gradient_a, before;
  for (const int threads : {1, 3}) {
    const size_t wide = Batch::kHeads * Batch::kTeacherWidth, narrow = Batch::kHeads * Batch::kStudentWidth;
    const MinilmRelationPair pair = {batch.teacher_a.side(wide),
                                     batch.teacher_b.side(wide),
                                     batch.student_a.side(narrow),
                                     batch.student_b.side(narrow),
                                     Batch::kHeads,
                                     Batch::kTeacherWidth,
                                     Batch::kStudentWidth,
                                     same,
                                     gradient_a.data(),
                                     same ? nullptr : gradient_b.data()};
    void* handle = nullptr;
    Doubles losses(batch.losses.size());
    done(minilm_relation_create(isa.c_str(), threads, &handle));
    const int status = minilm_relation_run(handle, &pair, batch.ends.data(), static_cast<int>(losses.size()),
                                           batch.weights.data(), losses.data());
    minilm_relation_free(handle);
    done(status);
    for (size_t i = 0; i < losses.size(); i++) require(fabs(losses[i] - batch.losses[i]) <= 3e-6, "a relation loss");
    for (size_t i = 0; i < gradient_a.size(); i++) {
      require(fabs(gradient_a[i] - batch.gradient_a[i]) <= 1e-5, "a gradient of a relation loss");
      require(same || fabs(gradient_b[i] - batch.gradient_b[i]) <= 1e-5, "the other gradient of a relation loss");
    }
    require(threads == 1 || gradient_a == before, "other bits of a gradient with three threads");
    before = gradient_a;
  }
}

void check_relations(const std::string& isa) {
  for (const bool same : {true, false}) {
    for (const bool bf16 : {true, false}) check_relation(isa, same, bf16);
  }
}

}  // namespace
