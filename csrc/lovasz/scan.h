// From counts to the loss and each bin's derivative, free of torch.
#pragma once

#include <cstdint>

#include "lovasz/kernels.h"

namespace segloss::lovasz {

// One image and class: [2, K] each, background first. The table is of float or double.
struct Scan {
  const int64_t* number;
  const int64_t* offsets;
  Activation activation;
  Bins bins;
  bool flagged;  // some error was NaN: all is NaN
  void* table;
  bool double_table;
};

// Fills the table and returns the loss.
double scan(const Scan& scan);

}  // namespace segloss::lovasz
