// A block's shared memory: one tile of V voxels by C classes, widened, and what belongs to each
// voxel. Rows are V + 1 apart: then neither lanes that are voxels nor lanes that are classes meet
// in a bank.
#pragma once

#include "region_sums/cuda/problem.h"
#include "voxels/cuda/labels.cuh"
#include "voxels/cuda/math.cuh"

namespace segloss::region_sums::cuda {

// What every class of a voxel needs.
template <class T>
struct alignas(16) Voxel {
  T max;      // of the logits
  T inverse;  // of the sum of e^(x - max)
  T weight;   // 0 if ignored
  int32_t label;
};

// What logarithms of a softmax need. 1 - p of the most probable class must come from the others.
template <class T>
struct alignas(16) VoxelLogs {
  T log_sum;
  T others_max;      // over the classes other than top
  T others_inverse;  // of the sum of e^(x - others_max) over them
  T others_log;      // log(1 - p) of top
  int32_t top;       // the class whose logit is largest
};

// [C, V] of the tile.
template <class T>
struct Rows {
  T* first;
  int classes;
  int voxels;
  SL_DEVICE T& operator()(int c, int v) const { return first[c * (voxels + 1) + v]; }
};

// Where all that lies, or with a null pointer only how much it is.
template <class T>
struct Shared {
  double* slots;
  Voxel<T>* voxels;
  VoxelLogs<T>* logs;
  InvalidLabels* invalid;
  T* partial;  // four of kThreads: what each thread knows of a voxel
  Rows<T> x, target, weight;
  size_t bytes = 0;

  __host__ __device__ Shared(const Launch& launch, bool forward, unsigned char* memory) {
    const int v = launch.tile_voxels, c = launch.channels;
    const int slots_of_row = c > kThreads ? c : kThreads;
    slots = take<double>(memory, forward && launch.shared_slots ? launch.rows * slots_of_row : 0);
    voxels = take<Voxel<T>>(memory, v);
    logs = take<VoxelLogs<T>>(memory, forward ? v : 0);
    invalid = take<InvalidLabels>(memory, 1);
    partial = take<T>(memory, 4 * kThreads);
    const int tile = c * (v + 1);
    x = {take<T>(memory, tile), c, v};
    target = {take<T>(memory, launch.dense_target ? tile : 0), c, v};
    weight = {take<T>(memory, launch.class_weight ? tile : 0), c, v};
  }

 private:
  template <class U>
  __host__ __device__ U* take(unsigned char* memory, int count) {
    const size_t offset = bytes;
    bytes += (size_t(count) * sizeof(U) + 15) / 16 * 16;
    return memory == nullptr ? nullptr : reinterpret_cast<U*>(memory + offset);
  }
};

// Which voxels a block works on at the moment.
struct Span {
  int64_t item;   // of the level
  int64_t begin;  // the tile's first voxel
  int count;      // in the tile
};

// The voxel of a tile that a thread looks after, and which share of its classes.
struct Lane {
  int voxel;
  int share;
  int shares;
  SL_DEVICE Lane(const Launch& launch, int thread) : Lane(launch.tile_voxels, thread) {}
  SL_DEVICE Lane(int tile_voxels, int thread)
      : voxel(thread % tile_voxels), share(thread / tile_voxels), shares(kThreads / tile_voxels) {}
};

// Calls f(std::integral_constant<int, n>(), i) for i = first, first + step, ... below end, each
// call for n of them. What a call does for its n, it can do side by side: the latencies overlap.
template <int kBatch, class F>
SL_DEVICE void for_batches(int first, int end, int step, F f) {
  int i = first;
#pragma unroll 1
  for (; i + (kBatch - 1) * step < end; i += kBatch * step) {
    f(std::integral_constant<int, kBatch>(), i);
  }
#pragma unroll 1
  for (; i < end; i += step) f(std::integral_constant<int, 1>(), i);
}

// The chunk of a block: tiles [begin, end) of an item.
struct Chunk {
  const Level* level;
  int64_t index;  // among the chunks of all levels
  int64_t item;
  int64_t begin;
  int64_t end;

  SL_DEVICE explicit Chunk(const Launch& launch) {
    const int64_t block = blockIdx.x;
    int i = 0;
    while (i + 1 < launch.levels &&
           block >= launch.level[i + 1].first_chunk - launch.level[0].first_chunk) {
      ++i;
    }
    level = &launch.level[i];
    index = block + launch.level[0].first_chunk;
    const int64_t in_level = index - level->first_chunk;
    item = in_level / level->item_chunks;
    begin = in_level % level->item_chunks * level->chunk_tiles * launch.tile_voxels;
    const int64_t next = begin + level->chunk_tiles * launch.tile_voxels;
    end = next < level->voxels ? next : level->voxels;
  }

  SL_DEVICE Span span(const Launch& launch, int64_t voxel) const {
    const int64_t left = end - voxel;
    return {item, voxel, left < launch.tile_voxels ? int(left) : launch.tile_voxels};
  }
};

}  // namespace segloss::region_sums::cuda
