// The sums of tensors that Python hands over as they are: segloss_fast/ops/confusion_sums/op.py.
#pragma once

#include <pybind11/pybind11.h>

namespace segloss::confusion_sums {

void bind(pybind11::module_& m);

}  // namespace segloss::confusion_sums
