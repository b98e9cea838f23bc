// The CUDA operators: they check what would corrupt memory, describe the tensors to the kernels,
// and launch these. How the voxels are cut depends on the shapes alone, and sums of integers do not
// depend on the order of blocks: the same bits from every run.
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "component_sums/cuda/launch.h"
#include "component_sums/describe.h"
#include "component_sums/schemas.h"
#include "cuda.cuh"
#include "cuda_library.h"

namespace segloss::component_sums::cuda {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

void check_devices(const Tensor& input, std::initializer_list<const Tensor*> others) {
  for (const Tensor* tensor : others) {
    STD_TORCH_CHECK(tensor->get_device_index() == input.get_device_index(),
                    "component_sums: a tensor lies on another device");
  }
}

Launch describe_launch(const Problem& problem) {
  Launch launch{};
  launch.problem = problem;
  for (int term = 0; term < kTermCount; ++term) {
    if (problem.row[term] >= 0) launch.term[problem.row[term]] = Term(term);
  }
  STD_TORCH_CHECK(problem.channels <= 65536, "component_sums: from 1 to 65536 classes");
  STD_TORCH_CHECK(problem.voxels <= kMostVoxels, "component_sums: at most 2^33 voxels an item");
  launch.item_tiles = divide_up(problem.voxels, kTile);
  return launch;
}

// Enough blocks for any device, and few enough that what each leaves at its end does not matter.
constexpr int64_t kManyBlocks = 1024;
// Of shared memory: three blocks fit.
constexpr size_t kRoomy = 72 * 1024;

void cut(Launch& launch) {
  const int64_t tiles = launch.problem.batch * launch.item_tiles;
  launch.warp_tiles = divide_up(tiles, kManyBlocks * kWarps);
  launch.item_blocks = divide_up(launch.item_tiles, launch.warp_tiles * kWarps);
  const size_t limit = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  launch.slots = kMostSlots;
  while (launch.slots > 0 && forward_shared_bytes(launch) > std::min(kRoomy, limit)) {
    --launch.slots;
  }
}

// The memory that sums are added up in, as 0.
Tensor new_accumulators(const Tensor& input, const Problem& problem, Accumulators* to,
                        cudaStream_t stream) {
  const int lowest = problem.has_weight ? -140 : -80;
  to->count = problem.has_weight ? kMostLimbs : 4;
  to->scale = std::ldexp(1.0, -(lowest + kLimbBits * (to->count - 1)));
  const int64_t planes = problem.batch * problem.channels, bins = planes * problem.places();
  const int64_t limbs = checked_product({bins, problem.rows, to->count});
  const int64_t bytes = 8 * (limbs + 2) + 4 * (bins + planes);
  Tensor memory = allocate_at(input, {bytes}, ScalarType::Byte);
  check_cuda(cudaMemsetAsync(memory.mutable_data_ptr(), 0, size_t(bytes), stream),
             "cudaMemsetAsync");
  to->limbs = static_cast<unsigned long long*>(memory.mutable_data_ptr());
  to->invalid = to->limbs + limbs;
  to->special = reinterpret_cast<unsigned*>(to->invalid + 2);
  to->lost = to->special + bins;
  return memory;
}

// The rows [terms, B, C, count + 1], NaN where labels are invalid, and [2]: how many of these there
// are, and the first.
std::tuple<Tensor, Tensor> forward(Tensor input, Tensor target, Tensor bins,
                                   std::optional<Tensor> weight, int64_t count, int64_t activation,
                                   std::vector<int64_t> terms,
                                   std::optional<int64_t> ignore_index) {
  const Problem problem =
      describe(input, target, bins, weight, count, activation, terms, ignore_index);
  check_devices(input, {&target, &bins});
  if (weight) check_devices(input, {&*weight});
  const DeviceScope device(input.get_device_index());
  Launch launch = describe_launch(problem);
  const Tensor memory = new_accumulators(input, problem, &launch.to, device.stream());
  const Tensor rows = allocate_at(
      input, {problem.rows, problem.batch, problem.channels, problem.places()}, ScalarType::Double);
  const Tensor invalid = allocate_at(input, {2}, ScalarType::Double);
  if (input.numel() > 0) {
    cut(launch);
    launch_forward(launch, device.stream());
  }
  launch_finish({problem, launch.to, static_cast<double*>(rows.mutable_data_ptr()),
                 static_cast<double*>(invalid.mutable_data_ptr())},
                device.stream());
  return {rows, invalid};
}

Tensor backward(Tensor grad_rows, Tensor input, Tensor target, Tensor bins,
                std::optional<Tensor> weight, int64_t count, int64_t activation,
                std::vector<int64_t> terms, std::optional<int64_t> ignore_index) {
  const Problem problem =
      describe(input, target, bins, weight, count, activation, terms, ignore_index);
  const Tensor incoming = describe_gradient(grad_rows, problem);
  check_devices(input, {&grad_rows, &target, &bins});
  if (weight) check_devices(input, {&*weight});
  const DeviceScope device(input.get_device_index());
  Launch launch = describe_launch(problem);
  launch.grad_rows = static_cast<const double*>(incoming.const_data_ptr());
  const Tensor grad = allocate_as(input);
  launch.grad = view_of(grad, true, grad.mutable_data_ptr());
  if (input.numel() > 0) launch_backward(launch, device.stream());
  return grad;
}

}  // namespace
}  // namespace segloss::component_sums::cuda

SEGLOSS_CUDA_SCHEMAS(segloss::component_sums::kSchemas)

STABLE_TORCH_LIBRARY_IMPL(SEGLOSS_CUDA_LIBRARY, SEGLOSS_CUDA_KEY, m) {
  m.impl("_component_sums", TORCH_BOX(&segloss::component_sums::cuda::forward));
  m.impl("_component_sums_backward", TORCH_BOX(&segloss::component_sums::cuda::backward));
}
