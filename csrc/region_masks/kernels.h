// What the region_masks kernels compute on, free of torch.
#pragma once

#include <cstdint>

#include "instruction_sets.h"
#include "voxels/view.h"

namespace segloss::region_masks {

// The order is that of MODES in segloss_fast/ops/region_masks/reference.py.
enum class Mode : int32_t {
  kSoftmax,  // softmax(x) > 0.5
  kSigmoid,  // x > 0
  kValues,   // x > 0.5
  kLabels    // x == c
};

struct Problem {
  int64_t batch;
  int64_t channels;
  int64_t voxels;
  Mode mode;
  int64_t first;  // masks of classes below it are empty
  View values;
  bool has_labels;  // beside values: where they are ignored, nothing is inside
  View labels;
  bool has_ignore;
  int64_t ignore_index;
  uint8_t* out;  // [B, C, voxels]
};

struct Kernels {
  // Writes all classes' masks of the voxels [begin, end) of an item.
  void (*run)(const Problem& problem, int64_t item, int64_t begin, int64_t end);
};

SEGLOSS_DECLARE_KERNELS(Kernels)

}  // namespace segloss::region_masks
