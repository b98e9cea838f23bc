// Where the CUDA operators are registered: for CUDA tensors, or, where the tests compile them for
// the CPU, in a library of the tests for CPU tensors.
#pragma once

#include <torch/csrc/stable/library.h>

#ifndef SEGLOSS_CUDA_LIBRARY
#define SEGLOSS_CUDA_LIBRARY segloss_fast
#define SEGLOSS_CUDA_KEY CUDA
#endif
