// The CUDA operator for CPU tensors, over the headers that run its kernels there.
#include <torch/csrc/stable/library.h>

#include "region_masks/cuda/op.h"

#ifndef SEGLOSS_SHIM_LIBRARY
#define SEGLOSS_SHIM_LIBRARY segloss_shim_region_masks
#endif

STABLE_TORCH_LIBRARY(SEGLOSS_SHIM_LIBRARY, m) {
  m.def(
      "masks(Tensor values, Tensor? labels, int classes, int mode, int? ignore_index, int first)"
      " -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(SEGLOSS_SHIM_LIBRARY, CPU, m) {
  m.impl("masks", TORCH_BOX(&segloss::region_masks::cuda::masks));
}
