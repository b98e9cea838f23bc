// A radix sort of keys (sort.h): first into buckets by the highest digit, then each bucket by
// itself, in the nearest caches. What is found of a bucket's keys lies in their order in it, and
// goes back to the voxels by the same digits: nothing is written to random places of memory.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <memory>
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

// What a bucket's sort moves: elements made of a key and its place in the bucket. Sorted are the
// bits of word() above the foreground bit, which is the highest of the `below` lowest ones.
template <class KeyType>
struct KeyAlone {
  using Key = KeyType;
  using Element = Key;
  static constexpr int below = 1;
  Element make(Key key, int64_t) const { return key; }
  Key key(Element element) const { return element; }
  Key word(Element element) const { return element; }
};

template <class KeyType>
struct KeyAndPlace {
  using Key = KeyType;
  struct Element {
    Key key, place;
  };
  static constexpr int below = 1;
  Element make(Key key, int64_t place) const { return {key, Key(place)}; }
  Key key(const Element& element) const { return element.key; }
  Key word(const Element& element) const { return element.key; }
  int64_t place(const Element& element) const { return int64_t(element.place); }
};

// Both in 32 bits: the key's low bits and, in the bits that are left, the place.
struct Packed {
  using Key = uint32_t;
  using Element = uint32_t;
  int place_bits;
  Key high;  // of all keys
  int below = place_bits + 1;
  Element make(Key key, int64_t place) const { return (key << place_bits) | Element(place); }
  Key key(Element element) const { return high | (element >> place_bits); }
  Key word(Element element) const { return element; }
  int64_t place(Element element) const {
    return int64_t(element & ((Element(1) << place_bits) - 1));
  }
};

