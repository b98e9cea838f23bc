// Programs of formulas in Python: segloss_fast._C.Formula.
#pragma once

#include <pybind11/pybind11.h>

namespace segloss::formula {

void bind(pybind11::module_& m);

}  // namespace segloss::formula
