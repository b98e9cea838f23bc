#include "cuda.cuh"
#include "lovasz/cuda/backward.cuh"
#include "lovasz/cuda/launch.h"

namespace segloss::lovasz::cuda {

void launch_backward(const BackwardLaunch& launch, int columns, cudaStream_t stream) {
  const Problem& problem = launch.problem;
  const auto tiles = static_cast<unsigned>(problem.images * problem.image_tiles());
  const LaunchShape shape{tiles, kThreads, 0, stream};
  visit_input_dtype(problem.input.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    if constexpr (sizeof(Storage) < sizeof(double)) {
      if (keeps_logits(problem)) {
        if (problem.channels <= kFewClasses) {
          return segloss::launch(shape, backward_kernel<Storage, kFewClasses>, launch);
        }
        return segloss::launch(shape, backward_kernel<Storage, kRegisterClasses>, launch);
      }
    }
    if (problem.activation != Activation::kSoftmax) {
      return segloss::launch(shape, backward_kernel<Storage, 0>, launch);
    }
    const int64_t blocks =
        problem.images * problem.items * ((problem.voxels + columns - 1) / columns);
    const size_t bytes = size_t(columns) * problem.channels * sizeof(Computed<Storage>);
    segloss::launch({static_cast<unsigned>(blocks), static_cast<unsigned>(columns), bytes, stream},
                    column_backward_kernel<Storage>, launch);
  });
}

}  // namespace segloss::lovasz::cuda
