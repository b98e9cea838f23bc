// The CPU operator: cross-entropies, the search for the threshold, and the weights, each spread
// over torch's threads. What the threads count are integers: their order does not matter.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "hardest_voxels/kernels.h"
#include "parallel.h"
#include "voxels/describe.h"

namespace segloss::hardest_voxels {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

constexpr int64_t kTask = 16384;  // voxels

Problem describe(const Tensor& input, const Tensor& target, const std::optional<Tensor>& weight,
                 const std::optional<Tensor>& class_weight, int64_t activation, int64_t first,
                 std::optional<int64_t> ignore_index) {
  STD_TORCH_CHECK(first >= 0, "hardest_voxels: wrong first class");
  Problem problem{};
  describe_comparison("hardest_voxels", input, target, weight, ignore_index, &problem);
  problem.activation = describe_activation("hardest_voxels", activation);
  problem.categorical = problem.activation == Activation::kSoftmax ||
                        (problem.activation == Activation::kProbabilities && problem.channels > 1);
  problem.first = std::min(first, problem.channels);
  if (class_weight) {
    STD_TORCH_CHECK(class_weight->scalar_type() == ScalarType::Double && class_weight->dim() == 1 &&
                        class_weight->is_contiguous() && class_weight->numel() == problem.channels,
                    "hardest_voxels: wrong class_weight");
    problem.class_weight = static_cast<const double*>(data_of(*class_weight));
  }
  return problem;
}

// The map of cross-entropies, that becomes one of weights.
class Search {
 public:
  Search(const Problem& problem, void* map) : problem_(problem), map_(static_cast<char*>(map)) {
    per_item_ = (problem.voxels + kTask - 1) / kTask;
    tasks_ = per_item_ * problem.batch;
    const int64_t values = problem.batch * problem.channels * problem.voxels;
    workers_ = std::clamp<int64_t>(threads_for(values, torch::stable::get_num_threads()), 1,
                                   std::max<int64_t>(1, tasks_));
  }

  // Gives the largest k percent of the values, at least one, a weight; writes each item's sum.
  void run(double k, double* selected) {
    std::atomic<int64_t> counted{0};
    const Kernels& run = kernels();
    std::vector<int64_t> counts =
        count(run.scratch_bytes(problem_),
              [&](int64_t item, int64_t begin, int64_t end, void* scratch, int64_t* own) {
                counted += run.cross_entropy(problem_, item, begin, end, scratch, map_, own);
              });
    // As written by nnU-Net, so that rounding is the same.
    const auto share = int64_t(std::floor(double(counted) * k / 100));
    const int64_t wanted = std::min(counted.load(), std::max<int64_t>(share, 1));
    weigh(wanted == 0 ? Threshold{~uint64_t(0), 0} : find(wanted, std::move(counts)), selected);
  }

 private:
  bool is_double() const { return problem_.is_double(); }
  int64_t value_bytes() const { return is_double() ? 8 : 4; }
  void* at(int64_t item, int64_t begin) const {
    return map_ + (item * problem_.voxels + begin) * value_bytes();
  }

  // The key of the value that is the wanted-th largest, and what those equal to it share.
  Threshold find(int64_t wanted, std::vector<int64_t> counts) {
    Digit digit{0, int(8 * value_bytes()) - kDigitBits, kDigitBits};
    for (;;) {
      int64_t d = kDigits - 1;
      for (; counts[d] < wanted; --d) wanted -= counts[d];
      digit.prefix = digit.prefix << digit.bits | uint64_t(d);
      if (digit.shift == 0) return {digit.prefix, double(wanted) / double(counts[d])};
      digit.bits = std::min(kDigitBits, digit.shift);
      digit.shift -= digit.bits;
      counts = count(0, [&](int64_t item, int64_t begin, int64_t end, void*, int64_t* own) {
        kernels().count(is_double(), at(item, begin), end - begin, digit, own);
      });
    }
  }

  void weigh(const Threshold& threshold, double* selected) {
    std::vector<Weighed> found(tasks_);
    for_each_task(tasks_, workers_, 0, [&] {
      return [&](int64_t task, void*) {
        const int64_t begin = task % per_item_ * kTask;
        const int64_t n = std::min(kTask, problem_.voxels - begin);
        found[task] = kernels().weigh(is_double(), at(task / per_item_, begin), n, threshold);
      };
    });
    // The share as the map holds it: the mean of equal values is then their value.
    const double share = is_double() ? threshold.share : double(float(threshold.share));
    std::vector<Weighed> items(problem_.batch, Weighed{0, 0});
    for (int64_t task = 0; task < tasks_; ++task) {
      items[task / per_item_].above += found[task].above;
      items[task / per_item_].ties += found[task].ties;
    }
    for (int64_t item = 0; item < problem_.batch; ++item) {
      selected[item] = double(items[item].above) + share * double(items[item].ties);
    }
  }

  // Adds up what f(item, begin, end, scratch, counts) counts of all voxels.
  template <class F>
  std::vector<int64_t> count(size_t scratch_bytes, const F& f) {
    std::vector<int64_t> counts(workers_ * kCounters, 0);
    std::atomic<int64_t> worker{0};
    for_each_task(tasks_, workers_, scratch_bytes, [&] {
      int64_t* const own = counts.data() + worker++ * kCounters;
      return [&, own](int64_t task, void* scratch) {
        const int64_t begin = task % per_item_ * kTask;
        f(task / per_item_, begin, std::min(begin + kTask, problem_.voxels), scratch, own);
      };
    });
    for (int64_t i = kCounters; i < workers_ * kCounters; ++i) counts[i % kCounters] += counts[i];
    counts.resize(kDigits);
    return counts;
  }

  const Problem& problem_;
  char* map_;
  int64_t per_item_;
  int64_t tasks_;
  int64_t workers_;
};

// The weights [B, 1, *S], and their sum per item [B].
std::tuple<Tensor, Tensor> hardest(Tensor input, Tensor target, std::optional<Tensor> weight,
                                   std::optional<Tensor> class_weight, double k, int64_t activation,
                                   int64_t first, std::optional<int64_t> ignore_index) {
  const Problem problem =
      describe(input, target, weight, class_weight, activation, first, ignore_index);
  STD_TORCH_CHECK(k > 0 && k <= 100, "hardest_voxels: wrong k");
  std::vector<int64_t> shape{problem.batch, 1};
  for (int64_t d = 2; d < input.dim(); ++d) shape.push_back(input.size(d));
  Tensor map = allocate(shape, problem.is_double() ? ScalarType::Double : ScalarType::Float);
  Tensor selected = allocate({problem.batch}, ScalarType::Double);
  void* const data = map.mutable_data_ptr();
  advise_huge_pages(data, map.numel() * map.element_size());
  Search(problem, data).run(k, static_cast<double*>(selected.mutable_data_ptr()));
  return {map, selected};
}

}  // namespace
}  // namespace segloss::hardest_voxels

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  m.def(
      "_hardest_voxels(Tensor input, Tensor target, Tensor? voxel_weight, "
      "Tensor? class_weight, float k, int activation, int first, int? ignore_index) "
      "-> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_hardest_voxels", TORCH_BOX(&segloss::hardest_voxels::hardest));
}
