// A radix sort of keys (sort.h), with the places of their voxels or without: first into buckets by
// the highest digit, then each bucket by itself, in the nearest caches.
#pragma once

#include <algorithm>
#include <array>
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

// Calls f(key, place) for the voxels begin .. end - 1 that count.
template <class Key, class F>
void each_key(const SortGroup& group, int64_t begin, int64_t end, const F& f) {
  for (int64_t piece = begin / group.piece_voxels; begin < end; ++piece) {
    const int64_t first = piece * group.piece_voxels;
    const int64_t stop = std::min(end, first + group.piece_voxels);
    const int64_t shift = piece * group.piece_stride - first;
    const Key* const keys = static_cast<const Key*>(group.values) + shift;
    for (; begin < stop; ++begin) {
      if (keys[begin] != ~Key(0)) f(keys[begin], begin + shift);
    }
  }
}

// Sorts the keys of one bucket, which differ in the bits above the foreground's up to `bits` at
// most; returns where they are then: in data or in scratch. Equal ones may change places.
template <class Element>
const Element* sort_bucket(Element* data, Element* scratch, int64_t n, int bits) {
  using Key = typename Element::Key;
  constexpr int64_t kFew = 96;  // to which the digits' counters are not worth their sums
  if (n <= kFew || bits == 0) {
    std::sort(data, data + n, [](const Element& a, const Element& b) { return a.key < b.key; });
    return data;
  }
  constexpr int kWidth = 11, kPasses = 5;  // of a digit; at most, in keys of 64 bits
  const int passes = (bits + kWidth - 1) / kWidth, width = (bits + passes - 1) / passes;
  const Key mask = Key((Key(1) << width) - 1);
  std::array<Key, kPasses << kWidth> counters;
  Key* const rows = counters.data();
  std::fill_n(rows, int64_t(passes) << width, Key(0));
  for (int64_t i = 0; i < n; ++i) {
    Key rest = data[i].key >> 1;
    for (int d = 0; d < passes; ++d, rest >>= width) ++rows[(Key(d) << width) + (rest & mask)];
  }
  for (int d = 0; d < passes; ++d) {
    Key* const next = rows + (int64_t(d) << width);
    const int shift = 1 + d * width;
    if (next[(data[0].key >> shift) & mask] == Key(n)) continue;  // all have the same
    Key total = 0;
    for (Key digit = 0; digit <= mask; ++digit) total += std::exchange(next[digit], total);
    for (int64_t i = 0; i < n; ++i) scratch[next[(data[i].key >> shift) & mask]++] = data[i];
    std::swap(data, scratch);
  }
  return data;
}

// What lies in one bucket, from its highest error on.
template <class Element>
struct Bucket {
  const Element* data;
  int64_t count;
  int64_t before;             // voxels of larger errors,
  int64_t foreground_before;  // the foreground among them
};

template <class Element>
class RadixSort {
 public:
  using Key = typename Element::Key;

  // Counts the voxels of each bucket. The memory is that of sort_bytes.
  RadixSort(const Team& team, const SortGroup& group, uint64_t top, void* memory)
      : team_(team),
        group_(group),
        sorted_(static_cast<Element*>(memory)),
        scratch_(sorted_ + group.voxels()),
        low_bits_(std::max(int(std::bit_width(top)) - kHighBits, 0)),
        buckets_((top >> low_bits_) + 1),
        next_(team.parts * buckets_ * 2) {
    team_.run(team_.parts, [&](int64_t part) {
      // Copies: the compiler would read the members again after every write to a counter.
      Key* const counters = row(part);
      const int shift = 1 + low_bits_;
      each_key<Key>(group_, begin_of(part), begin_of(part + 1),
                    [=](Key key, int64_t) { ++counters[2 * (key >> shift) + (key & 1)]; });
    });
    begin_.reserve(buckets_ + 1);
    for (int64_t bucket = 0; bucket < buckets_; ++bucket) {
      begin_.push_back({count_, foreground_});
      for (int64_t part = 0; part < team_.parts; ++part) {
        Key* const both = row(part) + 2 * bucket;
        const int64_t background = int64_t(both[0]), foreground = int64_t(both[1]);
        both[0] = Key(count_);
        count_ += background + foreground;
        foreground_ += foreground;
      }
    }
    begin_.push_back({count_, foreground_});
  }

  int64_t count() const { return count_; }            // voxels that count
  int64_t foreground() const { return foreground_; }  // of them

  // Returns the sum of f(bucket), which is called for all that are not empty, once, and may be so
  // in any of the team's threads.
  template <class F>
  double sum(const F& f) {
    team_.run(team_.parts, [&](int64_t part) {
      Key* const next = row(part);
      Element* const to = sorted_;
      const int shift = 1 + low_bits_;
      each_key<Key>(group_, begin_of(part), begin_of(part + 1), [=](Key key, int64_t place) {
        to[next[2 * (key >> shift)]++] = Element::make(key, place);
      });
    });
    std::vector<double> sums(buckets_);
    team_.run(buckets_, [&](int64_t i) {
      const int64_t begin = begin_[i].count, n = begin_[i + 1].count - begin;
      if (n == 0) return;
      // One thread's buckets share what lies in its cache.
      Element* const scratch = scratch_ + (team_.parts == 1 ? 0 : begin);
      const Element* const data = sort_bucket(sorted_ + begin, scratch, n, low_bits_);
      sums[i] = f(Bucket<Element>{data, n, begin, begin_[i].foreground});
    });
    double total = 0;  // in one order
    for (const double part : sums) total += part;
    return total;
  }

 private:
  struct Begin {
    int64_t count, foreground;
  };

  // 16 buckets per octave of a float32: of 2^20 voxels in a few octaves, each fits into a cache of
  // the second level. Of a float64 only two: its buckets are larger, and no less right.
  static constexpr int kHighBits = 11;

  const Team& team_;
  const SortGroup& group_;
  Element* const sorted_;
  Element* const scratch_;
  const int low_bits_;
  const int64_t buckets_;
  int64_t count_ = 0;
  int64_t foreground_ = 0;
  std::vector<Begin> begin_;  // of each bucket
  // Part by part and bucket by bucket: how many are background and foreground; then, in the
  // former's place, where the next of them goes.
  std::vector<Key> next_;

  int64_t begin_of(int64_t part) const { return group_.voxels() * part / team_.parts; }
  Key* row(int64_t part) { return next_.data() + part * buckets_ * 2; }
};

}  // namespace segloss::lovasz
