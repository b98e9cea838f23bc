#include "cuda.cuh"
#include "region_sums/cuda/forward.cuh"
#include "region_sums/cuda/launch.h"
#include "region_sums/cuda/variants.cuh"

namespace segloss::region_sums::cuda {

size_t forward_shared_bytes(const Launch& launch, bool is_double) {
  return is_double ? Shared<double>(launch, true, nullptr).bytes
                   : Shared<float>(launch, true, nullptr).bytes;
}

int forward_blocks(const Launch& launch, bool is_double) {
  if (is_double) return kBlocks<double, Any>;
  int blocks = 1;
  visit_variant(launch, [&](auto type) { blocks = kBlocks<float, typename decltype(type)::type>; });
  return blocks;
}

void launch_forward(const Launch& launch, bool is_double, int64_t chunks, cudaStream_t stream) {
  const LaunchShape shape{static_cast<unsigned>(chunks), kThreads,
                          forward_shared_bytes(launch, is_double), stream};
  if (is_double) return segloss::launch(shape, forward_kernel<double, Any>, launch);
  visit_variant(launch, [&](auto type) {
    segloss::launch(shape, forward_kernel<float, typename decltype(type)::type>, launch);
  });
}

}  // namespace segloss::region_sums::cuda
