// Squared spacings of nearest_component, in some unit: what they allow keys to hold.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace segloss::distance_transform {

// An axis of more than one voxel, or the only one.
struct LongAxis {
  int64_t size;
  double weight;
};

constexpr double kLeastWeight = 0x1p-120, kMostWeight = 0x1p52;  // squares stay within float32
constexpr double kMostSquare = 0x1p31;                           // that keys hold
constexpr int kMostBits = 24;  // of a label; more would not be of use to many

inline void check_weights(const std::vector<double>& weights, double unit, int64_t axes) {
  STD_TORCH_CHECK(int64_t(weights.size()) == axes, "nearest_component: one weight per axis");
  for (const double weight : weights) {
    STD_TORCH_CHECK(weight >= kLeastWeight && weight <= kMostWeight,
                    "nearest_component: weight out of range");
  }
  STD_TORCH_CHECK(unit >= 0x1p-126 && unit <= 0x1p126, "nearest_component: unit out of range");
}

// The greatest squared distance of two voxels.
inline double greatest_square(const std::vector<LongAxis>& axes) {
  double square = 0;
  for (const LongAxis& axis : axes) {
    square += axis.weight * (double(axis.size - 1) * double(axis.size - 1));
  }
  return square;
}

// How many bits of a key are left for labels, 0 if squares are not integers, or need all of them.
// The sum of a cost and of the key that stands for no voxel must fit, too.
inline int label_bits(const std::vector<LongAxis>& axes) {
  for (const LongAxis& axis : axes) {
    if (axis.weight != std::floor(axis.weight)) return 0;
  }
  const double square = greatest_square(axes);
  if (square >= kMostSquare) return 0;
  int bits = 0;
  while (bits < kMostBits && std::ldexp(2 * (square + 1), bits + 1) < 0x1p32) ++bits;
  return bits;
}

}  // namespace segloss::distance_transform
