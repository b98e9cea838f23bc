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

inline void check_shapes(const Tensor& input, const Tensor& target) {
  STD_TORCH_CHECK(input.dim() >= 3 && input.dim() <= 5, "lovasz: input must be [B, C, *S]");
  STD_TORCH_CHECK(input.size(1) > 0, "lovasz: input must have a class");
  STD_TORCH_CHECK(is_floating(dtype_of(input)), "lovasz: input must be floating point");
  const bool dense = target.dim() == input.dim();
  STD_TORCH_CHECK(dense || target.dim() == input.dim() - 1, "lovasz: wrong rank of target");
  for (int64_t d = 0; d < input.dim(); ++d) {
    if (!dense && d == 1) continue;
    STD_TORCH_CHECK(target.size(dense || d == 0 ? d : d - 1) == input.size(d),
                    "lovasz: wrong shape of target");
  }
}

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
  check_shapes(input, target);
  Problem problem{};
  problem.batch = input.size(0);
  problem.channels = input.size(1);
  problem.voxels = 1;
  for (int64_t d = 2; d < input.dim(); ++d) problem.voxels *= input.size(d);
  problem.activation = describe_activation(options.activation);
  problem.bins = bins;
  problem.has_ignore = options.ignore_index.has_value();
  problem.ignore_index = options.ignore_index.value_or(0);
  problem.cross_entropy = options.cross_entropy;
  const bool dense = target.dim() == input.dim();
  problem.values = dense && problem.channels == 1;
  problem.dense_target = dense && !problem.values;
  problem.input = const_view_of(input, true);
  problem.target = const_view_of(target, dense);
  return problem;
}

inline bool is_double(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Double; }

}  // namespace segloss::lovasz
