// Intrinsics in which the lanes of a warp exchange values.
#pragma once

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "fibers.h"

namespace segloss_shim {

template <typename T>
concept Shuffled =
    std::is_trivially_copyable_v<T> && (sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8);

template <Shuffled T>
uint64_t pack(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

template <Shuffled T>
T unpack(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void check_width(int width, Place place) {
  const bool valid = width >= 1 && width <= kWarpSize && std::has_single_bit(unsigned(width));
  if (!valid) fail("shuffles in groups of a width that is no power of two up to 32", place);
}

// The value of lane `source`, where it is one of those that may be read, else the own one.
template <Shuffled T>
T shuffle(const char* name, unsigned mask, T value, int source, bool readable, Place place) {
  const LaneValues& values = meet_warp(name, mask, pack(value), place);
  if (!readable) return value;
  if ((mask >> source & 1) == 0) fail("shuffles from a lane that its mask leaves out", place);
  return unpack<T>(values[static_cast<size_t>(source)]);
}

// Folds what the lanes of `mask` brought.
template <typename T, typename Fold>
T reduce(const char* name, unsigned mask, T value, Fold fold, Place place) {
  const LaneValues& values = meet_warp(name, mask, pack(value), place);
  const int first = std::countr_zero(mask);
  T result = unpack<T>(values[static_cast<size_t>(first)]);
  for (int i = first + 1; i < kWarpSize; ++i) {
    if ((mask >> i & 1) != 0) result = fold(result, unpack<T>(values[static_cast<size_t>(i)]));
  }
  return result;
}

// The lanes of `mask` that brought `value`.
inline unsigned lanes_with(const LaneValues& values, unsigned mask, uint64_t value) {
  unsigned found = 0;
  for (unsigned i = 0; i < kWarpSize; ++i) found |= unsigned{values[i] == value} << i;
  return found & mask;
}

template <typename T>
concept Word = std::same_as<T, int> || std::same_as<T, unsigned>;

}  // namespace segloss_shim

template <segloss_shim::Shuffled T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              segloss_shim::Place place = segloss_shim::Place::current()) {
  segloss_shim::check_width(width, place);
  const int first = segloss_shim::lane() & ~(width - 1);
  const int lane = first + (source & (width - 1));
  return segloss_shim::shuffle("__shfl_sync", mask, value, lane, true, place);
}

template <segloss_shim::Shuffled T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 segloss_shim::Place place = segloss_shim::Place::current()) {
  segloss_shim::check_width(width, place);
  const int first = segloss_shim::lane() & ~(width - 1);
  const int lane = segloss_shim::lane() - static_cast<int>(std::min(delta, 32u));
  return segloss_shim::shuffle("__shfl_up_sync", mask, value, lane, lane >= first, place);
}

template <segloss_shim::Shuffled T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   segloss_shim::Place place = segloss_shim::Place::current()) {
  segloss_shim::check_width(width, place);
  const int last = segloss_shim::lane() | (width - 1);
  const int lane = segloss_shim::lane() + static_cast<int>(std::min(delta, 32u));
  return segloss_shim::shuffle("__shfl_down_sync", mask, value, lane, lane <= last, place);
}

template <segloss_shim::Shuffled T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32,
                  segloss_shim::Place place = segloss_shim::Place::current()) {
  segloss_shim::check_width(width, place);
  const int last = segloss_shim::lane() | (width - 1);
  const int lane = segloss_shim::lane() ^ flip;
  return segloss_shim::shuffle("__shfl_xor_sync", mask, value, lane, lane >= 0 && lane <= last,
                               place);
}

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       segloss_shim::Place place = segloss_shim::Place::current()) {
  segloss_shim::meet_warp("__syncwarp", mask, 0, place);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              segloss_shim::Place place = segloss_shim::Place::current()) {
  const auto& values = segloss_shim::meet_warp("__ballot_sync", mask, predicate != 0, place);
  return segloss_shim::lanes_with(values, mask, 1);
}

inline int __any_sync(unsigned mask, int predicate,
                      segloss_shim::Place place = segloss_shim::Place::current()) {
  const auto& values = segloss_shim::meet_warp("__any_sync", mask, predicate != 0, place);
  return segloss_shim::lanes_with(values, mask, 1) != 0;
}

inline int __all_sync(unsigned mask, int predicate,
                      segloss_shim::Place place = segloss_shim::Place::current()) {
  const auto& values = segloss_shim::meet_warp("__all_sync", mask, predicate != 0, place);
  return segloss_shim::lanes_with(values, mask, 1) == mask;
}

template <segloss_shim::Shuffled T>
unsigned __match_any_sync(unsigned mask, T value,
                          segloss_shim::Place place = segloss_shim::Place::current()) {
  const uint64_t bits = segloss_shim::pack(value);
  const auto& values = segloss_shim::meet_warp("__match_any_sync", mask, bits, place);
  return segloss_shim::lanes_with(values, mask, bits);
}

// A GPU may run lanes together or not; the hardest case for a kernel is that each runs alone.
inline unsigned __activemask() { return 1u << segloss_shim::lane(); }

template <segloss_shim::Word T>
T __reduce_add_sync(unsigned mask, T value,
                    segloss_shim::Place place = segloss_shim::Place::current()) {
  const auto add = [](unsigned a, unsigned b) { return a + b; };  // wraps around
  return static_cast<T>(
      segloss_shim::reduce("__reduce_add_sync", mask, static_cast<unsigned>(value), add, place));
}

template <segloss_shim::Word T>
T __reduce_min_sync(unsigned mask, T value,
                    segloss_shim::Place place = segloss_shim::Place::current()) {
  const auto least = [](T a, T b) { return std::min(a, b); };
  return segloss_shim::reduce("__reduce_min_sync", mask, value, least, place);
}

template <segloss_shim::Word T>
T __reduce_max_sync(unsigned mask, T value,
                    segloss_shim::Place place = segloss_shim::Place::current()) {
  const auto greatest = [](T a, T b) { return std::max(a, b); };
  return segloss_shim::reduce("__reduce_max_sync", mask, value, greatest, place);
}

inline unsigned __reduce_and_sync(unsigned mask, unsigned value,
                                  segloss_shim::Place place = segloss_shim::Place::current()) {
  const auto both = [](unsigned a, unsigned b) { return a & b; };
  return segloss_shim::reduce("__reduce_and_sync", mask, value, both, place);
}

inline unsigned __reduce_or_sync(unsigned mask, unsigned value,
                                 segloss_shim::Place place = segloss_shim::Place::current()) {
  const auto either = [](unsigned a, unsigned b) { return a | b; };
  return segloss_shim::reduce("__reduce_or_sync", mask, value, either, place);
}

inline unsigned __reduce_xor_sync(unsigned mask, unsigned value,
                                  segloss_shim::Place place = segloss_shim::Place::current()) {
  const auto different = [](unsigned a, unsigned b) { return a ^ b; };
  return segloss_shim::reduce("__reduce_xor_sync", mask, value, different, place);
}
