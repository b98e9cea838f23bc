// The schemas of the raw operators, for all devices.
#pragma once

namespace segloss::region_sums {

inline constexpr const char* kSchemas[] = {
    "_region_sums(Tensor[] inputs, Tensor[] targets, Tensor[] voxel_weights, int[] terms, "
    "int activation, int ce_activation, float gamma, int? ignore_index) -> (Tensor, Tensor)",
    "_region_sums_backward(Tensor grad_rows, Tensor[] inputs, Tensor[] targets, "
    "Tensor[] voxel_weights, int[] terms, int activation, int ce_activation, float gamma, "
    "int? ignore_index) -> Tensor[]"};

}  // namespace segloss::region_sums
