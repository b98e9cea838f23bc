// Elementary functions. Those in float come from the special function unit where its accuracy, as
// the PTX manual states it, is enough; NaN passes through all of them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "voxels/view.h"

#define SL_DEVICE __device__ __forceinline__

namespace segloss {

// The thread's number, which the compiler believes to be new at each call: it keeps nothing that
// follows from it in registers from one tile to the next. What a tile needs once is computed once.
SL_DEVICE int thread_again() {
  int thread = int(threadIdx.x);
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(thread));
#endif
  return thread;
}

#ifdef __CUDA_ARCH__

// 2^x within 2^-22 of itself; 0 where that would be denormal.
SL_DEVICE float fast_exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// 1 / x within 2^-23 of itself.
SL_DEVICE float fast_reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

#else  // the tests' stand-in for a GPU: wrong by as much as the manual allows, up or down

SL_DEVICE float fast_exp2(float x) {
  if (x == 0) return 1;
  const float error = (__float_as_uint(x) & 1) != 0 ? 0x1p-22f : -0x1p-22f;
  return x < -126 ? 0.f : exp2f(x) * (1 + error);
}

SL_DEVICE float fast_reciprocal(float x) {
  const float exact = 1 / x;
  const float error = (__float_as_uint(x) & 1) != 0 ? 0x1p-23f : -0x1p-23f;
  return fmaf(exact, x, -1.f) == 0 ? exact : exact + exact * error;
}

#endif

template <class T>
struct Constants;
template <>
struct Constants<float> {
  static constexpr float kInfinity = __builtin_inff(), kNan = __builtin_nanf("");
  static constexpr float kMinNormal = 1.17549435e-38f, kMax = 3.40282347e38f;
};
template <>
struct Constants<double> {
  static constexpr double kInfinity = __builtin_inf(), kNan = __builtin_nan("");
  static constexpr double kMinNormal = 2.2250738585072014e-308, kMax = 1.7976931348623157e308;
};

// e^x for x <= 0. Its relative error grows as |x| 2^-24, but then e^x itself is small: the absolute
// error stays below 2^-22 + 0.37 * 2^-24.
SL_DEVICE float exp_nonpositive(float x) { return fast_exp2(x * 1.44269504f); }
SL_DEVICE double exp_nonpositive(double x) { return exp(x); }

SL_DEVICE float exp_any(float x) { return expf(x); }
SL_DEVICE double exp_any(double x) { return exp(x); }
SL_DEVICE float log_any(float x) { return logf(x); }
SL_DEVICE double log_any(double x) { return log(x); }
SL_DEVICE float log_one_plus(float x) { return log1pf(x); }
SL_DEVICE double log_one_plus(double x) { return log1p(x); }
SL_DEVICE float reciprocal(float x) { return fast_reciprocal(x); }
SL_DEVICE double reciprocal(double x) { return 1 / x; }
SL_DEVICE float whole_part(float x) { return floorf(x); }
SL_DEVICE double whole_part(double x) { return floor(x); }

template <class T>
SL_DEVICE T absolute(T x) {
  return x < 0 ? -x : x;
}

template <class T>
SL_DEVICE T smaller(T a, T b) {
  return a < b ? a : b;
}

template <class T>
SL_DEVICE T larger(T a, T b) {
  return a > b ? a : b;
}

// The larger number; a NaN gives way to one.
SL_DEVICE float larger_number(float a, float b) { return fmaxf(a, b); }
SL_DEVICE double larger_number(double a, double b) { return fmax(a, b); }

// log p clamped to -100 as torch's binary cross-entropy has it; NaN for p < 0.
template <class T>
SL_DEVICE T log_probability(T p) {
  const T log_p = log_any(p);
  const T clamped = log_p < T(-100) ? T(-100) : log_p;
  return p > 0 ? clamped : (p == 0 ? T(-100) : p * Constants<T>::kNan);
}

// base^gamma for base >= 0, with 0^gamma = 0 except for gamma = 0, and its derivative, 0 at 0; of
// infinity its limit.
template <class T>
struct Power {
  T gamma;
  SL_DEVICE T operator()(T base) const {
    const T at_zero = gamma == 0 ? T(1) : T(0);
    return base < Constants<T>::kMinNormal ? at_zero : exp_any(gamma * log_any(base));
  }
  SL_DEVICE T derivative(T base) const {
    if (base == Constants<T>::kInfinity) return gamma < 1 ? T(0) : (gamma == 1 ? T(1) : base);
    return base < Constants<T>::kMinNormal ? T(0) : gamma * (*this)(base) / base;
  }
};

template <class T>
struct Square {
  SL_DEVICE T operator()(T base) const { return base < 0 ? T(0) : base * base; }
  SL_DEVICE T derivative(T base) const { return base < 0 ? T(0) : 2 * base; }
};

template <class T, class Storage>
SL_DEVICE T widen(Storage value) {
  if constexpr (std::is_same_v<Storage, __half>) {
    return __half2float(value);
  } else if constexpr (std::is_same_v<Storage, __nv_bfloat16>) {
    return __bfloat162float(value);
  } else {
    return static_cast<T>(value);
  }
}

template <class Storage, class T>
SL_DEVICE Storage narrow(T value) {
  if constexpr (std::is_same_v<Storage, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<Storage, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

template <class T>
struct Type {
  using type = T;
};

// Calls f(Type<Storage>()) for the C++ type behind the dtype of a tensor computed with as T.
template <class T, class F>
SL_DEVICE void visit_input(Dtype dtype, F f) {
  if constexpr (std::is_same_v<T, double>) {
    f(Type<double>());
  } else if (dtype == Dtype::kFloat16) {
    f(Type<__half>());
  } else if (dtype == Dtype::kBFloat16) {
    f(Type<__nv_bfloat16>());
  } else {
    f(Type<float>());
  }
}

// On the host: calls f(Type<Storage>()) for an input's dtype.
template <class F>
void visit_input_dtype(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::kFloat64:
      return f(Type<double>());
    case Dtype::kFloat16:
      return f(Type<__half>());
    case Dtype::kBFloat16:
      return f(Type<__nv_bfloat16>());
    default:
      return f(Type<float>());
  }
}

template <class F>
SL_DEVICE void visit_dtype(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::kFloat32:
      return f(Type<float>());
    case Dtype::kFloat64:
      return f(Type<double>());
    case Dtype::kFloat16:
      return f(Type<__half>());
    case Dtype::kBFloat16:
      return f(Type<__nv_bfloat16>());
    case Dtype::kBool:
      return f(Type<Bool>());
    case Dtype::kUInt8:
      return f(Type<uint8_t>());
    case Dtype::kInt8:
      return f(Type<int8_t>());
    case Dtype::kInt16:
      return f(Type<int16_t>());
    case Dtype::kInt32:
      return f(Type<int32_t>());
    case Dtype::kInt64:
      return f(Type<int64_t>());
  }
}

}  // namespace segloss
