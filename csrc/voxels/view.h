// A tensor as kernels see it, free of torch.
#pragma once

#include <cstdint>

namespace segloss {

enum class Dtype : int32_t {
  kFloat32,
  kFloat64,
  kFloat16,
  kBFloat16,
  kUInt8,  // and bool
  kInt8,
  kInt16,
  kInt32,
  kInt64
};

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
    case Dtype::kUInt8:
    case Dtype::kInt8:
      break;
  }
  return 1;
}

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
