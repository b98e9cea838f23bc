// The CPU operators.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "region_sums/calls.h"
#include "region_sums/describe.h"
#include "region_sums/schemas.h"
#include "voxels/chunks.h"

namespace segloss::region_sums {
namespace {

// The rows [rows, items of all problems, C] and [2]: how many labels are invalid, and the first.
std::tuple<Tensor, Tensor> forward(std::vector<Tensor> inputs, std::vector<Tensor> targets,
                                   std::vector<Tensor> weights, std::vector<int64_t> terms,
                                   int64_t activation, int64_t ce_activation, double gamma,
                                   std::optional<int64_t> ignore_index) {
  const std::vector<Problem> problems = describe_all(
      inputs, targets, weights, {terms, activation, ce_activation, gamma, ignore_index});
  Tensor rows = allocate({problems[0].rows, first_items(problems).back(), problems[0].channels},
                         ScalarType::Double);
  const Invalid found = sum(problems, static_cast<double*>(rows.mutable_data_ptr()));
  return {rows, all_invalid({found})};
}

std::vector<Tensor> backward(Tensor grad_rows, std::vector<Tensor> inputs,
                             std::vector<Tensor> targets, std::vector<Tensor> weights,
                             std::vector<int64_t> terms, int64_t activation, int64_t ce_activation,
                             double gamma, std::optional<int64_t> ignore_index) {
  const std::vector<Problem> problems = describe_all(
      inputs, targets, weights, {terms, activation, ce_activation, gamma, ignore_index});
  const Tensor grad_sums = torch::stable::contiguous(grad_rows);
  STD_TORCH_CHECK(grad_sums.scalar_type() == ScalarType::Double &&
                      grad_sums.numel() ==
                          problems[0].rows * first_items(problems).back() * problems[0].channels,
                  "region_sums: wrong gradient of the sums");
  std::vector<Tensor> tensors;
  std::vector<View> views;
  for (const Tensor& input : inputs) {
    const Gradient grad(input);
    tensors.push_back(grad.tensor);
    views.push_back(grad.view);
  }
  differentiate(problems, static_cast<const double*>(data_of(grad_sums)), views);
  return tensors;
}

}  // namespace
}  // namespace segloss::region_sums

STABLE_TORCH_LIBRARY_FRAGMENT(segloss_fast, m) {
  for (const char* schema : segloss::region_sums::kSchemas) m.def(schema);
}

STABLE_TORCH_LIBRARY_IMPL(segloss_fast, CPU, m) {
  m.impl("_region_sums", TORCH_BOX(&segloss::region_sums::forward));
  m.impl("_region_sums_backward", TORCH_BOX(&segloss::region_sums::backward));
}
