// The errors m of a voxel in its classes, and their bins. Every kernel computes them by the same
// roundings: products are not contracted with what follows. A voxel then has the same bin in all.
#pragma once

#include "lovasz/cuda/problem.h"
#include "voxels/cuda/math.cuh"

namespace segloss::lovasz::cuda {

SL_DEVICE float product(float a, float b) { return __fmul_rn(a, b); }
SL_DEVICE double product(double a, double b) { return __dmul_rn(a, b); }
SL_DEVICE float one_minus(float p) { return __fadd_rn(1.f, -p); }
SL_DEVICE double one_minus(double p) { return __dadd_rn(1.0, -p); }
SL_DEVICE float half_minus(float p) { return __fadd_rn(0.5f, -p); }
SL_DEVICE double half_minus(double p) { return __dadd_rn(0.5, -p); }

// Of one voxel: the largest logit, and the sum of e^(x - max) over all classes but one that has it.
// 1 - p of that class would lose its digits in a difference.
template <class T>
struct alignas(2 * sizeof(T)) Statistics {
  T max;
  T others;
};

// p and 1 - p.
template <class T>
struct Chance {
  T p, q;
};

template <class T>
struct Softmax {
  T max, others, inverse;

  Softmax() = default;
  SL_DEVICE explicit Softmax(const Statistics<T>& s)
      : max(s.max), others(s.others), inverse(1 / (1 + s.others)) {}

  SL_DEVICE Chance<T> operator()(T x) const {
    const T e = exp_nonpositive(x - max);
    const T p = product(e, inverse);
    return {p, e == 1 ? product(others, inverse) : one_minus(p)};
  }
};

// x(c) is the logit of class c; in order, unrolled for kClasses of them if that is not 0.
template <int kClasses, class T, class F>
SL_DEVICE Statistics<T> statistics_of(int classes, F x) {
  Statistics<T> s{-Constants<T>::kInfinity, 0};
  T rest = 0, ones = -1;
  const auto add = [&](int c) {
    const T e = exp_nonpositive(x(c) - s.max);
    rest += e == 1 ? T(0) : e;  // a NaN, too
    ones += e == 1 ? T(1) : T(0);
  };
  if constexpr (kClasses > 0) {
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
      if (c < classes) s.max = larger_number(s.max, x(c));
    }
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
      if (c < classes) add(c);
    }
  } else {
#pragma unroll 4
    for (int c = 0; c < classes; ++c) s.max = larger_number(s.max, x(c));
#pragma unroll 4
    for (int c = 0; c < classes; ++c) add(c);
  }
  s.others = rest + ones;
  return s;
}

template <class T>
SL_DEVICE Chance<T> sigmoid(T x) {
  const T e = exp_nonpositive(-absolute(x));
  const T large = reciprocal(1 + e), small = product(e, large);
  return x >= 0 ? Chance<T>{large, small} : Chance<T>{small, large};
}

// An error, what lies between it and 1, and p.
template <class T>
struct Error {
  T m, other, p;
};

template <class T>
SL_DEVICE Error<T> error_of(Activation activation, T x, bool foreground,
                            const Softmax<T>& softmax) {
  if (activation == Activation::kHinge) {
    const T m = foreground ? one_minus(x) : one_minus(-x);
    return {m < 0 ? T(0) : m, 0, 0};
  }
  const Chance<T> chance = activation == Activation::kSoftmax ? softmax(x) : sigmoid(x);
  return foreground ? Error<T>{chance.q, chance.p, chance.p}
                    : Error<T>{chance.p, chance.q, chance.p};
}

// -log p where t is 1, and for activations of a class alone -log (1 - p) where it is 0.
template <class T>
SL_DEVICE T cross_entropy(Activation activation, T x, bool foreground, const Softmax<T>& softmax) {
  if (activation == Activation::kSoftmax) {
    return foreground ? log_one_plus(softmax.others) - (x - softmax.max) : T(0);
  }
  const T toward = foreground ? -x : x;
  return log_one_plus(exp_nonpositive(-absolute(x))) + (toward < 0 ? T(0) : toward);
}

// Where an error is counted: its bin, and the place within it in 2^-16 of its width.
struct Place {
  int bin;
  unsigned offset;
  bool flagged;  // it has none, and counts in any
};

// The bin, counted from the point that d is the distance to, with 16 bits of fraction.
SL_DEVICE unsigned distance_code(const Bins& bins, float d) {
  if (d < bins.tau) return unsigned(__float2int_rz(product(d, bins.scale)));
  return ((__float_as_uint(d) - bins.tau_bits) >> bins.right << bins.left) +
         (1u << (bins.bits + 16));
}

SL_DEVICE float at_most(float d, float end) { return d < end ? d : end; }  // so is a NaN

template <class T>
SL_DEVICE Place place_of_probability(const Bins& bins, const Error<T>& error) {
  const bool low = error.m < error.other;
  const T e = low ? error.m : error.other;
  const bool inner = e >= T(0.25);                  // nearer to 1/2 than to the end
  const T d = inner ? absolute(half_minus(e)) : e;  // rounding may bring both errors above 1/2
  const unsigned code = distance_code(bins, at_most(float(d), 0x1.fffffep-3f));
  const int k = int(code >> 16), bin = inner ? bins.count / 2 - 1 - k : k;
  return {low ? bin : bins.count - 1 - bin, code & 0xffff, !(error.m == error.m)};
}

template <class T>
SL_DEVICE Place place_of(const Bins& bins, const Error<T>& error) {
  if (bins.two_sided) return place_of_probability(bins, error);
  const bool flagged = !(error.m < 65536);
  const float m = at_most(float(error.m), 0x1.fffffep15f);
  const bool under = m < 1;
  unsigned code =
      distance_code(bins, under ? at_most(one_minus(m), 0x1.fffffep-1f) : __fadd_rn(m, -1.f));
  const unsigned fine = unsigned(bins.fine) << 16;
  if (code >= fine) code = fine + ((code - fine) >> 2);
  const int k = int(code >> 16), bin = under ? bins.run - k : bins.run + 1 + k;
  return {m > 0 ? bin : 0, code & 0xffff, flagged};  // bin 0 is for no error
}

}  // namespace segloss::lovasz::cuda
