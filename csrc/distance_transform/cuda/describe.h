// Tensors as the first pass sees them.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <vector>

#include "distance_transform/cuda/problem.h"

namespace segloss::distance_transform::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

struct Axis {
  int64_t size;
  int64_t stride;  // of the tensor
  double spacing;
  float weight;  // squared spacing, scaled
};

// Whether every line starts, and the next one follows, at a multiple of `unit` elements.
inline bool aligned(const RunPass& pass, int64_t unit) {
  bool all = reinterpret_cast<uintptr_t>(pass.mask) % 16 == 0 && pass.width % unit == 0;
  for (int d = 0; d < pass.dims; ++d) all = all && pass.stride[d] % unit == 0;
  return all;
}

// Some of the masks: channels of items, of which either are all or the items one.
struct Part {
  int64_t item, items;
  int64_t channel, channels;
};

inline Part all_of(const Tensor& tensor) { return {0, tensor.size(0), 0, tensor.size(1)}; }

// The lines along the last axis, neighbouring dimensions merged where one stride serves both.
inline RunPass describe_runs(const Tensor& tensor, const Part& part,
                             const std::vector<Axis>& axes) {
  RunPass pass{};
  const int64_t first = part.item * tensor.stride(0) + part.channel * tensor.stride(1);
  pass.mask = static_cast<const char*>(tensor.const_data_ptr()) + first * tensor.element_size();
  pass.element_size = size_t(tensor.element_size());
  pass.step = axes.back().stride;
  pass.width = int(axes.back().size);
  pass.weight = axes.back().weight;
  pass.lines = 1;
  std::vector<Axis> dims{{part.items, tensor.stride(0), 1, 1},
                         {part.channels, tensor.stride(1), 1, 1}};
  dims.insert(dims.end(), axes.begin(), axes.end() - 1);
  for (const Axis& dim : dims) {
    pass.lines *= dim.size;
    if (dim.size == 1) continue;
    const int previous = pass.dims - 1;
    if (pass.dims > 0 && pass.stride[previous] == dim.stride * dim.size) {
      pass.size[previous] *= dim.size;
      pass.stride[previous] = dim.stride;
    } else {
      pass.size[pass.dims] = dim.size;
      pass.stride[pass.dims++] = dim.stride;
    }
  }
  pass.log_lanes = 1;
  while (pass.log_lanes < 5 && (16 << pass.log_lanes) < pass.width) ++pass.log_lanes;
  pass.vector_loads = pass.element_size == 1 && pass.step == 1 && aligned(pass, 16);
  return pass;
}

}  // namespace segloss::distance_transform::cuda
