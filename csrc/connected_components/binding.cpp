// The CPU operator: it spreads slabs of rows over torch's threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "connected_components/describe.h"
#include "connected_components/schemas.h"
#include "parallel.h"

namespace segloss::connected_components {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

constexpr int64_t kSlabVoxels = int64_t(1) << 18;
constexpr int64_t kMostSlabs = 32;  // of a mask: what lies between two is done by one thread

// Memory that is not filled, and lives as long as this.
template <class T>
class Memory {
 public:
  explicit Memory(int64_t count)
      : tensor_(allocate({checked_product({count, int64_t(sizeof(T))})}, ScalarType::Byte)) {}
  T* data() { return reinterpret_cast<T*>(tensor_.mutable_data_ptr()); }

 private:
  Tensor tensor_;
};

class Run {
 public:
  explicit Run(Problem& problem)
      : problem_(problem),
        run_(kernels()),
        voxels_(problem.masks * problem.rows() * problem.size[2]),
        slabs_(cut(problem)),
        bits_(problem.masks * problem.rows() * problem.words),
        starts_(problem.by_value ? problem.masks * problem.rows() * problem.words : 0),
        first_(problem.masks * problem.rows()) {
    problem_.bits = bits_.data();
    problem_.starts = starts_.data();
    problem_.first = first_.data();
    problem_.slab = slabs_.data();
  }

  // All but the labels.
  void number() {
    each_slab(run_.find_scratch(problem_), run_.find);
    const int64_t runs = place_runs();
    Memory<int32_t> parent(runs), roots(runs), place(problem_.in_raster_order ? 0 : runs);
    parent_ = std::move(parent);
    problem_.mask_first = mask_first_.data();
    problem_.parent = parent_.data();
    problem_.roots = roots.data();
    problem_.place = problem_.in_raster_order ? nullptr : place.data();
    const size_t scratch = run_.unite_scratch(problem_);
    each_slab(scratch, run_.unite);
    each(problem_.masks, scratch, [&](int64_t mask, void* memory) {
      if (problem_.slabs > 1) run_.join(problem_, mask, memory);
      number_components(problem_, mask);
    });
  }

  void write() const { each_slab(run_.write_scratch(problem_), run_.write); }

  bool found_wide() const {
    return std::any_of(slabs_.begin(), slabs_.end(), [](const Slab& slab) { return slab.wide; });
  }

 private:
  static std::vector<Slab> cut(Problem& problem) {
    const int64_t rows = problem.rows(), voxels = rows * problem.size[2];
    const int64_t slabs = std::clamp<int64_t>(voxels / kSlabVoxels, 1, std::min(kMostSlabs, rows));
    problem.words = (problem.size[2] + 63) / 64;
    problem.slab_rows = (rows + slabs - 1) / slabs;
    problem.slabs = (rows + problem.slab_rows - 1) / problem.slab_rows;
    return std::vector<Slab>(size_t(problem.masks * problem.slabs));
  }

  // Numbers the runs of each mask, and returns how many all have.
  int64_t place_runs() {
    int64_t runs = 0;
    for (int64_t mask = 0; mask < problem_.masks; ++mask) {
      mask_first_.push_back(runs);
      int64_t own = 0;
      for (int64_t s = 0; s < problem_.slabs; ++s) {
        Slab& slab = slabs_[size_t(mask * problem_.slabs + s)];
        slab.first = own;
        own += slab.runs;
      }
      runs += own;
    }
    each_slab(0, [](const Problem& problem, int64_t mask, int64_t s, void*) {
      const auto first = int32_t(problem.slab[mask * problem.slabs + s].first);
      const int64_t rows = problem.rows(), begin = s * problem.slab_rows;
      const int64_t end = std::min(begin + problem.slab_rows, rows);
      for (int64_t row = begin; row < end; ++row) problem.first[mask * rows + row] += first;
    });
    return runs;
  }

  template <class F>
  void each_slab(size_t scratch, const F& f) const {
    each(problem_.masks * problem_.slabs, scratch, [&](int64_t task, void* memory) {
      f(problem_, task / problem_.slabs, task % problem_.slabs, memory);
    });
  }

  template <class F>
  void each(int64_t tasks, size_t scratch, const F& f) const {
    for_each_task(tasks, threads_for(voxels_, tasks), scratch, [&] { return f; });
  }

  Problem& problem_;
  const Kernels& run_;
  const int64_t voxels_;
  std::vector<Slab> slabs_;
  Memory<uint64_t> bits_, starts_;
  Memory<int32_t> first_, parent_{0};
  std::vector<int64_t> mask_first_;
};

// What is empty has no memory.
void clear(void* numbers, int64_t n) {
  if (n > 0) std::memset(numbers, 0, size_t(n) * sizeof(int32_t));
}

Tensor zeros(std::vector<int64_t> shape) {
  Tensor tensor = allocate(shape, ScalarType::Int);
  clear(tensor.mutable_data_ptr(), tensor.numel());
  return tensor;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(Tensor labels, int64_t differing, bool by_value,
                                                   std::optional<int64_t> ignore_index,
                                                   std::vector<int64_t> order) {
  Problem problem = describe(labels, differing, by_value, ignore_index, order);
  const auto [components, count] = new_results(labels, problem);
  Tensor wide = zeros({1});
  if (labels.numel() == 0) {
    clear(problem.count, problem.masks);
    return {components, count, zeros({labels.size(0), 0}), wide};
  }
  advise_huge_pages(problem.labels, components.numel() * int64_t(sizeof(int32_t)));
  Run run(problem);
  run.number();
  if (by_value) problem.most = *std::max_element(problem.count, problem.count + problem.masks);
  Tensor value = zeros({labels.size(0), problem.most});
  problem.value = static_cast<int32_t*>(value.mutable_data_ptr());
  run.write();
  static_cast<int32_t*>(wide.mutable_data_ptr())[0] = run.found_wide();
  return {components, count, value, wide};
}

}  // namespace
}  // namespace segloss::connected_components

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  for (const char* schema : segloss::connected_components::kSchemas) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_connected_components", TORCH_BOX(&segloss::connected_components::forward));
}
