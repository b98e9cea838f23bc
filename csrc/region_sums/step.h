// A loss over sums as Python calls it: segloss_fast._C.Step.
#pragma once

#include <pybind11/pybind11.h>

namespace segloss::region_sums {

void bind(pybind11::module_& m);

}  // namespace segloss::region_sums
