// The CPU operators: they cut planes into runs of slices and spread these over torch's threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

#include "allocate.h"
#include "parallel.h"
#include "soft_skeleton/kernels.h"
#include "voxels/describe.h"

namespace segloss::soft_skeleton {
namespace {

const Kernels& kernels() { return SEGLOSS_CHOOSE_KERNELS(); }

constexpr int64_t kSerialVoxels = 8192;  // below which one thread does all
// Scratch memory of all threads, per value: no more threads than fit, where they would take more
// memory than the maps that they work on.
constexpr double kScratchPerValue = 2.5;
constexpr int64_t kMaxIterations = 1 << 20;  // numbers of slices stay far from overflow

void check(const Tensor& values, int64_t iterations, int64_t first) {
  const ScalarType dtype = values.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double ||
                      dtype == ScalarType::Bool || dtype == ScalarType::Byte,
                  "soft_skeleton: unsupported dtype");
  STD_TORCH_CHECK(values.dim() >= 3 && values.dim() <= 5, "soft_skeleton: wrong rank");
  STD_TORCH_CHECK(iterations >= 0 && iterations <= kMaxIterations,
                  "soft_skeleton: wrong number of iterations");
  STD_TORCH_CHECK(first >= 0, "soft_skeleton: wrong first class");
}

Problem describe(const Tensor& values, const Tensor& out, int64_t iterations) {
  Problem problem{};
  problem.rank = int32_t(values.dim() - 2);
  describe_slices(values, problem.size);
  // After so many erosions the minimum has reached every voxel: nothing changes any more.
  problem.iterations = std::min(iterations, problem.size[0] + problem.size[1] + problem.size[2]);
  problem.values = const_view_of(values, true);
  problem.out = view_of(out, true, out.mutable_data_ptr());
  return problem;
}

void run(const Problem& problem, const Planes& planes, bool backward) {
  const Kernels& chosen = kernels();
  const int64_t voxels = planes.count() * problem.size[0] * problem.size[1] * problem.size[2];
  if (voxels == 0) return;
  const size_t scratch = chosen.scratch_bytes(problem, backward);
  const int64_t value_bytes = problem.values.dtype == Dtype::kFloat64 ? 8 : 4;
  const int64_t affordable =
      int64_t(kScratchPerValue * double(value_bytes * voxels) / double(scratch));
  const int64_t threads =
      voxels <= kSerialVoxels
          ? 1
          : std::clamp<int64_t>(affordable, 1, torch::stable::get_num_threads());
  const int64_t reach = (problem.iterations + 2) * (backward ? 2 : 1);
  const auto work = backward ? chosen.backward : chosen.forward;
  for_each_slab(planes, threads, reach, scratch,
                [&](int64_t item, int64_t channel, int64_t begin, int64_t end, void* memory) {
                  work(problem, item, channel, begin, end, memory);
                });
}

Tensor empty_result(const Tensor& values, int64_t first) {
  Tensor out = allocate_as(values);
  const int64_t bytes = out.numel() * int64_t(out.element_size());
  advise_huge_pages(out.mutable_data_ptr(), bytes);
  if (first > 0) {  // the kernels write the other classes, and are the first to touch their pages
    Tensor left_out = torch::stable::narrow(out, 1, 0, first);
    torch::stable::zero_(left_out);
  }
  return out;
}

Tensor skeleton(Tensor values, int64_t iterations, int64_t first) {
  check(values, iterations, first);
  first = std::min(first, values.size(1));
  Tensor out = empty_result(values, first);
  run(describe(values, out, iterations), planes_of(values, first), false);
  return out;
}

Tensor gradient(Tensor grad, Tensor values, int64_t iterations, int64_t first) {
  check(values, iterations, first);
  STD_TORCH_CHECK(!is_byte(dtype_of(values)), "soft_skeleton: masks have no gradient");
  STD_TORCH_CHECK(grad.scalar_type() == values.scalar_type() && grad.dim() == values.dim(),
                  "soft_skeleton: wrong grad");
  for (int64_t d = 0; d < values.dim(); ++d) {
    STD_TORCH_CHECK(grad.size(d) == values.size(d), "soft_skeleton: wrong shape of grad");
  }
  first = std::min(first, values.size(1));
  Tensor out = empty_result(values, first);
  Problem problem = describe(values, out, iterations);
  problem.grad = const_view_of(grad, true);
  run(problem, planes_of(values, first), true);
  return out;
}

}  // namespace
}  // namespace segloss::soft_skeleton

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  m.def("_soft_skeleton(Tensor values, int iterations, int first) -> Tensor");
  m.def(
      "_soft_skeleton_backward(Tensor grad, Tensor values, int iterations, int first) -> "
      "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_soft_skeleton", TORCH_BOX(&segloss::soft_skeleton::skeleton));
  m.impl("_soft_skeleton_backward", TORCH_BOX(&segloss::soft_skeleton::gradient));
}
