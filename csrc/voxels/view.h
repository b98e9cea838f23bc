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
