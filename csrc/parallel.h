// Hands out tasks to torch's threads, each of which has scratch memory of its own.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace segloss {

// Calls make() in each of at most so many threads, and what it returns with rising numbers of tasks
// and 64-byte aligned scratch memory of so many bytes, until all tasks are done.
template <class Make>
void for_each_task(int64_t count, int64_t threads, size_t scratch_bytes, const Make& make) {
  if (count == 0) return;
  const int64_t workers =
      std::min({count, threads, static_cast<int64_t>(torch::stable::get_num_threads())});
  const int64_t bytes = (int64_t(scratch_bytes) + 127) / 64 * 64;  // room to align
  torch::stable::Tensor memory =
      torch::stable::empty({workers * bytes}, torch::headeronly::ScalarType::Byte);
  const auto base = reinterpret_cast<uintptr_t>(memory.mutable_data_ptr());
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    for (int64_t worker = first; worker < last; ++worker) {
      void* const scratch = reinterpret_cast<void*>((base + worker * bytes + 63) / 64 * 64);
      auto run = make();
      for (int64_t task = next++; task < count; task = next++) run(task, scratch);
    }
  });
}

// A fresh buffer of many megabytes costs more in page faults than the kernel that fills it; huge
// pages take few.
inline void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t(2) << 20;
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (address + bytes) / kHugePage * kHugePage;
  if (end >= begin + 2 * kHugePage) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // advice: may fail
  }
#endif
}

}  // namespace segloss
