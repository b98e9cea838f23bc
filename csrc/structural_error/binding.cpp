// The CPU operators: they cut planes into runs of slices and spread these over torch's threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>

#include "allocate.h"
#include "parallel.h"
#include "structural_error/kernels.h"
#include "voxels/describe.h"

namespace segloss::structural_error {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

constexpr int64_t kSerialVoxels = 8192;  // below which one thread does all

void check_like(const Tensor& tensor, const Tensor& values, bool same_dtype) {
  STD_TORCH_CHECK(tensor.dim() == values.dim(), "structural_error: wrong rank");
  STD_TORCH_CHECK(!same_dtype || tensor.scalar_type() == values.scalar_type(),
                  "structural_error: wrong dtype");
  for (int64_t d = 0; d < values.dim(); ++d) {
    STD_TORCH_CHECK(tensor.size(d) == values.size(d), "structural_error: wrong shape");
  }
}

void set_windows(Problem& problem, int rank, double sigma) {
  const int64_t r = problem.radius;
  double sum = 0;
  for (int64_t d = 0; d <= 2 * r; ++d)
    sum += std::exp(-0.5 * double((d - r) * (d - r)) / (sigma * sigma));
  const bool reaches[3] = {rank > 1, rank > 2, true};
  for (int axis = 0; axis < 3; ++axis) {
    for (int64_t d = 0; d <= 2 * r; ++d) {
      const double g = std::exp(-0.5 * double((d - r) * (d - r)) / (sigma * sigma)) / sum;
      problem.window[axis][d] = reaches[axis] ? g : double(d == r);
    }
  }
}

Tensor run(const Tensor& values, const Tensor& target, const Tensor* grad, int64_t window_size,
           double sigma, double constant, int64_t first) {
  const ScalarType dtype = values.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "structural_error: unsupported dtype");
  STD_TORCH_CHECK(values.dim() >= 3 && values.dim() <= 5, "structural_error: wrong rank");
  STD_TORCH_CHECK(window_size > 0 && window_size % 2 == 1 && window_size <= 2 * kMaxRadius + 1,
                  "structural_error: wrong window_size");
  STD_TORCH_CHECK(sigma > 0 && constant > 0 && first >= 0, "structural_error: wrong option");
  check_like(target, values, false);
  if (grad) check_like(*grad, values, true);

  Problem problem{};
  describe_slices(values, problem.size);
  problem.radius = window_size / 2;
  set_windows(problem, int(values.dim() - 2), sigma);
  problem.constant = constant;
  Tensor out = allocate_as(values);
  advise_huge_pages(out.mutable_data_ptr(), out.numel() * int64_t(out.element_size()));
  first = std::min(first, values.size(1));
  if (first > 0) torch::stable::zero_(out);
  problem.values = const_view_of(values, true);
  problem.target = const_view_of(target, true);
  if (grad) problem.grad = const_view_of(*grad, true);
  problem.out = view_of(out, true, out.mutable_data_ptr());

  const Planes planes = planes_of(values, first);
  const int64_t voxels = planes.count() * problem.size[0] * problem.size[1] * problem.size[2];
  if (voxels == 0) return out;
  const Kernels& chosen = kernels();
  const int64_t threads = voxels <= kSerialVoxels ? 1 : int64_t(torch::stable::get_num_threads());
  const auto work = grad ? chosen.backward : chosen.forward;
  for_each_slab(planes, threads, 4 * problem.radius + 1, chosen.scratch_bytes(problem),
                [&](int64_t item, int64_t channel, int64_t begin, int64_t end, void* memory) {
                  work(problem, item, channel, begin, end, memory);
                });
  return out;
}

Tensor error(Tensor values, Tensor target, int64_t window_size, double sigma, double constant,
             int64_t first) {
  return run(values, target, nullptr, window_size, sigma, constant, first);
}

Tensor gradient(Tensor grad, Tensor values, Tensor target, int64_t window_size, double sigma,
                double constant, int64_t first) {
  return run(values, target, &grad, window_size, sigma, constant, first);
}

}  // namespace
}  // namespace segloss::structural_error

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  m.def(
      "_structural_error(Tensor values, Tensor target, int window_size, float sigma, "
      "float constant, int first) -> Tensor");
  m.def(
      "_structural_error_backward(Tensor grad, Tensor values, Tensor target, int window_size, "
      "float sigma, float constant, int first) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_structural_error", TORCH_BOX(&segloss::structural_error::error));
  m.impl("_structural_error_backward", TORCH_BOX(&segloss::structural_error::gradient));
}
