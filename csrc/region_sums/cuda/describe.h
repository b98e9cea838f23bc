// Describes torch's tensors to the CUDA kernels: problems become the levels of launches.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "region_sums/cuda/problem.h"
#include "region_sums/describe.h"

namespace segloss::region_sums::cuda {

// More may fit, as far as the device's shared memory goes.
constexpr int kMaxClasses = 1024;

// All that one operator call computes.
struct Call {
  std::vector<Launch> launches;
  bool is_double;
  int64_t input_bytes;
};

inline bool has_class_weight(const Problem& problem) {
  return problem.has_weight && problem.channels > 1 && problem.weight.channel_stride != 0;
}

// What all launches have in common.
inline Launch describe_launch(const Problem& problem) {
  STD_TORCH_CHECK(problem.channels <= 65536, "region_sums: from 1 to 65536 classes");
  Launch launch{};
  launch.channels = static_cast<int>(problem.channels);
  launch.channel_reciprocal = static_cast<uint32_t>((uint64_t{1} << 32) / problem.channels + 1);
  launch.rows = problem.rows;
  std::copy(std::begin(problem.row), std::end(problem.row), launch.row);
  for (int term = 0; term < kTermCount; ++term) {
    if (problem.wants(Term(term))) launch.terms |= 1u << term;
  }
  launch.activation = problem.activation;
  launch.ce_activation = problem.ce_activation;
  launch.gamma = problem.gamma;
  launch.has_ignore = problem.has_ignore;
  launch.ignore_index = problem.ignore_index;
  launch.dense_target = problem.dense_target;
  launch.has_weight = problem.has_weight;
  launch.class_weight = has_class_weight(problem);
  return launch;
}

inline void check_devices(const std::vector<Tensor>& tensors, const Tensor& input) {
  for (const Tensor& tensor : tensors) {
    STD_TORCH_CHECK(tensor.get_device_index() == input.get_device_index(),
                    "region_sums: a tensor lies on another device");
  }
}

inline Call describe_call(const std::vector<Tensor>& inputs, const std::vector<Tensor>& targets,
                          const std::vector<Tensor>& weights, const Options& options) {
  const std::vector<Problem> problems = describe_all(inputs, targets, weights, options);
  const Problem& first = problems[0];
  for (const std::vector<Tensor>* tensors : {&inputs, &targets, &weights}) {
    check_devices(*tensors, inputs[0]);
  }
  Call call{{}, first.input.dtype == Dtype::kFloat64, 0};
  const std::vector<int64_t> first_item = first_items(problems);
  for (size_t i = 0; i < problems.size(); ++i) {
    const Problem& problem = problems[i];
    STD_TORCH_CHECK(problem.input.dtype == first.input.dtype &&
                        problem.dense_target == first.dense_target &&
                        has_class_weight(problem) == has_class_weight(first),
                    "region_sums: the levels must agree in dtype, kind of target and of weight");
    if (i % kMaxLevels == 0) call.launches.push_back(describe_launch(first));
    Launch& launch = call.launches.back();
    launch.items = first_item.back();
    Level& level = launch.level[launch.levels++];
    level.input = problem.input;
    level.target = problem.target;
    level.weight = problem.weight;
    level.voxels = problem.voxels;
    level.items = problem.batch;
    level.first_item = first_item[i];
    call.input_bytes += inputs[i].numel() * inputs[i].element_size();
  }
  return call;
}

}  // namespace segloss::region_sums::cuda
