// The operator, apart from its registration.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <vector>

namespace segloss::distance_transform {

// Returns [B, C, *S] float32 for a mask [B, C, *S]; `side` as numbered in Side.
torch::stable::Tensor forward(torch::stable::Tensor mask, std::vector<double> spacing, int64_t side,
                              bool squared);

}  // namespace segloss::distance_transform
