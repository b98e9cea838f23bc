// What a kernel computes per element: known when it is compiled for the common sets of terms, read
// from the launch for all others.
#pragma once

#include "region_sums/cuda/problem.h"
#include "voxels/cuda/math.cuh"

namespace segloss::region_sums::cuda {

template <class... Terms>
constexpr uint32_t bits(Terms... terms) {
  return ((1u << terms) | ...);
}

constexpr uint32_t kOverlapTerms = bits(kTp, kPred, kTarget);

// Class indices, at most one weight per voxel, gamma 2.
template <uint32_t kTerms, Activation kActivation, Activation kLogActivation = kActivation>
struct Fixed {
  SL_DEVICE explicit Fixed(const Launch&) {}
  // On a multiprocessor at least; logarithms of a sigmoid take registers.
  static constexpr int kBlocks = kActivation == Activation::kSigmoid ? 4 : 5;
  static constexpr int kBatch = 4;  // elements that a thread computes side by side
  // Whether forward is that of own.cuh.
  static constexpr bool kOwn = kActivation == Activation::kSoftmax &&
                               kLogActivation == Activation::kSoftmax &&
                               (kTerms & ~(kOverlapTerms | bits(kNll, kFocal))) == 0 &&
                               (kTerms & bits(kNll, kFocal)) != bits(kNll, kFocal);
  static constexpr uint32_t terms() { return kTerms; }
  static constexpr Activation activation() { return kActivation; }
  static constexpr Activation ce_activation() { return kLogActivation; }
  static constexpr bool dense() { return false; }
  static constexpr bool class_weight() { return false; }

  // Calls f(the power).
  template <class T, class F>
  SL_DEVICE void with_power(F f) const {
    f(Square<T>{});
  }

  static bool serves(const Launch& launch) {
    constexpr uint32_t kPowers = bits(kNllPow, kFocal, kFocalNeg);
    constexpr uint32_t kLogs = kPowers | bits(kNll, kNllNeg, kNllAll);
    const bool same_activation = launch.activation == kActivation &&
                                 ((kTerms & kLogs) == 0 || launch.ce_activation == kLogActivation);
    return launch.terms == kTerms && same_activation && !launch.dense_target &&
           !launch.class_weight && ((kTerms & kPowers) == 0 || launch.gamma == 2);
  }
};

struct Any {
  static constexpr int kBlocks = 3;
  static constexpr int kBatch = 1;
  static constexpr bool kOwn = false;
  const Launch& launch;
  SL_DEVICE explicit Any(const Launch& launch) : launch(launch) {}
  SL_DEVICE uint32_t terms() const { return launch.terms; }
  SL_DEVICE Activation activation() const { return launch.activation; }
  SL_DEVICE Activation ce_activation() const { return launch.ce_activation; }
  SL_DEVICE bool dense() const { return launch.dense_target; }
  SL_DEVICE bool class_weight() const { return launch.class_weight; }

  template <class T, class F>
  SL_DEVICE void with_power(F f) const {
    launch.gamma == 2 ? f(Square<T>{}) : f(Power<T>{T(launch.gamma)});
  }
};

template <class T, class Choice>
constexpr int kBlocks = sizeof(T) == sizeof(double) ? 2 : Choice::kBlocks;

// Which steps the terms need.
template <class Choice>
struct Plan : Choice {
  SL_DEVICE explicit Plan(const Launch& launch) : Choice(launch) {}

  SL_DEVICE bool wants(Term term) const { return (this->terms() >> term & 1) != 0; }
  SL_DEVICE bool wants_any(uint32_t of) const { return (this->terms() & of) != 0; }

  SL_DEVICE bool overlap() const { return wants_any(bits(kTp, kFp, kFn, kPred)); }
  SL_DEVICE bool plain() const { return wants_any(bits(kTarget, kTargetSq, kWeight)); }
  SL_DEVICE bool errors() const {
    return wants_any(bits(kTpSoft, kPredSq, kSqErr, kSqErrPos, kSqErrNeg, kAbsErr));
  }
  SL_DEVICE bool region() const { return overlap() || errors(); }  // any term in p
  SL_DEVICE bool nll() const { return wants_any(bits(kNll, kNllAll)); }
  SL_DEVICE bool log_p() const { return wants_any(bits(kNll, kNllAll, kNllPow, kFocal)); }
  SL_DEVICE bool log_q() const { return wants_any(bits(kNllNeg, kFocalNeg)); }
  SL_DEVICE bool ce() const { return log_p() || log_q(); }  // any term with a logarithm
  SL_DEVICE bool region_is(Activation a) const { return region() && this->activation() == a; }
  SL_DEVICE bool ce_is(Activation a) const { return ce() && this->ce_activation() == a; }
  SL_DEVICE bool uses(Activation a) const { return region_is(a) || ce_is(a); }
  SL_DEVICE bool softmax() const { return uses(Activation::kSoftmax); }
  SL_DEVICE bool others() const { return log_q() && this->ce_activation() == Activation::kSoftmax; }
};

}  // namespace segloss::region_sums::cuda
