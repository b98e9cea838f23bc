// The lovasz kernels for the instruction set that the compiler targets by default.
#ifdef __F16C__  // with -march=native or the like
#include <immintrin.h>
#define SL_F16C
#endif

#include <initializer_list>
#include <type_traits>

#include "lovasz/kernels.h"

#define SEGLOSS_NAMESPACE baseline
#include "lovasz/kernels.inc"
