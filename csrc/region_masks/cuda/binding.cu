// Registers the operator for CUDA tensors.
#include <torch/csrc/stable/library.h>

#include "region_masks/cuda/op.h"

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  m.def(
      "_region_masks_cuda(Tensor values, Tensor? labels, int classes, int mode, int? ignore_index, "
      "int first) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CUDA, m) {
  m.impl("_region_masks_cuda", TORCH_BOX(&segloss::region_masks::cuda::masks));
}
