// Registers the operator for CUDA tensors.
#include <torch/csrc/stable/library.h>

#include "distance_transform/cuda/op.h"

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  m.def("_distance_transform_cuda(Tensor mask, float[] spacing, int side, bool squared) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CUDA, m) {
  m.impl("_distance_transform_cuda", TORCH_BOX(&segloss::distance_transform::forward));
}
