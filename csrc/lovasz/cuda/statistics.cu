// The statistics of each voxel's softmax, for kernels that then read a part of the classes.
#include "lovasz/cuda/launch.h"
#include "lovasz/cuda/tile.cuh"

namespace segloss::lovasz::cuda {
namespace {

template <class Storage>
__global__ void __launch_bounds__(kMostColumns)
    statistics_kernel(const __grid_constant__ StatisticsLaunch launch) {
  using T = Computed<Storage>;
  const Problem& problem = launch.problem;
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;  // in the slab
  const int64_t tiles = launch.slab_end - launch.slab_begin, of_slab = index / kTile;
  const Tile tile(problem, of_slab / tiles, launch.slab_begin + of_slab % tiles);
  const int voxel = int(index % kTile);
  if (voxel >= tile.count) return;
  const Column<T> x;
  x.template load<Storage>(problem.input, tile.item, tile.begin + voxel, problem.channels);
  static_cast<Statistics<T>*>(launch.statistics)[index] = x.statistics(problem.channels);
}

}  // namespace

void launch_statistics(const StatisticsLaunch& launch, int columns, cudaStream_t stream) {
  const int64_t tiles = launch.problem.images * (launch.slab_end - launch.slab_begin);
  visit_input_dtype(launch.problem.input.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    const size_t bytes = size_t(columns) * launch.problem.channels * sizeof(Computed<Storage>);
    segloss::launch({static_cast<unsigned>(tiles * (kTile / columns)),
                     static_cast<unsigned>(columns), bytes, stream},
                    statistics_kernel<Storage>, launch);
  });
}

}  // namespace segloss::lovasz::cuda
