// What the host tells the kernels, and its way to them.
#pragma once

#include <cuda_runtime.h>

#include "region_masks/kernels.h"

namespace segloss::region_masks::cuda {

constexpr int kThreads = 256;  // of a block
constexpr int kQuad = 4;       // voxels of a thread, where alignment allows

// Each block takes the same number of voxels of one item.
struct Launch {
  Problem problem;
  unsigned item_blocks;
  unsigned blocks;
};

// In quads: rows of voxels side by side and aligned, of values and labels.
void launch_masks(const Launch& launch, bool quads, cudaStream_t stream);

}  // namespace segloss::region_masks::cuda
