// What the distance_transform kernels compute on, free of torch: one instance of the kernels is
// compiled per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "instruction_sets.h"

namespace segloss::distance_transform {

// The order is that of SIDES in segloss_fast/ops/distance_transform/reference.py.
enum class Side : int32_t { kInside, kOutside, kBoth, kSigned };

constexpr int kLanes = 16;      // lines that are worked on at once
constexpr int kGroupTiles = 4;  // so many times, where memory is read and written
constexpr int64_t kGroupLines = kLanes * kGroupTiles;

// The minimum along one axis. Line l of the result begins at element
// (l / inner) * inner * length + l % inner, and its rows lie inner elements apart.
struct Pass {
  int64_t length;
  int64_t inner;
  int64_t lines;
  float inverse_step;  // 1 / w, for bounds
  const float* cost;   // of offsets -length to length: (w k)^2
  bool last;
};

struct Problem {
  // The mask's rows run along the last axis; outer dimensions are those of the rows, in order.
  const void* mask;
  int64_t element_size;  // bytes: 1, 2, 4 or 8
  bool floating;         // the sign bit does not count: -0 is outside
  int outer_dims;
  int64_t outer_size[4];
  int64_t outer_stride[4];  // elements
  int64_t row_length;
  int64_t row_stride;
  float row_cost;  // w^2 of the last axis
  Side side;
  bool squared;
  float scale;  // of the result's unit, a power of two: spacings are divided by it
  int passes;   // along other axes
  Pass pass[2];
  float* out;  // contiguous

  bool two_sided() const { return side == Side::kBoth || side == Side::kSigned; }
};

struct Kernels {
  // Bytes of scratch memory, 64-byte aligned, that a call of rows needs, or one of lines.
  size_t (*rows_scratch)(const Problem& problem);
  size_t (*lines_scratch)(const Problem& problem, int pass);
  // Writes the squares of the distances along rows [begin, end); with a sign, which tells the side,
  // if both are wanted; the result itself, if there is no other axis.
  void (*rows)(const Problem& problem, int64_t begin, int64_t end, void* scratch);
  // Takes the minimum along lines [begin, end) of a pass, in place; the last pass finishes.
  void (*lines)(const Problem& problem, int pass, int64_t begin, int64_t end, void* scratch);
};

SEGLOSS_DECLARE_KERNELS(Kernels)

}  // namespace segloss::distance_transform
