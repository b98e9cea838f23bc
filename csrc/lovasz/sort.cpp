#include "lovasz/sort.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "lovasz/increments.h"
#include "lovasz/radix.h"

namespace segloss::lovasz {
namespace {

constexpr int64_t kPrefetch = 24;  // voxels ahead, of writes to random places

// The scan of one group's sorted keys.
template <class Element>
class SortedScan {
 public:
  using Key = typename Element::Key;
  using Value = std::conditional_t<sizeof(Key) == 4, float, double>;

  SortedScan(const SortJob& job, const SortGroup& group) : job_(job), group_(group) {}

  double run(RadixSort<Element>& sorted) const {
    if (sorted.count() == 0) return 0;
    const int64_t foreground = sorted.foreground();
    if (foreground == 0) return scan_without_foreground();
    return sorted.sum([&](const Bucket<Element>& bucket) { return scan(bucket, foreground); });
  }

 private:
  const SortJob& job_;
  const SortGroup& group_;

  Value error(Key key) const { return std::bit_cast<Value>(Key(Key(job_.top) - (key >> 1))); }

  void put(const Element& element, double g) const {
    if constexpr (requires { element.put(static_cast<Value*>(nullptr), Value()); }) {
      element.put(static_cast<Value*>(group_.values), Value(g));
    }
  }

  void prefetch(const Element& element) const {
    if constexpr (requires { element.place; }) {
      __builtin_prefetch(static_cast<Value*>(group_.values) + element.place, 1);
    }
  }

  // The loss of one bucket; equal errors never lie in two. The numbers are whole and below 2^53.
  double scan(const Bucket<Element>& bucket, int64_t foreground) const {
    const Element* const data = bucket.data;
    const int64_t count = bucket.count;
    int64_t left = foreground - bucket.foreground_before;
    int64_t u = foreground + bucket.before - bucket.foreground_before;
    double loss = 0;
    for (int64_t i = 0; i < count;) {
      const Key key = data[i].key;
      if (i + kPrefetch < count) prefetch(data[i + kPrefetch]);
      const bool none = job_.zero_is_none && error(key) == 0;
      if (i + 1 == count || (data[i + 1].key ^ key) > 1) {
        // 1 / u or left / (u * (u + 1)), without a branch that could not be foreseen.
        const int64_t is_foreground = key & 1, is_background = 1 - is_foreground;
        const double above = double(is_foreground + (left & -is_background));
        const double g = above / (double(u) * double(1 + (u & -is_background)));
        left -= is_foreground;
        u += is_background;
        loss += double(error(key)) * g;
        put(data[i++], none ? 0 : g);
        continue;
      }
      int64_t stop = i, n_f = 0;
      for (; stop < count && data[stop].key >> 1 == key >> 1; ++stop) n_f += data[stop].key & 1;
      const int64_t n_b = stop - i - n_f;
      const Increments g = group_increments(double(left), double(u), double(n_f), double(n_b));
      loss += double(error(key)) * (double(n_f) * g.foreground + double(n_b) * g.background);
      for (; i < stop; ++i) {
        if (i + kPrefetch < count) prefetch(data[i + kPrefetch]);
        put(data[i], none ? 0 : (data[i].key & 1 ? g.foreground : g.background));
      }
      left -= n_f;
      u += n_b;
    }
    return loss;
  }

  // The largest error alone counts; nothing needs to be sorted.
  double scan_without_foreground() const {
    Key least = ~Key(0);
    int64_t number = 0;
    each_key<Key>(group_, 0, group_.voxels(), [&](Key key, int64_t) {
      number = key < least ? 1 : number + (key == least);
      least = std::min(key, least);
    });
    const double m = double(error(least));
    const double share = job_.zero_is_none && m == 0 ? 0 : 1 / double(number);
    each_key<Key>(group_, 0, group_.voxels(), [&](Key key, int64_t place) {
      put(Element::make(key, place), key == least ? share : 0);
    });
    return m;
  }
};

template <class Element>
void fill(const SortGroup& group, bool only_uncounted, typename SortedScan<Element>::Value value) {
  using Key = typename Element::Key;
  for (int64_t piece = 0; piece < group.pieces; ++piece) {
    Key* const keys = static_cast<Key*>(group.values) + piece * group.piece_stride;
    for (int64_t i = 0; i < group.piece_voxels; ++i) {
      if (!only_uncounted || keys[i] == ~Key(0)) keys[i] = std::bit_cast<Key>(value);
    }
  }
}

// Calls f(Element()) for what is sorted.
template <class F>
auto with_element(const SortJob& job, F f) {
  if (job.is_double) {
    return job.wants_gradient ? f(KeyAndPlace<uint64_t>()) : f(KeyAlone<uint64_t>());
  }
  return job.wants_gradient ? f(KeyAndPlace<uint32_t>()) : f(KeyAlone<uint32_t>());
}

}  // namespace

uint64_t largest_error(Activation activation, bool is_double) {
  const bool hinge = activation == Activation::kHinge;
  if (is_double) return std::bit_cast<uint64_t>(hinge ? HUGE_VAL : 1.0);
  return std::bit_cast<uint32_t>(hinge ? HUGE_VALF : 1.0f);
}

int64_t sort_bytes(const SortJob& job, int64_t voxels) {
  return with_element(job, [&](auto element) { return 2 * voxels * int64_t(sizeof(element)); });
}

SortResult sort_group(const SortJob& job, const SortGroup& group, int64_t parts, void* memory) {
  if (group.voxels() == 0) return {0, 0};
  return with_element(job, [&](auto element) -> SortResult {
    using Element = decltype(element);
    using Value = typename SortedScan<Element>::Value;
    const Team team{parts};
    RadixSort<Element> sorted(team, group, job.top, memory);
    const SortResult result{SortedScan<Element>(job, group).run(sorted),
                            double(sorted.foreground())};
    constexpr auto kNan = std::numeric_limits<Value>::quiet_NaN();
    if (job.wants_gradient && group.flagged) {
      fill<Element>(group, false, kNan);
    } else if (job.wants_gradient && sorted.count() < group.voxels()) {
      fill<Element>(group, true, Value(0));
    }
    return {group.flagged ? double(kNan) : result.loss, result.foreground};
  });
}

}  // namespace segloss::lovasz
