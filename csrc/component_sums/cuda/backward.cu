// Backward: a thread has four voxels, reads the coefficients of their bins, and computes again what
// forward knew of them: that costs less than the memory to keep it.
#include "component_sums/cuda/activations.cuh"
#include "component_sums/cuda/launch.h"
#include "cuda.cuh"

namespace segloss::component_sums::cuda {
namespace {

// The derivatives of a bin's rows in what a voxel has, but for its weight.
template <class T>
struct Coefficients {
  T inside, outside, square, nll, nll_neg;

  SL_DEVICE Coefficients(const Launch& launch, int64_t bin) {
    const Problem& problem = launch.problem;
    const int64_t size = problem.batch * problem.channels * problem.places();
    const auto k = [&](Term term) {
      return problem.wants(term) ? launch.grad_rows[problem.row[term] * size + bin] : 0.0;
    };
    const double pred = k(kPred);
    inside = T(k(kTp) - k(kFn) + pred);  // added in double: they may cancel
    outside = T(k(kFp) + pred);
    square = T(2 * k(kPredSq));
    nll = T(-k(kNll));
    nll_neg = T(-k(kNllNeg));
  }

  SL_DEVICE Derivatives<T> of(bool own, T w, T p) const {
    return {w * ((own ? inside : outside) + square * p), own ? w * nll : T(0),
            own ? T(0) : w * nll_neg};
  }
};

template <class Storage>
struct Backward {
  using T = Computed<Storage>;
  const Launch& launch;
  const Tile& tile;
  const Needs& needs;
  int32_t label[kQuad], bin[kQuad];
  Voxel<T> voxel[kQuad];

  // Calls f(i, x, activated, derivatives) for class c of each of the thread's voxels.
  template <class F>
  SL_DEVICE void for_each(int c, F f) {
    const Problem& problem = launch.problem;
    if (!problem.shared_bins) load_bins(problem, tile, c, bin);
    T x[kQuad], w[kQuad];
    load_logits<Storage>(problem, tile, c, label, x);
    load_weights(problem, tile, c, label, w);
    const unsigned inside = find_inside(problem, tile, c, label, nullptr);
    const int64_t first = (tile.item * problem.channels + c) * problem.places();
    Coefficients<T> k(launch, first + larger(bin[0], 0));
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      if (i > 0 && bin[i] != bin[i - 1]) k = Coefficients<T>(launch, first + larger(bin[i], 0));
      const bool own = (inside >> i & 1) != 0;
      Needs without_logs = needs;
      without_logs.log_p = without_logs.log_q = false;
      const Activated<T> a = activate(problem.activation, without_logs, x[i], c, own, voxel[i]);
      f(i, x[i], a, k.of(own, w[i], a.p));
    }
  }
};

template <class Storage>
__global__ void __launch_bounds__(kThreads, kBlocks<Storage>)
    backward_kernel(const __grid_constant__ Launch launch) {
  using T = Computed<Storage>;
  const Problem& problem = launch.problem;
  const int64_t index = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (index >= problem.batch * launch.item_tiles) return;
  const Tile tile =
      Tile::of<Storage>(problem, index / launch.item_tiles, index % launch.item_tiles);
  const Needs needs(problem, false);
  Backward<Storage> pass{launch, tile, needs, {}, {}, {}};
  read_labels(problem, tile, nullptr, pass.label);
  if (problem.shared_bins) load_bins(problem, tile, 0, pass.bin);
  Coupling<T> shared[kQuad];
  const int classes = int(problem.channels);
  if (needs.softmax) {
    find_statistics<Storage>(problem, needs, tile, pass.label, pass.voxel);
#pragma unroll 1
    for (int c = 0; c < classes; ++c) {
      pass.for_each(c, [&](int i, T, const Activated<T>& a, const Derivatives<T>& d) {
        couple(a, d, c, pass.voxel[i], shared[i]);
      });
    }
  }
#pragma unroll 1
  for (int c = 0; c < classes; ++c) {
    T dx[kQuad];
    pass.for_each(c, [&](int i, T x, const Activated<T>& a, const Derivatives<T>& d) {
      const T own = chain(problem.activation, x, c, pass.voxel[i], a, d, shared[i]);
      dx[i] = pass.label[i] == kIgnored ? T(0) : own;  // 0 times a NaN is none
    });
    Row<Storage>(launch.grad, tile).store(c, tile, dx);
  }
}

}  // namespace

void launch_backward(const Launch& launch, cudaStream_t stream) {
  const int64_t tiles = launch.problem.batch * launch.item_tiles;
  const LaunchShape shape{static_cast<unsigned>((tiles + kWarps - 1) / kWarps), kThreads, 0,
                          stream};
  visit_input_dtype(launch.problem.input.dtype, [&](auto type) {
    segloss::launch(shape, backward_kernel<typename decltype(type)::type>, launch);
  });
}

}  // namespace segloss::component_sums::cuda
