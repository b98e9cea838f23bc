// What the host tells the kernels, and its way to them.
//
// A piece is a run of voxels that belong together anyway, within 32 voxels of a row, which are a
// word of bits. The memory of the labels holds, at the first voxel of each piece, the place of a
// voxel of the same component that does not come later: its parent. The root of a component is its
// first voxel in the raster. Where a root has a number n, ~n stands there.
#pragma once

#include <cuda_runtime.h>

#include "connected_components/kernels.h"

namespace segloss::connected_components::cuda {

#ifdef SEGLOSS_HOST_SHIM      // the tests' volumes are small
constexpr int kThreads = 64;  // of a block
#else
constexpr int kThreads = 256;
#endif
constexpr int kWordsInFlight = 8;  // whose voxels a warp asks for before it waits

struct Launch {
  Problem problem;
  int words;  // of a row
  int mask_words;
  int mask_blocks;   // that have a word per thread
  uint32_t* bits;    // [masks, mask_words]: what is no background
  uint32_t* starts;  // likewise, by value only: where a run begins
  int32_t* roots;    // [masks, mask_blocks]: of each block, then of all before it
  int32_t* wide;     // whether a value is too large for int32
};

void launch_find(const Launch& launch, cudaStream_t stream);
void launch_unite(const Launch& launch, cudaStream_t stream);
void launch_number(const Launch& launch, cudaStream_t stream);
void launch_values(const Launch& launch, cudaStream_t stream);
void launch_write(const Launch& launch, cudaStream_t stream);

}  // namespace segloss::connected_components::cuda
