// The parts of the exact method that are CUB's; memory comes from torch.

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "allocate.h"
#include "cuda.cuh"
#include "lovasz/cuda/sort.h"

namespace segloss::lovasz::cuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls f(memory, bytes) as CUB wants it: first to learn how much, then to work.
template <class F>
void with_memory(const Tensor& like, const char* what, F f) {
  size_t bytes = 0;
  check_cuda(f(nullptr, bytes), what);
  const Tensor memory = allocate_at(like, {static_cast<int64_t>(bytes) + 1}, ScalarType::Byte);
  check_cuda(f(memory.mutable_data_ptr(), bytes), what);
}

struct Larger {
  __host__ __device__ uint32_t operator()(uint32_t a, uint32_t b) const { return a < b ? b : a; }
};

}  // namespace

int sort_pairs(const Tensor& like, unsigned long long* const (&keys)[2],
               uint32_t* const (&values)[2], int64_t count, int bits, cudaStream_t stream) {
  cub::DoubleBuffer<unsigned long long> key(keys[0], keys[1]);
  cub::DoubleBuffer<uint32_t> value(values[0], values[1]);
  with_memory(like, "cub::DeviceRadixSort", [&](void* memory, size_t& bytes) {
    return cub::DeviceRadixSort::SortPairs(memory, bytes, key, value, count, 0, bits, stream);
  });
  STD_TORCH_CHECK(key.selector == value.selector, "lovasz: keys and values part");
  return key.selector;
}

void scan_sum(const Tensor& like, uint32_t* flags, int64_t count, cudaStream_t stream) {
  with_memory(like, "cub::DeviceScan", [&](void* memory, size_t& bytes) {
    return cub::DeviceScan::ExclusiveSum(memory, bytes, flags, flags, count, stream);
  });
}

void scan_max(const Tensor& like, uint32_t* places, int64_t count, cudaStream_t stream) {
  with_memory(like, "cub::DeviceScan", [&](void* memory, size_t& bytes) {
    return cub::DeviceScan::InclusiveScan(memory, bytes, places, places, Larger{}, count, stream);
  });
}

}  // namespace segloss::lovasz::cuda
