#include "lovasz/sort.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "lovasz/digits.h"
#include "lovasz/increments.h"
#include "lovasz/radix.h"

namespace segloss::lovasz {
namespace {

template <class Key>
void fill(const SortGroup& group, Key bits) {
  for (int64_t piece = 0; piece < group.pieces; ++piece) {
    std::fill_n(static_cast<Key*>(group.values) + piece * group.piece_stride, group.piece_voxels,
                bits);
  }
}

// The scan of one group's sorted keys.
template <class KeyType>
class SortedScan {
 public:
  using Key = KeyType;
  using Value = std::conditional_t<sizeof(Key) == 4, float, double>;

  SortedScan(const SortJob& job, const SortGroup& group, RadixSort<Key>& sorted)
      : job_(job), group_(group), sorted_(sorted) {}

  // Returns the loss; where wanted, g takes the place of the keys.
  double run() const {
    const int64_t foreground = sorted_.foreground();
    if (sorted_.count() == 0) return fill_uncounted();
    if (foreground == 0) return scan_without_foreground();
    if (!job_.wants_gradient) return sum<KeyAlone<Key>>();
    const double loss = sum<KeyAndPlace<Key>>();
    sorted_.restore();
    return loss;
  }

 private:
  const SortJob& job_;
  const SortGroup& group_;
  RadixSort<Key>& sorted_;

  // Where the scan is in the order of falling errors. The numbers are whole and below 2^53.
  struct State {
    double left;  // foreground from here on
    double u;     // all foreground and the background before
    double loss;
  };

  double run_increments(SortedRow<Value>& row, int64_t n, const State& state) const {
    const Kernels& run = SEGLOSS_CHOOSE_KERNELS();
    const Key top = Key(job_.top);
    if constexpr (sizeof(Key) == 4) {
      return run.increments(&row, n, state.left, state.u, top, job_.zero_is_none);
    } else {
      return run.increments_double(&row, n, state.left, state.u, top, job_.zero_is_none);
    }
  }

  Value error(Key key) const { return std::bit_cast<Value>(Key(Key(job_.top) - (key >> 1))); }

  template <class Codec>
  double sum() const {
    using Element = typename Codec::Element;
    const auto scan_whole = [&](int64_t before, int64_t foreground_before, const auto& each_part) {
      const int64_t foreground = sorted_.foreground();
      State state{double(foreground - foreground_before),
                  double(foreground + before - foreground_before), 0};
      each_part([&](const Bucket<Key>& bucket, Element* own) {
        if constexpr (std::is_same_v<Codec, KeyAndPlace<uint32_t>>) {
          const int place_bits = 31 - bucket.low_bits;
          if (bucket.count <= int64_t(1) << place_bits) {
            const Key high = bucket.keys[0] >> (bucket.low_bits + 1) << (bucket.low_bits + 1);
            return scan_bucket(Packed{place_bits, high}, bucket, &own->key, state);
          }
        }
        scan_bucket(Codec(), bucket, own, state);
      });
      return state.loss;
    };
    return sorted_.template sum<Element>(scan_whole);
  }

  // Of one bucket; equal errors never lie in two.
  template <class Codec>
  void scan_bucket(const Codec& codec, const Bucket<Key>& bucket, typename Codec::Element* own,
                   State& state) const {
    Key* const keys = bucket.keys;
    if (std::all_of(keys, keys + bucket.count, [&](Key key) { return (key ^ keys[0]) <= 1; })) {
      scan_equal(KeyAlone<Key>(), keys, bucket.count, state,
                 [&](int64_t i, Value g) { keys[i] = std::bit_cast<Key>(g); });
      return;
    }
    const auto* const data =
        sort_bucket(codec, bucket.keys, bucket.count, bucket.low_bits, own, own + bucket.count);
    SortedRow<Value> row;
    for (int64_t i = 0; i < bucket.count;) {
      const auto* const first = data + i;
      const int64_t n = row_size(codec, first, bucket.count - i);
      if (n > 0) {
        i += scan_row(codec, first, n, row, bucket.keys, state);
      } else {
        i += scan_equal(codec, first, bucket.count - i, state,
                        [&](int64_t k, Value g) { put(codec, first[k], g, bucket.keys); });
      }
    }
  }

  template <class Codec, class Element>
  static bool are_equal(const Codec& codec, const Element& a, const Element& b) {
    return (codec.key(a) ^ codec.key(b)) <= 1;
  }

  // How many fill a row that ends where equal errors do: 0 where there are too many equal ones.
  template <class Codec, class Element>
  static int64_t row_size(const Codec& codec, const Element* data, int64_t count) {
    int64_t n = std::min(count, SortedRow<Value>::kMost);
    if (n < count) {
      while (n > 0 && are_equal(codec, data[n - 1], data[n])) --n;
    }
    return n;
  }

