// A radix sort of keys (sort.h): first into buckets by the highest digit, then each bucket by
// itself, in the nearest caches. What is found of a bucket's keys lies in their order in it, and
// goes back to the voxels by the same digits: nothing is written to random places of memory.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "lovasz/sort.h"
#include "parallel.h"

namespace segloss::lovasz {

// Who does the work of one group: the caller's thread, or as many of torch's as there are parts.
struct Team {
  int64_t parts;

  // Calls f with each task and scratch memory of so many bytes.
  template <class F>
  void run(int64_t count, int64_t bytes, const F& f) const {
    if (parts == 1) {
      const std::unique_ptr<std::byte[]> memory(new std::byte[size_t(bytes)]);
      for (int64_t i = 0; i < count; ++i) f(i, memory.get());
    } else {
      for_each_task(count, parts, size_t(bytes), [&] { return f; });
    }
  }
  template <class F>
  void run_parts(const F& f) const {
    run(parts, 0, [&](int64_t i, void*) { f(i); });
  }
};

// Calls f(key) for the keys begin .. end - 1 that are some, which f may write to: in order, or
// backwards. Of the others it calls none(key).
template <bool kForwards, class Key, class F, class None>
void each_key(const SortGroup& group, int64_t begin, int64_t end, F f, None none) {
  const auto each_piece = [&](int64_t piece) {
    const int64_t first = piece * group.piece_voxels;
    Key* const keys = static_cast<Key*>(group.values) + piece * group.piece_stride;
    const int64_t from = std::max(begin - first, int64_t(0));
    const int64_t to = std::min(end - first, group.piece_voxels);
    // By value: the compiler would read what f holds again after every write to memory.
    const auto one = [f, none](Key& key) { key != ~Key(0) ? f(key) : none(key); };
    if constexpr (kForwards) {
      for (int64_t i = from; i < to; ++i) one(keys[i]);
    } else {
      for (int64_t i = to; i-- > from;) one(keys[i]);
    }
  };
  if (begin == end) return;
  const int64_t first = begin / group.piece_voxels, last = (end - 1) / group.piece_voxels;
  if constexpr (kForwards) {
    for (int64_t piece = first; piece <= last; ++piece) each_piece(piece);
  } else {
    for (int64_t piece = last; piece >= first; --piece) each_piece(piece);
  }
}

template <class Key, class F>
void each_key(const SortGroup& group, int64_t begin, int64_t end, const F& f) {
  each_key<true, Key>(group, begin, end, f, [](Key) {});
}

// Keys that share their high bits: in a digit of kHighBits, or in some more.
template <class Key>
struct Bucket {
  Key* keys;  // which what is found of them may take the place of
  int64_t count;
  int low_bits;  // in which they differ, besides the foreground's
};

template <class Key>
class RadixSort {
 public:
  // Counts the voxels of each bucket. The memory is that of bytes().
  RadixSort(const Team& team, const SortGroup& group, uint64_t top, void* memory)
      : team_(team),
        group_(group),
        sorted_(static_cast<Key*>(memory)),
        low_bits_(std::max(int(std::bit_width(top)) - kHighBits, 0)),
        more_bits_(std::min(low_bits_, more_bits(group.voxels()))),
        whole_((top >> low_bits_) + 1),
        buckets_((top >> (low_bits_ - more_bits_)) + 1),
        next_(team.parts * buckets_ * 2) {
    team_.run_parts([&](int64_t part) {
      // Copies: the compiler would read the members again after every write to a counter.
      Key* const counters = row(part);
      const int shift = this->shift();
      each_key<Key>(group_, begin_of(part), begin_of(part + 1),
                    [=](Key key) { ++counters[2 * (key >> shift) + (key & 1)]; });
    });
    if (const int spare = spare_bits(); spare > 0) merge(spare);
    foreground_before_.reserve(whole_);
    for (int64_t bucket = 0; bucket < buckets_; ++bucket) {
      if (bucket % (int64_t(1) << more_bits_) == 0) foreground_before_.push_back(foreground_);
      for (int64_t part = 0; part < team_.parts; ++part) {
        Key* const both = row(part) + 2 * bucket;
        const int64_t background = int64_t(both[0]), foreground = int64_t(both[1]);
        both[0] = Key(count_);
        count_ += background + foreground;
        foreground_ += foreground;
      }
    }
  }

  int64_t count() const { return count_; }            // voxels that count
  int64_t foreground() const { return foreground_; }  // of them

