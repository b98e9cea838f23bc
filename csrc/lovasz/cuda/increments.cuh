// What the voxels of one group, a bin or a tie, get each: the average over all orders within it of
// the increments of the Jaccard loss. In float64, without differences of large numbers.
#pragma once

#include "voxels/cuda/math.cuh"

namespace segloss::lovasz::cuda {

// What log x lacks to minus the digamma function, for x >= 16.
SL_DEVICE double digamma_tail(double x) {
  const double y = 1 / x, y2 = y * y;
  const double series =
      1. / 12 - y2 * (1. / 120 - y2 * (1. / 252 - y2 * (1. / 240 - y2 * (1. / 132))));
  return 0.5 * y + y2 * series;
}

// The sum of 1 / (a + k) for k = 0 to n; a >= 1.
SL_DEVICE double sum_of_reciprocals(double a, int64_t n) {
  const double b = a + double(n) + 1;
  double sum = 0;
  if (n < 16) {
    for (int k = 0; k <= int(n); ++k) sum += 1 / (a + k);
    return sum;
  }
  for (; a < 16; a += 1) sum += 1 / a;
  return sum + log1p((b - a) / a) + (digamma_tail(a) - digamma_tail(b));
}

struct Increments {
  double background, foreground;
};

// `total` foreground voxels in all; before the group, from large errors to small, come so many, and
// these are in it.
SL_DEVICE Increments increments(int64_t total, int64_t foreground_before, int64_t background_before,
                                int64_t foreground, int64_t background) {
  const double u = double(total + background_before);
  const double of_foreground = sum_of_reciprocals(u, background) / double(background + 1);
  if (background == 0) return {0, of_foreground};
  const double left = double(total - foreground_before - foreground);
  const double of_background = left / (u * (u + double(background))) +
                               double(foreground) * (1 / u - of_foreground) / double(background);
  return {of_background, of_foreground};
}

}  // namespace segloss::lovasz::cuda
