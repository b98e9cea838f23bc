// The CPU operator for distances.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "allocate.h"
#include "distance_transform/check_sum.h"
#include "distance_transform/describe.h"
#include "distance_transform/schedule.h"
#include "distance_transform/schemas.h"

namespace segloss::distance_transform {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

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

void add_to(const float* from, int64_t count, float* sum) {
  constexpr int64_t kTask = 65536;
  const int64_t tasks = (count + kTask - 1) / kTask;
  for_each_task(tasks, threads_for(count, tasks), 0, [&] {
    return [&](int64_t task, void*) {
      const int64_t end = std::min(count, (task + 1) * kTask);
      for (int64_t i = task * kTask; i < end; ++i) sum[i] += from[i];
    };
  });
}

// The squares (w k)^2 of offsets -length to length.
void fill_cost(double w, int64_t length, float* centre) {
  for (int64_t k = 0; k <= length; ++k) {
    centre[k] = centre[-k] = static_cast<float>((w * double(k)) * (w * double(k)));
  }
}

// The costs along each axis, of which the problem holds pointers.
class Costs {
 public:
  Costs(const std::vector<int64_t>& axes, const std::vector<double>& spacing, Problem* problem)
      : axes_(axes), spacing_(spacing) {
    int64_t count = 1;
    const int64_t row = problem->row_length;
    for (int i = 0; i < problem->passes; ++i) count += 2 * problem->pass[i].length + 1;
    table_ = allocate({count + 2 * row + 1}, ScalarType::Float);
    next_ = static_cast<float*>(table_.mutable_data_ptr());
    for (int i = 0; i < problem->passes; ++i) describe(i + 1, &problem->pass[i]);
    problem->along_row.length = row;
    describe(0, &problem->along_row);
  }

  double step(int from_last) const {
    return spacing_[axes_[axes_.size() - 1 - size_t(from_last)] - 2];
  }

 private:
  void describe(int from_last, Pass* pass) {
    const double w = step(from_last);
    pass->inverse_step = static_cast<float>(1 / w);
    pass->cost = next_ + pass->length;
    fill_cost(w, pass->length, next_ + pass->length);
    next_ += 2 * pass->length + 1;
  }

  const std::vector<int64_t>& axes_;
  const std::vector<double>& spacing_;
  Tensor table_;
  float* next_;
};

constexpr int64_t kLongestSweep = 65535;  // whose runs 16 bits count

// Whether the passes go plane by plane. It depends on the shape alone, since squares of distances
// are then added in another order.
bool goes_by_planes(const Problem& problem) {
  if (problem.passes == 0 || problem.pass[problem.passes - 1].length > kLongestSweep) return false;
  const int64_t n = problem.row_length;
  return n >= kLanes && problem.unit_rows() * n * int64_t(sizeof(float)) <= kPlaneBytes;
}

void by_planes(const Tensor& mask, double step, Problem* problem) {
  Sweep& sweep = problem->sweep;
  const Pass& first = problem->pass[problem->passes - 1];
  sweep.wide = first.length > 255;
  sweep.length = first.length;
  sweep.lanes = first.inner;
  sweep.volumes = mask.numel() / (first.length * first.inner);
  sweep.rows = mask.numel() / problem->row_length;
  sweep.cost = static_cast<float>(step * step);
  // Bytes are read in place; of other elements there is a copy, which says of each whether it is 0.
  std::optional<Tensor> copy;
  if (mask.element_size() == 1 && mask.is_contiguous()) {
    sweep.inside = static_cast<const uint8_t*>(problem->data);
  } else {
    copy = allocate(mask.sizes(), ScalarType::Byte);
    sweep.copy = static_cast<uint8_t*>(copy->mutable_data_ptr());
    sweep.inside = sweep.copy;
  }
  const int64_t bytes = mask.numel() * (sweep.wide ? 2 : 1);
  Tensor runs = allocate({bytes}, ScalarType::Byte);
  sweep.runs = runs.mutable_data_ptr();
  advise_huge_pages(sweep.runs, bytes);
  run_planes(*problem, kernels().planes);
}

// What is asked of a transform besides its mask.
struct Request {
  std::vector<double> spacing;
  Side side;
  bool squared;
  bool bounded;
};

// Writes the result, or adds it to what is there, which only the way plane by plane can: others
// return false.
bool transform(const Tensor& mask, Request request, bool add, Tensor& out) {
  Problem problem{};
  problem.out = static_cast<float*>(out.mutable_data_ptr());
  problem.floating = is_floating(mask.scalar_type());
  problem.side = request.side;
  problem.squared = request.squared;
  problem.bounded = request.bounded;
  problem.add = add;
  // So that no square leaves the range of float32; a power of two rounds nothing.
  std::vector<double>& spacing = request.spacing;
  const int exponent = std::ilogb(*std::max_element(spacing.begin(), spacing.end()));
  for (double& w : spacing) w = std::ldexp(w, -exponent);
  problem.scale = std::ldexp(1.0f, exponent);

  if (mask.numel() == 0) return true;
  const std::vector<int64_t> axes = long_axes(mask);
  describe_rows(mask, axes, &problem);
  describe_passes(mask, axes, &problem);
  const bool planes = goes_by_planes(problem);
  if (add && !planes) return false;
  const Costs costs(axes, spacing, &problem);
  if (planes) {
    by_planes(mask, costs.step(problem.passes), &problem);
  } else {
    const double row = costs.step(0);
    problem.row_cost = static_cast<float>(row * row);
    Schedule<Problem>(problem, kernels().distance, mask.numel(), sizeof(float)).all();
  }
  return true;
}

Tensor forward(Tensor mask, std::vector<double> spacing, int64_t side, bool squared, bool bounded) {
  check(mask, spacing, side);
  Tensor out = allocate(mask.sizes(), ScalarType::Float);
  advise_huge_pages(out.mutable_data_ptr(), out.numel() * int64_t(sizeof(float)));
  transform(mask, {spacing, static_cast<Side>(side), squared, bounded}, false, out);
  return out;
}

void add(Tensor sum, Tensor mask, std::vector<double> spacing, int64_t side, bool squared) {
  check(mask, spacing, side);
  check_sum(sum, mask);
  if (transform(mask, {spacing, static_cast<Side>(side), squared, true}, true, sum)) return;
  const Tensor distances = forward(mask, spacing, side, squared, true);
  add_to(static_cast<const float*>(distances.const_data_ptr()), sum.numel(),
         static_cast<float*>(sum.mutable_data_ptr()));
}

}  // namespace
}  // namespace segloss::distance_transform

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  for (const char* schema : segloss::distance_transform::kSchemas) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_distance_transform", TORCH_BOX(&segloss::distance_transform::forward));
  m.impl("_distance_transform_add", TORCH_BOX(&segloss::distance_transform::add));
}
