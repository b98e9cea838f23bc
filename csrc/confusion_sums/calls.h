// The CPU passes, spread over torch's threads.
#pragma once

#include "confusion_sums/kernels.h"

namespace segloss::confusion_sums {

// Writes the sums [B, C, C + 1]; returns how many labels are invalid, and the first.
Invalid sum(const Problem& problem, double* sums);

// Writes the gradient of the input, given that of the sums.
void differentiate(const Problem& problem, const double* grad_sums, const View& grad);

}  // namespace segloss::confusion_sums
