// Checks the operators' tensors for what would corrupt memory, and describes them to the kernels.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>

#include "cuda.cuh"
#include "lovasz/cuda/launch.h"
#include "voxels/describe.h"

namespace segloss::lovasz::cuda {

struct Options {
  int64_t activation;
  std::optional<int64_t> ignore_index;
  bool cross_entropy;
  int64_t images;
};

inline void check_device(const Tensor& tensor, const Tensor& input) {
  STD_TORCH_CHECK(tensor.get_device_index() == input.get_device_index(),
                  "lovasz: a tensor lies on another device");
}

inline Problem describe(const Tensor& input, const Tensor& target, const Options& options) {
  check_shapes("lovasz", input, target, std::nullopt);
  STD_TORCH_CHECK(input.size(1) <= 65536, "lovasz: from 1 to 65536 classes");
  check_device(target, input);
  STD_TORCH_CHECK(options.activation >= 0 && options.activation <= 2, "lovasz: unknown activation");
  STD_TORCH_CHECK(options.images == 1 || options.images == input.size(0),
                  "lovasz: wrong number of images");
  Problem problem{};
  problem.input = const_view_of(input, true);
  const bool dense = target.dim() == input.dim();
  problem.values = dense && input.size(1) == 1;
  problem.dense_target = dense && !problem.values;
  problem.target = const_view_of(target, dense);
  problem.activation = static_cast<Activation>(options.activation);
  problem.has_ignore = options.ignore_index.has_value() && !problem.dense_target;
  problem.ignore_index = options.ignore_index.value_or(0);
  problem.cross_entropy = options.cross_entropy;
  problem.channels = static_cast<int>(input.size(1));
  problem.voxels = 1;
  for (int64_t d = 2; d < input.dim(); ++d) problem.voxels *= input.size(d);
  problem.images = options.images;
  problem.items = input.size(0) / std::max<int64_t>(options.images, 1);
  problem.item_tiles = (problem.voxels + kTile - 1) / kTile;
  return problem;
}

inline Bins describe_bins(int64_t activation, int64_t octaves, int64_t bits) {
  STD_TORCH_CHECK(activation >= 0 && activation <= 2, "lovasz: unknown activation");
  STD_TORCH_CHECK(octaves >= 9 && octaves <= 16 && bits >= 1 && bits <= 10, "lovasz: no such bins");
  return Bins(static_cast<Activation>(activation), static_cast<int>(octaves),
              static_cast<int>(bits));
}

// How many threads of a block each have a voxel's logits in shared memory; 0 where the kernels keep
// them in registers or need one at a time.
inline int columns_of(const Problem& problem) {
  constexpr size_t kRoomy = 56 * 1024;  // leaves room for several blocks
  const size_t size = problem.input.dtype == Dtype::kFloat64 ? sizeof(double) : sizeof(float);
  const size_t limit = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  const size_t room = std::min(kRoomy, limit);
  int columns = kMostColumns;
  while (columns > kFewestColumns && columns * problem.channels * size > room) columns /= 2;
  STD_TORCH_CHECK(columns * problem.channels * size <= limit, "lovasz: ", problem.channels,
                  " classes do not fit into the shared memory of this GPU");
  return columns;
}

}  // namespace segloss::lovasz::cuda
