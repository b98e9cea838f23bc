// The CUDA operator for CPU tensors, over the headers that run its kernels there.
#include <torch/csrc/stable/library.h>

#include "distance_transform/cuda/op.h"

STABLE_TORCH_LIBRARY(segloss_shim_distance_transform, m) {
  m.def("forward(Tensor mask, float[] spacing, int side, bool squared) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(segloss_shim_distance_transform, CPU, m) {
  m.impl("forward", TORCH_BOX(&segloss::distance_transform::forward));
}
