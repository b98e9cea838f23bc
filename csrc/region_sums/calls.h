// The passes of a call over all its problems, on torch's threads. The chunks depend on the shapes
// alone and their sums are added in order, so that no result depends on the number of threads.
#pragma once

#include <vector>

#include "region_sums/kernels.h"

namespace segloss::region_sums {

// Writes the sums [rows, items of all problems, C]; returns which labels are invalid.
Invalid sum(const std::vector<Problem>& problems, double* rows);

// Writes the gradient of each input, given that of the sums.
void differentiate(const std::vector<Problem>& problems, const double* grad_rows,
                   const std::vector<View>& grads);

}  // namespace segloss::region_sums
