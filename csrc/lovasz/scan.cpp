#include "lovasz/scan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lovasz/increments.h"

namespace segloss::lovasz {
namespace {

// Where a bin lies: a distance from a point that errors crowd at, `near` where offsets begin, and a
// width; both are negative below the point.
struct Extent {
  double point, near, width;

  // Bin k counted from the point, of 2^bits parts and tau = 2^exponent.
  Extent(double point, double side, int64_t k, int64_t exponent, int64_t bits) : point(point) {
    const int64_t parts = int64_t(1) << bits, j = std::max<int64_t>(k - parts, 0);
    width = side * std::ldexp(1.0, int(exponent + (j >> bits) - bits));
    near = width * double(k < parts ? k : parts + (j & (parts - 1)));
  }
};

Extent extent_of_probability(const Bins& bins, int64_t k) {
  const int64_t run = bins.octaves << bins.bits, index = k % run;
  const double point = k < run ? 0 : k < 3 * run ? 0.5 : 1;
  const bool rises = k / run % 2 == 0;
  return {point, rises ? 1.0 : -1.0, rises ? index : run - 1 - index, -1 - bins.octaves, bins.bits};
}

// Of a bin above 0, which is for no error.
Extent extent_of_hinge(const Bins& bins, int64_t k) {
  const int64_t below = (bins.octaves - 4) << (bins.bits + 1), up = k - 1 - below;
  const int64_t fine = (bins.octaves + 1) << (bins.bits + 1);
  if (up < 0) return {1, -1, -1 - up, 5 - bins.octaves, bins.bits + 1};
  if (up < fine) return {1, 1, up, 5 - bins.octaves, bins.bits + 1};
  // Of a quarter of the parts, above 2^5: up to there would be one run of them.
  const int64_t parts = int64_t(1) << (bins.bits - 1);
  return {1, 1, up - fine + parts, 5, bins.bits - 1};
}

// The sum of the errors of n voxels in bin k.
double error_sum(const Scan& scan, int64_t k, double n, double offsets) {
  const Extent extent = scan.activation == Activation::kHinge ? extent_of_hinge(scan.bins, k)
                                                              : extent_of_probability(scan.bins, k);
  // An offset is rounded down: by one half, on average.
  const double sum = n * extent.near + (offsets + n / 2) * (extent.width / 65536);
  return n * extent.point + sum;
}

template <class T>
double scan_as(const Scan& scan) {
  const int64_t bins = scan.bins.count;
  T* const table = static_cast<T*>(scan.table);
  if (scan.flagged) {
    std::fill(table, table + 2 * bins, std::numeric_limits<T>::quiet_NaN());
    return std::numeric_limits<double>::quiet_NaN();
  }
  std::fill(table, table + 2 * bins, T(0));
  const int64_t *const background = scan.number, *const foreground = scan.number + bins;
  int64_t all = 0;
  for (int64_t k = 0; k < bins; ++k) all += foreground[k];
  int64_t left = all, before = 0;
  double loss = 0;
  const int64_t last = scan.activation == Activation::kHinge ? 1 : 0;  // bin 0: no errors
  for (int64_t k = bins - 1; k >= last; --k) {
    const int64_t n_f = foreground[k], n_b = background[k];
    if (n_f == 0 && n_b == 0) continue;
    const Increments g =
        all > 0 ? group_increments(double(left), double(all + before), double(n_f), double(n_b))
                : Increments{0, before == 0 ? 1 / double(n_b) : 0};
    table[k] = T(g.background);
    table[bins + k] = T(g.foreground);
    if (n_f > 0) loss += g.foreground * error_sum(scan, k, double(n_f), scan.offsets[bins + k]);
    if (n_b > 0) loss += g.background * error_sum(scan, k, double(n_b), scan.offsets[k]);
    left -= n_f;
    before += n_b;
  }
  return loss;
}

}  // namespace

double scan(const Scan& scan) {
  return scan.double_table ? scan_as<double>(scan) : scan_as<float>(scan);
}

}  // namespace segloss::lovasz
