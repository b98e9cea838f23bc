// What follows forward: sums as numbers, NaN where bins were out of range or labels invalid.
#include <algorithm>

#include "component_sums/cuda/launch.h"
#include "component_sums/cuda/limbs.cuh"
#include "cuda.cuh"
#include "voxels/cuda/labels.cuh"

namespace segloss::component_sums::cuda {
namespace {

constexpr int kFinishThreads = 128;

// The label or value at a place that complain() notes.
SL_DEVICE double value_at(const Problem& problem, int64_t place) {
  const int64_t plane = place / problem.voxels, voxel = place % problem.voxels;
  const int64_t item = problem.dense_target ? plane / problem.channels : plane;
  const int64_t c = problem.dense_target ? plane % problem.channels : 0;
  double found = 0;
  visit_label(problem.target,
              item_offset(problem.target, item, voxel) + c * problem.target.channel_stride,
              [&](auto value) { found = double(value); });
  return found;
}

__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(const __grid_constant__ Finishing finishing) {
  const Problem& problem = finishing.problem;
  const int64_t i = int64_t(blockIdx.x) * kFinishThreads + threadIdx.x;
  const unsigned long long invalid = finishing.of.invalid[0];
  if (i == 0) {
    finishing.invalid[0] = double(invalid);
    finishing.invalid[1] = invalid == 0 ? 0 : value_at(problem, int64_t(~finishing.of.invalid[1]));
  }
  const int64_t bins = problem.batch * problem.channels * problem.places();
  if (i >= bins * problem.rows) return;
  const int64_t bin = i / problem.rows;
  const int row = int(i % problem.rows);
  const bool lost = finishing.of.lost[bin / problem.places()] != 0 || invalid != 0;
  finishing.rows[row * bins + bin] =
      lost ? Constants<double>::kNan : total(finishing.of, bin, problem.rows, row);
}

}  // namespace

void launch_finish(const Finishing& finishing, cudaStream_t stream) {
  const Problem& problem = finishing.problem;
  const int64_t sums = problem.batch * problem.channels * problem.places() * problem.rows;
  const int64_t blocks = std::max<int64_t>((sums + kFinishThreads - 1) / kFinishThreads, 1);
  segloss::launch({static_cast<unsigned>(blocks), kFinishThreads, 0, stream}, finish_kernel,
                  finishing);
}

}  // namespace segloss::component_sums::cuda
