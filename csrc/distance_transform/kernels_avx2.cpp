// The distance_transform kernels for AVX2.
#include "distance_transform/kernels.h"

#ifdef SEGLOSS_X86_KERNELS
// Headers come before the target changes: no inline function of theirs may be compiled for it.
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2")
// Not __AVX2__: before gcc 13, macros do not follow the pragma.
#define SL_AVX2
#define SEGLOSS_NAMESPACE avx2
#include "distance_transform/kernels.inc"
#pragma GCC pop_options
#endif
