// The terms of one element, and their derivatives.
#pragma once

#include "region_sums/cuda/activations.cuh"

namespace segloss::region_sums::cuda {

// A product is 0 where the target's factor is, also if the logarithm is infinite.
template <class T>
SL_DEVICE T product(T factor, T value) {
  return factor == 0 ? T(0) : factor * value;
}

// One class's sums over some voxels of a tile, by term. Those of terms that nobody asked for are
// computed where that costs nothing, and dropped.
template <class T>
struct Sums {
  T of[kTermCount] = {};

  template <class Choice>
  SL_DEVICE void add(const Plan<Choice>& plan, const Activated<T>& a, T t, T w) {
    if (plan.overlap()) {
      const T wp = w * a.p;
      of[kTp] += wp * t;
      of[kFp] += wp * (1 - t);
      of[kFn] += w * t * (1 - a.p);
      of[kPred] += wp;
    }
    if (plan.plain()) {
      of[kTarget] += w * t;
      of[kTargetSq] += w * t * t;
      of[kWeight] += w;
    }
    if (plan.errors()) add_errors(a.p, t, w);
    if (plan.ce()) add_logs(plan, a, t, w);
  }

 private:
  SL_DEVICE void add_errors(T p, T t, T w) {
    const T error = p - t, square = w * error * error;
    const bool of_target = (t < p) | (t != t);  // so that a NaN of either shows
    of[kTpSoft] += w * (of_target ? t : p);
    of[kPredSq] += w * p * p;
    of[kSqErr] += square;
    of[kSqErrPos] += square * t;
    of[kSqErrNeg] += square * (1 - t);
    of[kAbsErr] += w * absolute(error);
  }

  template <class Choice>
  SL_DEVICE void add_logs(const Plan<Choice>& plan, const Activated<T>& a, T t, T w) {
    if (plan.nll()) {
      of[kNll] -= w * product(t, a.log_p);
      of[kNllAll] -= w * a.log_p;
    }
    if (plan.wants(kNllNeg)) of[kNllNeg] -= w * product(1 - t, a.log_q);
    if (!plan.wants_any(bits(kNllPow, kFocal, kFocalNeg))) return;
    plan.template with_power<T>([&](auto power) {
      if (plan.wants(kNllPow)) of[kNllPow] += w * product(t, power(-a.log_p));
      if (plan.wants(kFocal)) of[kFocal] -= w * product(t, power(a.ce_q) * a.log_p);
      if (plan.wants(kFocalNeg)) of[kFocalNeg] -= w * product(1 - t, power(a.ce_p) * a.log_q);
    });
  }
};

// The incoming gradients of an item's sums.
template <class T>
struct Coefficients {
  const Launch& launch;
  const T* item;

  SL_DEVICE Coefficients(const Launch& launch, int64_t item)
      : launch(launch), item(static_cast<const T*>(launch.grad_rows) + item * launch.channels) {}

  // Called only for terms that somebody asked for.
  SL_DEVICE T operator()(Term term, int c) const {
    return item[launch.row[term] * launch.items * launch.channels + c];
  }
  template <class Choice>
  SL_DEVICE T of(const Plan<Choice>& plan, Term term, int c) const {
    return plan.wants(term) ? (*this)(term, c) : T(0);
  }
  template <class Choice>
  SL_DEVICE T times(const Plan<Choice>& plan, Term term, int c, T factor) const {
    return plan.wants(term) && factor != 0 ? (*this)(term, c) * factor : T(0);
  }
};

template <class T, class Choice>
SL_DEVICE T derive_errors(const Plan<Choice>& plan, const Coefficients<T>& k, int c, T p, T t) {
  const T error = p - t;
  const T sign = error > 0 ? T(1) : (error < 0 ? T(-1) : T(0));
  const T soft = error < 0 ? T(1) : (error > 0 ? T(0) : T(0.5));
  const T squares =
      k.of(plan, kSqErr, c) + k.times(plan, kSqErrPos, c, t) + k.times(plan, kSqErrNeg, c, 1 - t);
  return 2 * (k.of(plan, kPredSq, c) * p + squares * error) + k.of(plan, kAbsErr, c) * sign +
         k.of(plan, kTpSoft, c) * soft;
}

// The derivative of factor q^gamma log p in log p, with dq/d(log p) = -p. Where log p is infinite,
// p log p is 0, its limit.
template <class T, class Pow>
SL_DEVICE T focal_slope(T factor, T p, T q, T log_p, Pow power) {
  return product(factor, power(q) - product(power.derivative(q) * p, log_p));
}

template <class T, class Choice>
SL_DEVICE Derivatives<T> derive(const Plan<Choice>& plan, const Coefficients<T>& k, int c,
                                const Activated<T>& a, T t, T w) {
  Derivatives<T> d;
  if (plan.overlap()) {
    const T inside = k.times(plan, kTp, c, t) - k.times(plan, kFn, c, t);
    d.g = w * (inside + k.times(plan, kFp, c, 1 - t) + k.of(plan, kPred, c));
  }
  if (plan.errors()) d.g += w * derive_errors(plan, k, c, a.p, t);
  if (plan.nll()) d.l = -w * (k.times(plan, kNll, c, t) + k.of(plan, kNllAll, c));
  if (plan.wants(kNllNeg)) d.m = -w * k.times(plan, kNllNeg, c, 1 - t);
  if (!plan.wants_any(bits(kNllPow, kFocal, kFocalNeg))) return d;
  plan.template with_power<T>([&](auto power) {
    if (plan.wants(kNllPow) && t != 0) {
      d.l -= k(kNllPow, c) * w * product(t, power.derivative(-a.log_p));
    }
    if (plan.wants(kFocal) && t != 0) {
      d.l -= k(kFocal, c) * w * focal_slope(t, a.ce_p, a.ce_q, a.log_p, power);
    }
    if (plan.wants(kFocalNeg) && t != 1) {
      d.m -= k(kFocalNeg, c) * w * focal_slope(1 - t, a.ce_q, a.ce_p, a.log_q, power);
    }
  });
  return d;
}

}  // namespace segloss::region_sums::cuda
