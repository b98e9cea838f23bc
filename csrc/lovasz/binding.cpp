// The CPU operators of the histogram: count, scan, backward.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <tuple>

#include "allocate.h"
#include "lovasz/chunks.h"
#include "lovasz/describe.h"
#include "lovasz/kernels.h"
#include "lovasz/scan.h"
#include "lovasz/schemas.h"

namespace segloss::lovasz {
namespace {

// Counts [2, I, C, 2, K], which threads add to.
struct Counts {
  int64_t* number;
  int64_t* offsets;
  int64_t images;
  int64_t channels;
  int64_t row;  // 2 K
};

// One thread's counters, emptied into the counts when the image changes, before one may run over,
// and at the end. Whole numbers: the order does not matter.
class PrivateCounters {
 public:
  PrivateCounters(const Problem& problem, const Counts& counts)
      : counts_(counts), counters_{nullptr, stride(problem)} {}
  PrivateCounters(const PrivateCounters&) = delete;
  PrivateCounters& operator=(const PrivateCounters&) = delete;
  ~PrivateCounters() {
    if (counters_.data != nullptr) flush();
  }

  // A slot for voxels that do not count, and no power of two apart, where the classes' counters
  // would drive each other out of the cache.
  static int64_t stride(const Problem& problem) { return 2 * problem.bins.count + 24; }
  static size_t bytes(const Problem& problem) {
    return size_t(problem.channels * stride(problem)) * sizeof(uint64_t);
  }

  const Counters& prepare(const Chunk& chunk, void* memory) {
    const int64_t image = counts_.images == 1 ? 0 : chunk.item;
    const int64_t voxels = chunk.end - chunk.begin;
    if (counters_.data == nullptr) {
      counters_.data = static_cast<uint64_t*>(memory);
      std::fill_n(counters_.data, counts_.channels * counters_.stride, uint64_t(0));
    } else if (image != image_ || voxels_ + voxels > Counters::kMaxVoxels) {
      flush();
    }
    image_ = image;
    voxels_ += voxels;
    return counters_;
  }

 private:
  const Counts& counts_;
  Counters counters_;
  int64_t image_ = 0;
  int64_t voxels_ = 0;

  void flush() {
    constexpr uint64_t kOffsets = (uint64_t(1) << Counters::kShift) - 1;
    for (int64_t c = 0; c < counts_.channels; ++c) {
      uint64_t* const from = counters_.data + c * counters_.stride;
      const int64_t to = (image_ * counts_.channels + c) * counts_.row;
      for (int64_t i = 0; i < counts_.row; ++i) {
        const uint64_t counter = from[i];
        if (counter == 0) continue;
        from[i] = 0;
        add(counts_.number[to + i], int64_t(counter >> Counters::kShift));
        add(counts_.offsets[to + i], int64_t(counter & kOffsets));
      }
    }
    voxels_ = 0;
  }

