// What a pass along columns compares: numbers of a type Value, to which costs of a type Cost are
// added. The least wins.
#pragma once

#include "distance_transform/cuda/problem.h"

namespace segloss::distance_transform::cuda {

// Squared distances to the other side of a mask, read as In; of both sides with the sign of theirs.
template <class In, bool kBothSides>
struct Distances {
  using Value = float;
  using Cost = float;
  using Result = float;
  static constexpr bool kTwoSided = kBothSides;

  __device__ static bool skipped(const LinePass&) { return false; }
  __device__ static In load(const LinePass& p, int64_t at) {
    return static_cast<const In*>(p.in)[at];
  }
  __device__ static Value converted(In number, const LinePass& p) {
    const float square = signed_square<In>(number, p.run_weight);
    return kTwoSided ? square : fmaxf(square, 0.0f);
  }
  // The square by which a row is judged; infinite where nothing is known.
  __device__ static float square(Value value, const LinePass&) { return value; }
  __device__ static Cost cost(int rows, const LinePass& p) {
    return float(rows) * float(rows) * p.weight;
  }
  __device__ static bool is_positive(Value own) { return own > 0; }
  // What a row offers to voxels of one side, at a cost.
  __device__ static Value offered(Value value, bool positive, Cost cost) {
    if constexpr (!kTwoSided) return value + cost;
    return fmaxf(positive ? value : -value, 0.0f) + cost;
  }
  __device__ static Value none(const LinePass&) { return INFINITY; }
  __device__ static Value unsigned_of(Value own) { return fabsf(own); }
  __device__ static Value with_sign(Value value, Value own) {
    return kTwoSided ? copysignf(value, own) : value;
  }
  __device__ static Value least(Value a, Value b) { return fminf(a, b); }
  __device__ static Value greatest(Value a, Value b) { return fmaxf(a, b); }
  // Whether a candidate at this cost may be less than the best.
  __device__ static bool may_gain(Cost cost, Value best) { return cost < best; }
  template <int kCount>
  __device__ static void finish(const LinePass& p, Value (&value)[kCount]) {
    finish_squares(value, p.finish);
  }
  __device__ static void store(const LinePass& p, int64_t at, Value value) {
    p.out[at] = p.finish.add ? p.out[at] + value : value;
  }
};

// Keys: a square above the label of the voxel that it is the distance to.
struct Keys {
  using Value = unsigned;
  using Cost = unsigned;
  static constexpr bool kTwoSided = false;

  __device__ static bool skipped(const LinePass& p) { return p.nearest.is_skipped(); }
  __device__ static unsigned load(const LinePass& p, int64_t at) { return p.nearest.label_in[at]; }
  __device__ static Value converted(unsigned key, const LinePass&) { return key; }
  __device__ static float square(Value key, const LinePass& p) {
    return key >= p.nearest.unreached ? INFINITY : float(key >> p.nearest.bits);
  }
  __device__ static Cost cost(int rows, const LinePass& p) {
    return unsigned(rows) * unsigned(rows) * p.nearest.key_weight;
  }
  __device__ static bool is_positive(Value) { return true; }
  __device__ static Value offered(Value key, bool, Cost cost) { return key + cost; }
  __device__ static Value none(const LinePass& p) { return p.nearest.unreached; }
  __device__ static Value unsigned_of(Value own) { return own; }
  __device__ static Value with_sign(Value value, Value) { return value; }
  __device__ static Value least(Value a, Value b) { return min(a, b); }
  __device__ static Value greatest(Value a, Value b) { return max(a, b); }
  // Labels are at least 1: a best of the same square is above the cost.
  __device__ static bool may_gain(Cost cost, Value best) { return cost < best; }
  template <int kCount>
  __device__ static void finish(const LinePass&, Value (&)[kCount]) {}
  __device__ static void store(const LinePass& p, int64_t at, Value key) {
    const NearestPass& n = p.nearest;
    if (p.finish.last && n.distance) n.square[at] = square_root(square(key, p)) * n.unit;
    n.label[at] = p.finish.last ? key & ((1u << n.bits) - 1) : key;
  }
};

// Squares and labels of any size, side by side in memory, and one number here: squares are not
// negative, so that their bits are ordered as they are.
struct Pairs {
  using Value = unsigned long long;
  using Cost = float;
  static constexpr bool kTwoSided = false;

  __device__ static bool skipped(const LinePass& p) { return p.nearest.is_skipped(); }
  __device__ static Value pair(float square, unsigned label) {
    return Value(__float_as_uint(square)) << 32 | label;
  }
  __device__ static Value load(const LinePass& p, int64_t at) {
    return pair(p.nearest.square_in[at], p.nearest.label_in[at]);
  }
  __device__ static Value converted(Value value, const LinePass&) { return value; }
  __device__ static float square(Value value) { return __uint_as_float(unsigned(value >> 32)); }
  __device__ static float square(Value value, const LinePass&) { return square(value); }
  __device__ static Cost cost(int rows, const LinePass& p) {
    return float(rows) * float(rows) * p.weight;
  }
  __device__ static bool is_positive(Value) { return true; }
  __device__ static Value offered(Value value, bool, Cost cost) {
    return pair(square(value) + cost, unsigned(value));
  }
  __device__ static Value none(const LinePass&) { return pair(INFINITY, 0); }
  __device__ static Value unsigned_of(Value own) { return own; }
  __device__ static Value with_sign(Value value, Value) { return value; }
  __device__ static Value least(Value a, Value b) { return a < b ? a : b; }
  __device__ static Value greatest(Value a, Value b) { return a < b ? b : a; }
  __device__ static bool may_gain(Cost cost, Value best) { return cost <= square(best); }
  template <int kCount>
  __device__ static void finish(const LinePass&, Value (&)[kCount]) {}
  __device__ static void store(const LinePass& p, int64_t at, Value value) {
    const NearestPass& n = p.nearest;
    n.label[at] = unsigned(value);
    if (!p.finish.last) {
      n.square[at] = square(value);
    } else if (n.distance) {
      n.square[at] = square_root(square(value)) * n.unit;
    }
  }
};

}  // namespace segloss::distance_transform::cuda
