// Describes torch's tensors to the kernels, of the CPU and of CUDA.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "component_sums/kernels.h"
#include "voxels/describe.h"

namespace segloss::component_sums {

inline void describe_bins(const Tensor& bins, const Tensor& input, int64_t count,
                          Problem* problem) {
  STD_TORCH_CHECK(bins.scalar_type() == ScalarType::Int, "component_sums: bins must be int32");
  STD_TORCH_CHECK(bins.dim() == input.dim(), "component_sums: wrong rank of bins");
  for (int64_t d = 0; d < input.dim(); ++d) {
    STD_TORCH_CHECK(bins.size(d) == input.size(d) || (d == 1 && bins.size(d) == 1),
                    "component_sums: wrong shape of bins");
  }
  STD_TORCH_CHECK(count >= 0 && count <= std::numeric_limits<int32_t>::max(),
                  "component_sums: wrong count of bins");
  problem->bins = const_view_of(bins, true);
  problem->shared_bins = bins.size(1) == 1;
  problem->count = count;
}

inline Problem describe(const Tensor& input, const Tensor& target, const Tensor& bins,
                        const std::optional<Tensor>& weight, int64_t count, int64_t activation,
                        const std::vector<int64_t>& terms, std::optional<int64_t> ignore_index) {
  Problem problem{};
  describe_comparison("component_sums", input, target, weight, ignore_index, &problem);
  problem.activation = describe_activation("component_sums", activation);
  describe_bins(bins, input, count, &problem);
  std::fill(problem.row, problem.row + kTermCount, -1);
  for (const int64_t term : terms) {
    STD_TORCH_CHECK(term >= 0 && term < kTermCount && problem.row[term] < 0,
                    "component_sums: unknown or repeated term");
    problem.row[term] = problem.rows++;
  }
  STD_TORCH_CHECK(problem.rows > 0, "component_sums: no term");
  checked_product({problem.rows, problem.batch, problem.channels, problem.places()});
  return problem;
}

// The gradient of the rows as the kernels read it.
inline Tensor describe_gradient(const Tensor& grad_rows, const Problem& problem) {
  STD_TORCH_CHECK(
      grad_rows.scalar_type() == ScalarType::Double &&
          grad_rows.numel() == problem.rows * problem.batch * problem.channels * problem.places(),
      "component_sums: wrong gradient of the sums");
  return torch::stable::contiguous(grad_rows);
}

}  // namespace segloss::component_sums
