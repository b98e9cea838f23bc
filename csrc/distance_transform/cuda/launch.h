// The launchers of the passes; each file of kernels implements one.
#pragma once

#include <cuda_runtime.h>

#include "distance_transform/cuda/problem.h"

namespace segloss::distance_transform::cuda {

enum class Number { kInt16, kInt32, kFloat };  // what a pass writes, and the next one reads

void launch_runs(const RunPass& pass, Number out, cudaStream_t stream);

// Bytes of shared memory that a block needs to work on `size` rows in it.
size_t staged_bytes(int64_t size);
void launch_lines(const LinePass& pass, Number in, bool staged, cudaStream_t stream);

// Those of nearest_component, with keys if these have bits for labels.
void launch_nearest_runs(const RunPass& pass, cudaStream_t stream);
size_t nearest_staged_bytes(int64_t size, bool keys);
void launch_nearest_lines(const LinePass& pass, bool staged, cudaStream_t stream);

}  // namespace segloss::distance_transform::cuda
