// What the soft_skeleton kernels compute on, free of torch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "instruction_sets.h"
#include "voxels/view.h"

namespace segloss::soft_skeleton {

struct Problem {
  int64_t size[3];  // slices, rows of a slice, voxels of a row; an image's rows are its slices
  int32_t rank;     // of the volume: 1 has no windows along the slices, 1 and 2 none along the rows
  int64_t iterations;
  View values;
  View grad;  // of the skeleton, in backward
  View out;   // the skeleton, or in backward the gradient of the values; dtype of the values
};

// A run works on the slices [begin, end) of one plane, of which no other run's result depends.
struct Kernels {
  size_t (*scratch_bytes)(const Problem& problem, bool backward);
  void (*forward)(const Problem& problem, int64_t item, int64_t channel, int64_t begin, int64_t end,
                  void* scratch);
  void (*backward)(const Problem& problem, int64_t item, int64_t channel, int64_t begin,
                   int64_t end, void* scratch);
};

SEGLOSS_DECLARE_KERNELS(Kernels)

}  // namespace segloss::soft_skeleton
