// Chunks of voxels for torch's threads. They depend on the shape alone and their sums are added in
// order, so that no result depends on the number of threads.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "allocate.h"
#include "parallel.h"
#include "voxels/describe.h"
#include "voxels/problem.h"

namespace segloss {

constexpr int64_t kMinChunk = 4096;      // voxels; less does not pay for handing out
constexpr int64_t kChunksPerItem = 64;   // bounds the partial sums
constexpr int64_t kChunkMultiple = 512;  // whole blocks of the kernels

// How the items of one problem are cut.
class Chunks {
 public:
  // A chunk has at most so many voxels.
  explicit Chunks(const Comparison& problem, int64_t most = std::numeric_limits<int64_t>::max())
      : voxels_(problem.voxels) {
    const int64_t share = (voxels_ + kChunksPerItem - 1) / kChunksPerItem;
    const int64_t whole = (share + kChunkMultiple - 1) / kChunkMultiple * kChunkMultiple;
    size_ = std::clamp(whole, kMinChunk, most);
    per_item_ = (voxels_ + size_ - 1) / size_;
    count_ = per_item_ * problem.batch;
    values_ = problem.batch * problem.channels * voxels_;
  }

  int64_t count() const { return count_; }
  int64_t values() const { return values_; }  // of the input

  Chunk operator[](int64_t i) const {
    const int64_t begin = i % per_item_ * size_;
    return {i / per_item_, begin, std::min(begin + size_, voxels_)};
  }

  // Calls make() in each thread, and what it returns with rising numbers of chunks and scratch
  // memory of so many bytes: see for_each_task.
  template <class Make>
  void for_each(size_t scratch_bytes, const Make& make) const {
    for_each_task(count_, threads_for(values_, count_), scratch_bytes, make);
  }

 private:
  int64_t voxels_;
  int64_t size_;
  int64_t per_item_;
  int64_t count_;
  int64_t values_;
};

// Returns what chunks found, added up: how many labels are invalid, and the first.
inline Invalid add_invalid(const std::vector<Invalid>& chunks) {
  Invalid all{0, 0};
  for (const Invalid& found : chunks) {
    if (all.count == 0) all.first = found.first;
    all.count += found.count;
  }
  return all;
}

// The same as a tensor, [2].
inline Tensor all_invalid(const std::vector<Invalid>& chunks) {
  Tensor invalid = allocate({2}, ScalarType::Double);
  auto* const to = static_cast<double*>(invalid.mutable_data_ptr());
  const Invalid all = add_invalid(chunks);
  to[0] = double(all.count);
  to[1] = all.first;
  return invalid;
}

// Memory for the gradient of an input, and how kernels see it.
struct Gradient {
  explicit Gradient(const Tensor& input) : tensor(allocate_as(input)) {
    void* const data = tensor.mutable_data_ptr();
    advise_huge_pages(data, tensor.numel() * tensor.element_size());
    view = view_of(tensor, true, data);
  }

  Tensor tensor;
  View view;
};

}  // namespace segloss
