// For which instruction sets kernels are compiled besides the default one, and the choice among
// them at run time. Free of torch.
#pragma once

#include "cpu_capability.h"

// One set is enough where it is not the arithmetic that is tried, and compiles in a third of the
// time.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(SEGLOSS_ONE_SET)  // clang defines it, too
#define SEGLOSS_X86_KERNELS 1
#endif

// Declares a primitive's kernels, one constant per instruction set, inside its namespace.
#ifdef SEGLOSS_X86_KERNELS
#define SEGLOSS_DECLARE_KERNELS(Kernels) \
  namespace baseline {                   \
  extern const Kernels kKernels;         \
  }                                      \
  namespace avx2 {                       \
  extern const Kernels kKernels;         \
  }                                      \
  namespace avx512 {                     \
  extern const Kernels kKernels;         \
  }
#define SEGLOSS_CHOOSE_KERNELS()                                 \
  (cpu_capability() == CpuCapability::kAvx512 ? avx512::kKernels \
   : cpu_capability() == CpuCapability::kAvx2 ? avx2::kKernels   \
                                              : baseline::kKernels)
#else
#define SEGLOSS_DECLARE_KERNELS(Kernels) \
  namespace baseline {                   \
  extern const Kernels kKernels;         \
  }
#define SEGLOSS_CHOOSE_KERNELS() baseline::kKernels
#endif
