// A radix sort of keys (sort.h), with the places of their voxels or without.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

#include "lovasz/sort.h"
#include "parallel.h"

namespace segloss::lovasz {

// The work of one group: in the caller's thread, or cut into as many parts as torch has threads.
struct Team {
  int64_t parts;

  template <class F>
  void run(int64_t count, const F& f) const {
    if (parts == 1) {
      for (int64_t i = 0; i < count; ++i) f(i);
    } else {
      for_each_task(count, parts, 0, [&] { return [&](int64_t i, void*) { f(i); }; });
    }
  }
};

template <class KeyType>
struct KeyAlone {
  using Key = KeyType;
  Key key;
  static KeyAlone make(Key key, int64_t) { return {key}; }
};

template <class KeyType>
struct KeyAndPlace {
  using Key = KeyType;
  Key key;
  Key place;  // of the voxel, from the group's first
  static KeyAndPlace make(Key key, int64_t place) { return {key, Key(place)}; }
  template <class T>
  void put(T* values, T g) const {
    values[place] = g;
  }
};

// Where a pass of the sort reads from: sorted by some digits already,
template <class Element>
struct Sorted {
  const Element* data;
  template <class F>
  void each(int64_t begin, int64_t end, const F& f) const {
    for (int64_t i = begin; i < end; ++i) f(data[i]);
  }
};

// or the keys of the voxels in place.
template <class Element>
struct Unsorted {
  const SortGroup& group;
  template <class F>
  void each(int64_t begin, int64_t end, const F& f) const {
    using Key = typename Element::Key;
    for (int64_t piece = begin / group.piece_voxels; begin < end; ++piece) {
      const int64_t first = piece * group.piece_voxels;
      const int64_t stop = std::min(end, first + group.piece_voxels);
      const int64_t shift = piece * group.piece_stride - first;
      const Key* const keys = static_cast<const Key*>(group.values) + shift;
      for (; begin < stop; ++begin) {
        if (keys[begin] != ~Key(0)) f(Element::make(keys[begin], begin + shift));
      }
    }
  }
};

template <class Element>
class RadixSort {
 public:
  using Key = typename Element::Key;

  RadixSort(const Team& team, const SortGroup& group, void* memory)
      : team_(team),
        group_(group),
        from_(static_cast<Element*>(memory)),
        to_(from_ + group.voxels()) {}

  // By the bits above the foreground's, those of `top`, lowest digit first: stable, so there is one
  // result.
  void run(uint64_t top) {
    const int bits = std::bit_width(top), passes = (bits + kMaxWidth - 1) / kMaxWidth;
    width_ = (bits + passes - 1) / passes;
    count_ = group_.voxels();
    const Unsorted<Element> voxels{group_};
    count(voxels, 0, passes);
    count_ = pass(voxels, 0);
    for (int digit = 1; digit < passes; ++digit) {
      const Sorted<Element> sorted{from_};
      if (team_.parts > 1) count(sorted, digit, digit + 1);
      pass(sorted, digit);
    }
  }

  const Element* data() const { return from_; }
  int64_t count() const { return count_; }            // voxels that count
  int64_t foreground() const { return foreground_; }  // of them

 private:
  const Team& team_;
  const SortGroup& group_;
  Element* from_;
  Element* to_;
  int64_t count_ = 0;
  int64_t foreground_ = 0;

  int width_ = 0;          // bits of a digit
  std::vector<Key> next_;  // row by row: how many have a digit, then where the next of them goes

  static constexpr int kMaxWidth = 11;

  int64_t begin_of(int64_t part) const { return count_ * part / team_.parts; }

  // One part sees the same voxels in every pass, and counts all digits in the first: a row per
  // digit. Several parts see others in each, and count one: a row per part.
  Key* row(int64_t part, int digit) {
    return next_.data() + ((team_.parts == 1 ? digit : part) << width_);
  }

  template <class Source>
  void count(const Source& source, int digit, int end) {
    const int64_t parts = team_.parts;
    if (parts > 1) end = digit + 1;
    next_.assign(size_t(parts == 1 ? end : parts) << width_, Key(0));
    std::vector<int64_t> foreground(parts);
    team_.run(parts, [&](int64_t part) {
      // Copies: the compiler would read the members again after every write to a counter.
      const int width = width_, digits = end - digit;
      const Key mask = Key((Key(1) << width) - 1);
      Key* const rows = row(part, digit);
      int64_t n = 0;
      source.each(begin_of(part), begin_of(part + 1), [=, &n](const Element& element) {
        Key rest = element.key >> (1 + digit * width);
        for (int d = 0; d < digits; ++d, rest >>= width) ++rows[(Key(d) << width) + (rest & mask)];
        n += element.key & 1;
      });
      foreground[part] = n;
    });
    foreground_ = 0;
    for (const int64_t n : foreground) foreground_ += n;
  }

  // Sorts by one digit: returns how many voxels there are, and leaves them in from_.
  template <class Source>
  int64_t pass(const Source& source, int digit) {
    int64_t total = 0, largest = 0;
    for (int64_t value = 0; value < int64_t(1) << width_; ++value) {
      const int64_t before = total;
      for (int64_t part = 0; part < team_.parts; ++part) {
        Key& next = row(part, digit)[value];
        const Key size = next;
        next = Key(total);
        total += int64_t(size);
      }
      largest = std::max(largest, total - before);
    }
    if (digit > 0 && largest == total) return total;  // all have the same
    team_.run(team_.parts, [&](int64_t part) {
      const int shift = 1 + digit * width_;
      const Key mask = Key((Key(1) << width_) - 1);
      Key* const next = row(part, digit);
      Element* const to = to_;
      source.each(begin_of(part), begin_of(part + 1), [=](const Element& element) {
        to[next[(element.key >> shift) & mask]++] = element;
      });
    });
    std::swap(from_, to_);
    return total;
  }
};

}  // namespace segloss::lovasz
