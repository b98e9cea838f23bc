// Describes torch's tensors to the CUDA kernels, and refuses those that would corrupt memory.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "region_sums/cuda/problem.h"

namespace segloss::region_sums::cuda {

// More may fit, as far as the device's shared memory goes.
constexpr int kMaxClasses = 1024;

struct Options {
  const std::vector<int64_t>& terms;
  int64_t activation;
  int64_t ce_activation;
  double gamma;
  std::optional<int64_t> ignore_index;
};

// All that one operator call computes.
struct Call {
  std::vector<Launch> launches;
  bool is_double;
  int64_t input_bytes;
};

inline Dtype dtype_of(const torch::stable::Tensor& tensor) {
  using torch::headeronly::ScalarType;
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
      STD_TORCH_CHECK(false, "region_sums: unsupported dtype");
  }
}

// Describes [B, C, *S], or [B, *S] where has_channels is false.
inline View view_of(const torch::stable::Tensor& tensor, bool has_channels, void* data) {
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

inline View const_view_of(const torch::stable::Tensor& tensor, bool has_channels) {
  return view_of(tensor, has_channels, const_cast<void*>(tensor.const_data_ptr()));
}

inline bool is_floating(Dtype dtype) { return dtype <= Dtype::kBFloat16; }

inline void check_level(const torch::stable::Tensor& input, const torch::stable::Tensor& target,
                        const torch::stable::Tensor* weight) {
  STD_TORCH_CHECK(input.dim() >= 3 && input.dim() <= 5, "region_sums: input must be [B, C, *S]");
  STD_TORCH_CHECK(is_floating(dtype_of(input)), "region_sums: input must be floating point");
  const bool dense = target.dim() == input.dim();
  STD_TORCH_CHECK(dense || target.dim() == input.dim() - 1, "region_sums: wrong rank of target");
  STD_TORCH_CHECK(target.get_device_index() == input.get_device_index(),
                  "region_sums: target lies on another device");
  if (weight != nullptr) {
    STD_TORCH_CHECK(weight->dim() == input.dim(), "region_sums: wrong rank of weight");
    STD_TORCH_CHECK(is_floating(dtype_of(*weight)), "region_sums: weight must be floating point");
    STD_TORCH_CHECK(weight->get_device_index() == input.get_device_index(),
                    "region_sums: weight lies on another device");
  }
  for (int64_t d = 0; d < input.dim(); ++d) {
    const int64_t size = input.size(d);
    if (dense || d != 1) {
      STD_TORCH_CHECK(target.size(dense || d == 0 ? d : d - 1) == size,
                      "region_sums: wrong shape of target");
    }
    STD_TORCH_CHECK(
        weight == nullptr || weight->size(d) == size || (d == 1 && weight->size(d) == 1),
        "region_sums: wrong shape of weight");
  }
}

// What all launches have in common.
inline Launch describe_options(const Options& options) {
  Launch launch{};
  for (const int64_t code : {options.activation, options.ce_activation}) {
    STD_TORCH_CHECK(code >= 0 && code <= 2, "region_sums: unknown activation");
  }
  launch.activation = static_cast<Activation>(options.activation);
  launch.ce_activation = static_cast<Activation>(options.ce_activation);
  std::fill(std::begin(launch.row), std::end(launch.row), -1);
  for (const int64_t term : options.terms) {
    STD_TORCH_CHECK(term >= 0 && term < kTermCount, "region_sums: unknown term");
    STD_TORCH_CHECK(launch.row[term] < 0, "region_sums: a term is asked for twice");
    launch.row[term] = launch.rows++;
    launch.terms |= 1u << term;
  }
  STD_TORCH_CHECK(launch.rows > 0, "region_sums: no term is asked for");
  launch.gamma = options.gamma;
  launch.has_ignore = options.ignore_index.has_value();
  launch.ignore_index = options.ignore_index.value_or(0);
  return launch;
}

inline Call describe(const std::vector<torch::stable::Tensor>& inputs,
                     const std::vector<torch::stable::Tensor>& targets,
                     const std::vector<torch::stable::Tensor>& weights, const Options& options) {
  STD_TORCH_CHECK(!inputs.empty() && targets.size() == inputs.size(),
                  "region_sums: as many targets as inputs, at least one");
  STD_TORCH_CHECK(weights.empty() || weights.size() == inputs.size(),
                  "region_sums: as many weights as inputs, or none");
  Call call{{}, dtype_of(inputs[0]) == Dtype::kFloat64, 0};
  Launch common = describe_options(options);
  int64_t items = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto& input = inputs[i];
    const auto* const weight = weights.empty() ? nullptr : &weights[i];
    check_level(input, targets[i], weight);
    const bool dense = targets[i].dim() == input.dim();
    const int64_t classes = input.size(1);
    const bool class_weight = weight != nullptr && classes > 1 && weight->size(1) > 1;
    if (i == 0) {
      STD_TORCH_CHECK(classes > 0 && classes <= 65536, "region_sums: from 1 to 65536 classes");
      common.channels = static_cast<int>(classes);
      common.channel_reciprocal = static_cast<uint32_t>((uint64_t{1} << 32) / classes + 1);
      common.dense_target = dense;
      common.has_weight = weight != nullptr;
      common.class_weight = class_weight;
    }
    STD_TORCH_CHECK(classes == common.channels && dtype_of(input) == dtype_of(inputs[0]) &&
                        input.get_device_index() == inputs[0].get_device_index() &&
                        dense == common.dense_target && class_weight == common.class_weight,
                    "region_sums: the levels must agree in classes, dtype, device, kind of target "
                    "and kind of weight");
    if (i % kMaxLevels == 0) call.launches.push_back(common);
    Launch& launch = call.launches.back();
    Level& level = launch.level[launch.levels++];
    level.input = const_view_of(input, true);
    level.target = const_view_of(targets[i], dense);
    if (weight != nullptr) level.weight = const_view_of(*weight, true);
    level.voxels = 1;
    for (int64_t d = 2; d < input.dim(); ++d) level.voxels *= input.size(d);
    level.items = input.size(0);
    level.first_item = items;
    items += level.items;
    call.input_bytes += input.numel() * input.element_size();
  }
  for (Launch& launch : call.launches) launch.items = items;
  return call;
}

}  // namespace segloss::region_sums::cuda
