// Where the CUDA operators are registered: for CUDA tensors, or, where the tests compile them for
// the CPU, in a library of the tests for CPU tensors.
#pragma once

#include <cuda_runtime.h>  // says whether it is that of the tests
#include <torch/csrc/stable/library.h>

#ifndef SEGLOSS_CUDA_LIBRARY
#define SEGLOSS_CUDA_LIBRARY segloss_fast
#define SEGLOSS_CUDA_KEY CUDA
#endif

// The library of the CPU's operators, which is loaded first, has defined their schemas; in a
// library of the tests nobody has.
#ifdef SEGLOSS_HOST_SHIM
#define SEGLOSS_CUDA_SCHEMAS(schemas)                      \
  STABLE_TORCH_LIBRARY_FRAGMENT(SEGLOSS_CUDA_LIBRARY, m) { \
    for (const char* schema : schemas) m.def(schema);      \
  }
#else
#define SEGLOSS_CUDA_SCHEMAS(schemas)
#endif
