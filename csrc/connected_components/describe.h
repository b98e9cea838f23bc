// Checks the operators' tensors, and describes them to the kernels.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "allocate.h"
#include "connected_components/kernels.h"
#include "voxels/describe.h"

namespace segloss::connected_components {

// A number as a dtype of floating point has it, exactly; 0 where it has not.
inline uint64_t floating_bits(int64_t value, int mantissa, int exponent_bits) {
  if (value == 0) return 0;
  const uint64_t size = value < 0 ? 0 - uint64_t(value) : uint64_t(value);
  int exponent = 63;
  while ((size >> exponent & 1) == 0) --exponent;
  const int bias = (1 << (exponent_bits - 1)) - 1, spare = exponent - mantissa;
  if (exponent > bias || (spare > 0 && (size & ((uint64_t(1) << spare) - 1)) != 0)) return 0;
  const uint64_t fraction = spare > 0 ? size >> spare : size << -spare;
  const uint64_t rest = fraction & ((uint64_t(1) << mantissa) - 1);
  const uint64_t sign = value < 0 ? uint64_t(1) << (mantissa + exponent_bits) : 0;
  return sign | uint64_t(exponent + bias) << mantissa | rest;
}

// Bits of an element that is ignored, 0 where none can be: 0 is background anyway.
inline uint64_t ignored_bits(ScalarType dtype, int64_t value) {
  const auto whole = [&](int64_t low, uint64_t high, uint64_t mask) {
    const bool held = value < 0 ? value >= low : uint64_t(value) <= high;
    return held ? uint64_t(value) & mask : 0;
  };
  switch (dtype) {
    case ScalarType::Float:
      return floating_bits(value, 23, 8);
    case ScalarType::Double:
      return floating_bits(value, 52, 11);
    case ScalarType::Half:
      return floating_bits(value, 10, 5);
    case ScalarType::BFloat16:
      return floating_bits(value, 7, 8);
    case ScalarType::Bool:
      return whole(0, 1, 0xff);
    case ScalarType::Byte:
      return whole(0, 0xff, 0xff);
    case ScalarType::Char:
      return whole(-0x80, 0x7f, 0xff);
    case ScalarType::UInt16:
      return whole(0, 0xffff, 0xffff);
    case ScalarType::Short:
      return whole(-0x8000, 0x7fff, 0xffff);
    case ScalarType::UInt32:
      return whole(0, 0xffffffffu, 0xffffffffu);
    case ScalarType::Int:
      return whole(-0x80000000ll, 0x7fffffff, 0xffffffffu);
    case ScalarType::UInt64:
      return whole(0, ~uint64_t(0), ~uint64_t(0));
    case ScalarType::Long:
      return uint64_t(value);
    default:
      STD_TORCH_CHECK(false, "connected_components: unsupported dtype");
  }
}

inline bool is_signed(ScalarType dtype) {
  return dtype == ScalarType::Char || dtype == ScalarType::Short || dtype == ScalarType::Int ||
         dtype == ScalarType::Long;
}

inline bool is_floating(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

inline void check(const Tensor& labels, int64_t differing, bool by_value,
                  const std::vector<int64_t>& order) {
  const int64_t axes = labels.dim() - 2;
  STD_TORCH_CHECK(axes >= 1 && axes <= 3, "connected_components: labels must be [B, C, *S]");
  STD_TORCH_CHECK(differing >= 1 && differing <= axes,
                  "connected_components: no such connectivity");
  STD_TORCH_CHECK(!by_value || (labels.size(1) == 1 && !is_floating(labels.scalar_type())),
                  "connected_components: by value, labels must be integers [B, 1, *S]");
  STD_TORCH_CHECK(int64_t(order.size()) == axes, "connected_components: one place for each axis");
  int64_t found = 0;
  for (const int64_t place : order) {
    STD_TORCH_CHECK(place >= 0 && place < axes, "connected_components: wrong order of axes");
    found |= int64_t(1) << place;
  }
  STD_TORCH_CHECK(found == (int64_t(1) << axes) - 1, "connected_components: wrong order of axes");
  check_size(labels);
  int64_t voxels = 1;
  for (int64_t d = 2; d < labels.dim(); ++d) voxels = checked_product({voxels, labels.size(d)});
  STD_TORCH_CHECK(voxels <= std::numeric_limits<int32_t>::max(),
                  "connected_components: a mask has 2^31 voxels or more");
}

// Describes labels, all but the memory that each device works on; axes of one voxel are left out.
inline Problem describe(const Tensor& labels, int64_t differing, bool by_value,
                        std::optional<int64_t> ignore_index, const std::vector<int64_t>& order) {
  check(labels, differing, by_value, order);
  Problem problem{};
  problem.data = data_of(labels);
  problem.element_size = labels.element_size();
  problem.is_signed = is_signed(labels.scalar_type());
  problem.floating = is_floating(labels.scalar_type());
  problem.ignore = ignored_bits(labels.scalar_type(), ignore_index.value_or(0));
  problem.by_value = by_value;
  problem.channels = labels.size(1);
  problem.masks = labels.size(0) * labels.size(1);
  problem.batch_stride = labels.stride(0);
  problem.channel_stride = labels.stride(1);
  problem.differing = int(differing);
  problem.in_raster_order = true;
  for (int k = 0; k < 3; ++k) problem.size[k] = 1;
  int at = 3;
  int64_t behind = std::numeric_limits<int64_t>::max();  // the place of the axis after this one
  for (int64_t d = labels.dim() - 1; d >= 2; --d) {
    if (labels.size(d) == 1) continue;
    problem.size[--at] = labels.size(d);
    problem.stride[at] = labels.stride(d);
    problem.raster[at] = 1;
    for (int64_t e = 2; e < labels.dim(); ++e) {
      if (order[e - 2] > order[d - 2]) problem.raster[at] *= labels.size(e);
    }
    problem.in_raster_order = problem.in_raster_order && order[d - 2] < behind;
    behind = order[d - 2];
  }
  return problem;
}

// Returns memory for the components and their counts, which the problem then points to.
inline std::pair<Tensor, Tensor> new_results(const Tensor& labels, Problem& problem) {
  Tensor components = allocate_at(labels, labels.sizes(), ScalarType::Int);
  Tensor count = allocate_at(labels, {labels.size(0), labels.size(1)}, ScalarType::Int);
  problem.labels = static_cast<int32_t*>(components.mutable_data_ptr());
  problem.count = static_cast<int32_t*>(count.mutable_data_ptr());
  return {components, count};
}

}  // namespace segloss::connected_components
