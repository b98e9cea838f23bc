// The two ways to find, for each voxel of a tile, the row with the least sum of the row's square
// and the squared distance to it. In both a warp is at one row, or a few neighbouring ones, and its
// lanes are the columns.
#pragma once

#include "distance_transform/cuda/column.cuh"

namespace segloss::distance_transform {

constexpr int kRows = 4;      // that brute force does together: a square it reads serves them all
constexpr int kAnchors = 32;  // every so many rows divide and conquer begins without knowledge

__device__ inline float squared(int rows, float weight) {
  return float(rows) * float(rows) * weight;
}

// Brute force, from the rows outwards, until all that is left is too far away.
template <bool kTwoSided, class Tile>
__device__ void search_around(const Tile& column, int begin, int first, int last) {
  const int size = column.pass.size;
  const float weight = column.pass.weight;
  float own[kRows], best[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    own[i] = begin + i < size ? column[begin + i] : 0.0f;
    best[i] = fabsf(own[i]);
  }
#pragma unroll
  for (int from = 0; from < kRows; ++from) {
    if (begin + from >= size) break;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float square = offered<kTwoSided>(own[from], own[i] > 0);
      best[i] = fminf(best[i], square + squared(from - i, weight));
    }
  }
  int apart = max(1, max(first - (begin + kRows - 1), begin - last));
  float cost[kRows];  // of `apart` rows, and up to three more
#pragma unroll
  for (int i = 0; i < kRows; ++i) cost[i] = squared(apart + i, weight);
  while (cost[0] < fmaxf(fmaxf(best[0], best[1]), fmaxf(best[2], best[3]))) {
    const int before = begin - apart, behind = begin + kRows - 1 + apart;
    if (before < first && behind > last) break;
    if (before >= first) {
      const float square = column[before];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        best[i] = fminf(best[i], offered<kTwoSided>(square, own[i] > 0) + cost[i]);
      }
    }
    if (behind <= last) {
      const float square = column[behind];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        best[i] = fminf(best[i], offered<kTwoSided>(square, own[i] > 0) + cost[kRows - 1 - i]);
      }
    }
    ++apart;
#pragma unroll
    for (int i = 0; i + 1 < kRows; ++i) cost[i] = cost[i + 1];
    cost[kRows - 1] = squared(apart + kRows - 1, weight);
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (begin + i < size) column.store(begin + i, own[i] < 0 ? -best[i] : best[i]);
  }
}

struct Nearest {
  float square;
  int row;
};

// Looks at one row's candidates, nearest first.
template <bool kTwoSided, class Tile>
__device__ Nearest search_outwards(const Tile& column, bool positive, int row, int first,
                                   int last) {
  const float weight = column.pass.weight;
  Nearest found{INFINITY, first};
  int apart = max(0, max(first - row, row - last));
  for (float cost = squared(apart, weight); cost < found.square; cost = squared(apart, weight)) {
    const int before = row - apart, behind = row + apart;
    if (before < first && behind > last) break;
    if (before >= first && before <= last) {
      const float square = offered<kTwoSided>(column[before], positive) + cost;
      if (square < found.square) found = {square, before};
    }
    if (behind <= last && behind >= first) {
      const float square = offered<kTwoSided>(column[behind], positive) + cost;
      if (square < found.square) found = {square, behind};
    }
    ++apart;
  }
  return found;
}

// Looks at all of a range.
template <bool kTwoSided, class Tile>
__device__ Nearest search_range(const Tile& column, bool positive, int row, int first, int last) {
  const float weight = column.pass.weight;
  Nearest found{INFINITY, first};
#pragma unroll 4
  for (int from = first; from <= last; ++from) {
    const float square = offered<kTwoSided>(column[from], positive) + squared(from - row, weight);
    if (square < found.square) found = {square, from};
  }
  return found;
}

// Divide and conquer for the voxels of one side. The best candidate never moves up as the row moves
// down: between two rows that are done, only candidates between theirs can win. The range of a row
// spans those of all columns that have a candidate at all, which makes the loops uniform.
template <bool kTwoSided, class Tile>
__device__ void divide_and_conquer(const Tile& column, bool positive, int first, int last) {
  const int size = column.pass.size;
  const int warps = int(blockDim.x / kLanes), warp = int(threadIdx.x / kLanes);
  int2* const ranges = shared_ranges();
  const auto conclude = [&](int row, Nearest found) {
    const bool counts = column.exists && found.square < INFINITY;
    const int low = __reduce_min_sync(kWarp, counts ? found.row : size);
    const int high = __reduce_max_sync(kWarp, counts ? found.row : -1);
    if (threadIdx.x % kLanes == 0) ranges[row] = {low, high};
    if constexpr (!kTwoSided) {
      column.store(row, found.square);
    } else {
      const float own = column[row];
      if (positive ? own > 0 : own < 0) column.store(row, positive ? found.square : -found.square);
    }
  };
  for (int row = warp * kAnchors; row < size; row += warps * kAnchors) {
    conclude(row, search_outwards<kTwoSided>(column, positive, row, first, last));
  }
  for (int step = kAnchors / 2; step > 0; step /= 2) {
    __syncthreads();
    for (int row = step + warp * 2 * step; row < size; row += warps * 2 * step) {
      const int low = ranges[row - step].x;
      const int high = row + step < size ? ranges[row + step].y : last;
      conclude(row, search_range<kTwoSided>(column, positive, row, low, high));
    }
  }
}

}  // namespace segloss::distance_transform
