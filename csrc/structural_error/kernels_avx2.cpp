// The structural_error kernels for AVX2 with FMA and F16C.
#include "structural_error/kernels.h"

#ifdef SEGLOSS_X86_KERNELS
// Headers come before the target changes: no inline function of theirs may be compiled for it.
#include <immintrin.h>

#include <initializer_list>
#include <type_traits>

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
// Not __F16C__: before gcc 13, macros do not follow the pragma.
#define SL_F16C
#define SEGLOSS_NAMESPACE avx2
#include "structural_error/kernels.inc"
#pragma GCC pop_options
#endif
