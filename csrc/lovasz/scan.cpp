#include "lovasz/scan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lovasz/increments.h"

namespace segloss::lovasz {
namespace {

// The lower end and the width of bin k, as distances from the nearer end.
struct Extent {
  double lower;
  double width;

  Extent(const Scan& scan, int64_t k) {
    const int64_t bits = scan.bins.bits, equal = int64_t(1) << bits;
    const bool hinge = scan.activation == Activation::kHinge;
    const int exponent = int(hinge ? 17 - 2 * scan.bins.octaves : -scan.bins.octaves);
    const int64_t j = std::max<int64_t>(k - equal, 0);
    const double unit = std::ldexp(1.0, exponent + int(j >> bits));
    width = unit / double(equal);
    lower = k < equal ? double(k) * width : unit + double(j & (equal - 1)) * width;
  }
};

// The sum of the errors of n voxels in bin k.
double error_sum(const Scan& scan, int64_t k, double n, double offsets) {
  const bool hinge = scan.activation == Activation::kHinge;
  if (hinge && k == 0) return 0;
  const bool low = hinge || k < scan.bins.count / 2;
  const Extent extent(scan, low ? k : scan.bins.count - 1 - k);
  // An offset is rounded down: by one half, on average.
  const double sum = n * extent.lower + (offsets + n / 2) * (extent.width / 65536);
  return low ? sum : n - sum;
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
