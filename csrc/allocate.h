// Tensors from torch, or an error that says what there is no memory for: torch's own names a line
// of the headers by which it was called.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <exception>
#include <initializer_list>

namespace segloss {

template <class Values, class F>
torch::stable::Tensor allocated(Values values, F allocate) {
  try {
    return allocate();
  } catch (const std::exception&) {
    STD_TORCH_CHECK(false, "segloss_fast: no memory for a tensor of ", values(), " values");
  }
}

template <class Sizes>
int64_t values_of_sizes(const Sizes& sizes) {
  int64_t values = 1;
  for (const int64_t size : sizes) values *= size;
  return values;
}

// On the CPU.
template <class Sizes = std::initializer_list<int64_t>>
torch::stable::Tensor allocate(const Sizes& sizes, torch::headeronly::ScalarType dtype) {
  return allocated([&] { return values_of_sizes(sizes); },
                   [&] { return torch::stable::empty(sizes, dtype); });
}

// Where another tensor is.
template <class Sizes = std::initializer_list<int64_t>>
torch::stable::Tensor allocate_at(const torch::stable::Tensor& like, const Sizes& sizes,
                                  torch::headeronly::ScalarType dtype) {
  return allocated([&] { return values_of_sizes(sizes); },
                   [&] { return torch::stable::new_empty(like, sizes, dtype); });
}

// As another tensor, with strides as empty_like has them.
inline torch::stable::Tensor allocate_as(const torch::stable::Tensor& like) {
  return allocated([&] { return like.numel(); }, [&] { return torch::stable::empty_like(like); });
}

}  // namespace segloss
