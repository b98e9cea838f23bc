// The schemas of the raw operators, for all devices.
#pragma once

namespace segloss::distance_transform {

// The second one returns the labels and, where they are wanted, the distances, and what is wrong
// with the labels: int32, kAboveLimit and kInvalid, one number on the CPU, none on a device.
inline constexpr const char* kSchemas[] = {
    "_distance_transform(Tensor mask, float[] spacing, int side, bool squared) -> Tensor",
    "_distance_transform_nearest(Tensor labels, float[] weights, float unit, bool distance)"
    " -> (Tensor, Tensor, Tensor)"};

}  // namespace segloss::distance_transform
