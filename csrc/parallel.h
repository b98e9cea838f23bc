// Hands out tasks to torch's threads, each of which has scratch memory of its own.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <new>

#include "allocate.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace segloss {

constexpr int64_t kSmallScratch = int64_t(1) << 18;  // bytes

// As torch's. What one of its threads throws the caller gets: torch tells only that there was one.
template <class F>
void parallel_for(int64_t begin, int64_t end, const F& f) {
  std::exception_ptr thrown;
  std::mutex mutex;
  torch::stable::parallel_for(begin, end, 1, [&](int64_t first, int64_t last) {
    try {
      f(first, last);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!thrown) thrown = std::current_exception();
    }
  });
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const std::bad_alloc&) {
    STD_TORCH_CHECK(false, "segloss_fast: no memory for what a thread works with");
  }
}

// Calls make() in each of at most so many threads, and what it returns with rising numbers of tasks
// and 64-byte aligned scratch memory of so many bytes, until all tasks are done.
template <class Make>
void for_each_task(int64_t count, int64_t threads, size_t scratch_bytes, const Make& make) {
  if (count == 0) return;
  const int64_t workers =
      std::min({count, threads, static_cast<int64_t>(torch::stable::get_num_threads())});
  const int64_t bytes = (int64_t(scratch_bytes) + 127) / 64 * 64;  // room to align
  if (workers == 1 && bytes <= kSmallScratch) {
    // Neither torch's memory nor its threads: of a small problem they cost as much as the work.
    const std::unique_ptr<std::byte[]> memory(new std::byte[bytes]);
    void* const scratch =
        reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) / 64 * 64);
    auto run = make();
    for (int64_t task = 0; task < count; ++task) run(task, scratch);
    return;
  }
  torch::stable::Tensor memory = allocate({workers * bytes}, torch::headeronly::ScalarType::Byte);
  const auto base = reinterpret_cast<uintptr_t>(memory.mutable_data_ptr());
  std::atomic<int64_t> next{0};
  parallel_for(0, workers, [&](int64_t first, int64_t last) {
    for (int64_t worker = first; worker < last; ++worker) {
      void* const scratch = reinterpret_cast<void*>((base + worker * bytes + 63) / 64 * 64);
      auto run = make();
      for (int64_t task = next++; task < count; task = next++) run(task, scratch);
    }
  });
}

constexpr int64_t kParallelWork = 32768;  // values below which one thread does all

// Returns how many threads pay for work on so many values, in so many tasks.
inline int64_t threads_for(int64_t values, int64_t tasks) {
  return values <= kParallelWork ? 1 : tasks;
}

// The planes that sweeps go through slice by slice: one of each item and class, from the first
// class that counts.
struct Planes {
  int64_t batch;
  int64_t channels;
  int64_t first;
  int64_t slices;  // of a plane

  int64_t count() const { return batch * (channels - first); }
};

// Planes of [B, C, *S], whose slices lie along the first axis of several.
inline Planes planes_of(const torch::stable::Tensor& values, int64_t first) {
  return {values.size(0), values.size(1), first, values.dim() > 3 ? values.size(2) : 1};
}

// Calls work(item, channel, begin, end, scratch) for runs of slices, on at most so many threads.
// Planes are cut where there are fewer than threads, into runs of at least `reach` slices: around a
// cut both runs compute what they share.
template <class Work>
void for_each_slab(const Planes& planes, int64_t threads, int64_t reach, size_t scratch_bytes,
                   const Work& work) {
  const int64_t count = planes.count(), slices = planes.slices;
  const int64_t most = std::max<int64_t>(1, slices / reach);
  const int64_t cuts = std::min((threads + count - 1) / count, most);
  for_each_task(count * cuts, threads, scratch_bytes, [&] {
    return [&](int64_t task, void* scratch) {
      const int64_t plane = task / cuts, cut = task % cuts,
                    classes = planes.channels - planes.first;
      work(plane / classes, planes.first + plane % classes, slices * cut / cuts,
           slices * (cut + 1) / cuts, scratch);
    };
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
