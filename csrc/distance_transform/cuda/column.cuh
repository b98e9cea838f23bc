// Tiles of 32 neighbouring columns: what a block keeps of one in shared memory, and how it decides
// which way to search it.
#pragma once

#include "cuda.cuh"
#include "distance_transform/cuda/ways.cuh"

namespace segloss::distance_transform::cuda {

constexpr unsigned kWarp = 0xffffffffu;
constexpr int kAtOnce = 8;  // loads that a thread has in flight
constexpr int kSample = 4;  // every so many rows count for the estimate of costs

// Rows of a tile that hold a finite square in some column: no others are candidates. One entry per
// side, positive squares first.
struct Survey {
  int first[2];
  int last[2];
  unsigned steps;  // about how many rows apart brute force would look, summed over a sample
};

// Shared memory: a Survey, the range per row if there is room, then the staged squares.
constexpr size_t kSurveyBytes = 32;
static_assert(sizeof(Survey) <= kSurveyBytes);

__device__ inline Survey& shared_survey() { return *reinterpret_cast<Survey*>(dynamic_shared()); }
__device__ inline int2* shared_ranges() {
  return reinterpret_cast<int2*>(dynamic_shared() + kSurveyBytes);
}

// The thread's own column of the tile. Where the last tile lacks columns, threads repeat the last
// one, and store nothing.
template <class TheWay, bool kStaged>
struct Column {
  using Way = TheWay;
  using Value = typename Way::Value;
  const LinePass& pass;
  bool exists;
  int64_t base;  // of row 0
  Value* staged;

  __device__ explicit Column(const LinePass& p) : pass(p) {
    const int lane = int(threadIdx.x % kLanes);
    int64_t index = int64_t(blockIdx.x) * kLanes + lane;
    exists = index < p.columns;
    index = exists ? index : p.columns - 1;
    // 64-bit divisions are slow.
    const bool narrow = p.columns < (int64_t(1) << 31);
    const int64_t outer = narrow ? uint32_t(index) / uint32_t(p.inner) : index / p.inner;
    base = outer * p.inner * p.size + (index - outer * p.inner);
    staged = nullptr;
    if constexpr (kStaged) staged = reinterpret_cast<Value*>(shared_ranges() + p.size) + lane;
  }

  __device__ Value operator[](int row) const {
    if constexpr (kStaged) {
      return staged[row * kLanes];
    } else {
      return Way::converted(Way::load(pass, base + row * pass.inner), pass);
    }
  }

  // Neighbouring rows.
  template <int kCount>
  __device__ void store(int row, Value (&value)[kCount]) const {
    Way::finish(pass, value);
    if (!exists) return;
    int64_t to = base + row * pass.inner;
#pragma unroll
    for (int i = 0; i < kCount; ++i, to += pass.inner) {
      if (row + i < pass.size) Way::store(pass, to, value[i]);
    }
  }
};

// What one warp finds in the rows begin, begin + apart, ...
template <bool kTwoSided>
struct WarpSurvey {
  int first[2];
  int last[2] = {-1, -1};
  float steps = 0;

  __device__ explicit WarpSurvey(int size) : first{size, size} {}

  // Rows from `count` on do not exist.
  __device__ void add(const float (&square)[kAtOnce], int begin, int apart, int count,
                      const LinePass& p, float per_step) {
    const unsigned exist = (1u << count) - 1;
#pragma unroll
    for (int side = 0; side <= int(kTwoSided); ++side) {
      unsigned finite = 0;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const float own = kTwoSided && side == 1 ? -square[i] : square[i];
        if (own < INFINITY) finite |= 1u << i;
      }
      finite = __reduce_or_sync(kWarp, finite) & exist;
      if (finite == 0) continue;
      first[side] = min(first[side], begin + (__ffs(int(finite)) - 1) * apart);
      last[side] = begin + (31 - __clz(int(finite))) * apart;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; i += kSample) {
      const unsigned bits = __float_as_uint(fabsf(square[i]));  // ordered as the numbers are
      const float most = __uint_as_float(__reduce_max_sync(kWarp, bits));
      // A fast square root; infinity gives NaN, and that, by fminf, all rows.
      const float look = fminf(most * rsqrtf(fmaxf(most, 1e-30f)) * per_step, float(p.size));
      if (i < count) steps += look;
    }
  }
};

// Loads, converts and stages rows begin, begin + apart, ..., all at once; `count` of them exist.
// Returns their squares.
template <bool kAll, class Way, bool kStaged>
__device__ void stage_rows(const Column<Way, kStaged>& column, int64_t from, int begin, int apart,
                           int count, float (&square)[kAtOnce]) {
  const LinePass& p = column.pass;
  const int64_t stride = apart * p.inner;
  decltype(Way::load(p, from)) number[kAtOnce];
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    number[i] = Way::load(p, from);
    if (kAll || i + 1 < count) from += stride;  // else the last one again
  }
  typename Way::Value* to = kStaged ? column.staged + begin * kLanes : nullptr;
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i, to += apart * kLanes) {
    const typename Way::Value value = Way::converted(number[i], p);
    square[i] = Way::square(value, p);
    if (kStaged && (kAll || i < count)) *to = value;
  }
}

// Reads the tile once. Ends with a barrier.
template <class Way, bool kStaged>
__device__ void survey_tile(const Column<Way, kStaged>& column, const LinePass& p) {
  const int warps = int(blockDim.x / kLanes), warp = int(threadIdx.x / kLanes);
  Survey& found = shared_survey();
  if (threadIdx.x == 0) found = {{p.size, p.size}, {-1, -1}, 0};
  WarpSurvey<Way::kTwoSided> mine(p.size);
  const float per_step = rsqrtf(p.weight);
  int64_t from = column.base + warp * p.inner;
  for (int begin = warp; begin < p.size; begin += kAtOnce * warps) {
    float square[kAtOnce];
    int count = kAtOnce;
    if (begin + (kAtOnce - 1) * warps < p.size) {
      stage_rows<true>(column, from, begin, warps, count, square);
    } else {
      count = (p.size - 1 - begin) / warps + 1;
      stage_rows<false>(column, from, begin, warps, count, square);
    }
    mine.add(square, begin, warps, count, p, per_step);
    from += int64_t(kAtOnce) * warps * p.inner;
  }
  __syncthreads();
  if (threadIdx.x % kLanes == 0) {
#pragma unroll
    for (int side = 0; side <= int(Way::kTwoSided); ++side) {
      atomicMin(&found.first[side], mine.first[side]);
      atomicMax(&found.last[side], mine.last[side]);
    }
    atomicAdd(&found.steps, unsigned(mine.steps));
  }
  __syncthreads();
}

}  // namespace segloss::distance_transform::cuda
