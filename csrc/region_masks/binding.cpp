// The CPU operator: it spreads blocks of voxels over torch's threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "parallel.h"
#include "region_masks/kernels.h"
#include "voxels/describe.h"

namespace segloss::region_masks {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

constexpr int64_t kTask = 16384;          // voxels
constexpr int64_t kParallelWork = 32768;  // values below which one thread does all

void check(const Tensor& values, const std::optional<Tensor>& labels, int64_t classes, int64_t mode,
           int64_t first) {
  const bool from_labels = mode == int64_t(Mode::kLabels);
  STD_TORCH_CHECK(mode >= 0 && mode <= int64_t(Mode::kLabels), "region_masks: unknown mode");
  STD_TORCH_CHECK(first >= 0 && classes > 0, "region_masks: wrong number of classes");
  STD_TORCH_CHECK(values.dim() >= (from_labels ? 2 : 3) && values.dim() <= (from_labels ? 4 : 5),
                  "region_masks: wrong rank");
  STD_TORCH_CHECK(from_labels || values.size(1) == classes,
                  "region_masks: wrong number of classes");
  if (!labels) return;
  STD_TORCH_CHECK(!from_labels && labels->dim() == values.dim() - 1,
                  "region_masks: wrong rank of labels");
  for (int64_t d = 0; d < labels->dim(); ++d) {
    STD_TORCH_CHECK(labels->size(d) == values.size(d == 0 ? 0 : d + 1),
                    "region_masks: wrong shape of labels");
  }
}

// The masks [B, C, *S] of values [B, C, *S], or in mode kLabels of class indices [B, *S].
Tensor masks(Tensor values, std::optional<Tensor> labels, int64_t classes, int64_t mode,
             std::optional<int64_t> ignore_index, int64_t first) {
  check(values, labels, classes, mode, first);
  const bool from_labels = mode == int64_t(Mode::kLabels);
  std::vector<int64_t> shape{values.size(0), classes};
  Problem problem{};
  problem.voxels = 1;
  for (int64_t d = from_labels ? 1 : 2; d < values.dim(); ++d) {
    shape.push_back(values.size(d));
    problem.voxels *= values.size(d);
  }
  Tensor out = torch::stable::empty(shape, ScalarType::Bool);
  problem.batch = shape[0];
  problem.channels = classes;
  problem.mode = static_cast<Mode>(mode);
  problem.first = std::min(first, classes);
  problem.values = const_view_of(values, !from_labels);
  problem.has_labels = from_labels || labels.has_value();
  if (problem.has_labels) {
    problem.labels = const_view_of(from_labels ? values : *labels, false);
  }
  problem.has_ignore = ignore_index.has_value();
  problem.ignore_index = ignore_index.value_or(0);
  problem.out = static_cast<uint8_t*>(out.mutable_data_ptr());

  const int64_t per_item = (problem.voxels + kTask - 1) / kTask, tasks = per_item * problem.batch;
  const Kernels& run = kernels();
  for_each_task(tasks, out.numel() <= kParallelWork ? 1 : tasks, 0, [&] {
    return [&](int64_t task, void*) {
      const int64_t begin = task % per_item * kTask;
      run.run(problem, task / per_item, begin, std::min(begin + kTask, problem.voxels));
    };
  });
  return out;
}

}  // namespace
}  // namespace segloss::region_masks

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  m.def(
      "_region_masks_cpu(Tensor values, Tensor? labels, int classes, int mode, int? ignore_index, "
      "int first) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_region_masks_cpu", TORCH_BOX(&segloss::region_masks::masks));
}
