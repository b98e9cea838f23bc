// Sums that do not depend on the order in which they are added: numbers in fixed point, of several
// 64-bit words (limbs), to which integer atomics add.
//
// Limb l is a signed number of units of 2^(30 l) times the lowest one, so that a double is split
// into digits of at most 2^29, each rounded to the nearest but what is below the lowest unit, half
// of which is lost at most. 2^33 digits make 2^62: nothing overflows. Sums of a warp are added, not
// voxels; an error of half a unit for each of them is all that the result differs from their exact
// sum, before that is rounded to double:
//
// - without weights 4 limbs from 2^-80 on: 4e-25 for each sum of a warp, which is below 5e11;
// - with weights 8 limbs from 2^-140 on: 4e-43, and below 6e29.
//
// What is not finite has bits of its own; larger sums count as NaN, which shows.
#pragma once

#include "component_sums/cuda/problem.h"
#include "voxels/cuda/math.cuh"

namespace segloss::component_sums::cuda {

constexpr double kDigit = 0x1p29;  // the largest
constexpr double kStep = 0x1p30;   // from limb to limb
static_assert(kLimbBits == 30);

enum Special : unsigned { kIsNan = 1, kIsInfinite = 2, kIsMinusInfinite = 4 };
constexpr int kSpecialBits = 3;
static_assert(kSpecialBits * kTermCount <= 32, "a bin's word holds those of all rows");

SL_DEVICE unsigned special_of(double value) {
  if (value == Constants<double>::kInfinity) return kIsInfinite;
  if (value == -Constants<double>::kInfinity) return kIsMinusInfinite;
  return kIsNan;  // also what is too large
}

// Adds to a row of a bin.
SL_DEVICE void accumulate(const Accumulators& to, int64_t bin, int rows, int row, double value) {
  if (value == 0) return;
  double scaled = value * to.scale;
  if (!(absolute(scaled) < kDigit)) {
    atomicOr(to.special + bin, special_of(value) << (kSpecialBits * row));
    return;
  }
  unsigned long long* limb = to.limbs + ((bin + 1) * to.count - 1) * rows + row;
#pragma unroll 1
  for (int l = to.count; l > 0 && scaled != 0; --l, limb -= rows) {
    const double digit = rint(scaled);
    if (digit != 0) atomicAdd(limb, static_cast<unsigned long long>(int64_t(digit)));
    scaled = (scaled - digit) * kStep;  // exact
  }
}

// The number of a row of a bin.
SL_DEVICE double total(const Accumulators& of, int64_t bin, int rows, int row) {
  const unsigned special = of.special[bin] >> (kSpecialBits * row) & 7;
  if (special == kIsInfinite) return Constants<double>::kInfinity;
  if (special == kIsMinusInfinite) return -Constants<double>::kInfinity;
  if (special != 0) return Constants<double>::kNan;
  const unsigned long long* const limbs = of.limbs + bin * of.count * rows + row;
  int64_t carry = 0;
  double value = 0;
  // From the lowest on: what goes over to the next limb, then digits of at most half a unit of the
  // next. What is below the largest digit is rounded, and its sum with that: by less than an ulp.
  for (int l = 0; l < of.count; ++l) {
    int64_t digit = int64_t(limbs[int64_t(l) * rows]) + carry;
    carry = (digit + (int64_t{1} << (kLimbBits - 1))) >> kLimbBits;
    if (l + 1 < of.count) digit -= carry * (int64_t{1} << kLimbBits);
    value = value / kStep + double(digit);
  }
  return value / of.scale;
}

}  // namespace segloss::component_sums::cuda
