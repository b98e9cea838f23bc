// The exact method: keys, their sort, groups of equal errors, and the gradient by their increments.
#include <array>
#include <bit>
#include <optional>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "cuda_library.h"
#include "lovasz/cuda/steps.h"
#include "lovasz/schemas.h"

namespace segloss::lovasz::cuda {
namespace {

// Memory that keys and values are sorted in; then that for which the result has no use.
struct SortMemory {
  Scratch scratch;
  std::array<Scratch::Piece<unsigned long long>, 2> keys;
  std::array<Scratch::Piece<uint32_t>, 2> values;
  int sorted = 0;

  SortMemory(const Tensor& like, int64_t count) {
    for (auto& piece : keys) piece = scratch.ask<unsigned long long>(count);
    for (auto& piece : values) piece = scratch.ask<uint32_t>(count + 1);
    scratch.allocate(like);
  }
  unsigned long long* key(int i) const { return scratch.at(keys[i]); }
  uint32_t* value(int i) const { return scratch.at(values[i]); }

  // Keys of 32 bits come with their row in the upper ones. Those of 64 bits have no place for it.
  void sort(const Tensor& like, int64_t rows, int64_t voxels, bool is_double, cudaStream_t stream) {
    const int64_t calls = is_double ? rows : 1, count = is_double ? voxels : rows * voxels;
    const int bits = is_double ? 64 : 32 + int(std::bit_width(uint64_t(rows - 1)));
    for (int64_t i = 0; i < calls; ++i) {
      unsigned long long* const key_pair[]{key(0) + i * count, key(1) + i * count};
      uint32_t* const value_pair[]{value(0) + i * count, value(1) + i * count};
      const int found = sort_pairs(like, key_pair, value_pair, count, bits, stream);
      STD_TORCH_CHECK(i == 0 || found == sorted, "lovasz: sorted rows lie apart");
      sorted = found;
    }
  }
};

// Writes the keys, and the first two rows.
void find_keys(CountLaunch& launch, const Tensor& input, const Tensor& rows, const Tensor& invalid,
               cudaStream_t stream) {
  const Problem& problem = launch.problem;
  const int64_t tiles = problem.image_tiles();
  const bool statistics = needs_statistics(problem, false);
  cut(launch, false, tiles);
  launch.slab_end = tiles;
  Scratch scratch;
  const Parts parts(scratch, launch, 1, statistics ? tiles * statistics_bytes(problem) : 0);
  scratch.allocate(input);
  launch.partial = parts.pointers(scratch);
  if (statistics) {
    launch.statistics = scratch.at(parts.statistics);
    find_statistics(launch, scratch.at(parts.statistics), stream);
  }
  launch_keys(launch, stream);
  finish(launch, 1, rows, invalid, stream);
}

// Finds loss, number of foreground voxels and, if wanted, dL/dm from what is sorted.
void find_slopes(const Tensor& input, const Problem& problem, const SortMemory& memory,
                 const Tensor& loss, const Tensor& rows, const Tensor& slopes,
                 cudaStream_t stream) {
  const int64_t of_row = problem.images * problem.channels;
  const int64_t voxels = problem.items * problem.voxels, total = of_row * voxels;
  const int spare = 1 - memory.sorted;
  const int64_t wanted =
      std::max<int64_t>(16 * device_attribute(cudaDevAttrMultiProcessorCount) / of_row, 1);
  Sorted sorted{};
  sorted.keys = memory.key(memory.sorted);
  sorted.values = memory.value(memory.sorted);
  sorted.voxels = voxels;
  sorted.rows = of_row;
  sorted.channels = problem.channels;
  sorted.hinge = problem.activation == Activation::kHinge;
  sorted.items = problem.items;
  sorted.item_voxels = uint32_t(problem.voxels);
  sorted.before = memory.value(spare);
  sorted.heads = reinterpret_cast<uint32_t*>(memory.key(spare));
  sorted.ends = sorted.heads + total;
  sorted.flagged = doubles_of(rows);
  sorted.blocks = std::min(divide_up(voxels, 256), wanted);
  const Tensor partial = allocate_at(input, {of_row, sorted.blocks}, ScalarType::Double);
  sorted.partial = doubles_of(partial);
  sorted.loss = doubles_of(loss);
  sorted.foreground = doubles_of(rows) + 2 * of_row;
  sorted.slopes = slopes.numel() > 0 ? slopes.mutable_data_ptr() : nullptr;
  launch_marks(sorted, stream);
  scan_sum(input, sorted.before, total + 1, stream);
  scan_max(input, sorted.heads, total, stream);
  launch_ends(sorted, stream);
  launch_slopes(sorted, problem.input.dtype == Dtype::kFloat64, stream);
}

// Returns loss float64 [I, C], rows float64 [3, I, C], invalid float64 [2] and dL/dm [B, C, *S].
std::tuple<Tensor, Tensor, Tensor, Tensor> sort(Tensor input, Tensor target, int64_t activation,
                                                bool per_image, std::optional<int64_t> ignore_index,
                                                bool cross_entropy, bool wants_gradient) {
  CountLaunch launch{};
  launch.problem = describe(
      input, target, {activation, ignore_index, cross_entropy, per_image ? input.size(0) : 1});
  const Problem& problem = launch.problem;
  const DeviceScope device(input.get_device_index());
  const bool is_double = problem.input.dtype == Dtype::kFloat64;
  const int64_t of_row = problem.images * problem.channels;
  const int64_t voxels = problem.items * problem.voxels;
  STD_TORCH_CHECK(voxels < int64_t{1} << 31 && of_row * voxels < (int64_t{1} << 32) - 1,
                  "lovasz: too many voxels to sort at once, use method histogram");
  const auto empty = [&](std::vector<int64_t> size, ScalarType type) {
    return allocate_at(input, size, type);
  };
  const Tensor loss = empty({problem.images, problem.channels}, ScalarType::Double);
  const Tensor rows = empty({3, problem.images, problem.channels}, ScalarType::Double);
  const Tensor invalid = empty({2}, ScalarType::Double);
  std::vector<int64_t> shape{0};
  if (wants_gradient) shape.clear();
  for (int64_t d = 0; wants_gradient && d < input.dim(); ++d) shape.push_back(input.size(d));
  const Tensor slopes = empty(shape, is_double ? ScalarType::Double : ScalarType::Float);
  if (input.numel() == 0) {
    for (const Tensor& tensor : {loss, rows, invalid}) clear(tensor, device.stream());
    return {loss, rows, invalid, slopes};
  }
  SortMemory memory(input, of_row * voxels);
  launch.keys = memory.key(0);
  launch.values = memory.value(0);
  find_keys(launch, input, rows, invalid, device.stream());
  memory.sort(input, of_row, voxels, is_double, device.stream());
  find_slopes(input, problem, memory, loss, rows, slopes, device.stream());
  return {loss, rows, invalid, slopes};
}

Tensor sort_backward(Tensor slopes, Tensor grad_loss, std::optional<Tensor> grad_ce, Tensor input,
                     Tensor target, int64_t activation, std::optional<int64_t> ignore_index) {
  BackwardLaunch launch{};
  STD_TORCH_CHECK(grad_loss.dim() == 2, "lovasz: grad_loss must be [I, C]");
  launch.problem = describe(input, target, {activation, ignore_index, false, grad_loss.size(0)});
  const bool is_double = launch.problem.input.dtype == Dtype::kFloat64;
  STD_TORCH_CHECK(slopes.numel() == input.numel(), "lovasz: g must have the shape of input");
  check_device(slopes, input);
  const DeviceScope device(input.get_device_index());
  const Tensor typed = torch::stable::contiguous(
      torch::stable::to(slopes, is_double ? ScalarType::Double : ScalarType::Float));
  launch.slopes = typed.const_data_ptr();
  return differentiate(launch, grad_loss, grad_ce, input, device.stream());
}

}  // namespace
}  // namespace segloss::lovasz::cuda

SEGLOSS_CUDA_SCHEMAS(segloss::lovasz::kSortSchemas)

STABLE_TORCH_LIBRARY_IMPL(SEGLOSS_CUDA_LIBRARY, SEGLOSS_CUDA_KEY, m) {
  m.impl("_lovasz_sort", TORCH_BOX(&segloss::lovasz::cuda::sort));
  m.impl("_lovasz_sort_backward", TORCH_BOX(&segloss::lovasz::cuda::sort_backward));
}
