// What each voxel adds to the Jaccard loss in the order of falling errors, shared over a group of
// equal errors or of one bin; segloss_fast/ops/lovasz/increments.py has the formulas.
#pragma once

#include <cmath>
#include <cstdint>

namespace segloss::lovasz {

// The sum of 1 / (first + k), k = 0 .. n - 1, for whole numbers first > 0 and n, without
// cancellation: so many terms one by one, and digamma's asymptotic series at both ends, whose
// difference is written as a product.
inline double harmonic(double first, double n) {
  // Not so for counts that others made up: there would be no end to the terms.
  if (!(first > 0 && n >= 0)) return NAN;
  constexpr double kDirect = 16;
  double sum = 0, a = first;
  const double stop = first + (n <= kDirect ? n : (first < kDirect ? kDirect - first : 0));
  for (; a < stop; ++a) sum += 1 / a;
  n -= a - first;
  if (n <= 0) return sum;
  const double u = 1 / a, v = 1 / (a + n);
  const double uu = u * u, vv = v * v, between = n * u * v;  // u - v
  const double sum2 = uu + vv;
  const double sum3 = uu * uu + uu * vv + vv * vv;
  const double sum4 = (uu * uu + vv * vv) * sum2;
  const double sum5 = uu * uu * uu * uu + vv * (uu * uu * uu + vv * sum3);
  const double series = sum2 / 120 - sum3 / 252 + sum4 / 240 - sum5 / 132;
  return sum + std::log1p(n * u) + between / 2 + between * (u + v) * (1.0 / 12 - series);
}

struct Increments {
  double foreground;
  double background;
};

// One group: its numbers of voxels, `left` foreground voxels in it and after it, and u = all
// foreground voxels and the background before it, above 0. What no voxel of the group needs is 0.
inline Increments group_increments(double left, double u, double foreground, double background) {
  if (background == 0) return {1 / u, 0};
  const double straight = 1 / (u * (u + background));
  if (foreground == 0) return {0, left * straight};
  const double g = harmonic(u, background + 1) / (background + 1);
  return {g, (left - foreground) * straight + foreground * (1 / u - g) / background};
}

}  // namespace segloss::lovasz
