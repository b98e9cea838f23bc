// Intrinsics and conversions with known results, the same on the CPU and on a GPU.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math_constants.h>

#include <cmath>

#include "selftest.h"

namespace {

__global__ void intrinsics_kernel(int* wrong) {
  bool right = __clz(1) == 31 && __clz(0) == 32 && __clzll(1) == 63 && __ffs(0) == 0;
  right &= __ffs(8) == 4 && __ffsll(1ll << 40) == 41 && __popcll(~0ull) == 64;
  right &= __brev(1) == 1u << 31 && __mul24(-3, 5) == -15 && __umulhi(1u << 31, 6) == 3;
  right &=
      __umul64hi(1ull << 63, 6) == 3 && __byte_perm(0x03020100, 0x07060584, 0x7c40) == 0x07ff8400u;
  right &= __funnelshift_l(0x80000000u, 1, 1) == 3 && __funnelshift_r(2, 1, 1) == 0x80000001u;
  right &= __float_as_int(1.0f) == 0x3f800000 && __uint_as_float(0x40000000u) == 2.0f;
  right &= min(3, 5u) == 3u && max(-1ll, 5ll) == 5 && max(1.0f, 2.0) == 2.0;
  right &= max(CUDART_NAN_F, 1.0f) == 1.0f && isinf(CUDART_INF_F) && isnan(CUDART_NAN_F);
  right &= __float2int_rn(2.5f) == 2 && __float2int_rz(-2.5f) == -2 && __fmaf_rn(2, 3, 4) == 10;
  right &= fabsf(__expf(1.0f) - 2.7182818f) < 1e-5f && fabsf(rsqrtf(4.0f) - 0.5f) < 1e-6f;
  right &= __float2int_rz(1e20f) == 0x7fffffff && __frcp_rn(4.0f) == 0.25f;
  right &= fabsf(__logf(2.0f) - 0.69314718f) < 1e-6f && __fdividef(3.0f, 4.0f) == 0.75f;
  if (!right) atomicAdd(wrong, 1);
}

void intrinsics() {
  int* wrong = zeros<int>(1);
  launch(1, 1, 0, intrinsics_kernel, wrong);
  check(*wrong == 0, "intrinsics");
}

struct Half {
  static float widen(unsigned short bits) { return __half2float(__half(__half_raw{bits})); }
  static unsigned short narrow(float x) { return static_cast<__half_raw>(__float2half_rn(x)).x; }
  static constexpr int kInfinity = 0x7c00;
};

struct Bfloat {
  static float widen(unsigned short bits) {
    return __bfloat162float(__nv_bfloat16(__nv_bfloat16_raw{bits}));
  }
  static unsigned short narrow(float x) {
    return static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(x)).x;
  }
  static constexpr int kInfinity = 0x7f80;
};

// Between any two neighbours, the middle goes to the even one, what is beside it to the nearer.
template <typename Type>
void check_rounding() {
  const auto narrow = [](double x) { return Type::narrow(static_cast<float>(x)); };
  for (int bits = 0; bits < Type::kInfinity - 1; ++bits) {
    const float low = Type::widen(bits), high = Type::widen(bits + 1);
    const float middle = static_cast<float>((double{low} + high) / 2);
    check(Type::narrow(low) == bits && narrow(-low) == (bits | 0x8000), "exact values");
    check(narrow(middle) == bits + bits % 2, "ties");
    check(narrow(nextafterf(middle, 0)) == bits, "below the middle");
    check(narrow(nextafterf(middle, INFINITY)) == bits + 1, "above the middle");
  }
  check(Type::narrow(3.4e38f) == Type::kInfinity, "large values");
  check(Type::narrow(INFINITY) == Type::kInfinity && isinf(Type::widen(Type::kInfinity)), "inf");
  check(isnan(Type::widen(Type::narrow(NAN))), "NaN");
}

void halves() {
  check_rounding<Half>();
  check_rounding<Bfloat>();
}

}  // namespace

int main(int argc, char** argv) {
  const Case cases[] = {{"intrinsics", intrinsics}, {"halves", halves}};
  return run_case(cases, argc, argv);
}
