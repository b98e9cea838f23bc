// The sets of terms that have kernels of their own.
#pragma once

#include "region_sums/cuda/plan.cuh"

namespace segloss::region_sums::cuda {

template <class... Choices, class F>
void visit_choice(const Launch& launch, F f) {
  const bool found = ((Choices::serves(launch) ? (f(Type<Choices>()), true) : false) || ...);
  if (!found) f(Type<Any>());
}

// Calls f(Type<Choice>()) with the one that serves a launch in float.
template <class F>
void visit_variant(const Launch& launch, F f) {
  constexpr Activation kSoftmax = Activation::kSoftmax, kSigmoid = Activation::kSigmoid;
#ifdef SEGLOSS_FEW_VARIANTS  // for sanitizers: the others read and write alike
  visit_choice<Fixed<kOverlapTerms | bits(kNll), kSoftmax>,
               Fixed<kOverlapTerms | bits(kFocal, kFocalNeg), kSigmoid>>(launch, f);
#else
  visit_choice<Fixed<kOverlapTerms, kSoftmax>,                        // Dice
               Fixed<kOverlapTerms | bits(kNll), kSoftmax>,           // and cross-entropy
               Fixed<bits(kTarget, kNll), kSoftmax>,                  // cross-entropy
               Fixed<kOverlapTerms | bits(kFocal), kSoftmax>,         // Dice and focal
               Fixed<kOverlapTerms | bits(kNll, kNllNeg), kSigmoid>,  // the same of a sigmoid
               Fixed<kOverlapTerms | bits(kFocal, kFocalNeg), kSigmoid>>(launch, f);
#endif
}

}  // namespace segloss::region_sums::cuda
