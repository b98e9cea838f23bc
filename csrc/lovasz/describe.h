// Checks the operators' tensors for what would corrupt memory, and describes problems to the
// kernels.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "lovasz/kernels.h"
#include "voxels/describe.h"

namespace segloss::lovasz {

struct Options {
  int64_t activation;
  std::optional<int64_t> ignore_index;
  bool cross_entropy;
};

// At most 65536: an index of a bin and its offset share 32 bits.
inline Bins describe_bins(int64_t octaves, int64_t bits) {
  STD_TORCH_CHECK(octaves >= 9 && octaves <= 16 && bits >= 1 && bits <= 10, "lovasz: no such bins");
  return {octaves, bits, 4 * octaves << bits};
}

inline Activation describe_activation(int64_t activation) {
  STD_TORCH_CHECK(activation >= 0 && activation <= 2, "lovasz: unknown activation");
  return static_cast<Activation>(activation);
}

inline Problem describe(const Tensor& input, const Tensor& target, const Options& options,
                        const Bins& bins) {
  Problem problem{};
  describe_comparison("lovasz", input, target, std::nullopt, options.ignore_index, &problem);
  problem.values = problem.dense_target && problem.channels == 1;
  problem.dense_target = problem.dense_target && !problem.values;
  problem.activation = describe_activation(options.activation);
  problem.bins = bins;
  problem.cross_entropy = options.cross_entropy;
  return problem;
}

inline bool is_double(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Double; }

}  // namespace segloss::lovasz
