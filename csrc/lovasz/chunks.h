// Chunks of voxels for torch's threads. They depend on the shape alone and their sums are added in
// order, so that no result depends on the number of threads.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "lovasz/describe.h"
#include "lovasz/kernels.h"
#include "parallel.h"

namespace segloss::lovasz {

inline const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

class Chunks {
 public:
  explicit Chunks(const Problem& problem) : problem_(problem) {
    constexpr int64_t kMin = 4096;      // voxels; less does not pay for handing out
    constexpr int64_t kPerItem = 64;    // bounds the partial sums
    constexpr int64_t kMultiple = 512;  // whole blocks (block.inc)
    const int64_t share = (problem.voxels + kPerItem - 1) / kPerItem;
    // At most as many voxels as counters hold.
    size_ = std::clamp((share + kMultiple - 1) / kMultiple * kMultiple, kMin, Counters::kMaxVoxels);
    per_item_ = (problem.voxels + size_ - 1) / size_;
  }

  int64_t count() const { return per_item_ * problem_.batch; }

  Chunk operator[](int64_t i) const {
    const int64_t begin = i % per_item_ * size_;
    return {i / per_item_, begin, std::min(begin + size_, problem_.voxels)};
  }

  // Threads that pay.
  int64_t threads() const {
    constexpr int64_t kParallelWork = 32768;  // values of the input
    return problem_.batch * problem_.channels * problem_.voxels <= kParallelWork ? 1 : count();
  }

 private:
  const Problem& problem_;
  int64_t size_;
  int64_t per_item_;
};

// What the chunks of a forward pass add up, besides errors.
class Sums {
 public:
  Sums(const Problem& problem, const Chunks& chunks)
      : problem_(problem),
        chunks_(chunks),
        values_(2 * chunks.count() * problem.channels),
        invalid_(chunks.count()) {}

  ChunkSums of(int64_t chunk) {
    double* const first = values_.data() + 2 * chunk * problem_.channels;
    return {first, first + problem_.channels};
  }
  Invalid* invalid(int64_t chunk) { return &invalid_[chunk]; }

  // The first two of the rows [n, images, C]: flagged voxels, cross-entropy.
  Tensor rows(int64_t n, int64_t images) const {
    const int64_t classes = problem_.channels, size = images * classes;
    Tensor rows = torch::stable::empty({n, images, classes}, ScalarType::Double);
    auto* const total = static_cast<double*>(rows.mutable_data_ptr());
    std::fill(total, total + n * size, 0.0);
    for (int64_t i = 0; i < chunks_.count(); ++i) {
      const int64_t image = images == 1 ? 0 : chunks_[i].item;
      const double* const from = values_.data() + 2 * i * classes;
      for (int64_t c = 0; c < classes; ++c) {
        total[image * classes + c] += from[c];
        total[size + image * classes + c] += from[classes + c];
      }
    }
    return rows;
  }

  // How many labels are invalid, and the first.
  Tensor all_invalid() const {
    Tensor invalid = torch::stable::empty({2}, ScalarType::Double);
    auto* const to = static_cast<double*>(invalid.mutable_data_ptr());
    to[0] = to[1] = 0;
    for (const Invalid& found : invalid_) {
      if (to[0] == 0) to[1] = found.first;
      to[0] += double(found.count);
    }
    return invalid;
  }

 private:
  const Problem& problem_;
  const Chunks& chunks_;
  std::vector<double> values_;
  std::vector<Invalid> invalid_;
};

inline int64_t images_of(const Problem& problem, bool per_image) {
  return per_image ? problem.batch : 1;
}

// The gradient in the cross-entropy sums, [I, C] float64, or null.
inline const double* cross_entropy_of(const std::optional<Tensor>& grad, int64_t size) {
  if (!grad) return nullptr;
  STD_TORCH_CHECK(grad->scalar_type() == ScalarType::Double && grad->numel() == size,
                  "lovasz: wrong gradient of the cross-entropy");
  return static_cast<const double*>(grad->const_data_ptr());
}

inline Tensor run_backward(const Problem& problem, const Incoming& incoming, const Tensor& input) {
  const Kernels& run = kernels();
  Tensor grad = torch::stable::empty_like(input);
  void* const data = grad.mutable_data_ptr();
  advise_huge_pages(data, grad.numel() * grad.element_size());
  const View view = view_of(grad, true, data);
  const Chunks chunks(problem);
  for_each_task(chunks.count(), chunks.threads(), run.scratch_bytes(problem, &view), [&] {
    return [&](int64_t i, void* scratch) {
      run.backward(problem, chunks[i], scratch, incoming, view);
    };
  });
  return grad;
}

}  // namespace segloss::lovasz
