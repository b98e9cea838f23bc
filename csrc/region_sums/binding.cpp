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

#include "region_sums/describe.h"
#include "region_sums/kernels.h"
#include "region_sums/schemas.h"
#include "voxels/chunks.h"

namespace segloss::region_sums {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

// The chunks of several problems, one problem's after the other's.
class AllChunks {
 public:
  explicit AllChunks(const std::vector<Problem>& problems) {
    for (const Problem& problem : problems) {
      const Chunks& chunks = of_.emplace_back(problem);
      first_.push_back(count() + chunks.count());
      values_ += chunks.values();
    }
  }

  int64_t count() const { return first_.back(); }

  // Calls f(problem's index, chunk's index, chunk) for all chunks, in order.
  template <class F>
  void in_order(const F& f) const {
    for (size_t level = 0; level < of_.size(); ++level) {
      for (int64_t i = first_[level]; i < first_[level + 1]; ++i) f(level, i, chunk(level, i));
    }
  }

  // Calls f(problem's index, chunk's index, chunk, scratch of that many bytes) for each, on torch's
  // threads, in any order.
  template <class F>
  void for_each(size_t scratch_bytes, const F& f) const {
    for_each_task(count(), threads_for(values_, count()), scratch_bytes, [&] {
      return [&, level = size_t{0}](int64_t i, void* scratch) mutable {
        while (i >= first_[level + 1]) ++level;  // i rises: the level never goes back
        f(level, i, chunk(level, i), scratch);
      };
    });
  }

 private:
  Chunk chunk(size_t level, int64_t i) const { return of_[level][i - first_[level]]; }

  std::vector<Chunks> of_;
  std::vector<int64_t> first_{0};  // chunk of each problem; the last entry is their number
  int64_t values_ = 0;
};

// The rows [rows, items of all problems, C] and [2]: how many labels are invalid, and the first.
std::tuple<Tensor, Tensor> forward(std::vector<Tensor> inputs, std::vector<Tensor> targets,
                                   std::vector<Tensor> weights, std::vector<int64_t> terms,
                                   int64_t activation, int64_t ce_activation, double gamma,
                                   std::optional<int64_t> ignore_index) {
  const std::vector<Problem> problems = describe_all(
      inputs, targets, weights, {terms, activation, ce_activation, gamma, ignore_index});
  const AllChunks chunks(problems);
  const int64_t channels = problems[0].channels, row_count = problems[0].rows;
  const int64_t size = row_count * channels;
  const Kernels& run = kernels();
  size_t scratch_bytes = 0;
  for (const Problem& p : problems) {
    scratch_bytes = std::max(scratch_bytes, run.scratch_bytes(p, nullptr));
  }
  Tensor partial = torch::stable::empty({chunks.count(), size}, ScalarType::Double);
  auto* const sums = static_cast<double*>(partial.mutable_data_ptr());
  std::vector<Invalid> found(chunks.count());
  chunks.for_each(scratch_bytes, [&](size_t level, int64_t i, const Chunk& chunk, void* scratch) {
    run.forward(problems[level], chunk, scratch, sums + i * size, &found[i]);
  });

  const std::vector<int64_t> first = first_items(problems);
  const int64_t items = first.back();
  Tensor rows = torch::stable::empty({row_count, items, channels}, ScalarType::Double);
  auto* const total = static_cast<double*>(rows.mutable_data_ptr());
  std::fill(total, total + items * size, 0.0);
  chunks.in_order([&](size_t level, int64_t i, const Chunk& chunk) {
    const int64_t item = first[level] + chunk.item;
    for (int64_t row = 0; row < row_count; ++row) {
      double* const to = total + (row * items + item) * channels;
      const double* const from = sums + i * size + row * channels;
      for (int64_t c = 0; c < channels; ++c) to[c] += from[c];
    }
  });
  return {rows, all_invalid(found)};
}

std::vector<Tensor> backward(Tensor grad_rows, std::vector<Tensor> inputs,
                             std::vector<Tensor> targets, std::vector<Tensor> weights,
                             std::vector<int64_t> terms, int64_t activation, int64_t ce_activation,
                             double gamma, std::optional<int64_t> ignore_index) {
  const std::vector<Problem> problems = describe_all(
      inputs, targets, weights, {terms, activation, ce_activation, gamma, ignore_index});
  const std::vector<int64_t> first = first_items(problems);
  const Tensor grad_sums = torch::stable::contiguous(grad_rows);
  STD_TORCH_CHECK(grad_sums.scalar_type() == ScalarType::Double &&
                      grad_sums.numel() == problems[0].rows * first.back() * problems[0].channels,
                  "region_sums: wrong gradient of the sums");
  const Kernels& run = kernels();
  std::vector<Gradient> grads;
  size_t scratch_bytes = 0;
  for (size_t level = 0; level < inputs.size(); ++level) {
    const Gradient& grad = grads.emplace_back(inputs[level]);
    scratch_bytes = std::max(scratch_bytes, run.scratch_bytes(problems[level], &grad.view));
  }
  const auto* const incoming = static_cast<const double*>(data_of(grad_sums));
  const AllChunks chunks(problems);
  chunks.for_each(scratch_bytes, [&](size_t level, int64_t, const Chunk& chunk, void* scratch) {
    const GradSums grad{incoming + first[level] * problems[level].channels, first.back()};
    run.backward(problems[level], chunk, scratch, grad, grads[level].view);
  });
  std::vector<Tensor> tensors;
  for (const Gradient& grad : grads) tensors.push_back(grad.tensor);
  return tensors;
}

}  // namespace
}  // namespace segloss::region_sums

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  for (const char* schema : segloss::region_sums::kSchemas) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_region_sums", TORCH_BOX(&segloss::region_sums::forward));
  m.impl("_region_sums_backward", TORCH_BOX(&segloss::region_sums::backward));
}
