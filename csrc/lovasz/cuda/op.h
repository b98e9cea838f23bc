// The operators, apart from their registration.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

namespace segloss::lovasz::cuda {

using torch::stable::Tensor;

// Returns counts int64 [2, I, C, 2, K], rows float64 [2, I, C] and invalid float64 [2]. Offsets
// have 8 bits here: of the 16 of their sum's unit the lower 8 are taken for their middle.
std::tuple<Tensor, Tensor, Tensor> count(Tensor input, Tensor target, int64_t activation,
                                         int64_t octaves, int64_t bits, bool per_image,
                                         std::optional<int64_t> ignore_index, bool cross_entropy);

// Returns loss float64 [I, C] and table [I, C, 2, K].
std::tuple<Tensor, Tensor> scan(Tensor counts, Tensor rows, int64_t activation, int64_t octaves,
                                int64_t bits, bool double_table);

Tensor backward(Tensor coefficients, std::optional<Tensor> grad_ce, Tensor input, Tensor target,
                int64_t activation, int64_t octaves, int64_t bits,
                std::optional<int64_t> ignore_index);

// Returns loss float64 [I, C], rows float64 [3, I, C], invalid float64 [2] and dL/dm [B, C, *S].
std::tuple<Tensor, Tensor, Tensor, Tensor> sort(Tensor input, Tensor target, int64_t activation,
                                                bool per_image, std::optional<int64_t> ignore_index,
                                                bool cross_entropy, bool wants_gradient);

Tensor sort_backward(Tensor slopes, Tensor grad_loss, std::optional<Tensor> grad_ce, Tensor input,
                     Tensor target, int64_t activation, std::optional<int64_t> ignore_index);

}  // namespace segloss::lovasz::cuda
