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
    const int bits = std::bit_width(top);
    const int passes = (bits + kMaxWidth - 1) / kMaxWidth, width = (bits + passes - 1) / passes;
    count_ = group_.voxels();
    std::vector<Key> starts((size_t(team_.parts) << width) + 1);
    count_ = pass(Unsorted<Element>{group_}, 1, width, true, starts);
    for (int i = 1; i < passes; ++i) {
      pass(Sorted<Element>{from_}, 1 + i * width, width, false, starts);
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

  static constexpr int kMaxWidth = 11;  // bits of a digit

  // One digit: returns how many voxels there are, and leaves them in from_.
  template <class Source>
  int64_t pass(const Source& source, int shift, int width, bool first, std::vector<Key>& starts) {
    const int64_t buckets = int64_t(1) << width, parts = team_.parts;
    const Key mask = Key(buckets - 1);
    const auto begin_of = [&](int64_t part) { return count_ * part / parts; };
    std::fill(starts.begin(), starts.end(), Key(0));
    std::vector<int64_t> foreground(parts);
    team_.run(parts, [&](int64_t part) {
      Key* const histogram = starts.data() + (part << width);
      int64_t of_foreground = 0;
      source.each(begin_of(part), begin_of(part + 1), [&](const Element& element) {
        ++histogram[(element.key >> shift) & mask];
        of_foreground += element.key & 1;
      });
      foreground[part] = of_foreground;
    });
    int64_t total = 0, largest = 0;
    for (int64_t bucket = 0; bucket < buckets; ++bucket) {
      const int64_t before = total;
      for (int64_t part = 0; part < parts; ++part) {
        Key& start = starts[(part << width) + bucket];
        const Key size = start;
        start = Key(total);
        total += int64_t(size);
      }
      largest = std::max(largest, total - before);
    }
    if (first) {
      for (const int64_t n : foreground) foreground_ += n;
    } else if (largest == total) {
      return total;
    }
    team_.run(parts, [&](int64_t part) {
      Key* const next = starts.data() + (part << width);
      source.each(begin_of(part), begin_of(part + 1), [&](const Element& element) {
        to_[next[(element.key >> shift) & mask]++] = element;
      });
    });
    std::swap(from_, to_);
    return total;
  }
};

}  // namespace segloss::lovasz
