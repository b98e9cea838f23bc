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
  double run(void* scratch) const {
    const int64_t foreground = sorted_.foreground();
    if (sorted_.count() == 0) return fill_uncounted();
    if (foreground == 0) return scan_without_foreground();
    if (!job_.wants_gradient) return sum<KeyAlone<Key>>(scratch);
    const double loss = sum<KeyAndPlace<Key>>(scratch);
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

  Value error(Key key) const { return std::bit_cast<Value>(Key(Key(job_.top) - (key >> 1))); }

  template <class Codec>
  double sum(void* scratch) const {
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
    return sorted_.sum(static_cast<Element*>(scratch), scan_whole);
  }

  // Of one bucket; equal errors never lie in two.
  template <class Codec>
  void scan_bucket(const Codec& codec, const Bucket<Key>& bucket, typename Codec::Element* own,
                   State& state) const {
    const int64_t count = bucket.count;
    const auto* const data =
        sort_bucket(codec, bucket.keys, count, bucket.low_bits, own, own + count);
    const auto put = [&](const auto& element, double g) {
      if constexpr (requires { codec.place(element); }) {
        bucket.keys[codec.place(element)] = std::bit_cast<Key>(Value(g));
      }
    };
    constexpr double kIs[] = {0, 1};
    double left = state.left, u = state.u, loss = state.loss;
    for (int64_t i = 0; i < count;) {
      const Key key = codec.key(data[i]);
      const bool none = job_.zero_is_none && error(key) == 0;
      if (i + 1 == count || (codec.key(data[i + 1]) ^ key) > 1) {
        // 1 / u or left / (u * (u + 1)), without a branch that could not be foreseen.
        const double is_foreground = kIs[key & 1], is_background = kIs[~key & 1];
        const double g = (is_foreground + left * is_background) / (u * (1 + u * is_background));
        left -= is_foreground;
        u += is_background;
        loss += double(error(key)) * g;
        put(data[i++], none ? 0 : g);
        continue;
      }
      int64_t stop = i, n_f = 0;
      for (; stop < count && codec.key(data[stop]) >> 1 == key >> 1; ++stop) {
        n_f += codec.key(data[stop]) & 1;
      }
      const int64_t n_b = stop - i - n_f;
      const Increments g = group_increments(left, u, double(n_f), double(n_b));
      loss += double(error(key)) * (double(n_f) * g.foreground + double(n_b) * g.background);
      for (; i < stop; ++i) {
        put(data[i], none ? 0 : (codec.key(data[i]) & 1 ? g.foreground : g.background));
      }
      left -= double(n_f);
      u += double(n_b);
    }
    state = {left, u, loss};
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
  return with_key(job, [&](auto key) {
    const int64_t element = job.wants_gradient ? 2 * sizeof(key) : sizeof(key);
    return voxels * (int64_t(sizeof(key)) + 2 * element);
  });
}

SortResult sort_group(const SortJob& job, const SortGroup& group, int64_t parts, void* memory) {
  if (group.voxels() == 0) return {0, 0};
  return with_key(job, [&](auto key) -> SortResult {
    using Key = decltype(key);
    using Value = typename SortedScan<Key>::Value;
    const Team team{parts};
    RadixSort<Key> sorted(team, group, job.top, memory);
    const SortedScan<Key> scan(job, group, sorted);
    const SortResult result{scan.run(static_cast<Key*>(memory) + group.voxels()),
                            double(sorted.foreground())};
    if (!group.flagged) return result;
    constexpr auto kNan = std::numeric_limits<Value>::quiet_NaN();
    if (job.wants_gradient) fill(group, std::bit_cast<Key>(kNan));
    return {double(kNan), result.foreground};
  });
}

}  // namespace segloss::lovasz