  // Returns the sum of f's results. It is called once for each bucket of the highest digit, and may
  // be so in any of the team's threads: with the number of voxels of larger errors, that of the
  // foreground among them, and a function that calls what it is given with each part of the bucket
  // in order, as f(Bucket, scratch).
  template <class Scratch, class F>
  double sum(const F& f) {
    team_.run_parts([&](int64_t part) {
      Key* const next = row(part);
      Key* const to = sorted_;
      const int shift = this->shift();
      each_key<Key>(group_, begin_of(part), begin_of(part + 1), [=](Key key) {
        const Key place = next[2 * (key >> shift)]++;
        __builtin_prefetch(to + place + kAhead, 1);
        to[place] = key;
      });
    });
    std::vector<double> sums(whole_);
    const int64_t bytes = 2 * std::min(kOwn, group_.voxels()) * int64_t(sizeof(Scratch));
    team_.run(whole_, bytes, [&](int64_t i, void* own) {
      const int64_t first = i << more_bits_;
      const int64_t last = std::min(first + (int64_t(1) << more_bits_), buckets_);
      const int64_t begin = begin_of_bucket(first), end = begin_of_bucket(last);
      if (begin == end) return;
      const auto visit = [&](int64_t from, int64_t to, int low_bits, const auto& g) {
        if (from == to) return;
        const Bucket<Key> bucket{sorted_ + from, to - from, low_bits};
        if (bucket.count <= kOwn) return g(bucket, static_cast<Scratch*>(own));
        const std::unique_ptr<Scratch[]> more(new Scratch[size_t(2 * bucket.count)]);
        g(bucket, more.get());
      };
      sums[i] = f(begin, foreground_before_[i], [&](const auto& g) {
        if (end - begin <= kSmall) return visit(begin, end, low_bits_, g);
        for (int64_t b = first; b < last; ++b) {
          visit(begin_of_bucket(b), begin_of_bucket(b + 1), low_bits_ - more_bits_, g);
        }
      });
    });
    double total = 0;  // in one order
    for (const double part : sums) total += part;
    return total;
  }

  // Writes what has taken the keys' places in the buckets to the voxels, and 0 where none counts.
  void restore() {
    team_.run_parts([&](int64_t part) {
      Key* const next = row(part);
      const Key* const from = sorted_;
      const int shift = this->shift();
      each_key<false, Key>(
          group_, begin_of(part), begin_of(part + 1),
          [=](Key& key) {
            const Key place = --next[2 * (key >> shift)];
            __builtin_prefetch(from + int64_t(place) - kAhead);
            key = from[place];
          },
          [](Key& key) { key = 0; });
    });
  }

 private:
  // 16 buckets per octave of a float32, of a float64 only two: its buckets are larger, and no less
  // right. This many make the sum, whatever the number of voxels.
  static constexpr int kHighBits = 11;
  static constexpr int64_t kAhead = 64 / sizeof(Key);  // a line: there are too many for hardware
  static constexpr int64_t kSmall = 4096;              // voxels that are not worth more buckets
  static constexpr int64_t kOwn = 32768;  // voxels of a bucket that a thread keeps memory for

  // With which of 2^20 voxels in a few octaves each bucket fits into a cache of the first level.
  static int more_bits(int64_t voxels) {
    return std::clamp(int(std::bit_width(uint64_t(voxels))) - 19, 0, 6);
  }

  const Team& team_;
  const SortGroup& group_;
  Key* const sorted_;
  const int low_bits_;
  int more_bits_;
  const int64_t whole_;  // buckets of the highest digit
  int64_t buckets_;      // of some bits more
  int64_t count_ = 0;
  int64_t foreground_ = 0;
  std::vector<int64_t> foreground_before_;  // each of the highest digit's
  // Part by part and bucket by bucket: how many are background and foreground; then, in the
  // former's place, where the next of them goes.
  std::vector<Key> next_;

  // How many of the bits the buckets of most voxels are small without: the more buckets there are,
  // the longer are the ways to them and back.
  int spare_bits() {
    if (more_bits_ == 0) return 0;
    constexpr int64_t kFit = 8192;  // voxels
    std::vector<int64_t> sizes(whole_);
    int64_t total = 0;
    for (int64_t part = 0; part < team_.parts; ++part) {
      for (int64_t i = 0; i < 2 * buckets_; ++i) sizes[i >> (more_bits_ + 1)] += row(part)[i];
    }
    for (const int64_t size : sizes) total += size;
    int bits = 0;
    for (int64_t fit = 0; bits < more_bits_; ++bits, fit = 0) {
      for (const int64_t size : sizes) fit += size <= kFit << bits ? size : 0;
      if (4 * fit >= 3 * total) break;
    }
    return more_bits_ - bits;
  }

  // Leaves out so many of the bits, once voxels are counted.
  void merge(int bits) {
    const int64_t buckets = (buckets_ + (int64_t(1) << bits) - 1) >> bits;
    for (int64_t part = 0; part < team_.parts; ++part) {
      Key* const to = next_.data() + part * buckets * 2;
      const Key* const from = row(part);  // at to, or behind it
      for (int64_t i = 0; i < buckets; ++i) {
        Key background = 0, foreground = 0;
        for (int64_t b = i << bits; b < std::min((i + 1) << bits, buckets_); ++b) {
          background += from[2 * b];
          foreground += from[2 * b + 1];
        }
        to[2 * i] = background;
        to[2 * i + 1] = foreground;
      }
    }
    more_bits_ -= bits;
    buckets_ = buckets;
  }

  int shift() const { return 1 + low_bits_ - more_bits_; }
  int64_t begin_of(int64_t part) const { return group_.voxels() * part / team_.parts; }
  Key* row(int64_t part) { return next_.data() + part * buckets_ * 2; }

  // Once all keys are in theirs.
  int64_t begin_of_bucket(int64_t bucket) {
    return bucket == 0 ? 0 : int64_t(row(team_.parts - 1)[2 * (bucket - 1)]);
  }
};

}  // namespace segloss::lovasz
