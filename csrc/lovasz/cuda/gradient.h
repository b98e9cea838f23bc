// The last step of both methods' backward.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "lovasz/cuda/describe.h"

namespace segloss::lovasz::cuda {

// [I, C] in float64; it must live until the launch.
inline Tensor gradient_rows(const Tensor& rows, const Problem& problem, const Tensor& input) {
  STD_TORCH_CHECK(
      rows.dim() == 2 && rows.size(0) == problem.images && rows.size(1) == problem.channels,
      "lovasz: the gradients of loss and cross-entropy must be [I, C]");
  check_device(rows, input);
  return torch::stable::contiguous(torch::stable::to(rows, ScalarType::Double));
}

inline Tensor differentiate(BackwardLaunch& launch, const std::optional<Tensor>& grad_ce,
                            const Tensor& input, cudaStream_t stream) {
  Problem& problem = launch.problem;
  const Tensor grad = torch::stable::empty_like(input);
  problem.grad = view_of(grad, true, grad.mutable_data_ptr());
  std::optional<Tensor> entropy;
  if (grad_ce) entropy = gradient_rows(*grad_ce, problem, input);
  if (entropy) launch.grad_ce = static_cast<const double*>(entropy->const_data_ptr());
  if (input.numel() == 0) return grad;
  const bool columns = problem.activation == Activation::kSoftmax && !keeps_logits(problem);
  launch_backward(launch, columns ? columns_of(problem) : 0, stream);
  return grad;
}

}  // namespace segloss::lovasz::cuda
