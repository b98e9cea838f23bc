// What the distance_transform kernels compute on, free of torch: one instance of the kernels is
// compiled per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "instruction_sets.h"

namespace segloss::distance_transform {

// The order is that of SIDES in segloss_fast/ops/distance_transform/reference.py.
enum class Side : int32_t { kInside, kOutside, kBoth, kSigned };

constexpr int kLanes = 16;      // lines that are worked on at once
constexpr int kGroupTiles = 4;  // so many times, where memory is read and written
constexpr int64_t kGroupLines = kLanes * kGroupTiles;

// The minimum along one axis. Line l of the result begins at element
// (l / inner) * inner * length + l % inner, and its rows lie inner elements apart.
struct Pass {
  int64_t length;
  int64_t inner;
  int64_t lines;
  float inverse_step;        // 1 / w, for bounds
  const float* cost;         // of offsets -length to length: (w k)^2
  const uint32_t* key_cost;  // the same in keys, if there are any
  bool last;
};

// What is read, and along which axes passes go.
struct Grid {
  // The rows run along the last axis; outer dimensions are those of the rows, in order.
  const void* data;
  int64_t element_size;  // bytes: 1, 2, 4 or 8
  int outer_dims;
  int64_t outer_size[4];
  int64_t outer_stride[4];  // elements
  int64_t row_length;
  int64_t row_stride;
  float row_cost;  // w^2 of the last axis
  int passes;      // along other axes
  Pass pass[2];
};

constexpr int64_t kSweepLanes = 1024;  // neighbouring lines that a task of a sweep has

// Runs along the first of several axes: how many voxels away the next one of the other side is.
struct Sweep {
  const uint8_t* inside;  // contiguous; not 0 inside
  uint8_t* copy;          // the same, if it is to be made of the mask first
  void* runs;             // contiguous: bytes, or 16 bits; all bits set where there is none
  bool wide;              // 16 bits
  int64_t length;         // of a line
  int64_t lanes;          // of a volume: lines
  int64_t volumes;
  int64_t rows;  // of all volumes, along the last axis
  float cost;    // w^2

  int64_t tasks() const { return volumes * ((lanes + kSweepLanes - 1) / kSweepLanes); }
};

// Distances to the other side of a mask.
struct Problem : Grid {
  bool floating;  // the sign bit does not count: -0 is outside
  Side side;
  bool squared;
  bool bounded;  // 0 instead of infinity
  bool add;      // to what the output holds; only plane by plane
  float scale;   // of the result's unit, a power of two: spacings are divided by it
  float* out;    // contiguous
  // Plane by plane only; pass[0] is along the columns of a plane.
  Sweep sweep;
  Pass along_row;

  // The rows that are worked on at once: those of a plane.
  int64_t unit_rows() const { return passes == 2 ? pass[0].length : kGroupLines; }
  bool two_sided() const { return side == Side::kBoth || side == Side::kSigned; }
};

// What is wrong with labels.
constexpr int32_t kAboveLimit = 1;  // one does not fit into a key
constexpr int32_t kInvalid = 2;     // one is negative, or above 2^31 - 1

// Labels of the nearest labelled voxels. Between passes a voxel has the square of the distance to
// that voxel, and its label; the lesser label counts as nearer where squares are equal. Where they
// fit, both are one unsigned number, a key, which is compared as one: square << key_bits | label.
struct Nearest : Grid {
  bool is_signed;  // elements are
  int key_bits;    // of the label in a key; 0: squares and labels lie side by side
  uint32_t row_key_cost;
  uint32_t unreached;  // the key where no labelled voxel is known: more than any cost
  uint32_t limit;      // of labels
  float unit;          // in which spacings are measured
  bool distance;       // is wanted, where squares are
  uint32_t* label;     // contiguous; keys between passes
  float* square;       // contiguous; null if nobody needs it
  int32_t* verdict;    // bits are set

  bool has_keys() const { return key_bits > 0; }
};

// The passes over one kind of problem.
template <class P>
struct Passes {
  // Bytes of scratch memory, 64-byte aligned, that a call of rows needs, or one of lines.
  size_t (*rows_scratch)(const P& problem);
  size_t (*lines_scratch)(const P& problem, int pass);
  // Writes what there is to know within rows [begin, end): squares of distances, with a sign, which
  // tells the side, if both are wanted; or squares and labels. Without another axis, the result.
  void (*rows)(const P& problem, int64_t begin, int64_t end, void* scratch);
  // Takes the minimum along lines [begin, end) of a pass, in place; the last pass finishes.
  void (*lines)(const P& problem, int pass, int64_t begin, int64_t end, void* scratch);
};

// The way plane by plane, of two or three axes.
struct PlaneWise {
  // Copies which elements of rows [begin, end) are not 0.
  void (*copy)(const Problem& problem, int64_t begin, int64_t end);
  // Writes the runs of some lanes; a task is one of Sweep::tasks().
  void (*sweep)(const Problem& problem, int64_t task);
  // Bytes of scratch memory, 64-byte aligned, of a plane.
  size_t (*plane_scratch)(const Problem& problem);
  // Turns the runs of a plane into the result; of two axes those of kGroupLines rows.
  void (*plane)(const Problem& problem, int64_t unit, void* scratch);
};

struct Kernels {
  Passes<Problem> distance;
  Passes<Nearest> nearest;
  PlaneWise planes;
};

SEGLOSS_DECLARE_KERNELS(Kernels)

}  // namespace segloss::distance_transform
