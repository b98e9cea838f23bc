// The CPU operators: they spread chunks of voxels over torch's threads. The chunks depend on the
// shapes alone and their sums are added in order, so that the result does not depend on the number
// of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "component_sums/describe.h"
#include "component_sums/kernels.h"
#include "component_sums/schemas.h"
#include "voxels/chunks.h"

namespace segloss::component_sums {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

// What a chunk found: bins as numbers of a group's place, and the sums of each.
struct Found {
  std::vector<int64_t> keys;
  std::vector<double> sums;
};

// Where the bins of the chunk at hand stand among those it has met. A thread has one for all its
// chunks: to clear it costs as much as a chunk has bins, however many there are.
class Places {
 public:
  explicit Places(const Problem& problem)
      : places_(problem.places()),
        stride_(problem.sums()),
        slots_(size_t(problem.groups() * problem.places()), -1) {}

  void begin(Found* found) { found_ = found; }

  void end() {
    for (const int64_t key : found_->keys) slots_[size_t(key)] = -1;
  }

  static double* place(void* context, int64_t group, const int32_t* bins, int64_t n,
                       int64_t* slots) {
    auto& self = *static_cast<Places*>(context);
    Found& found = *self.found_;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t key = group * self.places_ + bins[i];
      int64_t& slot = self.slots_[size_t(key)];
      if (slot < 0) {
        slot = int64_t(found.keys.size());
        found.keys.push_back(key);
        found.sums.resize(found.sums.size() + size_t(self.stride_), 0.0);
      }
      slots[i] = slot;
    }
    return found.sums.data();
  }

 private:
  int64_t places_;
  int64_t stride_;
  std::vector<int64_t> slots_;
  Found* found_ = nullptr;
};

// Adds a chunk's sums to the rows [rows, B, C, count + 1].
void add_found(const Problem& problem, int64_t item, const Found& found, double* rows) {
  const int64_t places = problem.places(), classes = problem.shared_bins ? problem.channels : 1;
  const int64_t size = problem.batch * problem.channels * places;
  const double* from = found.sums.data();
  for (const int64_t key : found.keys) {
    const int64_t group = key / places, bin = key % places;
    for (int64_t c = 0; c < classes; ++c) {
      double* const to = rows + (item * problem.channels + group + c) * places + bin;
      for (int64_t row = 0; row < problem.rows; ++row) to[row * size] += *from++;
    }
  }
}

// Makes all rows of an item and class NaN.
void lose(const Problem& problem, int64_t item, int64_t c, double* rows) {
  const int64_t places = problem.places(), size = problem.batch * problem.channels * places;
  for (int64_t row = 0; row < problem.rows; ++row) {
    double* const to = rows + row * size + (item * problem.channels + c) * places;
    std::fill(to, to + places, std::numeric_limits<double>::quiet_NaN());
  }
}

// The rows [rows, B, C, count + 1] and [2]: how many labels are invalid, and the first.
std::tuple<Tensor, Tensor> forward(Tensor input, Tensor target, Tensor bins,
                                   std::optional<Tensor> weight, int64_t count, int64_t activation,
                                   std::vector<int64_t> terms,
                                   std::optional<int64_t> ignore_index) {
  const Problem problem =
      describe(input, target, bins, weight, count, activation, terms, ignore_index);
  const Chunks chunks(problem);
  const Kernels& run = kernels();
  std::vector<Found> found(size_t(chunks.count()));
  std::vector<Invalid> invalid(size_t(chunks.count()));
  std::vector<uint8_t> lost(size_t(chunks.count() * problem.channels), 0);
  chunks.for_each(run.scratch_bytes(problem, nullptr), [&] {
    return [&, places = Places(problem)](int64_t i, void* scratch) mutable {
      places.begin(&found[size_t(i)]);
      run.forward(problem, chunks[i], scratch, {&places, &Places::place},
                  lost.data() + i * problem.channels, &invalid[size_t(i)]);
      places.end();
    };
  });
  Tensor sums = allocate({problem.rows, problem.batch, problem.channels, problem.places()},
                         ScalarType::Double);
  auto* const rows = static_cast<double*>(sums.mutable_data_ptr());
  std::fill(rows, rows + sums.numel(), 0.0);
  for (int64_t i = 0; i < chunks.count(); ++i) {
    add_found(problem, chunks[i].item, found[size_t(i)], rows);
  }
  for (int64_t i = 0; i < chunks.count() * problem.channels; ++i) {
    if (lost[size_t(i)] != 0) {
      lose(problem, chunks[i / problem.channels].item, i % problem.channels, rows);
    }
  }
  return {sums, all_invalid(invalid)};
}

Tensor backward(Tensor grad_rows, Tensor input, Tensor target, Tensor bins,
                std::optional<Tensor> weight, int64_t count, int64_t activation,
                std::vector<int64_t> terms, std::optional<int64_t> ignore_index) {
  const Problem problem =
      describe(input, target, bins, weight, count, activation, terms, ignore_index);
  const Tensor incoming = describe_gradient(grad_rows, problem);
  const Gradient grad(input);
  const Chunks chunks(problem);
  const Kernels& run = kernels();
  const auto* const rows = static_cast<const double*>(data_of(incoming));
  chunks.for_each(run.scratch_bytes(problem, &grad.view), [&] {
    return [&](int64_t i, void* scratch) {
      run.backward(problem, chunks[i], scratch, rows, grad.view);
    };
  });
  return grad.tensor;
}

}  // namespace
}  // namespace segloss::component_sums

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  for (const char* schema : segloss::component_sums::kSchemas) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_component_sums", TORCH_BOX(&segloss::component_sums::forward));
  m.impl("_component_sums_backward", TORCH_BOX(&segloss::component_sums::backward));
}
