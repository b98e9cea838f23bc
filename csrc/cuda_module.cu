// What the library of the CUDA operators is.
#include <torch/csrc/stable/library.h>

#include <string>

#include "region_sums/cuda/describe.h"

#define SEGLOSS_TEXT(x) #x
#define SEGLOSS_TEXT_OF(x) SEGLOSS_TEXT(x)
#define SEGLOSS_NVCC SEGLOSS_TEXT_OF(__CUDACC_VER_MAJOR__) "." SEGLOSS_TEXT_OF(__CUDACC_VER_MINOR__)

namespace segloss {
namespace {

// As JSON; max_classes is what region_sums takes on any device.
std::string build_info() {
  return "{\"version\": \"" SEGLOSS_VERSION "\", \"compiler\": \"" SEGLOSS_NVCC
         "\", \"architectures\": \"" SEGLOSS_CUDA_ARCHITECTURES "\", \"max_classes\": " +
         std::to_string(region_sums::cuda::kMaxClasses) + "}";
}

}  // namespace
}  // namespace segloss

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) { m.def("_cuda_build_info() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CompositeExplicitAutograd, m) {
  m.impl("_cuda_build_info", TORCH_BOX(&segloss::build_info));
}
