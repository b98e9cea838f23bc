#include "lovasz/cuda/count.cuh"
#include "lovasz/cuda/launch.h"

namespace segloss::lovasz::cuda {

size_t count_shared_bytes(int classes, bool counters, int bins) {
  return kCountFixedBytes + classes * count_class_bytes(counters, bins);
}

LaunchShape count_shape(const CountLaunch& launch, cudaStream_t stream) {
  const int64_t blocks = launch.problem.images * launch.chunks * launch.groups;
  const int classes = (launch.problem.channels + launch.groups - 1) / launch.groups;
  return {static_cast<unsigned>(blocks), kThreads,
          count_shared_bytes(classes, launch.shared, launch.bins.count), stream};
}

void launch_count(const CountLaunch& launch, cudaStream_t stream) {
  const LaunchShape shape = count_shape(launch, stream);
  visit_long_kernels(launch.problem.input.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    if (launch.problem.activation != Activation::kSoftmax) {
      return segloss::launch(shape, count_kernel<ToCounters, Storage, kNothing>, launch);
    }
    if constexpr (sizeof(Storage) < sizeof(double)) {
      if (counts_logits(launch.problem)) {
        return segloss::launch(shape, count_kernel<ToCounters, Storage, kFewClasses>, launch);
      }
    }
    segloss::launch(shape, count_kernel<ToCounters, Storage, kStatistics>, launch);
  });
}

}  // namespace segloss::lovasz::cuda
