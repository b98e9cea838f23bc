// Which instruction set the CPU kernels use: the best that this machine has, or a lower one that a
// test forces.
#pragma once

namespace segloss {

enum class CpuCapability { kBaseline, kAvx2, kAvx512 };

CpuCapability cpu_capability();

// False, with nothing changed, where the machine or the build lacks it.
bool set_cpu_capability(CpuCapability capability);

}  // namespace segloss
