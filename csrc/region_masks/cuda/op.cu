// The CUDA operator: it describes the tensors to the kernels.
#include <algorithm>
#include <limits>
#include <optional>

#include "cuda.cuh"
#include "cuda_library.h"
#include "region_masks/cuda/launch.h"
#include "region_masks/describe.h"
#include "region_masks/schemas.h"

namespace segloss::region_masks::cuda {
namespace {

// Whether any four voxels that start at a multiple of four can be loaded at once.
bool in_quads(const View& view) {
  const size_t bytes = std::min<size_t>(kQuad * size_t(size_of(view.dtype)), 16);
  return view.dims == 1 && view.stride[0] == 1 && view.channel_stride % kQuad == 0 &&
         view.batch_stride % kQuad == 0 && reinterpret_cast<uintptr_t>(view.data) % bytes == 0;
}

Tensor masks(Tensor values, std::optional<Tensor> labels, int64_t classes, int64_t mode,
             std::optional<int64_t> ignore_index, int64_t first) {
  STD_TORCH_CHECK(!labels || labels->get_device_index() == values.get_device_index(),
                  "region_masks: labels lie on another device");
  STD_TORCH_CHECK(mode != int64_t(Mode::kSoftmax) || is_floating(dtype_of(values)),
                  "region_masks: a softmax needs floating-point values");
  STD_TORCH_CHECK(classes <= std::numeric_limits<int32_t>::max(), "region_masks: too many classes");
  Problem problem = describe(values, labels, classes, mode, ignore_index, first);
  Tensor out = new_masks(values, problem);
  if (out.numel() == 0) return out;
  const bool quads = problem.voxels % kQuad == 0 && in_quads(problem.values) &&
                     (!problem.has_labels || in_quads(problem.labels));
  const int64_t of_block = kThreads * (quads ? kQuad : 1);
  const int64_t item_blocks = (problem.voxels + of_block - 1) / of_block;
  STD_TORCH_CHECK(item_blocks <= std::numeric_limits<int32_t>::max() / problem.batch,
                  "region_masks: more voxels than a grid has blocks for");
  const DeviceScope scope(values.get_device_index());
  launch_masks({problem, unsigned(item_blocks), unsigned(item_blocks * problem.batch)}, quads,
               scope.stream());
  return out;
}

}  // namespace
}  // namespace segloss::region_masks::cuda

SEGLOSS_CUDA_SCHEMAS(segloss::region_masks::kSchemas)

STABLE_TORCH_LIBRARY_IMPL(SEGLOSS_CUDA_LIBRARY, SEGLOSS_CUDA_KEY, m) {
  m.impl("_region_masks", TORCH_BOX(&segloss::region_masks::cuda::masks));
}
