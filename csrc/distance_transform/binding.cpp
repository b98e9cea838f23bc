// The CPU operator: it spreads rows, planes and groups of lines over torch's threads. How they are
// cut depends on the shape alone, and so do the results.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "distance_transform/kernels.h"
#include "distance_transform/schemas.h"
#include "parallel.h"

namespace segloss::distance_transform {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

constexpr int64_t kSerialVoxels = 8192;   // below which one thread does all
constexpr int64_t kPlaneBytes = 2 << 20;  // of output, that two passes may meet in the cache
constexpr int64_t kPlanes = 8;            // or they would not keep the threads busy
constexpr int64_t kRowTask = 16384;       // voxels of a task of the first pass
constexpr int64_t kMaxLength = 1 << 30;   // of a line: the kernels count in int32

bool is_floating(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

bool is_integer(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Bool:
    case ScalarType::Byte:
    case ScalarType::Char:
    case ScalarType::Short:
    case ScalarType::Int:
    case ScalarType::Long:
    case ScalarType::UInt16:
    case ScalarType::UInt32:
    case ScalarType::UInt64:
      return true;
    default:
      return false;
  }
}

void check(const Tensor& mask, const std::vector<double>& spacing, int64_t side) {
  STD_TORCH_CHECK(mask.dim() >= 3 && mask.dim() <= 5,
                  "distance_transform: mask must be [B, C, *S]");
  STD_TORCH_CHECK(is_floating(mask.scalar_type()) || is_integer(mask.scalar_type()),
                  "distance_transform: unsupported dtype");
  STD_TORCH_CHECK(int64_t(spacing.size()) == mask.dim() - 2,
                  "distance_transform: one spacing per axis");
  for (const double w : spacing) {
    STD_TORCH_CHECK(w >= 1e-30 && w <= 1e30, "distance_transform: spacing out of range");
  }
  for (int64_t d = 2; d < mask.dim(); ++d) {
    STD_TORCH_CHECK(mask.size(d) < kMaxLength, "distance_transform: an axis is too long");
  }
  STD_TORCH_CHECK(side >= 0 && side <= 3, "distance_transform: unknown side");
}

// The spatial axes that are longer than one voxel; a row runs along the last of them.
std::vector<int64_t> long_axes(const Tensor& mask) {
  std::vector<int64_t> axes;
  for (int64_t d = 2; d < mask.dim(); ++d) {
    if (mask.size(d) > 1) axes.push_back(d);
  }
  if (axes.empty()) axes.push_back(mask.dim() - 1);
  return axes;
}

void describe_rows(const Tensor& mask, const std::vector<int64_t>& axes, Problem* problem) {
  problem->mask = mask.const_data_ptr();
  problem->element_size = mask.element_size();
  problem->floating = is_floating(mask.scalar_type());
  problem->row_length = mask.size(axes.back());
  problem->row_stride = mask.stride(axes.back());
  std::vector<int64_t> outer{0, 1};
  outer.insert(outer.end(), axes.begin(), axes.end() - 1);
  for (const int64_t d : outer) {
    problem->outer_size[problem->outer_dims] = mask.size(d);
    problem->outer_stride[problem->outer_dims++] = mask.stride(d);
  }
}

// The squares (w k)^2 of offsets -length to length.
void fill_cost(double w, int64_t length, float* centre) {
  for (int64_t k = 0; k <= length; ++k) {
    centre[k] = centre[-k] = static_cast<float>((w * double(k)) * (w * double(k)));
  }
}

// Describes the passes along the axes other than the last, from the back.
void describe_passes(const Tensor& mask, const std::vector<int64_t>& axes,
                     const std::vector<double>& spacing, float* cost, Problem* problem) {
  int64_t inner = problem->row_length;
  for (auto axis = axes.rbegin() + 1; axis != axes.rend(); ++axis) {
    Pass& pass = problem->pass[problem->passes++];
    pass.length = mask.size(*axis);
    pass.inner = inner;
    pass.lines = mask.numel() / pass.length;
    pass.inverse_step = static_cast<float>(1 / spacing[*axis - 2]);
    pass.cost = cost + pass.length;
    pass.last = axis + 1 == axes.rend();
    fill_cost(spacing[*axis - 2], pass.length, cost + pass.length);
    cost += 2 * pass.length + 1;
    inner *= pass.length;
  }
}

class Run {
 public:
  explicit Run(const Problem& problem, int64_t voxels)
      : problem_(problem), run_(kernels()), voxels_(voxels) {}

