// Stands in for CUDA's header of the same name: kernels compiled with this one run on the CPU.
#pragma once

#define SEGLOSS_HOST_SHIM 1

#include "shim/qualifiers.h"
//
#include "shim/atomics.h"
#include "shim/device_math.h"
#include "shim/fibers.h"
#include "shim/integer.h"
#include "shim/memory.h"
#include "shim/runtime.h"
#include "shim/types.h"
#include "shim/warp.h"
