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
  unsigned bits;
  unsigned behind;  // bit x: voxel x - 1
  unsigned ahead;   // bit x: voxel x + 1

  SL_DEVICE Beside operator|(const Beside& other) const {
    return {bits | other.bits, behind | other.behind, ahead | other.ahead};
  }
};

// Its pieces.
struct Pieces {
  int first;  // voxel of the mask
  unsigned begins;
  unsigned next;    // bit x: one begins at voxel x + 1
  unsigned before;  // those of the word before

  // Where the piece of voxel x begins, which may be -1.
  SL_DEVICE int of(int x) const {
    return first + (x < 0 ? highest(before) - kLanes : highest(begins & up_to(x)));
  }
};

SL_DEVICE Beside look_beside(const Launch& launch, const Word& word, Pieces* pieces) {
  Beside found{};
  found.bits = word.bits(launch);
  found.behind = found.bits << 1;
  found.ahead = found.bits >> 1;
  *pieces = {word.first, word.pieces(launch, found.bits), 0, 0};
  pieces->next = pieces->begins >> 1;
  if (word.in_row > 0) {
    const Word before(launch, word.mask, word.index - 1);
    const unsigned bits = before.bits(launch);
    found.behind |= bits >> 31;
    pieces->before = before.pieces(launch, bits);
  }
  if (word.in_row + 1 < launch.words) {
    const unsigned first = Word(launch, word.mask, word.index + 1).bits(launch) << 31;
    found.ahead |= first;
    pieces->next |= first;
  }
  return found;
}

// With the word before, where a run goes on.
SL_DEVICE void unite_with_word_before(const Launch& launch, const Word& word, unsigned bits) {
  if (word.in_row == 0 || (bits & 1) == 0) return;
  const int64_t at = word.mask * launch.mask_words + word.index;
  if (launch.starts != nullptr && (launch.starts[at] & 1) != 0) return;
  const Word before(launch, word.mask, word.index - 1);
  const unsigned its = before.bits(launch);
  if (its >> 31 == 0) return;
  unite_places(word.parents(launch), word.first,
               before.first + highest(before.pieces(launch, its)));
}

// A thread's word, and that of a row before. Element: void where all of the foreground connects.
template <class Element>
struct Meeting {
  const Problem& problem;
  const Word& word;
  const Word& its;
  const Pieces& own_pieces;
  const Pieces& its_pieces;

  SL_DEVICE bool connects(int x, int y) const {
    if constexpr (std::is_void_v<Element>) {
      return true;
    } else {
      const auto* const data = static_cast<const Element*>(problem.data);
      const int64_t at = word.in_row * kLanes, stride = problem.stride[2];
      return data[word.offset(problem) + (at + x) * stride] ==
             data[its.offset(problem) + (at + y) * stride];
    }
  }

  // Unites pieces at the places where voxel x touches voxel x + step of the other row.
  SL_DEVICE void unite(unsigned places, int step, int32_t* parent) const {
    for (; places != 0; places &= places - 1) {
      const int x = lowest(places);
      if (connects(x, x + step)) {
        const int other = step > 0 ? its_pieces.first + x + 1 : its_pieces.of(x + step);
        unite_places(parent, own_pieces.of(x), other);
      }
    }
  }
};

// The rows before a row that may touch it.
enum Neighbour { kAcross, kBeside, kBack, kForth, kNeighbours };

// Whether a row has this neighbour; where it lies, and along how many axes they differ.
struct Neighbouring {
  bool exists;
  int row;
  int axes;

  SL_DEVICE Neighbouring(const Problem& problem, int own, int which) {
    const int height = int(problem.size[1]), y = own % height;
    const bool inner = own >= height, edges = problem.differing > 1;
    exists = which == kBeside ? y > 0 : inner;
    if (which == kBack) exists = inner && edges && y > 0;
    if (which == kForth) exists = inner && edges && y + 1 < height;
    row = which == kBeside ? own - 1 : own - height;
    if (which == kBack) --row;
    if (which == kForth) ++row;
    axes = which < kBack ? 1 : 2;
  }
};

// Each pair of pieces is met at the first voxel of the own one that touches the other one, and
// nowhere else. Nothing need be done where a voxel of a third row touches both at that place,
// because each of them is united with it anyway; of equal values that is not known.
template <class Element>
__global__ void __launch_bounds__(kThreads, 4) unite_kernel(const __grid_constant__ Launch launch) {
  const Problem& problem = launch.problem;
  int64_t mask = 0;
  int index = 0;
  if (!find_word(launch, &mask, &index)) return;
  const Word word(launch, mask, index);
  if (word.bits(launch) == 0) return;
  unite_with_word_before(launch, word, word.bits(launch));
  Pieces pieces;
  const unsigned bits = look_beside(launch, word, &pieces).bits;
  int32_t* const parent = word.parents(launch);
  Beside across{}, both{};
#pragma unroll 1
  for (int which = 0; which < kNeighbours; ++which) {
    const Neighbouring next(problem, word.row, which);
    if (!next.exists) continue;
    const Word its(launch, mask, next.row * launch.words + word.in_row);
    Pieces its_pieces;
    const Beside other = look_beside(launch, its, &its_pieces);
    const Meeting<Element> meeting{problem, word, its, pieces, its_pieces};
    Beside known = which == kBack ? both : across;
    if (which == kBeside && problem.differing < 3) known = {};
    const unsigned open = bits & ~known.bits, begins = open & pieces.begins & ~known.behind;
    const bool wide = problem.differing > next.axes;
#pragma unroll 1
    for (int step = wide ? 1 : 0; step >= (wide ? -1 : 0); --step) {
      unsigned places = open & its_pieces.next & ~known.ahead;
      if (step == 0)
        places = other.bits & (wide ? begins : open & (pieces.begins | its_pieces.begins));
      if (step < 0) places = begins & other.behind & (its_pieces.begins | ~other.bits);
      meeting.unite(places, step, parent);
    }
    if (std::is_void_v<Element> && problem.differing > 1) {
      if (which == kAcross) across = other;
      if (which == kAcross || which == kBeside) both = both | other;
    }
  }
}

template <class Element>
void launch_typed(const Launch& launch, cudaStream_t stream) {
  const auto blocks = unsigned(launch.problem.masks * launch.mask_blocks);
  segloss::launch({blocks, kThreads, 0, stream}, unite_kernel<Element>, launch);
}

}  // namespace

void launch_unite(const Launch& launch, cudaStream_t stream) {
  if (!launch.problem.by_value) return launch_typed<void>(launch, stream);
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
