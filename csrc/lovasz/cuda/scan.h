// The scan over the bins of each image and class.
#pragma once

#include <cuda_runtime.h>

#include "lovasz/cuda/problem.h"

namespace segloss::lovasz::cuda {

struct ScanLaunch {
  Bins bins;
  int64_t rows;           // images times classes
  const int64_t* counts;  // [2][row][2][bin]
  const double* flagged;  // [row]
  double* loss;           // [row]
  void* table;            // [row][2][bin]
};

void launch_scan(const ScanLaunch& launch, bool double_table, cudaStream_t stream);

}  // namespace segloss::lovasz::cuda
