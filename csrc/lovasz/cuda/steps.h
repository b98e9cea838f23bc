// What both methods do first and last: how the work of count_kernel is cut, memory for what its
// blocks leave behind, and the gradient.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "allocate.h"
#include "lovasz/cuda/describe.h"
#include "scratch.cuh"

namespace segloss::lovasz::cuda {

#ifdef SEGLOSS_HOST_SHIM  // the tests' volumes are small
constexpr int64_t kFewestTiles = 1, kMostTiles = 5;
#else
constexpr int64_t kFewestTiles = 4;                               // of a chunk
constexpr int64_t kMostTiles = ((int64_t{1} << 28) - 1) / kTile;  // what packed counters can count
#endif

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline void clear(void* memory, int64_t bytes, cudaStream_t stream) {
  if (bytes == 0) return;
  check_cuda(cudaMemsetAsync(memory, 0, size_t(bytes), stream), "cudaMemsetAsync");
}

inline void clear(const Tensor& tensor, cudaStream_t stream) {
  clear(tensor.mutable_data_ptr(), tensor.numel() * tensor.element_size(), stream);
}

inline double* doubles_of(const Tensor& tensor) {
  return static_cast<double*>(tensor.mutable_data_ptr());
}

// Cuts classes into groups, so that a block has the memory for its own, and tiles into chunks:
// about one wave of blocks. A function of the shapes and the device alone.
inline void cut(CountLaunch& launch, bool counts, int64_t slab_tiles) {
  const auto limit = size_t(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  const int bins = launch.bins.count;
  const auto most = [&](bool shared) {
    const size_t fixed = count_shared_bytes(0, shared, bins);
    return int64_t((limit - fixed) / (count_shared_bytes(1, shared, bins) - fixed));
  };
  launch.shared = counts && most(true) > 0;
  launch.groups = int(divide_up(launch.problem.channels, most(launch.shared)));
  const int64_t classes = divide_up(launch.problem.channels, launch.groups);
  const size_t bytes = count_shared_bytes(int(classes), launch.shared, bins) + 1024;
  STD_TORCH_CHECK(
      launch.problem.image_tiles() < int64_t{1} << 31 && launch.problem.images < int64_t{1} << 31,
      "lovasz: too many voxels");
  const auto all = size_t(device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor));
  // As the kernels' launch bounds are.
  const int64_t most_resident = launch.problem.activation == Activation::kSoftmax ? 1 : 2;
  const int64_t resident = std::clamp<int64_t>(int64_t(all / bytes), 1, most_resident);
  const int64_t blocks = resident * device_attribute(cudaDevAttrMultiProcessorCount);
  const int64_t wanted = std::max<int64_t>(blocks / (launch.groups * launch.problem.images), 1);
  launch.chunk_tiles = std::max(divide_up(slab_tiles, wanted), kFewestTiles);
  launch.chunks = divide_up(slab_tiles, launch.chunk_tiles);
}

// Where the blocks' parts lie until they are added, and the statistics of a slab.
struct Parts {
  Scratch::Piece<double> cross_entropy, flagged;
  Scratch::Piece<double2> invalid;
  Scratch::Piece<char> statistics;

  Parts(Scratch& scratch, const CountLaunch& launch, int64_t slabs, int64_t statistics_bytes) {
    const int64_t chunks = slabs * launch.problem.images * launch.chunks;
    cross_entropy = scratch.ask<double>(chunks * launch.problem.channels);
    flagged = scratch.ask<double>(chunks * launch.problem.channels);
    invalid = scratch.ask<double2>(chunks);
    statistics = scratch.ask<char>(statistics_bytes);
  }

  Partial pointers(const Scratch& scratch) const {
    return {scratch.at(cross_entropy), scratch.at(flagged), scratch.at(invalid)};
  }
};

// Writes the first two rows of [image][class], and `invalid`.
inline void finish(const CountLaunch& launch, int64_t slabs, const Tensor& rows,
                   const Tensor& invalid, cudaStream_t stream) {
  const Problem& problem = launch.problem;
  Finishing finishing{};
  finishing.partial = launch.partial;
  finishing.slabs = slabs;
  finishing.chunks = launch.chunks;
  finishing.images = problem.images;
  finishing.channels = problem.channels;
  finishing.flagged = doubles_of(rows);
  finishing.cross_entropy = finishing.flagged + problem.images * problem.channels;
  finishing.invalid = doubles_of(invalid);
  launch_finish(finishing, stream);
}

// The statistics of a softmax that count_kernel does not find itself, for a slab of so many tiles.
inline bool needs_statistics(const Problem& problem, bool keeps) {
  return problem.activation == Activation::kSoftmax && !keeps;
}

inline int64_t statistics_bytes(const Problem& problem) {
  const int64_t size = problem.input.dtype == Dtype::kFloat64 ? sizeof(double) : sizeof(float);
  return 2 * size * problem.images * kTile;  // of a tile of each image
}

inline void find_statistics(const CountLaunch& launch, void* memory, cudaStream_t stream) {
  const StatisticsLaunch statistics{launch.problem, launch.slab_begin, launch.slab_end, memory};
  launch_statistics(statistics, columns_of(launch.problem), stream);
}

// The gradient of the loss or the cross-entropy, [I, C], in float64; it must live until the launch.
inline Tensor gradient_rows(const Tensor& rows, const Problem& problem, const Tensor& input) {
  STD_TORCH_CHECK(
      rows.dim() == 2 && rows.size(0) == problem.images && rows.size(1) == problem.channels,
      "lovasz: the gradients of loss and cross-entropy must be [I, C]");
  check_device(rows, input);
  return torch::stable::contiguous(torch::stable::to(rows, ScalarType::Double));
}

inline Tensor differentiate(BackwardLaunch& launch, const Tensor& grad_loss,
                            const std::optional<Tensor>& grad_ce, const Tensor& input,
                            cudaStream_t stream) {
  Problem& problem = launch.problem;
  const Tensor incoming = gradient_rows(grad_loss, problem, input);
  launch.grad_loss = static_cast<const double*>(incoming.const_data_ptr());
  const Tensor grad = allocate_as(input);
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
