// Checks of the operators' tensors; problems as the kernels see them.
#pragma once

#include <cstdint>
#include <optional>
#include <type_traits>

#include "confusion_sums/kernels.h"
#include "voxels/chunks.h"
#include "voxels/describe.h"

namespace segloss::confusion_sums {

template <class AnyTensor>
Problem describe(const AnyTensor& input, const AnyTensor& target,
                 const std::optional<std::type_identity_t<AnyTensor>>& weight, int64_t activation,
                 std::optional<int64_t> ignore_index) {
  Problem problem{};
  describe_comparison("confusion_sums", input, target, weight, ignore_index, &problem);
  // The partial sums of all chunks, of which there are at most kChunksPerItem an item.
  checked_product({kChunksPerItem, problem.batch, problem.channels, problem.channels + 1});
  problem.activation = describe_activation("confusion_sums", activation);
  return problem;
}

}  // namespace segloss::confusion_sums
