// The schemas of the raw operators, for all devices.
#pragma once

namespace segloss::region_masks {

inline constexpr const char* kSchemas[] = {
    "_region_masks(Tensor values, Tensor? labels, int classes, int mode, int? ignore_index, "
    "int first) -> Tensor"};

}  // namespace segloss::region_masks
