// Pieces that touch are united: a thread has a word, and looks at those of the rows before.
#include "connected_components/cuda/words.cuh"
#include "cuda.cuh"

namespace segloss::connected_components::cuda {
namespace {

// The root. On the way each place is given its grandparent, which was an ancestor a moment ago, and
// stays one whatever others do: a chain is halved by each that goes along it.
SL_DEVICE int find_root(int32_t* parent, int at) {
  volatile int32_t* const shared = parent;
  int above = shared[at];
  while (above != at) {
    const int next = shared[above];
    if (next != above) shared[at] = next;
    at = above;
    above = next;
  }
  return at;
}

// Links the later root to the earlier one. Another thread may have linked it meanwhile, to
// something that must be united too.
SL_DEVICE void unite_places(int32_t* parent, int a, int b) {
  a = find_root(parent, a);
  b = find_root(parent, b);
  while (a != b) {
    const int later = max(a, b), earlier = min(a, b);
    const int found = atomicMin(parent + later, earlier);
    if (found == later) return;
    a = find_root(parent, found);
    b = find_root(parent, earlier);
  }
}

// A word of another row, and the bits beside it.
struct Beside {
  int first;  // voxel of the mask
  unsigned bits;
  unsigned behind;  // bit x: voxel x - 1
  unsigned ahead;   // bit x: voxel x + 1
  unsigned pieces;
  unsigned next;  // bit x: a piece begins at voxel x + 1
  unsigned last;  // the pieces of the word before
};

SL_DEVICE Beside look_beside(const Launch& launch, int64_t mask, int row, int in_row) {
  const Word word(launch, mask, row * launch.words + in_row);
  Beside found{};
  found.first = word.first;
  found.bits = word.bits(launch);
  found.pieces = word.pieces(launch, found.bits);
  found.behind = found.bits << 1;
  found.ahead = found.bits >> 1;
  found.next = found.pieces >> 1;
  if (in_row > 0) {
    const Word before(launch, mask, word.index - 1);
    const unsigned bits = before.bits(launch);
    found.behind |= bits >> 31;
    found.last = before.pieces(launch, bits);
  }
  if (in_row + 1 < launch.words) {
    const Word after(launch, mask, word.index + 1);
    const unsigned first = after.bits(launch) << 31;
    found.ahead |= first;
    found.next |= first;
  }
  return found;
}

// Whether voxels connect that touch.
template <class Element>
struct Equal {
  const Element* data;  // null where all do
  int64_t own;          // where the rows lie
  int64_t other;
  int64_t stride;

  SL_DEVICE bool operator()(int x, int y) const {
    return data == nullptr || data[own + x * stride] == data[other + y * stride];
  }
};

// The word that a thread unites.
template <class Element>
struct Uniting {
  const Launch& launch;
  const Word& word;
  unsigned bits;
  unsigned pieces;
  int32_t* parent;

  SL_DEVICE int piece(int x) const { return word.first + highest(pieces & up_to(x)); }

  // With the word of another row, by the first voxels that touch; not at those of `known`, which
  // touch both pieces by another row. kReach: 1 where voxels touch across an edge, too.
  template <int kReach>
  SL_DEVICE void with(const Beside& other, const Beside& known, const Equal<Element>& equal) const {
    const int at = word.in_row * kLanes;
    const unsigned open = bits & ~known.bits;
    if (kReach == 0) {
      unsigned places = open & other.bits & (pieces | other.pieces);
      for (; places != 0; places &= places - 1) {
        const int x = lowest(places);
        if (!equal(at + x, at + x)) continue;
        unite_places(parent, piece(x), other.first + highest(other.pieces & up_to(x)));
      }
      return;
    }
    unsigned places = open & other.next & ~known.ahead;
    for (; places != 0; places &= places - 1) {
      const int x = lowest(places);
      if (equal(at + x, at + x + 1)) unite_places(parent, piece(x), other.first + x + 1);
    }
    const unsigned begins = open & pieces & ~known.behind;
    for (places = begins & other.bits; places != 0; places &= places - 1) {
      const int x = lowest(places);
      if (!equal(at + x, at + x)) continue;
      unite_places(parent, piece(x), other.first + highest(other.pieces & up_to(x)));
    }
    places = begins & other.behind & (other.pieces | ~other.bits);
    for (; places != 0; places &= places - 1) {
      const int x = lowest(places);
      if (!equal(at + x, at + x - 1)) continue;
      const int begin = x > 0 ? highest(other.pieces & up_to(x - 1)) : highest(other.last) - kLanes;
      unite_places(parent, piece(x), other.first + begin);
    }
  }