// Calls f(key) for the keys begin .. end - 1 that are some, which f may write to: in order, or
// backwards. Of the others it calls none(key).
template <bool kForwards, class Key, class F, class None>
void each_key(const SortGroup& group, int64_t begin, int64_t end, const F& f, const None& none) {
  const auto each_piece = [&](int64_t piece) {
    const int64_t first = piece * group.piece_voxels;
    Key* const keys = static_cast<Key*>(group.values) + piece * group.piece_stride;
    const int64_t from = std::max(begin - first, int64_t(0));
    const int64_t to = std::min(end - first, group.piece_voxels);
    const auto one = [&](Key& key) { key != ~Key(0) ? f(key) : none(key); };
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

// Sorts by so many digits of at most kDigit bits, the lowest first.
constexpr int kDigit = 11;
template <int kPasses, class Codec, class Element = typename Codec::Element>
const Element* sort_by_digits(const Codec& codec, const typename Codec::Key* keys, int64_t n,
                              int bits, Element* to, Element* other) {
  using Key = typename Codec::Key;
  const int width = (bits + kPasses - 1) / kPasses;
  // Of keys of 64 bits up to 80 KB, too much for a stack.
  const std::unique_ptr<Key[]> counters(new Key[size_t(kPasses) << width]());
  const auto row = [&](int d) { return counters.get() + (int64_t(d) << width); };
  const auto mask = [&](int d) { return Key((Key(1) << std::min(width, bits - d * width)) - 1); };
  for (int64_t i = 0; i < n; ++i) {
    for (int d = 0; d < kPasses; ++d) ++row(d)[(keys[i] >> (1 + d * width)) & mask(d)];
  }
  const auto pass = [&](int d, Element* out, auto element) {
    Key* const next = row(d);
    const Key most = mask(d);
    const int shift = codec.below + d * width;
    Key total = 0;
    for (Key digit = 0; digit <= most; ++digit) total += std::exchange(next[digit], total);
    for (int64_t i = 0; i < n; ++i) {
      const Element found = element(i);
      out[next[(codec.word(found) >> shift) & most]++] = found;
    }
  };
  pass(0, to, [&](int64_t i) { return codec.make(keys[i], i); });
  for (int d = 1; d < kPasses; ++d) {
    if (row(d)[(keys[0] >> (1 + d * width)) & mask(d)] == Key(n)) continue;  // all the same
    pass(d, other, [from = to](int64_t i) { return from[i]; });
    std::swap(to, other);
  }
  return to;
}

// Sorts the keys of one bucket, which differ in so many bits at most; returns where their elements
// are: in `to` or `other`, each for so many. Equal ones may change places.
template <class Codec, class Element = typename Codec::Element>
const Element* sort_bucket(const Codec& codec, const typename Codec::Key* keys, int64_t n, int bits,
                           Element* to, Element* other) {
  constexpr int64_t kFew = 96;  // to which the digits' counters are not worth their sums
  if (n <= kFew || bits == 0) {
    for (int64_t i = 0; i < n; ++i) to[i] = codec.make(keys[i], i);
    std::sort(to, to + n,
              [&](const Element& a, const Element& b) { return codec.word(a) < codec.word(b); });
    return to;
  }
  const auto by_digits = [&](auto passes) {
    return sort_by_digits<passes.value>(codec, keys, n, bits, to, other);
  };
  if (bits <= kDigit) return by_digits(std::integral_constant<int, 1>());
  if constexpr (sizeof(typename Codec::Key) == 4) {  // which differ in 20 bits at most
    return by_digits(std::integral_constant<int, 2>());
  } else {
    if (bits <= 2 * kDigit) return by_digits(std::integral_constant<int, 2>());
    return by_digits(std::integral_constant<int, 5>());
  }
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
    team_.run(team_.parts, [&](int64_t part) {
      // Copies: the compiler would read the members again after every write to a counter.
      Key* const counters = row(part);
      const int shift = this->shift();
      each_key<Key>(group_, begin_of(part), begin_of(part + 1),
                    [=](Key key) { ++counters[2 * (key >> shift) + (key & 1)]; });
    });
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
  double sum(Scratch* scratch, const F& f) {
    team_.run(team_.parts, [&](int64_t part) {
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
    team_.run(whole_, [&](int64_t i) {
      const int64_t first = i << more_bits_;
      const int64_t last = std::min(first + (int64_t(1) << more_bits_), buckets_);
      const int64_t begin = begin_of_bucket(first), end = begin_of_bucket(last);
      if (begin == end) return;
      const auto visit = [&](int64_t from, int64_t to, int low_bits, const auto& g) {
        // One thread's buckets share what lies in its cache.
        Scratch* const own = scratch + (team_.parts == 1 ? 0 : 2 * from);
        if (from < to) g(Bucket<Key>{sorted_ + from, to - from, low_bits}, own);
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
    team_.run(team_.parts, [&](int64_t part) {
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

  // With which of 2^20 voxels in a few octaves each bucket fits into a cache of the first level.
  static int more_bits(int64_t voxels) {
    return std::clamp(int(std::bit_width(uint64_t(voxels))) - 19, 0, 6);
  }

  const Team& team_;
  const SortGroup& group_;
  Key* const sorted_;
  const int low_bits_;
  const int more_bits_;
  const int64_t whole_;    // buckets of the highest digit
  const int64_t buckets_;  // of some bits more
  int64_t count_ = 0;
  int64_t foreground_ = 0;
  std::vector<int64_t> foreground_before_;  // each of the highest digit's
  // Part by part and bucket by bucket: how many are background and foreground; then, in the
  // former's place, where the next of them goes.
  std::vector<Key> next_;

  int shift() const { return 1 + low_bits_ - more_bits_; }
  int64_t begin_of(int64_t part) const { return group_.voxels() * part / team_.parts; }
  Key* row(int64_t part) { return next_.data() + part * buckets_ * 2; }

  // Once all keys are in theirs.
  int64_t begin_of_bucket(int64_t bucket) {
    return bucket == 0 ? 0 : int64_t(row(team_.parts - 1)[2 * (bucket - 1)]);
  }
};

}  // namespace segloss::lovasz
