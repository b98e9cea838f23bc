// The schemas of the raw operators, for all devices.
#pragma once

namespace segloss::component_sums {

// The rows [terms, B, C, count + 1], and [2]: how many labels are invalid, and the first.
inline constexpr const char* kSchemas[] = {
    "_component_sums(Tensor input, Tensor target, Tensor bins, Tensor? voxel_weight, int count, "
    "int activation, int[] terms, int? ignore_index) -> (Tensor, Tensor)",
    "_component_sums_backward(Tensor grad_rows, Tensor input, Tensor target, Tensor bins, "
    "Tensor? voxel_weight, int count, int activation, int[] terms, int? ignore_index) -> Tensor"};

}  // namespace segloss::component_sums
