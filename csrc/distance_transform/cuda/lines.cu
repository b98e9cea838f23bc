// The passes along the other axes. A block owns 32 neighbouring columns, which it holds in shared
// memory, so that the result may replace them; only of columns too long for that does it read the
// squares from global memory again and again.
#include <algorithm>

#include "cuda.cuh"
#include "distance_transform/cuda/launch.h"
#include "distance_transform/cuda/search.cuh"

namespace segloss::distance_transform::cuda {
namespace {

// Brute force costs two candidates a step at a third of the price of those that divide and conquer
// looks at, of which there are about ten per row.
constexpr unsigned kBruteSteps = 32;

template <class In, bool kTwoSided, bool kStaged>
__global__ void __launch_bounds__(1024, 1) lines_kernel(const __grid_constant__ LinePass p) {
  const Column<In, kTwoSided, kStaged> column(p);
  survey_tile(column, p);
  const Survey found = shared_survey();
  if (!p.ranges || found.steps * kSample <= kBruteSteps * unsigned(p.size)) {
    const int first = kTwoSided ? min(found.first[0], found.first[1]) : found.first[0];
    const int last = kTwoSided ? max(found.last[0], found.last[1]) : found.last[0];
    const int rows = int(blockDim.x / kLanes) * kRows;
    for (int row = int(threadIdx.x / kLanes) * kRows; row < p.size; row += rows) {
      search_around<kTwoSided>(column, row, first, last);
    }
    return;
  }
  divide_and_conquer<kTwoSided>(column, true, found.first[0], found.last[0]);
  if constexpr (kTwoSided) {
    __syncthreads();
    divide_and_conquer<kTwoSided>(column, false, found.first[1], found.last[1]);
  }
}

// Enough warps to hide latency where few blocks fit on a multiprocessor.
unsigned warps_for(int size) {
  if (size <= 32) return 4;
  if (size <= 256) return 8;
  return size <= 512 ? 16 : 32;
}

template <class In, bool kTwoSided>
void launch_typed(const LinePass& pass, bool staged, cudaStream_t stream) {
  const int64_t blocks = (pass.columns + kLanes - 1) / kLanes;
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(),
                  "distance_transform: more columns than a grid has blocks for");
  const size_t ranges = pass.ranges ? size_t(pass.size) * sizeof(int2) : 0;
  const size_t shared = staged ? staged_bytes(pass.size) : kSurveyBytes + ranges;
  const auto kernel =
      staged ? lines_kernel<In, kTwoSided, true> : lines_kernel<In, kTwoSided, false>;
  launch({unsigned(blocks), warps_for(pass.size) * kLanes, shared, stream}, kernel, pass);
}

template <class In>
void launch_from(const LinePass& pass, bool staged, cudaStream_t stream) {
  if (pass.finish.two_sided) return launch_typed<In, true>(pass, staged, stream);
  launch_typed<In, false>(pass, staged, stream);
}

}  // namespace

size_t staged_bytes(int64_t size) {
  return kSurveyBytes + size_t(size) * (sizeof(int2) + kLanes * sizeof(float));
}

void launch_lines(LinePass pass, Number in, bool staged, cudaStream_t stream) {
  const auto capacity = size_t(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  pass.ranges = staged || kSurveyBytes + size_t(pass.size) * sizeof(int2) <= capacity;
  if (in == Number::kInt16) return launch_from<int16_t>(pass, staged, stream);
  if (in == Number::kInt32) return launch_from<int32_t>(pass, staged, stream);
  launch_from<float>(pass, staged, stream);
}

}  // namespace segloss::distance_transform::cuda
