// The CPU operator for distances.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <cmath>
#include <vector>

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

// The squares (w k)^2 of offsets -length to length.
void fill_cost(double w, int64_t length, float* centre) {
  for (int64_t k = 0; k <= length; ++k) {
    centre[k] = centre[-k] = static_cast<float>((w * double(k)) * (w * double(k)));
  }
}

// Fills in the costs of the passes, from the back.
void describe_costs(const std::vector<int64_t>& axes, const std::vector<double>& spacing,
                    float* cost, Problem* problem) {
  const double row = spacing[axes.back() - 2];
  problem->row_cost = static_cast<float>(row * row);
  for (int i = 0; i < problem->passes; ++i) {
    Pass& pass = problem->pass[i];
    const double w = spacing[axes[axes.size() - 2 - size_t(i)] - 2];
    pass.inverse_step = static_cast<float>(1 / w);
    pass.cost = cost + pass.length;
    fill_cost(w, pass.length, cost + pass.length);
    cost += 2 * pass.length + 1;
  }
}

Tensor forward(Tensor mask, std::vector<double> spacing, int64_t side, bool squared) {
  check(mask, spacing, side);
  Tensor out = torch::stable::empty(mask.sizes(), ScalarType::Float);
  Problem problem{};
  problem.out = static_cast<float*>(out.mutable_data_ptr());
  advise_huge_pages(problem.out, out.numel() * int64_t(sizeof(float)));
  problem.floating = is_floating(mask.scalar_type());
  problem.side = static_cast<Side>(side);
  problem.squared = squared;
  // So that no square leaves the range of float32; a power of two rounds nothing.
  const int exponent = std::ilogb(*std::max_element(spacing.begin(), spacing.end()));
  for (double& w : spacing) w = std::ldexp(w, -exponent);
  problem.scale = std::ldexp(1.0f, exponent);

  if (mask.numel() == 0) return out;
  const std::vector<int64_t> axes = long_axes(mask);
  describe_rows(mask, axes, &problem);
  describe_passes(mask, axes, &problem);
  int64_t costs = 1;
  for (const int64_t axis : axes) costs += 2 * mask.size(axis) + 1;
  Tensor cost = torch::stable::empty({costs}, ScalarType::Float);
  describe_costs(axes, spacing, static_cast<float*>(cost.mutable_data_ptr()), &problem);
  Schedule<Problem>(problem, kernels().distance, mask.numel(), sizeof(float)).all();
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