  // Writes a voxel's g where its key was.
  template <class Codec, class Element>
  static void put(const Codec& codec, const Element& element, Value g, Key* keys) {
    if constexpr (requires { codec.place(element); }) {
      keys[codec.place(element)] = std::bit_cast<Key>(g);
    }
  }

  // Scans a row without the equal errors that the kernel leaves out, then these.
  template <class Codec, class Element>
  int64_t scan_row(const Codec& codec, const Element* data, int64_t n, SortedRow<Value>& row,
                   Key* keys, State& state) const {
    for (int64_t i = 0; i < n; ++i) row.key[row.kMargin + i] = codec.key(data[i]);
    state.loss += run_increments(row, n, state);
    each_start(row, n, [&](int64_t i) {
      const double past = double(row.foreground_before[i]);
      State there{state.left - past, state.u + double(i) - past, state.loss};
      scan_equal(codec, data + i, n - i, there, [&](int64_t k, Value g) { row.g[i + k] = g; });
      state.loss = there.loss;
    });
    for (int64_t i = 0; i < n; ++i) put(codec, data[i], row.g[i], keys);
    const double foreground = double(row.foreground_before[n]);
    state.left -= foreground;
    state.u += double(n) - foreground;
    return n;
  }

  // Calls f with each voxel that begins equal errors, which are few.
  template <class F>
  static void each_start(const SortedRow<Value>& row, int64_t n, const F& f) {
    uint64_t some;
    for (int64_t i = 0; i < n; i += int64_t(sizeof(some))) {
      std::memcpy(&some, row.begins + i, sizeof(some));
      if (some == 0) continue;
      for (int64_t k = i; k < std::min(i + int64_t(sizeof(some)), n); ++k) {
        if (row.begins[k] != 0) f(k);
      }
    }
  }

  // Scans the first ones, whose errors are equal, and returns how many these are.
  template <class Codec, class Element>
  int64_t scan_equal(const Codec& codec, const Element* data, int64_t count, State& state,
                     const auto& put) const {
    const Key key = codec.key(data[0]);
    int64_t n = 0, n_f = 0;
    for (; n < count && are_equal(codec, data[0], data[n]); ++n) n_f += codec.key(data[n]) & 1;
    const int64_t n_b = n - n_f;
    const double m = double(error(key));
    Increments g = group_increments(state.left, state.u, double(n_f), double(n_b));
    state.loss += m * (double(n_f) * g.foreground + double(n_b) * g.background);
    state.left -= double(n_f);
    state.u += double(n_b);
    if (job_.zero_is_none && m == 0) g = {0, 0};
    for (int64_t i = 0; i < n; ++i) {
      put(i, Value(codec.key(data[i]) & 1 ? g.foreground : g.background));
    }
    return n;
  }

  // The largest error alone counts; nothing needs to be sorted.
  double scan_without_foreground() const {
    Key least = ~Key(0);
    int64_t number = 0;
    each_key<Key>(group_, 0, group_.voxels(), [&](Key key) {
      number = key < least ? 1 : number + (key == least);
      least = std::min(key, least);
    });
    const double m = double(error(least));
    const Value share = Value(job_.zero_is_none && m == 0 ? 0 : 1 / double(number));
    if (job_.wants_gradient) {
      each_key<true, Key>(
          group_, 0, group_.voxels(),
          [&](Key& key) { key = std::bit_cast<Key>(key == least ? share : Value(0)); },
          [](Key& key) { key = 0; });
    }
    return m;
  }

  double fill_uncounted() const {
    if (job_.wants_gradient) fill(group_, Key(0));
    return 0;
  }
};

// Calls f(Key()) for the type of the keys.
template <class F>
auto with_key(const SortJob& job, F f) {
  return job.is_double ? f(uint64_t()) : f(uint32_t());
}

}  // namespace

uint64_t largest_error(Activation activation, bool is_double) {
  const bool hinge = activation == Activation::kHinge;
  if (is_double) return std::bit_cast<uint64_t>(hinge ? HUGE_VAL : 1.0);
  return std::bit_cast<uint32_t>(hinge ? HUGE_VALF : 1.0f);
}

int64_t sort_bytes(const SortJob& job, int64_t voxels) {
  return with_key(job, [&](auto key) { return voxels * int64_t(sizeof(key)); });
}

SortResult sort_group(const SortJob& job, const SortGroup& group, int64_t parts, void* memory) {
  if (group.voxels() == 0) return {0, 0};
  return with_key(job, [&](auto key) -> SortResult {
    using Key = decltype(key);
    using Value = typename SortedScan<Key>::Value;
    const Team team{parts};
    RadixSort<Key> sorted(team, group, job.top, memory);
    const SortedScan<Key> scan(job, group, sorted);
    const SortResult result{scan.run(), double(sorted.foreground())};
    if (!group.flagged) return result;
    constexpr auto kNan = std::numeric_limits<Value>::quiet_NaN();
    if (job.wants_gradient) fill(group, std::bit_cast<Key>(kNan));
    return {double(kNan), result.foreground};
  });
}

}  // namespace segloss::lovasz
