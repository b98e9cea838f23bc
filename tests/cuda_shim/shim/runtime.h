// CUDA's runtime: launches, which end before they return, memory, and questions to the device.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <map>
#include <type_traits>

#include "fibers.h"
#include "types.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4,
};
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
enum cudaLaunchAttributeID {
  cudaLaunchAttributeIgnore = 0,
  cudaLaunchAttributeProgrammaticStreamSerialization = 6,
};
union cudaLaunchAttributeValue {
  int programmaticStreamSerializationAllowed;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaFuncAttributes {
  size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
  int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, cacheModeCA;
  int maxDynamicSharedSizeBytes, preferredShmemCarveout;
};
using cudaStream_t = struct CUstream_st*;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;  // ignored
  unsigned numAttrs;
};

namespace segloss_shim {

constexpr size_t kShared = 48 * 1024, kParameterBytes = 32764;

inline cudaError_t last_error = cudaSuccess;
inline std::map<const void*, size_t> shared_limits;  // of the kernels that opted in to more

inline cudaError_t record(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// What parameters need, laid out as the members of a struct.
template <typename... Types>
constexpr size_t parameter_bytes() {
  size_t bytes = 0;
  ((bytes = (bytes + alignof(Types) - 1) / alignof(Types) * alignof(Types) + sizeof(Types)), ...);
  return bytes;
}

inline cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 g = config.gridDim, b = config.blockDim;
  const bool no_threads = g.x == 0 || g.y == 0 || g.z == 0 || b.x == 0 || b.y == 0 || b.z == 0;
  const bool block = b.x <= kMaxThreads && b.y <= kMaxThreads && b.z <= 64 &&
                     size_t{b.x} * b.y * b.z <= kMaxThreads;
  const bool grid = g.x <= 0x7fffffff && g.y <= 65535 && g.z <= 65535;
  if (no_threads || !block || !grid) return cudaErrorInvalidConfiguration;
  const auto opted_in = shared_limits.find(kernel);
  const size_t limit = opted_in == shared_limits.end() ? kShared : opted_in->second;
  return config.dynamicSmemBytes <= limit ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace segloss_shim

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
  }
  return "unrecognized error code";
}

inline cudaError_t cudaPeekAtLastError() { return segloss_shim::last_error; }

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = segloss_shim::last_error;
  segloss_shim::last_error = cudaSuccess;
  return error;
}

// The arguments become the types of the kernel's parameters once; each thread has its own copy.
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "kernels get plain bytes");
  static_assert(segloss_shim::parameter_bytes<Parameters...>() <= segloss_shim::kParameterBytes,
                "a kernel has too many bytes of parameters");
  const cudaError_t error =
      segloss_shim::check_launch(*config, reinterpret_cast<const void*>(kernel));
  if (error != cudaSuccess) return segloss_shim::record(error);
  [&](Parameters... values) {
    segloss_shim::run_grid(config->gridDim, config->blockDim, config->dynamicSmemBytes,
                           [&] { kernel(values...); });
  }(static_cast<Arguments&&>(arguments)...);
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > segloss_shim::shared_opt_in()) {
    return segloss_shim::record(cudaErrorInvalidValue);
  }
  segloss_shim::shared_limits[reinterpret_cast<const void*>(kernel)] = static_cast<size_t>(value);
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  *attributes = {};
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, size_t) {
  *blocks = 2;
  return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : segloss_shim::record(cudaErrorInvalidValue);
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  const std::map<cudaDeviceAttr, int> values{
      {cudaDevAttrMaxThreadsPerBlock, static_cast<int>(segloss_shim::kMaxThreads)},
      {cudaDevAttrMaxSharedMemoryPerBlock, static_cast<int>(segloss_shim::kShared)},
      {cudaDevAttrWarpSize, segloss_shim::kWarpSize},
      {cudaDevAttrMultiProcessorCount, segloss_shim::multiprocessors()},
      {cudaDevAttrL2CacheSize, 50 << 20},
      {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
      {cudaDevAttrComputeCapabilityMajor, 9},
      {cudaDevAttrComputeCapabilityMinor, 0},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 228 << 10},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, static_cast<int>(segloss_shim::shared_opt_in())},
  };
  const auto found = values.find(attribute);
  if (found == values.end()) return segloss_shim::record(cudaErrorInvalidValue);
  *value = found->second;
  return cudaSuccess;
}

template <typename T>
cudaError_t cudaMallocManaged(T** pointer, size_t bytes, unsigned = 1) {
  *pointer = static_cast<T*>(std::malloc(bytes));
  return *pointer != nullptr ? cudaSuccess : segloss_shim::record(cudaErrorMemoryAllocation);
}

template <typename T>
cudaError_t cudaMalloc(T** pointer, size_t bytes) {
  return cudaMallocManaged(pointer, bytes);
}

inline cudaError_t cudaFree(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t = nullptr) {
  if (bytes != 0) std::memset(pointer, value, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t = nullptr) {
  if (bytes != 0) std::memmove(to, from, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
