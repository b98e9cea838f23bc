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
#include "confusion_sums/calls.h"
#include "confusion_sums/describe.h"

namespace segloss::confusion_sums {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

// The sums [B, C, C + 1] and [2]: how many labels are invalid, and the first.
std::tuple<Tensor, Tensor> forward(Tensor input, Tensor target, std::optional<Tensor> weight,
                                   int64_t activation, std::optional<int64_t> ignore_index) {
  const Problem problem = describe(input, target, weight, activation, ignore_index);
  Tensor sums =
      allocate({problem.batch, problem.channels, problem.channels + 1}, ScalarType::Double);
  const Invalid invalid = sum(problem, static_cast<double*>(sums.mutable_data_ptr()));
  return {sums, all_invalid({invalid})};
}

Tensor backward(Tensor grad_sums, Tensor input, Tensor target, std::optional<Tensor> weight,
                int64_t activation, std::optional<int64_t> ignore_index) {
  const Problem problem = describe(input, target, weight, activation, ignore_index);
  const Tensor incoming = torch::stable::contiguous(grad_sums);
  STD_TORCH_CHECK(incoming.scalar_type() == ScalarType::Double &&
                      incoming.numel() == problem.batch * problem.sums(),
                  "confusion_sums: wrong gradient of the sums");
  const Gradient grad(input);
  differentiate(problem, static_cast<const double*>(data_of(incoming)), grad.view);
  return grad.tensor;
}

}  // namespace

Invalid sum(const Problem& problem, double* sums) {
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
  std::fill(sums, sums + problem.batch * size, 0.0);
  for (int64_t i = 0; i < chunks.count(); ++i) {
    double* const to = sums + chunks[i].item * size;
    for (int64_t j = 0; j < size; ++j) to[j] += parts[i * size + j];
  }
  return add_invalid(found);
}

void differentiate(const Problem& problem, const double* grad_sums, const View& grad) {
  const Chunks chunks(problem);
  const Kernels& run = kernels();
  chunks.for_each(run.scratch_bytes(problem, &grad), [&] {
    return [&](int64_t i, void* scratch) {
      const Chunk chunk = chunks[i];
      run.backward(problem, chunk, scratch, grad_sums + chunk.item * problem.sums(), grad);
    };
  });
}

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
