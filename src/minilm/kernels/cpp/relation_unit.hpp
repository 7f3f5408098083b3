// What the API and the relation kernels of each instruction set share. Only plain structs, as in engine.hpp.
//
// Shapes: T packed tokens, N tokens of one sequence, R relation heads, W width of one of them.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace minilm {

// One projection of one side, [T, R * W]: float32, or bfloat16.
struct RelationSide {
  const void* rows;
  long stride;  // numbers from one row to the next
  int32_t bf16;
};

// A pair of projections of a teacher and a student; the Python side has the same fields in the same order.
struct RelationPair {
  RelationSide teacher_a, teacher_b, student_a, student_b;
  int32_t heads, teacher_width, student_width;  // widths of one relation head
  int32_t symmetric;                            // both projections are the same: only those called `a` are read
  // [T, R * W] of the student, or null; symmetric: `gradient_a` is the sum of both.
  float *gradient_a, *gradient_b;
};

struct RelationUnit {
  // Scratch memory of a thread for sequences of up to `longest` tokens.
  size_t (*bytes)(const RelationPair*, int longest);
  // One head of the sequence that begins at a row: returns the sum over its rows of KL(teacher || student), and writes
  // the gradients of `weight` times that sum.
  double (*run)(const RelationPair*, long first_row, int length, int head, double weight, void* scratch);
};

}  // namespace minilm
