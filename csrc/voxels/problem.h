// What primitives that compare an input with a target have in common, free of torch.
#pragma once

#include <cstdint>

#include "voxels/view.h"

namespace segloss {

// The part of such a primitive's problem that all of them have.
struct Comparison {
  int64_t batch;
  int64_t channels;
  int64_t voxels;  // of an item
  bool has_ignore;
  int64_t ignore_index;
  View input;
  View target;
  bool dense_target;
  View weight;
  bool has_weight;

  bool is_double() const { return input.dtype == Dtype::kFloat64; }
};

// Voxels [begin, end) of an item.
struct Chunk {
  int64_t item;
  int64_t begin;
  int64_t end;
};

// Labels that are neither a class nor ignored: how many, and the first in voxel order.
struct Invalid {
  int64_t count;
  double first;
};

}  // namespace segloss
