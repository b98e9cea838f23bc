// The operator, apart from its registration.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace segloss::region_masks::cuda {

// Returns the masks [B, C, *S] of values [B, C, *S], or in mode kLabels of class indices [B, *S];
// `mode` as numbered in Mode.
torch::stable::Tensor masks(torch::stable::Tensor values,
                            std::optional<torch::stable::Tensor> labels, int64_t classes,
                            int64_t mode, std::optional<int64_t> ignore_index, int64_t first);

}  // namespace segloss::region_masks::cuda
