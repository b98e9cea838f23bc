// Describes torch's tensors to the kernels.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>

#include "voxels/view.h"

namespace segloss {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Dtype::kFloat32;
    case ScalarType::Double:
      return Dtype::kFloat64;
    case ScalarType::Half:
      return Dtype::kFloat16;
    case ScalarType::BFloat16:
      return Dtype::kBFloat16;
    case ScalarType::Bool:
    case ScalarType::Byte:
      return Dtype::kUInt8;
    case ScalarType::Char:
      return Dtype::kInt8;
    case ScalarType::Short:
      return Dtype::kInt16;
    case ScalarType::Int:
      return Dtype::kInt32;
    case ScalarType::Long:
      return Dtype::kInt64;
    default:
      STD_TORCH_CHECK(false, "segloss_fast: unsupported dtype");
  }
}

// Describes [B, C, *S], or [B, *S] where has_channels is false.
inline View view_of(const Tensor& tensor, bool has_channels, void* data) {
  View view{data, dtype_of(tensor), tensor.stride(0), 0, 0, {1, 1, 1}, {1, 1, 1}};
  const int first = has_channels ? 2 : 1;
  if (has_channels && tensor.size(1) > 1) view.channel_stride = tensor.stride(1);
  for (int64_t d = first; d < tensor.dim(); ++d) {
    const int64_t size = tensor.size(d), stride = tensor.stride(d);
    if (size == 1) continue;
    const int last = view.dims - 1;
    if (view.dims > 0 && view.stride[last] == stride * size) {
      view.size[last] *= size;
      view.stride[last] = stride;
    } else {
      view.size[view.dims] = size;
      view.stride[view.dims++] = stride;
    }
  }
  view.dims = std::max(view.dims, 1);
  return view;
}

inline View const_view_of(const Tensor& tensor, bool has_channels) {
  return view_of(tensor, has_channels, const_cast<void*>(tensor.const_data_ptr()));
}

inline bool is_floating(Dtype dtype) { return dtype <= Dtype::kBFloat16; }

}  // namespace segloss
