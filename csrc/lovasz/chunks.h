// The chunks that a problem is worked off in, and what they add up.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "allocate.h"
#include "lovasz/describe.h"
#include "lovasz/kernels.h"
#include "voxels/chunks.h"

namespace segloss::lovasz {

inline const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

// A chunk has at most as many voxels as counters hold.
inline Chunks chunks_of(const Problem& problem) { return Chunks(problem, Counters::kMaxVoxels); }

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
    Tensor rows = allocate({n, images, classes}, ScalarType::Double);
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

  Tensor invalid() const { return all_invalid(invalid_); }

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
  return static_cast<const double*>(data_of(*grad));
}

// The gradient of the loss, [I, C], contiguous.
inline Tensor gradient_of_loss(const Tensor& grad, const Problem& problem) {
  STD_TORCH_CHECK(grad.dim() == 2 && grad.scalar_type() == ScalarType::Double &&
                      (grad.size(0) == 1 || grad.size(0) == problem.batch) &&
                      grad.size(1) == problem.channels,
                  "lovasz: wrong gradient of the loss");
  return torch::stable::contiguous(grad);
}

inline Tensor run_backward(const Problem& problem, const Incoming& incoming, const Tensor& input) {
  const Kernels& run = kernels();
  const Gradient grad(input);
  const Chunks chunks = chunks_of(problem);
  chunks.for_each(run.scratch_bytes(problem, &grad.view), [&] {
    return [&](int64_t i, void* scratch) {
      run.backward(problem, chunks[i], scratch, incoming, grad.view);
    };
  });
  return grad.tensor;
}

}  // namespace segloss::lovasz
