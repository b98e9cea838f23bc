// A tensor as kernels see it, free of torch.
#pragma once

#include <cstdint>
#include <type_traits>

namespace segloss {

enum class Dtype : int32_t {
  kFloat32,
  kFloat64,
  kFloat16,
  kBFloat16,
  kBool,  // bytes: all but 0 are true
  kUInt8,
  kInt8,
  kInt16,
  kInt32,
  kInt64
};

constexpr bool is_byte(Dtype dtype) { return dtype == Dtype::kBool || dtype == Dtype::kUInt8; }

// The bytes of an element.
constexpr int64_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat64:
    case Dtype::kInt64:
      return 8;
    case Dtype::kFloat32:
    case Dtype::kInt32:
      return 4;
    case Dtype::kFloat16:
    case Dtype::kBFloat16:
    case Dtype::kInt16:
      return 2;
    case Dtype::kBool:
    case Dtype::kUInt8:
    case Dtype::kInt8:
      break;
  }
  return 1;
}

// An element of a tensor of truth values, whose bytes others may have written.
struct Bool {
  uint8_t byte;
  constexpr operator uint8_t() const { return byte != 0; }
};

template <class Storage>
constexpr bool is_whole_type = std::is_integral_v<Storage> || std::is_same_v<Storage, Bool>;

// The order is that of ACTIVATIONS in segloss_fast/ops/region_sums/options.py.
enum class Activation : int32_t { kSoftmax, kSigmoid, kProbabilities };

// A tensor [B, C, *S] in place. The voxels' dimensions are merged where their strides allow;
// strides in elements.
struct View {
  void* data;
  Dtype dtype;
  int64_t batch_stride;
  int64_t channel_stride;
  int dims;
  int64_t size[3];
  int64_t stride[3];
};

}  // namespace segloss
