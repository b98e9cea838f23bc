#include "cpu_capability.h"

#include <atomic>

#include "instruction_sets.h"

#ifdef SEGLOSS_X86_KERNELS
#include <cpuid.h>
#endif

namespace segloss {
namespace {

#ifdef SEGLOSS_X86_KERNELS
// clang's __builtin_cpu_supports does not know it everywhere.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

CpuCapability detect() {
#ifdef SEGLOSS_X86_KERNELS
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
                    __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return CpuCapability::kAvx512;
  if (avx2) return CpuCapability::kAvx2;
#endif
  return CpuCapability::kBaseline;
}

std::atomic<CpuCapability>& current() {
  static std::atomic<CpuCapability> capability{detect()};
  return capability;
}

}  // namespace

CpuCapability cpu_capability() { return current().load(std::memory_order_relaxed); }

bool set_cpu_capability(CpuCapability capability) {
  if (capability > detect()) return false;
  current().store(capability, std::memory_order_relaxed);
  return true;
}

}  // namespace segloss
