// The two ways to find, for each voxel of a tile, the row with the least sum of the row's square
// and the squared distance to it. In both a warp is at one row, or a few neighbouring ones, and its
// lanes are the columns.
#pragma once

#include "distance_transform/cuda/column.cuh"

namespace segloss::distance_transform::cuda {

constexpr int kRows = 4;      // that brute force does together: a square it reads serves them all
constexpr int kAnchors = 32;  // every so many rows divide and conquer begins without knowledge

__device__ inline float squared(int rows, float weight) {
  return float(rows) * float(rows) * weight;
}

// Rows that are searched together, and what has been found for each.
template <bool kTwoSided>
struct Rows {
  float own[kRows];
  float best[kRows];
  float cost[kRows];  // of the distance that is next, and of up to three rows more

  __device__ void offer(float square, const float (&costs)[kRows], bool from_below) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float cost = costs[from_below ? kRows - 1 - i : i];
      best[i] = fminf(best[i], offered<kTwoSided>(square, own[i] > 0) + cost);
    }
  }

  __device__ bool may_gain() const {
    return cost[0] < fmaxf(fmaxf(best[0], best[1]), fmaxf(best[2], best[3]));
  }

  __device__ void move_away(int apart, float weight) {
#pragma unroll
    for (int i = 0; i + 1 < kRows; ++i) cost[i] = cost[i + 1];
    cost[kRows - 1] = squared(apart + kRows - 1, weight);
  }
};

// What the rows offer each other.
template <bool kTwoSided, class Tile>
__device__ void search_within(const Tile& column, int begin, Rows<kTwoSided>& rows) {
  const int size = column.pass.size;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    rows.own[i] = begin + i < size ? column[begin + i] : 0.0f;
    rows.best[i] = fabsf(rows.own[i]);
  }
#pragma unroll
  for (int from = 0; from < kRows; ++from) {
    if (begin + from >= size) break;
    float costs[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) costs[i] = squared(from - i, column.pass.weight);
    rows.offer(rows.own[from], costs, false);
  }
}

// Brute force, from the rows outwards, until all that is left is too far away.
template <bool kTwoSided, class Tile>
__device__ void search_around(const Tile& column, int begin, int first, int last) {
  const float weight = column.pass.weight;
  const int end = begin + kRows - 1;
  Rows<kTwoSided> rows;
  search_within(column, begin, rows);
  int apart = max(1, max(first - end, begin - last));
#pragma unroll
  for (int i = 0; i < kRows; ++i) rows.cost[i] = squared(apart + i, weight);
  const int both = min(begin - first, last - end);
#pragma unroll 4
  for (; apart <= both && rows.may_gain(); rows.move_away(++apart, weight)) {
    rows.offer(column[begin - apart], rows.cost, false);
    rows.offer(column[end + apart], rows.cost, true);
  }
  for (; rows.may_gain(); rows.move_away(++apart, weight)) {
    const bool above = begin - apart >= first, below = end + apart <= last;
    if (!above && !below) break;
    if (above) rows.offer(column[begin - apart], rows.cost, false);
    if (below) rows.offer(column[end + apart], rows.cost, true);
  }
  if constexpr (kTwoSided) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) rows.best[i] = copysignf(rows.best[i], rows.own[i]);
  }
  column.store(begin, rows.best);
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
    const bool counts = found.square < INFINITY;
    const int low = __reduce_min_sync(kWarp, counts ? found.row : size);
    const int high = __reduce_max_sync(kWarp, counts ? found.row : -1);
    if (threadIdx.x % kLanes == 0) ranges[row] = {low, high};
    float result[1] = {positive ? found.square : -found.square};
    if (!kTwoSided || (positive ? column[row] > 0 : column[row] < 0)) column.store(row, result);
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

}  // namespace segloss::distance_transform::cuda
