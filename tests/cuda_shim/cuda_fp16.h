// Stands in for CUDA's header: half precision as storage, and its conversions.
#pragma once

#include <math.h>

#include <bit>

#include "shim/types.h"

struct alignas(2) __half_raw {
  unsigned short x;
};

struct alignas(2) __half {
  __half() = default;
  constexpr __half(__half_raw raw) : bits(raw.x) {}
  constexpr operator __half_raw() const { return {bits}; }

  unsigned short bits;
};
using half = __half;

struct alignas(4) __half2 {
  __half x, y;
};
using half2 = __half2;

inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }

inline float __half2float(__half h) {
  const unsigned sign = (h.bits & 0x8000u) << 16;
  const unsigned exponent = h.bits >> 10 & 31, mantissa = h.bits & 1023u;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  // 112: the difference of the exponents' biases.
  const unsigned wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

// To the nearest, in ties to the even mantissa.
inline __half __float2half_rn(float x) {
  const unsigned all = std::bit_cast<unsigned>(x);
  const unsigned sign = all >> 16 & 0x8000u, magnitude = all & 0x7fffffffu;
  const auto with_sign = [&](unsigned bits) {
    return __ushort_as_half(static_cast<unsigned short>(sign | bits));
  };
  if (magnitude > 0x7f800000u) return __ushort_as_half(0x7fff);  // NaN, as CUDA writes it
  if (magnitude >= 0x477ff000u) return with_sign(0x7c00);        // from 65520 on: infinity
  if (magnitude < 0x38800000u) {                                 // below 2^-14: steps of 2^-24
    return with_sign(static_cast<unsigned>(nearbyintf(fabsf(x) * 0x1p24f)));
  }
  const unsigned rebiased = magnitude - (112u << 23);
  return with_sign((rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13);
}

inline __half __float2half(float x) { return __float2half_rn(x); }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
inline __half2 __float22half2_rn(float2 v) { return __floats2half2_rn(v.x, v.y); }
inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
inline float __low2float(__half2 v) { return __half2float(v.x); }
inline float __high2float(__half2 v) { return __half2float(v.y); }
