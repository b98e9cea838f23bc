// Mathematical functions that CUDA adds to the C library's. The fast ones are exact here.
#pragma once

// Not <cmath>: it also brings isnan and the like into the global namespace.
#include <math.h>

#include <bit>
#include <concepts>
#include <cstdint>
#include <limits>
#include <type_traits>

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

// noexcept, as the C library declares some of these names for itself.
inline float __expf(float x) noexcept { return expf(x); }
inline float __exp10f(float x) noexcept { return powf(10.0f, x); }
inline float __logf(float x) noexcept { return logf(x); }
inline float __log2f(float x) noexcept { return log2f(x); }
inline float __log10f(float x) noexcept { return log10f(x); }
inline float __powf(float x, float y) noexcept { return powf(x, y); }
inline float __sinf(float x) noexcept { return sinf(x); }
inline float __cosf(float x) noexcept { return cosf(x); }
inline float __tanhf(float x) noexcept { return tanhf(x); }
inline float rsqrtf(float x) noexcept { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) noexcept { return 1.0 / sqrt(x); }
inline float __saturatef(float x) noexcept { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(double{x})); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

namespace segloss_shim {

// As a GPU converts: what does not fit becomes the nearest integer that does, NaN becomes 0.
template <std::integral To>
To saturating(double rounded) {
  if (isnan(rounded)) return 0;
  if (rounded <= static_cast<double>(std::numeric_limits<To>::min())) {
    return std::numeric_limits<To>::min();
  }
  if (rounded >= static_cast<double>(std::numeric_limits<To>::max())) {
    return std::numeric_limits<To>::max();
  }
  return static_cast<To>(rounded);
}

}  // namespace segloss_shim

inline int __float2int_rn(float x) { return segloss_shim::saturating<int>(nearbyint(x)); }
inline int __float2int_rz(float x) { return segloss_shim::saturating<int>(trunc(x)); }
inline int __float2int_rd(float x) { return segloss_shim::saturating<int>(floor(x)); }
inline int __float2int_ru(float x) { return segloss_shim::saturating<int>(ceil(x)); }
inline unsigned __float2uint_rn(float x) {
  return segloss_shim::saturating<unsigned>(nearbyint(x));
}
inline unsigned __float2uint_rz(float x) { return segloss_shim::saturating<unsigned>(trunc(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }

namespace segloss_shim {

template <typename T>
using Promoted = decltype(+T{});

template <typename A, typename B>
concept BothIntegers =
    std::integral<A> && std::integral<B> &&
    std::same_as<std::make_signed_t<Promoted<A>>, std::make_signed_t<Promoted<B>>>;
template <typename A, typename B>
concept Comparable = BothIntegers<A, B> || (std::floating_point<A> && std::floating_point<B>);

}  // namespace segloss_shim

// As CUDA's, of numbers whose types may differ in sign or precision; and a number rather than NaN.
template <typename A, typename B>
  requires segloss_shim::Comparable<A, B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(std::is_same_v<T, float> ? fminf(a, b) : fmin(a, b));
  } else {
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
  }
}

template <typename A, typename B>
  requires segloss_shim::Comparable<A, B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(std::is_same_v<T, float> ? fmaxf(a, b) : fmax(a, b));
  } else {
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
  }
}
