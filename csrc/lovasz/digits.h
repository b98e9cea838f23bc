// The sort of one bucket's keys (radix.h) by their low digits, in the nearest caches.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

namespace segloss::lovasz {

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

}  // namespace segloss::lovasz
