// What the CUDA code of several primitives shares: launches on torch's current stream, questions to
// the device, dynamic shared memory.
#pragma once

#include <cuda_runtime.h>
#include <torch/headeronly/util/Exception.h>

#include <cstddef>
#include <cstdint>

#ifndef SEGLOSS_HOST_SHIM
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#endif

namespace segloss {

inline void check_cuda(cudaError_t error, const char* what) {
  STD_TORCH_CHECK(error == cudaSuccess, what, ": ", cudaGetErrorString(error));
}

// While it lives its device is the current one; kernels go to torch's current stream there.
#ifdef SEGLOSS_HOST_SHIM  // the tests' stand-in for CUDA: the CPU, which has no streams
struct DeviceScope {
  explicit DeviceScope(int32_t) {}
  cudaStream_t stream() const { return nullptr; }
};
#else
class DeviceScope {
 public:
  explicit DeviceScope(int32_t device) : guard_(device) {
    void* stream = nullptr;
    const AOTITorchError error = aoti_torch_get_current_cuda_stream(device, &stream);
    STD_TORCH_CHECK(error == AOTI_TORCH_SUCCESS, "no current stream on CUDA device ", device);
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};
#endif

// Of the current device.
inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

struct LaunchShape {
  unsigned blocks;
  unsigned threads;
  size_t shared_bytes;
  cudaStream_t stream;
};

// Lets a kernel have all the dynamic shared memory that there is for it: the same whatever a launch
// needs, because another thread of the host may be launching it, too.
template <class... Parameters>
void allow_shared(void (*kernel)(Parameters...)) {
  cudaFuncAttributes found{};
  check_cuda(cudaFuncGetAttributes(&found, kernel), "cudaFuncGetAttributes");
  const int most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) -
                   static_cast<int>(found.sharedSizeBytes);
  if (found.maxDynamicSharedSizeBytes >= most) return;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
             "cudaFuncSetAttribute");
}

template <class... Parameters, class... Arguments>
void launch(const LaunchShape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (shape.shared_bytes > kWithoutAsking) allow_shared(kernel);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(shape.blocks);
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Arguments&&>(arguments)...),
             "cudaLaunchKernelEx");
}

__device__ inline unsigned char* dynamic_shared() {
#ifdef SEGLOSS_HOST_SHIM
  return segloss_shim::dynamic_shared();
#else
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
#endif
}

}  // namespace segloss
