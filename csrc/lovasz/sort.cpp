#include "lovasz/sort.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "lovasz/increments.h"
#include "lovasz/radix.h"

namespace segloss::lovasz {
namespace {

constexpr int64_t kScanChunk = 65536;  // voxels; the chunks' losses are added in order
constexpr int64_t kPrefetch = 24;      // voxels ahead, of writes to random places

// The scan of one group's sorted keys.
template <class Element>
class SortedScan {
 public:
  using Key = typename Element::Key;
  using Value = std::conditional_t<sizeof(Key) == 4, float, double>;

  SortedScan(const SortJob& job, const SortGroup& group, const Team& team,
             const RadixSort<Element>& sorted)
      : job_(job),
        team_(team),
        values_(static_cast<Value*>(group.values)),
        data_(sorted.data()),
        count_(sorted.count()),
        foreground_(sorted.foreground()) {}

  double run() const {
    if (count_ == 0) return 0;
    return foreground_ > 0 ? scan() : scan_without_foreground();
  }

 private:
  const SortJob& job_;
  const Team& team_;
  Value* const values_;
  const Element* const data_;
  const int64_t count_;
  const int64_t foreground_;

  Value error(Key key) const { return std::bit_cast<Value>(Key(Key(job_.top) - (key >> 1))); }

  void put(int64_t i, double g) const {
    if constexpr (requires { data_->put(static_cast<Value*>(nullptr), Value()); }) {
      data_[i].put(values_, Value(g));
    }
  }

  void prefetch(int64_t i) const {
    if constexpr (requires { data_->place; }) {
      __builtin_prefetch(values_ + data_[i].place, 1);
    }
  }

  // The end of the voxels whose error is that of voxel i.
  int64_t tie_end(int64_t i) const {
    const Key key = data_[i].key >> 1;
    const auto above = [key](const Element& element) { return (element.key >> 1) > key; };
    // Few are equal, or very many.
    int64_t step = 1;
    while (i + step < count_ && !above(data_[i + step])) step *= 2;
    const Element* const stop = data_ + std::min(i + step, count_);
    return std::partition_point(data_ + i + step / 2, stop,
                                [&](const Element& e) { return !above(e); }) -
           data_;
  }

  // Chunks end between different errors.
  int64_t chunk_begin(int64_t chunk) const {
    if (chunk == 0) return 0;
    const int64_t begin = chunk * kScanChunk;
    return begin >= count_ ? count_ : tie_end(begin - 1);
  }

  double scan() const {
    const int64_t chunks = (count_ + kScanChunk - 1) / kScanChunk;
    std::vector<int64_t> foreground(chunks);
    std::vector<double> loss(chunks);
    team_.run(chunks, [&](int64_t chunk) {
      int64_t n = 0;
      for (int64_t i = chunk_begin(chunk), end = chunk_begin(chunk + 1); i < end; ++i) {
        n += data_[i].key & 1;
      }
      foreground[chunk] = n;
    });
    int64_t before = 0;
    for (int64_t& n : foreground) {
      const int64_t own = n;
      n = before;
      before += own;
    }
    team_.run(chunks, [&](int64_t chunk) {
      loss[chunk] =
          scan_chunk(chunk_begin(chunk), chunk_begin(chunk + 1), double(foreground[chunk]));
    });
    double total = 0;
    for (const double part : loss) total += part;
    return total;
  }

  // The numbers are whole and below 2^53.
  double scan_chunk(int64_t begin, int64_t end, double foreground_before) const {
    double left = double(foreground_) - foreground_before;
    double u = double(foreground_) + (double(begin) - foreground_before);
    double loss = 0;
    for (int64_t i = begin; i < end;) {
      const Key key = data_[i].key;
      if (i + kPrefetch < end) prefetch(i + kPrefetch);
      if (i + 1 == end || (data_[i + 1].key ^ key) > 1) {
        const double is_foreground = double(key & 1);
        const double g = key & 1 ? 1 / u : left / (u * (u + 1));
        left -= is_foreground;
        u += 1 - is_foreground;
        loss += double(error(key)) * g;
        put(i++, job_.zero_is_none && error(key) == 0 ? 0 : g);
        continue;
      }
      const int64_t stop = tie_end(i);
      int64_t n = 0;
      for (int64_t j = i; j < stop; ++j) n += data_[j].key & 1;
      const double n_f = double(n), n_b = double(stop - i - n);
      const Increments g = group_increments(left, u, n_f, n_b);
      loss += double(error(key)) * (n_f * g.foreground + n_b * g.background);
      const bool none = job_.zero_is_none && error(key) == 0;
      for (; i < stop; ++i) {
        if (i + kPrefetch < end) prefetch(i + kPrefetch);
        put(i, none ? 0 : (data_[i].key & 1 ? g.foreground : g.background));
      }
      left -= n_f;
      u += n_b;
    }
    return loss;
  }

  // The largest error alone counts.
  double scan_without_foreground() const {
    const int64_t first = tie_end(0);
    const double m = double(error(data_[0].key));
    const double share = job_.zero_is_none && m == 0 ? 0 : 1 / double(first);
    for (int64_t i = 0; i < count_; ++i) put(i, i < first ? share : 0);
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
    RadixSort<Element> sorted(team, group, memory);
    sorted.run(job.top);
    const SortResult result{SortedScan<Element>(job, group, team, sorted).run(),
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
