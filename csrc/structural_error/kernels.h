// What the structural_error kernels compute on, free of torch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "instruction_sets.h"
#include "voxels/view.h"

namespace segloss::structural_error {

constexpr int64_t kMaxRadius = 32;

struct Problem {
  int64_t size[3];  // slices, rows of a slice, voxels of a row; an image's rows are its slices
  int64_t radius;
  double window[3][2 * kMaxRadius + 1];  // along each axis; of one that is missing 1 in the middle
  double constant;
  View values;  // float32 or float64
  View target;
  View grad;  // of the error, in backward; dtype of the values
  View out;   // the error, or in backward the gradient of the values
};

// A run works on the slices [begin, end) of one plane, of which no other run's result depends.
struct Kernels {
  size_t (*scratch_bytes)(const Problem& problem);
  void (*forward)(const Problem& problem, int64_t item, int64_t channel, int64_t begin, int64_t end,
                  void* scratch);
  void (*backward)(const Problem& problem, int64_t item, int64_t channel, int64_t begin,
                   int64_t end, void* scratch);
};

SEGLOSS_DECLARE_KERNELS(Kernels)

}  // namespace segloss::structural_error
