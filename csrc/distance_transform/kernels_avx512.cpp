// The distance_transform kernels for AVX-512 (F, BW, DQ, VL).
#include "distance_transform/kernels.h"

#ifdef SEGLOSS_X86_KERNELS
// Headers come before the target changes: no inline function of theirs may be compiled for it.
#include <immintrin.h>

#pragma GCC push_options
// gcc 12 warns of the intrinsics' own undefined values.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,bmi,bmi2,prefer-vector-width=512")
// Not __AVX512F__: before gcc 13, macros do not follow the pragma.
#define SL_AVX512
#define SEGLOSS_NAMESPACE avx512
#include "distance_transform/kernels.inc"
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
