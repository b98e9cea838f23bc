// The host's way to the kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "region_sums/cuda/problem.h"

namespace segloss::region_sums::cuda {

// Bytes of shared memory that a block needs.
size_t forward_shared_bytes(const Launch& launch, bool is_double);
size_t backward_shared_bytes(const Launch& launch, bool is_double);

// Blocks of a forward pass that the registers of a multiprocessor hold at least.
int forward_blocks(const Launch& launch, bool is_double);

void launch_forward(const Launch& launch, bool is_double, int64_t chunks, cudaStream_t stream);
void launch_backward(const Launch& launch, bool is_double, int64_t chunks, cudaStream_t stream);

}  // namespace segloss::region_sums::cuda
