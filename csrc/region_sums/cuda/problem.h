// What one launch of the CUDA kernels computes: up to eight tensors ("levels" of deep supervision)
// that share classes, dtype and options. It travels by value, as the kernel's parameter.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "region_sums/kernels.h"

namespace segloss::region_sums::cuda {

constexpr int kThreads = 128;  // of a block
constexpr int kMaxLevels = 8;  // of a launch

// One tensor with its target. Each block takes a chunk: consecutive tiles of one of its items.
struct Level {
  View input;
  View target;
  View weight;
  View grad;  // backward
  int64_t items;
  int64_t voxels;  // of an item
  int64_t chunk_tiles;
  int64_t first_item;  // among the items of all levels
  int64_t first_chunk;
  int64_t item_chunks;
};

struct Launch {
  Level level[kMaxLevels];
  int levels;
  int64_t items;  // of all levels, those of other launches included
  int channels;
  int tile_voxels;
  int rows;
  int row[kTermCount];  // where a term's sums go, -1 if nobody asked for it
  uint32_t terms;       // a bit for each that somebody asked for
  Activation activation;
  Activation ce_activation;
  double gamma;
  bool has_ignore;
  int64_t ignore_index;
  bool dense_target;
  bool has_weight;
  bool class_weight;            // one per class
  bool shared_slots;            // forward: a block's sums lie in shared memory until it ends
  double* partial;              // forward: [chunk][row][class]
  double2* invalid;             // forward: [chunk], the number of invalid labels and the first
  const void* grad_rows;        // backward: [row][item][class], of the type computed with
  uint32_t channel_reciprocal;  // 2^32 / channels, rounded up
};
static_assert(sizeof(Launch) < 4096, "the kernels' parameter must be small");

}  // namespace segloss::region_sums::cuda
