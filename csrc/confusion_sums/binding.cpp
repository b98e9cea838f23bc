// The CPU operators: they spread chunks of voxels over torch's threads. The chunks depend on the
// shapes alone and their sums are added in order, so that the result does not depend on the number
// of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "confusion_sums/kernels.h"
#include "parallel.h"
#include "voxels/describe.h"

namespace segloss::confusion_sums {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

constexpr int64_t kMinChunk = 4096;       // voxels; less does not pay for handing out
constexpr int64_t kChunksPerItem = 64;    // bounds the partial sums
constexpr int64_t kChunkMultiple = 512;   // whole blocks
constexpr int64_t kParallelWork = 32768;  // values of the input below which one thread does all

Problem describe(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight,
                 int64_t activation, std::optional<int64_t> ignore_index) {
  check_shapes("confusion_sums", input, target, weight);
  STD_TORCH_CHECK(activation >= 0 && activation <= 2, "confusion_sums: unknown activation");
  Problem problem{};
  problem.batch = input.size(0);
  problem.channels = input.size(1);
  // The partial sums of all chunks, of which there are at most kChunksPerItem an item.
  checked_product({kChunksPerItem, problem.batch, problem.channels, problem.channels + 1});
  problem.voxels = 1;
  for (int64_t d = 2; d < input.dim(); ++d) problem.voxels *= input.size(d);
  problem.activation = static_cast<Activation>(activation);
  problem.has_ignore = ignore_index.has_value();
  problem.ignore_index = ignore_index.value_or(0);
  problem.dense_target = target.dim() == input.dim();
  problem.input = const_view_of(input, true);
  problem.target = const_view_of(target, problem.dense_target);
  problem.has_weight = weight.has_value();
  if (weight) problem.weight = const_view_of(*weight, true);
  return problem;
}

class Chunks {
 public:
  explicit Chunks(const Problem& problem) : problem_(problem) {
    const int64_t share = (problem.voxels + kChunksPerItem - 1) / kChunksPerItem;
    const int64_t whole = (share + kChunkMultiple - 1) / kChunkMultiple * kChunkMultiple;
    size_ = std::max(whole, kMinChunk);
    per_item_ = (problem.voxels + size_ - 1) / size_;
  }

  int64_t count() const { return per_item_ * problem_.batch; }

  Chunk operator[](int64_t i) const {
    const int64_t begin = i % per_item_ * size_;
    return {i / per_item_, begin, std::min(begin + size_, problem_.voxels)};
  }

  // Calls f(index, scratch of that many bytes) for each chunk, on torch's threads, in any order.
  template <class F>
  void for_each(size_t scratch_bytes, const F& f) const {
    const int64_t values = problem_.batch * problem_.channels * problem_.voxels;
    for_each_task(count(), values <= kParallelWork ? 1 : count(), scratch_bytes,
                  [&] { return [&](int64_t i, void* scratch) { f(i, scratch); }; });
  }

 private:
  const Problem& problem_;
  int64_t size_;
  int64_t per_item_;
};

// The sums [B, C, C + 1] and [2]: how many labels are invalid, and the first.
std::tuple<Tensor, Tensor> forward(Tensor input, Tensor target, std::optional<Tensor> weight,
                                   int64_t activation, std::optional<int64_t> ignore_index) {
  const Problem problem = describe(input, target, weight, activation, ignore_index);
  const Chunks chunks(problem);
  const int64_t size = problem.sums();
  const Kernels& run = kernels();
  Tensor partial = torch::stable::empty({chunks.count(), size}, ScalarType::Double);
  auto* const parts = static_cast<double*>(partial.mutable_data_ptr());
  std::vector<Invalid> found(chunks.count());
  chunks.for_each(run.scratch_bytes(problem, nullptr), [&](int64_t i, void* scratch) {
    run.forward(problem, chunks[i], scratch, parts + i * size, &found[i]);
  });
  Tensor sums = torch::stable::empty({problem.batch, problem.channels, problem.channels + 1},
                                     ScalarType::Double);
  Tensor invalid = torch::stable::empty({2}, ScalarType::Double);
  auto* const total = static_cast<double*>(sums.mutable_data_ptr());
  auto* const bad = static_cast<double*>(invalid.mutable_data_ptr());
  std::fill(total, total + problem.batch * size, 0.0);
  bad[0] = bad[1] = 0;
  for (int64_t i = 0; i < chunks.count(); ++i) {
    double* const to = total + chunks[i].item * size;
    for (int64_t j = 0; j < size; ++j) to[j] += parts[i * size + j];
    if (bad[0] == 0) bad[1] = found[i].first;
    bad[0] += double(found[i].count);
  }
  return {sums, invalid};
}

Tensor backward(Tensor grad_sums, Tensor input, Tensor target, std::optional<Tensor> weight,
                int64_t activation, std::optional<int64_t> ignore_index) {
  const Problem problem = describe(input, target, weight, activation, ignore_index);
  const Tensor incoming = torch::stable::contiguous(grad_sums);
  STD_TORCH_CHECK(incoming.scalar_type() == ScalarType::Double &&
                      incoming.numel() == problem.batch * problem.sums(),
                  "confusion_sums: wrong gradient of the sums");
  Tensor grad = torch::stable::empty_like(input);
  void* const data = grad.mutable_data_ptr();
  advise_huge_pages(data, grad.numel() * grad.element_size());
  const View view = view_of(grad, true, data);
  const Chunks chunks(problem);
  const Kernels& run = kernels();
  const auto* const rows = static_cast<const double*>(incoming.const_data_ptr());
  chunks.for_each(run.scratch_bytes(problem, &view), [&](int64_t i, void* scratch) {
    const Chunk chunk = chunks[i];
    run.backward(problem, chunk, scratch, rows + chunk.item * problem.sums(), view);
  });
  return grad;
}

}  // namespace
}  // namespace segloss::confusion_sums

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  m.def(
      "_confusion_sums_cpu(Tensor input, Tensor target, Tensor? voxel_weight, int activation, "
      "int? ignore_index) -> (Tensor, Tensor)");
  m.def(
      "_confusion_sums_cpu_backward(Tensor grad_sums, Tensor input, Tensor target, "
      "Tensor? voxel_weight, int activation, int? ignore_index) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_confusion_sums_cpu", TORCH_BOX(&segloss::confusion_sums::forward));
  m.impl("_confusion_sums_cpu_backward", TORCH_BOX(&segloss::confusion_sums::backward));
}