  void all() const {
    const int64_t n = problem_.row_length;
    if (n == 0 || voxels_ == 0) return;
    int next = 0;
    const int64_t plane = problem_.passes > 0 ? n * problem_.pass[0].length : 0;
    if (problem_.passes == 2 && plane * int64_t(sizeof(float)) <= kPlaneBytes &&
        voxels_ / plane >= kPlanes && n >= kLanes) {
      planes(voxels_ / plane);
      next = 1;
    } else {
      rows();
    }
    for (; next < problem_.passes; ++next) lines(next);
  }

 private:
  void rows() const {
    const int64_t count = voxels_ / problem_.row_length;
    const int64_t step = std::max<int64_t>(1, kRowTask / problem_.row_length);
    each((count + step - 1) / step, run_.rows_scratch(problem_), [&](int64_t task, void* scratch) {
      run_.rows(problem_, task * step, std::min(count, (task + 1) * step), scratch);
    });
  }

  // The first two passes, plane by plane.
  void planes(int64_t count) const {
    const int64_t n = problem_.row_length, height = problem_.pass[0].length;
    const size_t bytes = std::max(run_.rows_scratch(problem_), run_.lines_scratch(problem_, 0));
    each(count, bytes, [&](int64_t plane, void* scratch) {
      run_.rows(problem_, plane * height, (plane + 1) * height, scratch);
      run_.lines(problem_, 0, plane * n, (plane + 1) * n, scratch);
    });
  }

  void lines(int index) const {
    const int64_t count = problem_.pass[index].lines;
    each((count + kGroupLines - 1) / kGroupLines, run_.lines_scratch(problem_, index),
         [&](int64_t task, void* scratch) {
           const int64_t begin = task * kGroupLines;
           run_.lines(problem_, index, begin, std::min(count, begin + kGroupLines), scratch);
         });
  }

  template <class F>
  void each(int64_t tasks, size_t scratch_bytes, const F& f) const {
    const int64_t threads = voxels_ <= kSerialVoxels ? 1 : tasks;
    for_each_task(tasks, threads, scratch_bytes, [&] { return f; });
  }

  const Problem& problem_;
  const Kernels& run_;
  const int64_t voxels_;
};

Tensor forward(Tensor mask, std::vector<double> spacing, int64_t side, bool squared) {
  check(mask, spacing, side);
  Tensor out = torch::stable::empty(mask.sizes(), ScalarType::Float);
  Problem problem{};
  problem.out = static_cast<float*>(out.mutable_data_ptr());
  advise_huge_pages(problem.out, out.numel() * int64_t(sizeof(float)));
  problem.side = static_cast<Side>(side);
  problem.squared = squared;
  // So that no square leaves the range of float32; a power of two rounds nothing.
  const int exponent = std::ilogb(*std::max_element(spacing.begin(), spacing.end()));
  for (double& w : spacing) w = std::ldexp(w, -exponent);
  problem.scale = std::ldexp(1.0f, exponent);

  const std::vector<int64_t> axes = long_axes(mask);
  describe_rows(mask, axes, &problem);
  const double w = spacing[axes.back() - 2];
  problem.row_cost = static_cast<float>(w * w);
  int64_t costs = 1;
  for (const int64_t axis : axes) costs += 2 * mask.size(axis) + 1;
  Tensor cost = torch::stable::empty({costs}, ScalarType::Float);
  describe_passes(mask, axes, spacing, static_cast<float*>(cost.mutable_data_ptr()), &problem);
  Run(problem, mask.numel()).all();
  return out;
}

}  // namespace
}  // namespace segloss::distance_transform

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  for (const char* schema : segloss::distance_transform::kSchemas) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_distance_transform", TORCH_BOX(&segloss::distance_transform::forward));
}
