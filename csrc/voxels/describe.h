// Describes torch's tensors to the kernels.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <type_traits>

#include "voxels/data.h"
#include "voxels/problem.h"
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
      return Dtype::kBool;
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

// Values of a tensor, expanded ones counted as often as they are seen. Sizes of scratch memory and
// of results are at most a thousand times as many, so that none of their products overflows.
constexpr int64_t kMostValues = int64_t(1) << 48;

// Returns the product of sizes; an error where it is too large. A size of 0 counts as 1.
inline int64_t checked_product(std::initializer_list<int64_t> sizes) {
  int64_t values = 1;
  for (const int64_t size : sizes) {
    const int64_t most = std::max<int64_t>(size, 1);
    STD_TORCH_CHECK(most <= kMostValues / values,
                    "segloss_fast: a tensor would have more than 2^48 values, which is too many");
    values *= most;
  }
  return values;
}

template <class AnyTensor>
void check_size(const AnyTensor& tensor) {
  int64_t values = 1;
  for (int64_t d = 0; d < tensor.dim(); ++d) values = checked_product({values, tensor.size(d)});
}

// Describes [B, C, *S], or [B, *S] where has_channels is false. A tensor here and below is one of
// torch's stable interface, or a RawTensor.
template <class AnyTensor>
View view_of(const AnyTensor& tensor, bool has_channels, void* data) {
  check_size(tensor);
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

template <class AnyTensor>
View const_view_of(const AnyTensor& tensor, bool has_channels) {
  return view_of(tensor, has_channels, const_cast<void*>(data_of(tensor)));
}

inline bool is_floating(Dtype dtype) { return dtype <= Dtype::kBFloat16; }

// Checks what a primitive reads for what would corrupt memory: input [B, C, *S], target [B, *S] or
// [B, C, *S], weight [B, 1, *S] or [B, C, *S], floating point or, where the kernels read them,
// bytes.
template <class AnyTensor>
void check_shapes(const char* primitive, const AnyTensor& input, const AnyTensor& target,
                  const std::optional<std::type_identity_t<AnyTensor>>& weight,
                  bool byte_weight = false) {
  STD_TORCH_CHECK(input.dim() >= 3 && input.dim() <= 5, primitive, ": input must be [B, C, *S]");
  STD_TORCH_CHECK(input.size(1) > 0, primitive, ": input must have a class");
  STD_TORCH_CHECK(is_floating(dtype_of(input)), primitive, ": input must be floating point");
  const bool dense = target.dim() == input.dim();
  STD_TORCH_CHECK(dense || target.dim() == input.dim() - 1, primitive, ": wrong rank of target");
  STD_TORCH_CHECK(!weight || weight->dim() == input.dim(), primitive, ": wrong rank of weight");
  STD_TORCH_CHECK(
      !weight || is_floating(dtype_of(*weight)) || (byte_weight && is_byte(dtype_of(*weight))),
      primitive, ": weight must be floating point");
  for (int64_t d = 0; d < input.dim(); ++d) {
    const int64_t size = input.size(d);
    if (dense || d != 1) {
      STD_TORCH_CHECK(target.size(dense || d == 0 ? d : d - 1) == size, primitive,
                      ": wrong shape of target");
    }
    STD_TORCH_CHECK(!weight || weight->size(d) == size || (d == 1 && weight->size(d) == 1),
                    primitive, ": wrong shape of weight");
  }
}

// Checks what a primitive reads, and describes the part of its problem that all have in common.
template <class AnyTensor>
void describe_comparison(const char* primitive, const AnyTensor& input, const AnyTensor& target,
                         const std::optional<std::type_identity_t<AnyTensor>>& weight,
                         std::optional<int64_t> ignore_index, Comparison* problem,
                         bool byte_weight = false) {
  check_shapes(primitive, input, target, weight, byte_weight);
  problem->batch = input.size(0);
  problem->channels = input.size(1);
  problem->voxels = 1;
  for (int64_t d = 2; d < input.dim(); ++d) problem->voxels *= input.size(d);
  problem->has_ignore = ignore_index.has_value();
  problem->ignore_index = ignore_index.value_or(0);
  problem->dense_target = target.dim() == input.dim();
  problem->input = const_view_of(input, true);
  problem->target = const_view_of(target, problem->dense_target);
  problem->has_weight = weight.has_value();
  if (weight) problem->weight = const_view_of(*weight, true);
}

inline Activation describe_activation(const char* primitive, int64_t activation) {
  STD_TORCH_CHECK(activation >= 0 && activation <= 2, primitive, ": unknown activation");
  return static_cast<Activation>(activation);
}

// Describes the slices, the rows of a slice and the voxels of a row of [B, C, *S]; an image's rows
// are its slices.
inline void describe_slices(const Tensor& values, int64_t (&size)[3]) {
  const int64_t rank = values.dim() - 2;
  size[0] = rank > 1 ? values.size(2) : 1;
  size[1] = rank > 2 ? values.size(3) : 1;
  size[2] = values.size(rank + 1);
}

}  // namespace segloss
