// The confusion_sums kernels for the instruction set that the compiler targets by default.
#ifdef __F16C__  // with -march=native or the like
#include <immintrin.h>
#define SL_F16C
#endif

#include <initializer_list>
#include <type_traits>

#include "confusion_sums/kernels.h"

#define SEGLOSS_NAMESPACE baseline
#include "confusion_sums/kernels.inc"
