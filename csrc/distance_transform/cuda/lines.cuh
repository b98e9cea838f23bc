// The kernel of a pass along columns, and its launch. A block owns 32 neighbouring columns, which
// it holds in shared memory, so that the result may replace them; only of columns too long for that
// does it read the values from global memory again and again.
#pragma once

#include "cuda.cuh"
#include "distance_transform/cuda/launch.h"
#include "distance_transform/cuda/search.cuh"

namespace segloss::distance_transform::cuda {

// Brute force costs two candidates a step at a third of the price of those that divide and conquer
// looks at, of which there are about ten per row.
constexpr unsigned kBruteSteps = 32;

template <class Way, bool kStaged>
__global__ void __launch_bounds__(1024, 1) lines_kernel(const __grid_constant__ LinePass p) {
  if (Way::skipped(p)) return;
  const Column<Way, kStaged> column(p);
  survey_tile(column, p);
  const Survey found = shared_survey();
  if (!p.ranges || found.steps * kSample <= kBruteSteps * unsigned(p.size)) {
    const int first = Way::kTwoSided ? min(found.first[0], found.first[1]) : found.first[0];
    const int last = Way::kTwoSided ? max(found.last[0], found.last[1]) : found.last[0];
    const int rows = int(blockDim.x / kLanes) * kRows;
    for (int row = int(threadIdx.x / kLanes) * kRows; row < p.size; row += rows) {
      search_around(column, row, first, last);
    }
    return;
  }
  divide_and_conquer(column, true, found.first[0], found.last[0]);
  if constexpr (Way::kTwoSided) {
    __syncthreads();
    divide_and_conquer(column, false, found.first[1], found.last[1]);
  }
}

// Enough warps to hide latency where few blocks fit on a multiprocessor.
inline unsigned warps_for(int size) {
  if (size <= 32) return 4;
  if (size <= 256) return 8;
  return size <= 512 ? 16 : 32;
}

inline size_t shared_bytes(int64_t size, size_t value_bytes) {
  return kSurveyBytes + size_t(size) * (sizeof(int2) + kLanes * value_bytes);
}

template <class Way>
void launch_way(LinePass pass, bool staged, cudaStream_t stream) {
  const auto capacity = size_t(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  pass.ranges = staged || kSurveyBytes + size_t(pass.size) * sizeof(int2) <= capacity;
  const int64_t blocks = (pass.columns + kLanes - 1) / kLanes;
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(),
                  "distance_transform: more columns than a grid has blocks for");
  const size_t ranges = pass.ranges ? size_t(pass.size) * sizeof(int2) : 0;
  const size_t shared =
      staged ? shared_bytes(pass.size, sizeof(typename Way::Value)) : kSurveyBytes + ranges;
  const auto kernel = staged ? lines_kernel<Way, true> : lines_kernel<Way, false>;
  launch({unsigned(blocks), warps_for(pass.size) * kLanes, shared, stream}, kernel, pass);
}

}  // namespace segloss::distance_transform::cuda
