// The schemas of the raw operators, for all devices.
#pragma once

namespace segloss::connected_components {

// Of labels [B, C, *S]: components, their count [B, C], values [B, K], and [1] whether some
// value is too large for int32. order: which axis of the raster each spatial axis is.
inline constexpr const char* kSchemas[] = {
    "_connected_components(Tensor labels, int differing, bool by_value, int? ignore_index, "
    "int[] order) -> (Tensor, Tensor, Tensor, Tensor)"};

}  // namespace segloss::connected_components