  // With the word before, where a run goes on.
  SL_DEVICE void with_word_before() const {
    if (word.in_row == 0 || (bits & 1) == 0) return;
    const Word before(launch, word.mask, word.index - 1);
    const unsigned its = before.bits(launch);
    if (its >> 31 == 0) return;
    if (launch.starts != nullptr &&
        (launch.starts[word.mask * launch.mask_words + word.index] & 1)) {
      return;
    }
    unite_places(parent, word.first, before.first + highest(before.pieces(launch, its)));
  }
};

template <class Element>
__global__ void __launch_bounds__(kThreads) unite_kernel(const __grid_constant__ Launch launch) {
  const Problem& problem = launch.problem;
  int64_t mask = 0;
  int index = 0;
  if (!find_word(launch, &mask, &index)) return;
  const Word word(launch, mask, index);
  const unsigned bits = word.bits(launch);
  if (bits == 0) return;
  const Uniting<Element> own{launch, word, bits, word.pieces(launch, bits), word.parents(launch)};
  own.with_word_before();
  const int height = int(problem.size[1]), y = word.row % height;
  const bool inner = word.row >= height, edges = problem.differing > 1;
  // Equal values are not known to be equal to a third one.
  const bool skips = edges && !problem.by_value;
  const auto* const data = problem.by_value ? static_cast<const Element*>(problem.data) : nullptr;
  const auto meet = [&](int row, int axes, const Beside& other, const Beside& known) {
    const Equal<Element> equal{data, word.offset(problem),
                               Word(launch, mask, row * launch.words).offset(problem),
                               problem.stride[2]};
    if (problem.differing > axes) {
      own.template with<1>(other, known, equal);
    } else {
      own.template with<0>(other, known, equal);
    }
  };
  const auto look = [&](int row) { return look_beside(launch, mask, row, word.in_row); };
  const Beside nothing{};
  Beside known{};
  if (inner) {
    const Beside across = look(word.row - height);
    meet(word.row - height, 1, across, nothing);
    if (skips) known = across;
  }
  Beside both = known;
  if (y > 0) {
    const Beside beside = look(word.row - 1);
    meet(word.row - 1, 1, beside, problem.differing > 2 ? known : nothing);
    if (skips) {
      both.bits |= beside.bits;
      both.ahead |= beside.ahead;
      both.behind |= beside.behind;
    }
  }
  if (!inner || !edges) return;
  if (y > 0) meet(word.row - height - 1, 2, look(word.row - height - 1), both);
  if (y + 1 < height) meet(word.row - height + 1, 2, look(word.row - height + 1), known);
}

template <class Element>
void launch_typed(const Launch& launch, cudaStream_t stream) {
  const auto blocks = unsigned(launch.problem.masks * launch.mask_blocks);
  segloss::launch({blocks, kThreads, 0, stream}, unite_kernel<Element>, launch);
}

}  // namespace

void launch_unite(const Launch& launch, cudaStream_t stream) {
  if (!launch.problem.by_value) return launch_typed<uint8_t>(launch, stream);
  switch (launch.problem.element_size) {
    case 1:
      return launch_typed<uint8_t>(launch, stream);
    case 2:
      return launch_typed<uint16_t>(launch, stream);
    case 4:
      return launch_typed<uint32_t>(launch, stream);
    default:
      return launch_typed<unsigned long long>(launch, stream);
  }
}

}  // namespace segloss::connected_components::cuda
