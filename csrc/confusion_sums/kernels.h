// What the confusion_sums kernels compute on, free of torch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "instruction_sets.h"
#include "voxels/problem.h"

namespace segloss::confusion_sums {

struct Problem : Comparison {
  Activation activation;

  // Of an item: [C, C + 1], for each class of the target the sums of p, and that of the target.
  int64_t sums() const { return channels * (channels + 1); }
};

struct Kernels {
  // Bytes of scratch memory, 64-byte aligned, that one call of backward needs, or with a null
  // gradient one of forward.
  size_t (*scratch_bytes)(const Problem& problem, const View* grad);
  // Writes the chunk's sums, [C, C + 1].
  void (*forward)(const Problem& problem, const Chunk& chunk, void* scratch, double* sums,
                  Invalid* invalid);
  // Writes the chunk of the gradient, given that of the item's sums.
  void (*backward)(const Problem& problem, const Chunk& chunk, void* scratch,
                   const double* grad_sums, const View& grad);
};

SEGLOSS_DECLARE_KERNELS(Kernels)

}  // namespace segloss::confusion_sums
