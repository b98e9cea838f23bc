// The host's way to the kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "component_sums/cuda/problem.h"

namespace segloss::component_sums::cuda {

// Bytes of shared memory that a block of forward needs.
size_t forward_shared_bytes(const Launch& launch);

void launch_forward(const Launch& launch, cudaStream_t stream);
void launch_backward(const Launch& launch, cudaStream_t stream);

// Writes the rows and [2], the number of invalid labels and the first, where these are final.
struct Finishing {
  Problem problem;
  Accumulators of;
  double* rows;
  double* invalid;
};
void launch_finish(const Finishing& finishing, cudaStream_t stream);

}  // namespace segloss::component_sums::cuda
