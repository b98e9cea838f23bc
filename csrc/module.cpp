// The importable module segloss_fast._C: importing it registers the operators (each primitive's
// binding.cpp); its functions tell how it was built and which instruction set its CPU kernels use.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "bounds.h"
#include "confusion_sums/direct.h"
#include "cpu_capability.h"
#include "formula/binding.h"
#include "raw_tensor.h"
#include "region_sums/step.h"

namespace {

using segloss::CpuCapability;

constexpr std::array<const char*, 3> kCapabilities = {"baseline", "avx2", "avx512"};

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

std::string abi_target() {
  return std::to_string(TORCH_TARGET_VERSION >> 56) + "." +
         std::to_string((TORCH_TARGET_VERSION >> 48) & 0xff);
}

pybind11::dict build_info() {
  pybind11::dict info;
  info["version"] = SEGLOSS_VERSION;
  info["compiler"] = compiler();
  info["flags"] = SEGLOSS_FLAGS;
  info["abi_target"] = abi_target();
  info["cuda_architectures"] = std::vector<std::string>();  // no CUDA kernels in this module
  return info;
}

std::string get_cpu_capability() {
  return kCapabilities[static_cast<size_t>(segloss::cpu_capability())];
}

void set_cpu_capability(const std::string& name) {
  for (size_t i = 0; i < kCapabilities.size(); ++i) {
    if (name != kCapabilities[i]) continue;
    if (segloss::set_cpu_capability(static_cast<CpuCapability>(i))) return;
    throw std::runtime_error("this machine or build has no " + name + " kernels");
  }
  throw std::invalid_argument("capability must be one of baseline, avx2, avx512, got " + name);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of segloss_fast: build facts and the CPU's instruction set.";
  m.def("build_info", &build_info,
        "Version, compiler, flags, LibTorch ABI target and CUDA architectures of this build.");
  m.def("cpu_capability", &get_cpu_capability, "The instruction set that the CPU kernels use.");
  m.def("set_cpu_capability", &set_cpu_capability, pybind11::arg("name"),
        "Use another instruction set from now on (for tests): baseline, avx2 or avx512.");
  segloss::prepare_raw_tensors();
  m.def("all_within", &segloss::all_within, pybind11::arg("tensor"), pybind11::arg("least"),
        pybind11::arg("most"), "Whether numbers lie in bounds; None of a tensor it does not read.");
  segloss::confusion_sums::bind(m);
  segloss::formula::bind(m);
  segloss::region_sums::bind(m);
}
