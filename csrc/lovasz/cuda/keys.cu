// Apart from the kernels that count: together they take twice as long to compile.
#include "lovasz/cuda/count.cuh"
#include "lovasz/cuda/launch.h"

namespace segloss::lovasz::cuda {

void launch_keys(const CountLaunch& launch, cudaStream_t stream) {
  const LaunchShape shape = count_shape(launch, stream);
  visit_long_kernels(launch.problem.input.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    if (launch.problem.activation != Activation::kSoftmax) {
      return segloss::launch(shape, count_kernel<ToKeys, Storage, kNothing>, launch);
    }
    segloss::launch(shape, count_kernel<ToKeys, Storage, kStatistics>, launch);
  });
}

}  // namespace segloss::lovasz::cuda
