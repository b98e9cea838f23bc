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

#include "allocate.h"
#include "confusion_sums/kernels.h"
#include "voxels/chunks.h"
#include "voxels/describe.h"

namespace segloss::confusion_sums {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

Problem describe(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight,
                 int64_t activation, std::optional<int64_t> ignore_index) {
  Problem problem{};
  describe_comparison("confusion_sums", input, target, weight, ignore_index, &problem);
  // The partial sums of all chunks, of which there are at most kChunksPerItem an item.
  checked_product({kChunksPerItem, problem.batch, problem.channels, problem.channels + 1});
  problem.activation = describe_activation("confusion_sums", activation);
  return problem;
}

// The sums [B, C, C + 1] and [2]: how many labels are invalid, and the first.
std::tuple<Tensor, Tensor> forward(Tensor input, Tensor target, std::optional<Tensor> weight,
                                   int64_t activation, std::optional<int64_t> ignore_index) {
  const Problem problem = describe(input, target, weight, activation, ignore_index);
  const Chunks chunks(problem);
  const int64_t size = problem.sums();
  const Kernels& run = kernels();
  Tensor partial = allocate({chunks.count(), size}, ScalarType::Double);
  auto* const parts = static_cast<double*>(partial.mutable_data_ptr());
  std::vector<Invalid> found(chunks.count());
  chunks.for_each(run.scratch_bytes(problem, nullptr), [&] {
    return [&](int64_t i, void* scratch) {
      run.forward(problem, chunks[i], scratch, parts + i * size, &found[i]);
    };
  });
  Tensor sums =
      allocate({problem.batch, problem.channels, problem.channels + 1}, ScalarType::Double);
  auto* const total = static_cast<double*>(sums.mutable_data_ptr());
  std::fill(total, total + problem.batch * size, 0.0);
  for (int64_t i = 0; i < chunks.count(); ++i) {
    double* const to = total + chunks[i].item * size;
    for (int64_t j = 0; j < size; ++j) to[j] += parts[i * size + j];
  }
  return {sums, all_invalid(found)};
}

Tensor backward(Tensor grad_sums, Tensor input, Tensor target, std::optional<Tensor> weight,
                int64_t activation, std::optional<int64_t> ignore_index) {
  const Problem problem = describe(input, target, weight, activation, ignore_index);
  const Tensor incoming = torch::stable::contiguous(grad_sums);
  STD_TORCH_CHECK(incoming.scalar_type() == ScalarType::Double &&
                      incoming.numel() == problem.batch * problem.sums(),
                  "confusion_sums: wrong gradient of the sums");
  const Gradient grad(input);
  const Chunks chunks(problem);
  const Kernels& run = kernels();
  const auto* const rows = static_cast<const double*>(data_of(incoming));
  chunks.for_each(run.scratch_bytes(problem, &grad.view), [&] {
    return [&](int64_t i, void* scratch) {
      const Chunk chunk = chunks[i];
      run.backward(problem, chunk, scratch, rows + chunk.item * problem.sums(), grad.view);
    };
  });
  return grad.tensor;
}

}  // namespace
}  // namespace segloss::confusion_sums

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  m.def(
      "_confusion_sums(Tensor input, Tensor target, Tensor? voxel_weight, int activation, "
      "int? ignore_index) -> (Tensor, Tensor)");
  m.def(
      "_confusion_sums_backward(Tensor grad_sums, Tensor input, Tensor target, "
      "Tensor? voxel_weight, int activation, int? ignore_index) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_confusion_sums", TORCH_BOX(&segloss::confusion_sums::forward));
  m.impl("_confusion_sums_backward", TORCH_BOX(&segloss::confusion_sums::backward));
}