  static void add(int64_t& to, int64_t value) {
    std::atomic_ref<int64_t>(to).fetch_add(value, std::memory_order_relaxed);
  }
};

std::tuple<Tensor, Tensor, Tensor> count(Tensor input, Tensor target, int64_t activation,
                                         int64_t octaves, int64_t bits, bool per_image,
                                         std::optional<int64_t> ignore_index, bool cross_entropy) {
  const Problem problem = describe(input, target, {activation, ignore_index, cross_entropy},
                                   describe_bins(octaves, bits));
  const int64_t images = images_of(problem, per_image), row = 2 * problem.bins.count;
  Tensor counts = allocate({2, images, problem.channels, 2, problem.bins.count}, ScalarType::Long);
  auto* const number = static_cast<int64_t*>(counts.mutable_data_ptr());
  std::fill_n(number, counts.numel(), int64_t(0));
  const Counts to{number, number + counts.numel() / 2, images, problem.channels, row};
  const Kernels& run = kernels();
  const Chunks chunks = chunks_of(problem);
  Sums sums(problem, chunks);
  const size_t counter_bytes = PrivateCounters::bytes(problem);
  const size_t bytes = counter_bytes + run.scratch_bytes(problem, nullptr);
  chunks.for_each(bytes, [&] {
    return [&, own = PrivateCounters(problem, to)](int64_t i, void* memory) mutable {
      const Chunk chunk = chunks[i];
      const Counters& counters = own.prepare(chunk, memory);
      run.count(problem, chunk, static_cast<char*>(memory) + counter_bytes, counters, sums.of(i),
                sums.invalid(i));
    };
  });
  return {counts, sums.rows(2, images), sums.invalid()};
}

// Counts may come from others: a negative one, or more voxels than float64 counts, is none.
void check_counts(const int64_t* counts, int64_t size) {
  constexpr uint64_t kMost = uint64_t(1) << 53;
  uint64_t voxels = 0;
  for (int64_t k = 0; k < size; ++k) {
    const auto n = uint64_t(counts[k]);
    STD_TORCH_CHECK(n <= kMost - voxels,
                    "lovasz: counts must be at least 0, and of a class at most 2^53 in all, got ",
                    counts[k]);
    voxels += n;
  }
}

std::tuple<Tensor, Tensor> scan_counts(Tensor counts, Tensor rows, int64_t activation,
                                       int64_t octaves, int64_t bits, bool double_table) {
  const Bins bins = describe_bins(octaves, bits);
  const Activation kind = describe_activation(activation);
  STD_TORCH_CHECK(counts.dim() == 5 && counts.scalar_type() == ScalarType::Long &&
                      counts.size(0) == 2 && counts.size(3) == 2 && counts.size(4) == bins.count,
                  "lovasz: wrong counts");
  const int64_t images = counts.size(1), classes = counts.size(2), groups = images * classes;
  STD_TORCH_CHECK(rows.scalar_type() == ScalarType::Double && rows.numel() >= groups,
                  "lovasz: wrong rows");
  counts = torch::stable::contiguous(counts);
  rows = torch::stable::contiguous(rows);
  Tensor loss = allocate({images, classes}, ScalarType::Double);
  Tensor table = allocate({images, classes, 2, bins.count},
                          double_table ? ScalarType::Double : ScalarType::Float);
  const auto* const number = static_cast<const int64_t*>(data_of(counts));
  const auto* const flagged = static_cast<const double*>(data_of(rows));
  auto* const to = static_cast<double*>(loss.mutable_data_ptr());
  auto* const g = static_cast<char*>(table.mutable_data_ptr());
  const int64_t row = 2 * bins.count;
  for (int64_t i = 0; i < groups; ++i) check_counts(number + i * row, row);
  for_each_task(groups, groups, 0, [&] {
    return [&](int64_t i, void*) {
      to[i] = scan({number + i * row, number + (groups + i) * row, kind, bins, flagged[i] != 0,
                    g + i * row * table.element_size(), double_table});
    };
  });
  return {loss, table};
}

// Returns the rows of a table times a number each.
template <class T>
Tensor scaled(const Tensor& table, const double* by, int64_t rows, int64_t size) {
  Tensor result = allocate_as(table);
  const auto* const from = static_cast<const T*>(data_of(table));
  auto* const to = static_cast<T*>(result.mutable_data_ptr());
  for_each_task(rows, rows, 0, [&] {
    return [&](int64_t i, void*) {
      const T factor = T(by[i]);
      for (int64_t k = i * size; k < (i + 1) * size; ++k) to[k] = factor * from[k];
    };
  });
  return result;
}

Tensor backward(Tensor table, Tensor grad_loss, std::optional<Tensor> grad_ce, Tensor input,
                Tensor target, int64_t activation, int64_t octaves, int64_t bits,
                std::optional<int64_t> ignore_index) {
  const Problem problem =
      describe(input, target, {activation, ignore_index, false}, describe_bins(octaves, bits));
  table = torch::stable::contiguous(table);
  grad_loss = gradient_of_loss(grad_loss, problem);
  const int64_t images = grad_loss.size(0);
  STD_TORCH_CHECK(
      table.dim() == 4 && table.size(0) == images && table.size(1) == problem.channels &&
          table.size(2) == 2 && table.size(3) == problem.bins.count &&
          table.scalar_type() == (is_double(input) ? ScalarType::Double : ScalarType::Float),
      "lovasz: wrong table");
  if (grad_ce) grad_ce = torch::stable::contiguous(*grad_ce);
  // Few, beside the voxels that look them up.
  const auto scale = is_double(input) ? scaled<double> : scaled<float>;
  const Tensor coefficients = scale(table, static_cast<const double*>(data_of(grad_loss)),
                                    images * problem.channels, 2 * problem.bins.count);
  const Incoming incoming{data_of(coefficients), nullptr, nullptr,
                          cross_entropy_of(grad_ce, images * problem.channels), images};
  return run_backward(problem, incoming, input);
}

}  // namespace
}  // namespace segloss::lovasz

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  for (const char* schema : segloss::lovasz::kHistogramSchemas) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_lovasz_count", TORCH_BOX(&segloss::lovasz::count));
  m.impl("_lovasz_scan", TORCH_BOX(&segloss::lovasz::scan_counts));
  m.impl("_lovasz_backward", TORCH_BOX(&segloss::lovasz::backward));
}
