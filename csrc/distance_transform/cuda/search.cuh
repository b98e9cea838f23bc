// The two ways to find, for each voxel of a tile, the row with the least sum of the row's square
// and the squared distance to it. In both a warp is at one row, or a few neighbouring ones, and its
// lanes are the columns.
#pragma once

#include "distance_transform/cuda/column.cuh"

namespace segloss::distance_transform::cuda {

constexpr int kRows = 4;      // that brute force does together: a square it reads serves them all
constexpr int kAnchors = 32;  // every so many rows divide and conquer begins without knowledge

// Rows that are searched together, and what has been found for each.
template <class Way>
struct Rows {
  using Value = typename Way::Value;
  using Cost = typename Way::Cost;
  Value own[kRows];
  Value best[kRows];
  Cost cost[kRows];  // of the distance that is next, and of up to three rows more

  __device__ void offer(Value value, const Cost (&costs)[kRows], bool from_below) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const Cost cost = costs[from_below ? kRows - 1 - i : i];
      best[i] = Way::least(best[i], Way::offered(value, Way::is_positive(own[i]), cost));
    }
  }

  __device__ bool may_gain() const {
    return Way::may_gain(
        cost[0], Way::greatest(Way::greatest(best[0], best[1]), Way::greatest(best[2], best[3])));
  }

  __device__ void move_away(int apart, const LinePass& p) {
#pragma unroll
    for (int i = 0; i + 1 < kRows; ++i) cost[i] = cost[i + 1];
    cost[kRows - 1] = Way::cost(apart + kRows - 1, p);
  }
};

// What the rows offer each other.
template <class Tile>
__device__ void search_within(const Tile& column, int begin, Rows<typename Tile::Way>& rows) {
  using Way = typename Tile::Way;
  const int size = column.pass.size;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    rows.own[i] = begin + i < size ? column[begin + i] : typename Way::Value(0);
    rows.best[i] = Way::unsigned_of(rows.own[i]);
  }
#pragma unroll
  for (int from = 0; from < kRows; ++from) {
    if (begin + from >= size) break;
    typename Way::Cost costs[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) costs[i] = Way::cost(from - i, column.pass);
    rows.offer(rows.own[from], costs, false);
  }
}

// Brute force, from the rows outwards, until all that is left is too far away.
template <class Tile>
__device__ void search_around(const Tile& column, int begin, int first, int last) {
  using Way = typename Tile::Way;
  const LinePass& p = column.pass;
  const int end = begin + kRows - 1;
  Rows<Way> rows;
  search_within(column, begin, rows);
  int apart = max(1, max(first - end, begin - last));
#pragma unroll
  for (int i = 0; i < kRows; ++i) rows.cost[i] = Way::cost(apart + i, p);
  const int both = min(begin - first, last - end);
#pragma unroll 4
  for (; apart <= both && rows.may_gain(); rows.move_away(++apart, p)) {
    rows.offer(column[begin - apart], rows.cost, false);
    rows.offer(column[end + apart], rows.cost, true);
  }
  for (; rows.may_gain(); rows.move_away(++apart, p)) {
    const bool above = begin - apart >= first, below = end + apart <= last;
    if (!above && !below) break;
    if (above) rows.offer(column[begin - apart], rows.cost, false);
    if (below) rows.offer(column[end + apart], rows.cost, true);
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) rows.best[i] = Way::with_sign(rows.best[i], rows.own[i]);
  column.store(begin, rows.best);
}

template <class Value>
struct Found {
  Value value;
  int row;
};

// Looks at one row's candidates, nearest first.
template <class Tile>
__device__ Found<typename Tile::Value> search_outwards(const Tile& column, bool positive, int row,
                                                       int first, int last) {
  using Way = typename Tile::Way;
  const LinePass& p = column.pass;
  Found<typename Tile::Value> found{Way::none(p), first};
  int apart = max(0, max(first - row, row - last));
  for (auto cost = Way::cost(apart, p); Way::may_gain(cost, found.value);
       cost = Way::cost(apart, p)) {
    const int before = row - apart, behind = row + apart;
    if (before < first && behind > last) break;
    if (before >= first && before <= last) {
      const auto value = Way::offered(column[before], positive, cost);
      if (value < found.value) found = {value, before};
    }
    if (behind <= last && behind >= first) {
      const auto value = Way::offered(column[behind], positive, cost);
      if (value < found.value) found = {value, behind};
    }
    ++apart;
  }
  return found;
}

// Looks at all of a range.
template <class Tile>
__device__ Found<typename Tile::Value> search_range(const Tile& column, bool positive, int row,
                                                    int first, int last) {
  using Way = typename Tile::Way;
  const LinePass& p = column.pass;
  Found<typename Tile::Value> found{Way::none(p), first};
#pragma unroll 4
  for (int from = first; from <= last; ++from) {
    const auto value = Way::offered(column[from], positive, Way::cost(from - row, p));
    if (value < found.value) found = {value, from};
  }
  return found;
}

// Divide and conquer for the voxels of one side. The best candidate never moves up as the row moves
// down: between two rows that are done, only candidates between theirs can win. The range of a row
// spans those of all columns that have a candidate at all, which makes the loops uniform.
template <class Tile>
__device__ void divide_and_conquer(const Tile& column, bool positive, int first, int last) {
  using Way = typename Tile::Way;
  using Value = typename Tile::Value;
  const int size = column.pass.size;
  const int warps = int(blockDim.x / kLanes), warp = int(threadIdx.x / kLanes);
  int2* const ranges = shared_ranges();
  const auto conclude = [&](int row, Found<Value> found) {
    const bool counts = found.value < Way::none(column.pass);
    const int low = __reduce_min_sync(kWarp, counts ? found.row : size);
    const int high = __reduce_max_sync(kWarp, counts ? found.row : -1);
    if (threadIdx.x % kLanes == 0) ranges[row] = {low, high};
    Value result[1] = {found.value};
    if constexpr (Way::kTwoSided) {
      if (!(positive ? column[row] > 0 : column[row] < 0)) return;
      result[0] = positive ? found.value : -found.value;
    }
    column.store(row, result);
  };
  for (int row = warp * kAnchors; row < size; row += warps * kAnchors) {
    conclude(row, search_outwards(column, positive, row, first, last));
  }
  for (int step = kAnchors / 2; step > 0; step /= 2) {
    __syncthreads();
    for (int row = step + warp * 2 * step; row < size; row += warps * 2 * step) {
      const int low = ranges[row - step].x;
      const int high = row + step < size ? ranges[row + step].y : last;
      conclude(row, search_range(column, positive, row, low, high));
    }
  }
}

}  // namespace segloss::distance_transform::cuda
