// The CUDA operator: it describes the tensors to the kernels, and launches these one after another.
#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "connected_components/cuda/launch.h"
#include "connected_components/describe.h"
#include "connected_components/schemas.h"
#include "cuda.cuh"
#include "cuda_library.h"

namespace segloss::connected_components::cuda {
namespace {

constexpr int kLanes = 32;

void clear(const Tensor& tensor, cudaStream_t stream) {
  const size_t bytes = size_t(tensor.numel()) * sizeof(int32_t);
  if (bytes == 0) return;
  check_cuda(cudaMemsetAsync(tensor.mutable_data_ptr(), 0, bytes, stream), "cudaMemsetAsync");
}

// The largest count, and whether a value is too large: waits for the device.
std::pair<int64_t, bool> read(const Launch& launch, cudaStream_t stream) {
  std::vector<int32_t> host(size_t(launch.problem.masks + 1));
  const auto copy = [&](int32_t* to, const int32_t* from, int64_t count) {
    check_cuda(
        cudaMemcpyAsync(to, from, size_t(count) * sizeof(int32_t), cudaMemcpyDeviceToHost, stream),
        "cudaMemcpyAsync");
  };
  copy(host.data(), launch.wide, 1);
  copy(host.data() + 1, launch.problem.count, launch.problem.masks);
  check_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  return {*std::max_element(host.begin() + 1, host.end()), host[0] != 0};
}

Tensor memory(const Tensor& like, int64_t count) {
  return allocate_at(like, {count}, ScalarType::Int);
}

void cut(Launch& launch) {
  const Problem& problem = launch.problem;
  launch.words = int((problem.size[2] + kLanes - 1) / kLanes);
  launch.mask_words = int(problem.rows() * launch.words);
  launch.mask_blocks = (launch.mask_words + kThreads - 1) / kThreads;
  // A warp has fewer words than a block has threads.
  const int64_t blocks = problem.masks * (int64_t(launch.mask_blocks) * kLanes + 1);
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(),
                  "connected_components: more voxels than a grid has blocks for");
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(Tensor labels, int64_t differing, bool by_value,
                                                   std::optional<int64_t> ignore_index,
                                                   std::vector<int64_t> order) {
  Launch launch{};
  Problem& problem = launch.problem;
  problem = describe(labels, differing, by_value, ignore_index, order);
  STD_TORCH_CHECK(problem.in_raster_order, "connected_components: axes must be in raster order");
  const auto [components, count] = new_results(labels, problem);
  const DeviceScope scope(labels.get_device_index());
  const cudaStream_t stream = scope.stream();
  Tensor wide = memory(labels, 1);
  clear(wide, stream);
  Tensor value = allocate_at(labels, {labels.size(0), 0}, ScalarType::Int);
  if (labels.numel() == 0) {
    clear(count, stream);
    return {components, count, value, wide};
  }
  cut(launch);
  const int64_t words = problem.masks * launch.mask_words;
  Tensor bits = memory(labels, words), starts = memory(labels, by_value ? words : 0);
  Tensor roots = memory(labels, problem.masks * launch.mask_blocks);
  launch.bits = static_cast<uint32_t*>(bits.mutable_data_ptr());
  launch.starts = by_value ? static_cast<uint32_t*>(starts.mutable_data_ptr()) : nullptr;
  launch.roots = static_cast<int32_t*>(roots.mutable_data_ptr());
  launch.wide = static_cast<int32_t*>(wide.mutable_data_ptr());
  launch_find(launch, stream);
  launch_unite(launch, stream);
  launch_number(launch, stream);
  if (by_value) {
    const auto [most, found_wide] = read(launch, stream);
    problem.most = most;
    value = allocate_at(labels, {labels.size(0), most}, ScalarType::Int);
    clear(value, stream);
    problem.value = static_cast<int32_t*>(value.mutable_data_ptr());
    if (!found_wide && most > 0) launch_values(launch, stream);
  }
  launch_write(launch, stream);
  return {components, count, value, wide};
}

}  // namespace
}  // namespace segloss::connected_components::cuda

SEGLOSS_CUDA_SCHEMAS(segloss::connected_components::kSchemas)

STABLE_TORCH_LIBRARY_IMPL(SEGLOSS_CUDA_LIBRARY, SEGLOSS_CUDA_KEY, m) {
  m.impl("_connected_components", TORCH_BOX(&segloss::connected_components::cuda::forward));
}
