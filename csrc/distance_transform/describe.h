// Tensors as the kernels see them.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <vector>

#include "distance_transform/kernels.h"
#include "voxels/data.h"

namespace segloss::distance_transform {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMaxLength = 1 << 30;  // of a line: the kernels count in int32

inline bool is_floating(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

inline bool is_signed_integer(ScalarType dtype) {
  return dtype == ScalarType::Char || dtype == ScalarType::Short || dtype == ScalarType::Int ||
         dtype == ScalarType::Long;
}

inline bool is_integer(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Bool:
    case ScalarType::Byte:
    case ScalarType::UInt16:
    case ScalarType::UInt32:
    case ScalarType::UInt64:
      return true;
    default:
      return is_signed_integer(dtype);
  }
}

// The spatial axes that are longer than one voxel; a row runs along the last of them.
inline std::vector<int64_t> long_axes(const Tensor& tensor) {
  std::vector<int64_t> axes;
  for (int64_t d = 2; d < tensor.dim(); ++d) {
    if (tensor.size(d) > 1) axes.push_back(d);
  }
  if (axes.empty()) axes.push_back(tensor.dim() - 1);
  return axes;
}

inline void describe_rows(const Tensor& tensor, const std::vector<int64_t>& axes, Grid* grid) {
  grid->data = data_of(tensor);
  grid->element_size = tensor.element_size();
  grid->row_length = tensor.size(axes.back());
  grid->row_stride = tensor.stride(axes.back());
  std::vector<int64_t> outer{0, 1};
  outer.insert(outer.end(), axes.begin(), axes.end() - 1);
  for (const int64_t d : outer) {
    grid->outer_size[grid->outer_dims] = tensor.size(d);
    grid->outer_stride[grid->outer_dims++] = tensor.stride(d);
  }
}

// Describes the passes along the axes other than the last, from the back, but for their costs.
inline void describe_passes(const Tensor& tensor, const std::vector<int64_t>& axes, Grid* grid) {
  int64_t inner = grid->row_length;
  for (auto axis = axes.rbegin() + 1; axis != axes.rend(); ++axis) {
    Pass& pass = grid->pass[grid->passes++];
    pass.length = tensor.size(*axis);
    pass.inner = inner;
    pass.lines = tensor.numel() / pass.length;
    pass.last = axis + 1 == axes.rend();
    inner *= pass.length;
  }
}

}  // namespace segloss::distance_transform
