// The CPU operator for the labels of the nearest labelled voxels.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "distance_transform/describe.h"
#include "distance_transform/schedule.h"
#include "distance_transform/weights.h"

namespace segloss::distance_transform {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

void check(const Tensor& labels, const std::vector<double>& weights, double unit) {
  STD_TORCH_CHECK(labels.dim() >= 3 && labels.dim() <= 5,
                  "nearest_component: labels must be [B, C, *S]");
  STD_TORCH_CHECK(is_integer(labels.scalar_type()), "nearest_component: unsupported dtype");
  check_weights(weights, unit, labels.dim() - 2);
  for (int64_t d = 2; d < labels.dim(); ++d) {
    STD_TORCH_CHECK(labels.size(d) < kMaxLength, "nearest_component: an axis is too long");
  }
}

// The costs of the passes: in keys, or as floats.
struct Costs {
  Tensor memory;

  Costs(const std::vector<LongAxis>& axes, Nearest* problem)
      : memory(allocate({size(axes)}, ScalarType::Float)) {
    void* const data = memory.mutable_data_ptr();
    auto* key = static_cast<uint32_t*>(data);
    auto* cost = static_cast<float*>(data);
    problem->row_cost = static_cast<float>(axes.back().weight);
    problem->row_key_cost = 0;
    if (problem->has_keys()) problem->row_key_cost = key_cost(*problem, axes.back().weight, 1);
    for (int i = 0; i < problem->passes; ++i) {
      Pass& pass = problem->pass[i];
      const double weight = axes[axes.size() - 2 - size_t(i)].weight;
      const int64_t n = pass.length;
      pass.inverse_step = static_cast<float>(1 / std::sqrt(weight));
      for (int64_t k = 0; k <= n; ++k) {
        if (problem->has_keys()) {
          key[n + k] = key[n - k] = key_cost(*problem, weight, k);
        } else {
          cost[n + k] = cost[n - k] = static_cast<float>(weight * (double(k) * double(k)));
        }
      }
      pass.key_cost = key + n;
      pass.cost = cost + n;
      key += 2 * n + 1;
      cost += 2 * n + 1;
    }
  }

 private:
  static int64_t size(const std::vector<LongAxis>& axes) {
    int64_t count = 0;
    for (const LongAxis& axis : axes) count += 2 * axis.size + 1;
    return count;
  }
  // That of an offset of the whole length, which no two rows have, may wrap around.
  static uint32_t key_cost(const Nearest& problem, double weight, int64_t offset) {
    return uint32_t(uint64_t(weight) * uint64_t(offset) * uint64_t(offset)) << problem.key_bits;
  }
};

// Runs all passes with keys. Returns false where labels do not fit into them: components are
// numbered in the order of their voxels, so that the last rows say it first.
bool run_with_keys(const std::vector<LongAxis>& axes, int64_t voxels, int bits, Nearest* problem) {
  problem->key_bits = bits;
  problem->limit = (uint32_t(1) << bits) - 1;
  problem->unreached = uint32_t(greatest_square(axes) + 1) << bits;
  const Costs costs(axes, problem);
  const Schedule<Nearest> schedule(*problem, kernels().nearest, voxels, sizeof(uint32_t));
  int next = schedule.first(true);
  if ((*problem->verdict & kAboveLimit) != 0) return false;
  for (; next < problem->passes; ++next) schedule.lines(next);
  return true;
}

void run_with_pairs(const std::vector<LongAxis>& axes, int64_t voxels, Nearest* problem) {
  problem->key_bits = 0;
  problem->limit = INT32_MAX;
  const Costs costs(axes, problem);
  std::optional<Tensor> squares;  // between passes
  if (problem->square == nullptr && problem->passes > 0) {
    squares = allocate({voxels}, ScalarType::Float);
    problem->square = static_cast<float*>(squares->mutable_data_ptr());
    advise_huge_pages(problem->square, voxels * int64_t(sizeof(float)));
  }
  Schedule<Nearest>(*problem, kernels().nearest, voxels, sizeof(uint32_t) + sizeof(float)).all();
}

std::tuple<Tensor, Tensor, Tensor> nearest(Tensor labels, std::vector<double> weights, double unit,
                                           bool distance) {
  check(labels, weights, unit);
  Tensor out = allocate(labels.sizes(), ScalarType::Int);
  Tensor distances =
      distance ? allocate(labels.sizes(), ScalarType::Float) : allocate({0}, ScalarType::Float);
  Tensor verdict = allocate({1}, ScalarType::Int);
  Nearest problem{};
  problem.verdict = static_cast<int32_t*>(verdict.mutable_data_ptr());
  *problem.verdict = 0;
  if (labels.numel() == 0) return {out, distances, verdict};

  problem.is_signed = is_signed_integer(labels.scalar_type());
  problem.unit = static_cast<float>(unit);
  problem.distance = distance;
  problem.label = static_cast<uint32_t*>(out.mutable_data_ptr());
  problem.square = distance ? static_cast<float*>(distances.mutable_data_ptr()) : nullptr;
  const int64_t voxels = labels.numel();
  advise_huge_pages(problem.label, voxels * int64_t(sizeof(uint32_t)));
  if (distance) advise_huge_pages(problem.square, voxels * int64_t(sizeof(float)));

  const std::vector<int64_t> places = long_axes(labels);
  describe_rows(labels, places, &problem);
  describe_passes(labels, places, &problem);
  std::vector<LongAxis> axes;
  for (const int64_t d : places) axes.push_back({labels.size(d), weights[size_t(d) - 2]});
  const int bits = problem.passes > 0 ? label_bits(axes) : 0;
  if (bits == 0 || !run_with_keys(axes, voxels, bits, &problem)) {
    *problem.verdict &= ~kAboveLimit;
    run_with_pairs(axes, voxels, &problem);
  }
  return {out, distances, verdict};
}

}  // namespace
}  // namespace segloss::distance_transform

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_distance_transform_nearest", TORCH_BOX(&segloss::distance_transform::nearest));
}
