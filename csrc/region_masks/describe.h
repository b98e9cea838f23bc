// Checks the operators' tensors, and describes them to the kernels.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "allocate.h"
#include "region_masks/kernels.h"
#include "voxels/describe.h"

namespace segloss::region_masks {

inline void check(const Tensor& values, const std::optional<Tensor>& labels, int64_t classes,
                  int64_t mode, int64_t first) {
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

// Of values [B, C, *S], or in mode kLabels of class indices [B, *S]; all but the masks.
inline Problem describe(const Tensor& values, const std::optional<Tensor>& labels, int64_t classes,
                        int64_t mode, std::optional<int64_t> ignore_index, int64_t first) {
  check(values, labels, classes, mode, first);
  const bool from_labels = mode == int64_t(Mode::kLabels);
  Problem problem{};
  problem.voxels = 1;
  for (int64_t d = from_labels ? 1 : 2; d < values.dim(); ++d) problem.voxels *= values.size(d);
  problem.batch = values.size(0);
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
  return problem;
}

// Returns memory for the masks [B, C, *S], which the problem then points to.
inline Tensor new_masks(const Tensor& values, Problem& problem) {
  std::vector<int64_t> shape{problem.batch, problem.channels};
  for (int64_t d = problem.mode == Mode::kLabels ? 1 : 2; d < values.dim(); ++d) {
    shape.push_back(values.size(d));
  }
  Tensor out = allocate_at(values, shape, ScalarType::Bool);
  problem.out = static_cast<uint8_t*>(out.mutable_data_ptr());
  return out;
}

}  // namespace segloss::region_masks
