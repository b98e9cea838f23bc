// Runs the threads of one block after another as fibers, in turns, each until it has to wait.
#include "shim/fibers.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "shim/switch.h"

const int warpSize = segloss_shim::kWarpSize;

namespace segloss_shim {

Indices indices;

namespace {

enum class State { kReady, kWaiting, kExited };

// What a thread waits for.
struct Meeting {
  std::string_view name;
  Place place;
  bool of_warp = false;
  unsigned mask = 0;  // of lanes that have to come, if of_warp

  bool same(const Meeting& other) const {
    if (name != other.name || of_warp != other.of_warp || mask != other.mask) return false;
    // Lanes may meet at different lines, but barriers must be one and the same for all threads.
    return of_warp || (place.line() == other.place.line() &&
                       std::string_view(place.file_name()) == other.place.file_name());
  }
};

struct Fiber {
  Context context;
  State state = State::kExited;
  Meeting meeting;
  uint64_t value = 0;  // that it brings to the meeting
  LaneValues met{};    // that its warp brought
};

unsigned first_seed() {
  const char* text = std::getenv("SEGLOSS_SHIM_SEED");
  return text == nullptr ? 0 : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

unsigned seed = first_seed();
int multiprocessor_count = 3;
size_t shared_bytes = 227 * 1024;

std::mutex one_launch;
long launches = 0;  // of this library
Context scheduler;
std::vector<std::unique_ptr<Fiber>> fibers;  // as many as the largest block had threads
const std::function<void()>* body = nullptr;

unsigned threads = 0;  // in a block
unsigned current = 0;  // the rank of the thread that runs
unsigned waiting = 0;  // threads at a barrier of the block
int met_predicates = 0;
unsigned char* shared = nullptr;

std::string describe(const Fiber& fiber) {
  if (fiber.state == State::kExited) return "exited";
  const Meeting& at = fiber.meeting;
  std::string text = "wait at " + std::string(at.name);
  if (at.of_warp) {
    char mask[32];
    std::snprintf(mask, sizeof mask, " with mask 0x%08x", at.mask);
    text += mask;
  }
  return text + ", " + at.place.file_name() + ":" + std::to_string(at.place.line());
}

void print_block() {
  const uint3 b = indices.block;
  std::fprintf(stderr, "segloss shim: block (%u, %u, %u) of %u threads, seed %u: ", b.x, b.y, b.z,
               threads, seed);
}

[[noreturn]] void fail_stuck() {
  print_block();
  std::fprintf(stderr, "threads wait for others that never come\n");
  for (unsigned first = 0; first < threads;) {
    const std::string text = describe(*fibers[first]);
    unsigned last = first;
    while (last + 1 < threads && describe(*fibers[last + 1]) == text) ++last;
    if (first == last) {
      std::fprintf(stderr, "  thread %u: %s\n", first, text.c_str());
    } else {
      std::fprintf(stderr, "  threads %u to %u: %s\n", first, last, text.c_str());
    }
    first = last + 1;
  }
  std::abort();
}

// Fibers outlive blocks and launches: each runs one thread after another.
void fiber_main() {
  Context none;
  arrive(none, scheduler);
  while (true) {
    (*body)();
    Fiber& self = *fibers[current];
    self.state = State::kExited;
    switch_to(self.context, scheduler);
  }
}

void wait() {
  Fiber& self = *fibers[current];
  self.state = State::kWaiting;
  switch_to(self.context, scheduler);
}

void resume(unsigned rank) {
  current = rank;
  const dim3 n = indices.block_dim;
  indices.thread = {rank % n.x, rank / n.x % n.y, rank / n.x / n.y};
  switch_to(scheduler, fibers[rank]->context);
}

void run_block(std::vector<unsigned>& order, std::mt19937& random) {
  waiting = 0;
  for (unsigned i = 0; i < threads; ++i) fibers[i]->state = State::kReady;
  for (bool progress = true; progress;) {
    progress = false;
    if (seed != 0) std::shuffle(order.begin(), order.end(), random);
    for (const unsigned rank : order) {
      if (fibers[rank]->state != State::kReady) continue;
      resume(rank);
      progress = true;
    }
  }
  for (unsigned i = 0; i < threads; ++i) {
    if (fibers[i]->state != State::kExited) fail_stuck();
  }
}

// A new allocation per block, so that ASan also reports pointers kept from the block before.
unsigned char* allocate_shared(size_t bytes) {
  void* memory = nullptr;
  if (bytes != 0 && posix_memalign(&memory, 128, bytes) != 0) std::abort();
  if (bytes != 0) std::memset(memory, 0xff, bytes);
  return static_cast<unsigned char*>(memory);
}

}  // namespace

void fail(const char* what, Place place) {
  print_block();
  std::fprintf(stderr, "thread %u: %s, %s:%u\n", current, what, place.file_name(), place.line());
  std::abort();
}

unsigned thread_rank() { return current; }
int multiprocessors() { return multiprocessor_count; }
size_t shared_opt_in() { return shared_bytes; }

unsigned char* dynamic_shared(Place place) {
  if (shared == nullptr) fail("launched without dynamic shared memory", place);
  return shared;
}

int meet_block(const char* name, bool predicate, Place place) {
  Fiber& self = *fibers[current];
  self.meeting = {name, place};
  self.value = predicate;
  if (++waiting < threads) {
    wait();
    return met_predicates;
  }
  // Nobody overwrites the result before all have read it: they must come here again first.
  met_predicates = 0;
  for (unsigned i = 0; i < threads; ++i) {
    if (!fibers[i]->meeting.same(self.meeting)) {
      self.state = State::kWaiting;
      fail_stuck();
    }
    met_predicates += static_cast<int>(fibers[i]->value);
    fibers[i]->state = State::kReady;
  }
  waiting = 0;
  return met_predicates;
}

const LaneValues& meet_warp(const char* name, unsigned mask, uint64_t value, Place place) {
  if ((mask >> lane() & 1) == 0) fail("calls a warp intrinsic whose mask leaves it out", place);
  const unsigned first = current - static_cast<unsigned>(lane());
  Fiber& self = *fibers[current];
  self.meeting = {name, place, true, mask};
  self.value = value;
  self.state = State::kWaiting;
  LaneValues values{};
  for (unsigned i = 0; i < kWarpSize; ++i) {
    if ((mask >> i & 1) == 0) continue;
    const bool here = first + i < threads && fibers[first + i]->state == State::kWaiting &&
                      fibers[first + i]->meeting.same(self.meeting);
    if (!here) {
      wait();
      return self.met;
    }
    values[i] = fibers[first + i]->value;
  }
  for (unsigned i = 0; i < kWarpSize; ++i) {
    if ((mask >> i & 1) == 0) continue;
    fibers[first + i]->met = values;
    fibers[first + i]->state = State::kReady;
  }
  return self.met;
}

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread) {
  const std::scoped_lock lock(one_launch);
  ++launches;
  body = &thread;
  threads = block.x * block.y * block.z;
  indices.block_dim = block;
  indices.grid_dim = grid;
  while (fibers.size() < threads) {
    fibers.push_back(std::make_unique<Fiber>());
    prepare(fibers.back()->context, fiber_main);
  }
  std::mt19937 random(seed);
  std::vector<unsigned> order(threads);
  std::iota(order.begin(), order.end(), 0u);
  std::vector<size_t> blocks(size_t{grid.x} * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), size_t{0});
  if (seed != 0) std::shuffle(blocks.begin(), blocks.end(), random);
  for (const size_t i : blocks) {
    indices.block = {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                     static_cast<unsigned>(i / grid.x / grid.y)};
    shared = allocate_shared(shared_bytes);
    run_block(order, random);
    std::free(shared);
    shared = nullptr;
  }
}

}  // namespace segloss_shim

void segloss_shim_set_seed(unsigned seed) { segloss_shim::seed = seed; }
void segloss_shim_set_multiprocessors(int count) { segloss_shim::multiprocessor_count = count; }
void segloss_shim_set_shared_bytes(int bytes) { segloss_shim::shared_bytes = size_t(bytes); }
long segloss_shim_launches() { return segloss_shim::launches; }
