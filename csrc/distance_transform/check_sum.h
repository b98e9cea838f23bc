// Checks of a sum to which distances are added.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>

namespace segloss::distance_transform {

inline void check_sum(const torch::stable::Tensor& sum, const torch::stable::Tensor& mask) {
  STD_TORCH_CHECK(sum.scalar_type() == torch::headeronly::ScalarType::Float && sum.is_contiguous(),
                  "distance_transform: sums must be contiguous, and float32");
  STD_TORCH_CHECK(sum.dim() == mask.dim(), "distance_transform: wrong shape of sums");
  for (int64_t d = 0; d < mask.dim(); ++d) {
    STD_TORCH_CHECK(sum.size(d) == mask.size(d), "distance_transform: wrong shape of sums");
  }
}

}  // namespace segloss::distance_transform
