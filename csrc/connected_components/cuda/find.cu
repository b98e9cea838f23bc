// From voxels to words of bits, and pieces that are their own parents. A warp looks at eight words,
// a voxel of each per thread.
#include "connected_components/cuda/words.cuh"
#include "cuda.cuh"

namespace segloss::connected_components::cuda {
namespace {

template <class Element>
SL_DEVICE bool is_wide(Element value, bool is_signed) {
  if constexpr (sizeof(Element) == 8) {
    const auto number = static_cast<long long>(value);
    return is_signed ? number != static_cast<int32_t>(value) : value > 0x7fffffffull;
  }
  return sizeof(Element) == 4 && !is_signed && value > 0x7fffffffu;
}

template <class Element>
__global__ void __launch_bounds__(kThreads) find_kernel(const __grid_constant__ Launch launch) {
  const Problem& problem = launch.problem;
  const int lane = int(threadIdx.x) % kLanes;
  const int groups = (launch.mask_words + kWordsInFlight - 1) / kWordsInFlight;
  const int64_t group = int64_t(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  const int64_t mask = group / groups;
  if (mask >= problem.masks) return;
  const int begin = int(group - mask * groups) * kWordsInFlight;
  const auto* const data = static_cast<const Element*>(problem.data);
  const auto ignored = Element(problem.ignore);
  const int64_t stride = problem.stride[2];
  Element value[kWordsInFlight], previous[kWordsInFlight];
#pragma unroll
  for (int k = 0; k < kWordsInFlight; ++k) {
    value[k] = previous[k] = 0;
    if (begin + k >= launch.mask_words) continue;
    const Word word(launch, mask, begin + k);
    const int x = word.in_row * kLanes + lane;
    if (x >= int(problem.size[2])) continue;
    const Element* const at = data + word.offset(problem) + x * stride;
    value[k] = *at;
    if (problem.by_value && x > 0) previous[k] = *(at - stride);
  }
#pragma unroll
  for (int k = 0; k < kWordsInFlight; ++k) {
    if (begin + k >= launch.mask_words) break;
    const Word word(launch, mask, begin + k);
    const Element nonzero = problem.floating ? Element(value[k] << 1) : value[k];
    const bool inside = nonzero != 0 && value[k] != ignored;
    const unsigned bits = __ballot_sync(kAll, inside);
    unsigned starts = bits & ~(bits << 1);
    const int64_t to = mask * launch.mask_words + word.index;
    if (problem.by_value) {
      // What comes before a row is 0, and so it begins a run.
      starts = __ballot_sync(kAll, inside && value[k] != previous[k]);
      if (lane == 0) launch.starts[to] = starts;
      if (inside && is_wide(value[k], problem.is_signed)) *launch.wide = 1;
    }
    if (lane == 0) launch.bits[to] = bits;
    if (((starts | (bits & 1)) >> lane & 1) != 0) {
      word.parents(launch)[word.first + lane] = word.first + lane;
    }
  }
}

template <class Element>
void launch_typed(const Launch& launch, unsigned blocks, cudaStream_t stream) {
  segloss::launch({blocks, kThreads, 0, stream}, find_kernel<Element>, launch);
}

}  // namespace

void launch_find(const Launch& launch, cudaStream_t stream) {
  const int64_t groups = (launch.mask_words + kWordsInFlight - 1) / kWordsInFlight;
  const auto blocks = unsigned((launch.problem.masks * groups + kWarps - 1) / kWarps);
  switch (launch.problem.element_size) {
    case 1:
      return launch_typed<uint8_t>(launch, blocks, stream);
    case 2:
      return launch_typed<uint16_t>(launch, blocks, stream);
    case 4:
      return launch_typed<uint32_t>(launch, blocks, stream);
    default:
      return launch_typed<unsigned long long>(launch, blocks, stream);
  }
}

}  // namespace segloss::connected_components::cuda
