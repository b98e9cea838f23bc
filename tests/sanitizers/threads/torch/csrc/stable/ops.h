// In the place of torch's header of this name: see tensor.h.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "torch/csrc/stable/tensor.h"

namespace torch::stable {

inline std::atomic<int> threads{1};
inline uint32_t get_num_threads() { return uint32_t(threads.load()); }

inline Tensor empty(std::vector<int64_t> sizes, ScalarType dtype) {
  return Tensor(std::move(sizes), dtype);
}
inline Tensor empty_like(const Tensor& tensor) {
  return empty(tensor.sizes(), tensor.scalar_type());
}
inline Tensor new_empty(const Tensor&, std::vector<int64_t> sizes, ScalarType dtype) {
  return empty(std::move(sizes), dtype);
}
inline Tensor contiguous(const Tensor& tensor) { return tensor; }

inline Tensor zero_(const Tensor& tensor) {
  std::memset(tensor.mutable_data_ptr(), 0, size_t(tensor.numel() * tensor.element_size()));
  return tensor;
}

// Nobody leaves out classes here.
inline Tensor narrow(const Tensor& tensor, int64_t, int64_t, int64_t length) {
  std::vector<int64_t> sizes = tensor.sizes();
  STD_TORCH_CHECK(length == 0, "not modelled");
  sizes[1] = 0;
  return empty(sizes, tensor.scalar_type());
}

template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t, const F& f) {
  const int64_t count = std::min<int64_t>(end - begin, threads.load());
  std::vector<std::thread> others;
  for (int64_t i = 0; i < count; ++i) {
    others.emplace_back(
        [&, i] { f(begin + (end - begin) * i / count, begin + (end - begin) * (i + 1) / count); });
  }
  for (std::thread& other : others) other.join();
}

}  // namespace torch::stable
