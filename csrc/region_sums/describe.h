// Checks the operators' tensors for what would corrupt memory, and describes problems to the
// kernels.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "region_sums/kernels.h"
#include "voxels/describe.h"

namespace segloss::region_sums {

struct Options {
  const std::vector<int64_t>& terms;
  int64_t activation;
  int64_t ce_activation;
  double gamma;
  std::optional<int64_t> ignore_index;
};

template <class AnyTensor>
Problem describe(const AnyTensor& input, const AnyTensor& target,
                 const std::optional<AnyTensor>& weight, const Options& options) {
  Problem problem{};
  describe_comparison("region_sums", input, target, weight, options.ignore_index, &problem, true);
  problem.activation = describe_activation("region_sums", options.activation);
  problem.ce_activation = describe_activation("region_sums", options.ce_activation);
  std::fill(std::begin(problem.row), std::end(problem.row), -1);
  for (const int64_t term : options.terms) {
    STD_TORCH_CHECK(term >= 0 && term < kTermCount, "region_sums: unknown term");
    STD_TORCH_CHECK(problem.row[term] < 0, "region_sums: a term is asked for twice");
    problem.row[term] = problem.rows++;
  }
  STD_TORCH_CHECK(problem.rows > 0, "region_sums: no term is asked for");
  problem.gamma = options.gamma;
  return problem;
}

template <class AnyTensor>
std::vector<Problem> describe_all(const std::vector<AnyTensor>& inputs,
                                  const std::vector<AnyTensor>& targets,
                                  const std::vector<AnyTensor>& weights, const Options& options) {
  STD_TORCH_CHECK(!inputs.empty() && targets.size() == inputs.size() &&
                      (weights.empty() || weights.size() == inputs.size()),
                  "region_sums: inputs, targets and weights must be as many");
  std::vector<Problem> problems;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto weight = weights.empty() ? std::nullopt : std::optional<AnyTensor>(weights[i]);
    problems.push_back(describe(inputs[i], targets[i], weight, options));
    STD_TORCH_CHECK(problems[i].channels == problems[0].channels,
                    "region_sums: inputs must have the same number of classes");
  }
  return problems;
}

// Where each problem's first item stands in the rows of all of them; the last entry is their sum.
inline std::vector<int64_t> first_items(const std::vector<Problem>& problems) {
  std::vector<int64_t> first{0};
  for (const Problem& problem : problems) first.push_back(first.back() + problem.batch);
  return first;
}

}  // namespace segloss::region_sums
