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

#include "parallel.h"
#include "region_sums/describe.h"
#include "region_sums/kernels.h"

namespace segloss::region_sums {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

constexpr int64_t kMinChunk = 4096;       // voxels; less does not pay for handing out
constexpr int64_t kChunksPerItem = 64;    // bounds the partial sums
constexpr int64_t kChunkMultiple = 512;   // whole blocks (block.inc)
constexpr int64_t kParallelWork = 32768;  // values of the input below which one thread does all

// The chunks of one problem, numbered after those of the problems before it.
struct Cut {
  int64_t first;  // chunk
  int64_t per_item;
  int64_t size;  // voxels
};

class Chunks {
 public:
  explicit Chunks(const std::vector<Problem>& problems) : problems_(problems) {
    for (const Problem& problem : problems) {
      const int64_t share = (problem.voxels + kChunksPerItem - 1) / kChunksPerItem;
      const int64_t whole = (share + kChunkMultiple - 1) / kChunkMultiple * kChunkMultiple;
      const int64_t size = std::max(whole, kMinChunk);
      const int64_t per_item = (problem.voxels + size - 1) / size;
      cuts_.push_back({count_, per_item, size});
      count_ += per_item * problem.batch;
      values_ += problem.batch * problem.channels * problem.voxels;
    }
  }

  int64_t count() const { return count_; }

  // Calls f(problem's index, chunk's index, chunk) for all chunks, in order.
  template <class F>
  void in_order(const F& f) const {
    for (size_t level = 0, i = 0; level < cuts_.size(); ++level) {
      const int64_t end = cuts_[level].first + cuts_[level].per_item * problems_[level].batch;
      for (; int64_t(i) < end; ++i) f(level, int64_t(i), chunk(level, i));
    }
  }

  // Calls f(problem's index, chunk's index, chunk, scratch of that many bytes) for each, on torch's
  // threads, in any order.
  template <class F>
  void for_each(size_t scratch_bytes, const F& f) const {
    for_each_task(count_, values_ <= kParallelWork ? 1 : count_, scratch_bytes, [&] {
      return [&, level = size_t{0}](int64_t i, void* scratch) mutable {
        // i rises: the level never goes back.
        while (level + 1 < cuts_.size() && i >= cuts_[level + 1].first) ++level;
        f(level, i, chunk(level, i), scratch);
      };
    });
  }

 private:
  Chunk chunk(size_t level, int64_t i) const {
    const Cut& cut = cuts_[level];
    const int64_t local = i - cut.first;
    const int64_t begin = local % cut.per_item * cut.size;
    return {local / cut.per_item, begin, std::min(begin + cut.size, problems_[level].voxels)};
  }

  const std::vector<Problem>& problems_;
  std::vector<Cut> cuts_;
  int64_t count_ = 0;
  int64_t values_ = 0;
};

// The rows [rows, items of all problems, C] and [2]: how many labels are invalid, and the first.
std::tuple<Tensor, Tensor> forward(std::vector<Tensor> inputs, std::vector<Tensor> targets,
                                   std::vector<Tensor> weights, std::vector<int64_t> terms,
                                   int64_t activation, int64_t ce_activation, double gamma,
                                   std::optional<int64_t> ignore_index) {
  const std::vector<Problem> problems = describe_all(
      inputs, targets, weights, {terms, activation, ce_activation, gamma, ignore_index});
  const Chunks chunks(problems);
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
  Tensor invalid = torch::stable::empty({2}, ScalarType::Double);
  auto* const total = static_cast<double*>(rows.mutable_data_ptr());
  auto* const bad = static_cast<double*>(invalid.mutable_data_ptr());
  std::fill(total, total + items * size, 0.0);
  bad[0] = bad[1] = 0;
  chunks.in_order([&](size_t level, int64_t i, const Chunk& chunk) {
    const int64_t item = first[level] + chunk.item;
    for (int64_t row = 0; row < row_count; ++row) {
      double* const to = total + (row * items + item) * channels;
      const double* const from = sums + i * size + row * channels;
      for (int64_t c = 0; c < channels; ++c) to[c] += from[c];
    }
    if (bad[0] == 0) bad[1] = found[i].first;
    bad[0] += double(found[i].count);
  });
  return {rows, invalid};
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
  std::vector<Tensor> grads;
  std::vector<View> views;
  size_t scratch_bytes = 0;
  for (size_t level = 0; level < inputs.size(); ++level) {
    Tensor grad = torch::stable::empty_like(inputs[level]);
    void* const data = grad.mutable_data_ptr();
    advise_huge_pages(data, grad.numel() * grad.element_size());
    views.push_back(view_of(grad, true, data));
    grads.push_back(grad);
    scratch_bytes = std::max(scratch_bytes, run.scratch_bytes(problems[level], &views[level]));
  }
  const auto* const incoming = static_cast<const double*>(grad_sums.const_data_ptr());
  const Chunks chunks(problems);
  chunks.for_each(scratch_bytes, [&](size_t level, int64_t, const Chunk& chunk, void* scratch) {
    const GradSums grad{incoming + first[level] * problems[level].channels, first.back()};
    run.backward(problems[level], chunk, scratch, grad, views[level]);
  });
  return grads;
}

}  // namespace
}  // namespace segloss::region_sums

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  m.def(
      "_region_sums_cpu(Tensor[] inputs, Tensor[] targets, Tensor[] voxel_weights, int[] terms, "
      "int activation, int ce_activation, float gamma, int? ignore_index) -> (Tensor, Tensor)");
  m.def(
      "_region_sums_cpu_backward(Tensor grad_rows, Tensor[] inputs, Tensor[] targets, "
      "Tensor[] voxel_weights, int[] terms, int activation, int ce_activation, float gamma, "
      "int? ignore_index) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_region_sums_cpu", TORCH_BOX(&segloss::region_sums::forward));
  m.impl("_region_sums_cpu_backward", TORCH_BOX(&segloss::region_sums::backward));
}
