// Registers the operators for CUDA tensors.
#include <torch/csrc/stable/library.h>

#include "lovasz/cuda/op.h"

#ifndef SEGLOSS_CUDA_LIBRARY  // the tests register the same operators for the CPU, elsewhere
#define SEGLOSS_CUDA_LIBRARY segloss_fast
#define SEGLOSS_CUDA_KEY CUDA
#endif

STABLE_TORCH_LIBRARY_FRAGMENT(SEGLOSS_CUDA_LIBRARY, m) {
  m.def(
      "_lovasz_count_cuda(Tensor input, Tensor target, int activation, int octaves, int bits, "
      "bool per_image, int? ignore_index, bool cross_entropy) "
      "-> (Tensor counts, Tensor rows, Tensor invalid)");
  m.def(
      "_lovasz_scan_cuda(Tensor counts, Tensor rows, int activation, int octaves, int bits, "
      "bool double_table) -> (Tensor loss, Tensor table)");
  m.def(
      "_lovasz_backward_cuda(Tensor coefficients, Tensor? grad_ce, Tensor input, Tensor target, "
      "int activation, int octaves, int bits, int? ignore_index) -> Tensor grad");
  m.def(
      "_lovasz_sort_cuda(Tensor input, Tensor target, int activation, bool per_image, "
      "int? ignore_index, bool cross_entropy, bool wants_gradient) "
      "-> (Tensor loss, Tensor rows, Tensor invalid, Tensor g)");
  m.def(
      "_lovasz_sort_backward_cuda(Tensor g, Tensor grad_loss, Tensor? grad_ce, Tensor input, "
      "Tensor target, int activation, int? ignore_index) -> Tensor grad");
}

STABLE_TORCH_LIBRARY_IMPL(SEGLOSS_CUDA_LIBRARY, SEGLOSS_CUDA_KEY, m) {
  m.impl("_lovasz_count_cuda", TORCH_BOX(&segloss::lovasz::cuda::count));
  m.impl("_lovasz_scan_cuda", TORCH_BOX(&segloss::lovasz::cuda::scan));
  m.impl("_lovasz_backward_cuda", TORCH_BOX(&segloss::lovasz::cuda::backward));
  m.impl("_lovasz_sort_cuda", TORCH_BOX(&segloss::lovasz::cuda::sort));
  m.impl("_lovasz_sort_backward_cuda", TORCH_BOX(&segloss::lovasz::cuda::sort_backward));
}
