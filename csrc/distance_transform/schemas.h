// The schemas of the raw operators, for all devices.
#pragma once

namespace segloss::distance_transform {

inline constexpr const char* kSchemas[] = {
    "_distance_transform(Tensor mask, float[] spacing, int side, bool squared) -> Tensor"};

}  // namespace segloss::distance_transform
