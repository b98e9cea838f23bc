// Whether the numbers of a tensor lie between bounds, without operators of torch: two of them, and
// the numbers that they hand to Python, cost a small tensor more than to look at it.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

namespace segloss {

// Whether all lie in [least, most]; nothing if this is no plain, contiguous tensor of float32 or
// float64. What is not a number lies nowhere.
std::optional<bool> all_within(pybind11::handle tensor, double least, double most);

}  // namespace segloss
