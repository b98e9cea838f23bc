// The schemas of the raw operators, for all devices.
#pragma once

namespace segloss::distance_transform {

// The second one adds the distances, 0 where there is no boundary, as `bounded` has them.
// The third one returns the labels and, where they are wanted, the distances, and what is wrong
// with the labels: int32, kAboveLimit and kInvalid, one number on the CPU, none on a device.
inline constexpr const char* kSchemas[] = {
    "_distance_transform(Tensor mask, float[] spacing, int side, bool squared,"
    " bool bounded=False) -> Tensor",
    "_distance_transform_add(Tensor(a!) sum, Tensor mask, float[] spacing, int side,"
    " bool squared) -> ()",
    "_distance_transform_nearest(Tensor labels, float[] weights, float unit, bool distance)"
    " -> (Tensor, Tensor, Tensor)"};

}  // namespace segloss::distance_transform
