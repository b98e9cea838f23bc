#include "region_sums/calls.h"

#include <algorithm>
#include <memory>

#include "region_sums/describe.h"
#include "voxels/chunks.h"

namespace segloss::region_sums {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

// The chunks of several problems, one problem's after the other's.
class AllChunks {
 public:
  explicit AllChunks(const std::vector<Problem>& problems) {
    for (const Problem& problem : problems) {
      const Chunks& chunks = of_.emplace_back(problem);
      first_.push_back(count() + chunks.count());
      values_ += chunks.values();
    }
  }

  int64_t count() const { return first_.back(); }

  // Calls f(problem's index, chunk's index, chunk) for all chunks, in order.
  template <class F>
  void in_order(const F& f) const {
    for (size_t level = 0; level < of_.size(); ++level) {
      for (int64_t i = first_[level]; i < first_[level + 1]; ++i) f(level, i, chunk(level, i));
    }
  }

  // Calls f(problem's index, chunk's index, chunk, scratch of that many bytes) for each, on torch's
  // threads, in any order.
  template <class F>
  void for_each(size_t scratch_bytes, const F& f) const {
    for_each_task(count(), threads_for(values_, count()), scratch_bytes, [&] {
      return [&, level = size_t{0}](int64_t i, void* scratch) mutable {
        while (i >= first_[level + 1]) ++level;  // i rises: the level never goes back
        f(level, i, chunk(level, i), scratch);
      };
    });
  }

 private:
  Chunk chunk(size_t level, int64_t i) const { return of_[level][i - first_[level]]; }

  std::vector<Chunks> of_;
  std::vector<int64_t> first_{0};  // chunk of each problem; the last entry is their number
  int64_t values_ = 0;
};

}  // namespace

Invalid sum(const std::vector<Problem>& problems, double* rows) {
  const AllChunks chunks(problems);
  const int64_t channels = problems[0].channels, row_count = problems[0].rows;
  const int64_t size = row_count * channels;
  const Kernels& run = kernels();
  size_t scratch_bytes = 0;
  for (const Problem& p : problems) {
    scratch_bytes = std::max(scratch_bytes, run.scratch_bytes(p, nullptr));
  }
  const std::unique_ptr<double[]> partial(new double[chunks.count() * size]);
  std::vector<Invalid> found(chunks.count());
  chunks.for_each(scratch_bytes, [&](size_t level, int64_t i, const Chunk& chunk, void* scratch) {
    run.forward(problems[level], chunk, scratch, partial.get() + i * size, &found[i]);
  });

  const std::vector<int64_t> first = first_items(problems);
  const int64_t items = first.back();
  std::fill(rows, rows + items * size, 0.0);
  chunks.in_order([&](size_t level, int64_t i, const Chunk& chunk) {
    const int64_t item = first[level] + chunk.item;
    for (int64_t row = 0; row < row_count; ++row) {
      double* const to = rows + (row * items + item) * channels;
      const double* const from = partial.get() + i * size + row * channels;
      for (int64_t c = 0; c < channels; ++c) to[c] += from[c];
    }
  });
  return add_invalid(found);
}

void differentiate(const std::vector<Problem>& problems, const double* grad_rows,
                   const std::vector<View>& grads) {
  const std::vector<int64_t> first = first_items(problems);
  const Kernels& run = kernels();
  size_t scratch_bytes = 0;
  for (size_t level = 0; level < problems.size(); ++level) {
    scratch_bytes = std::max(scratch_bytes, run.scratch_bytes(problems[level], &grads[level]));
  }
  const AllChunks chunks(problems);
  chunks.for_each(scratch_bytes, [&](size_t level, int64_t, const Chunk& chunk, void* scratch) {
    const GradSums grad{grad_rows + first[level] * problems[level].channels, first.back()};
    run.backward(problems[level], chunk, scratch, grad, grads[level]);
  });
}

}  // namespace segloss::region_sums
