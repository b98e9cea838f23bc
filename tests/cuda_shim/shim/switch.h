// Changes from one stack to another, and tells AddressSanitizer about it.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define SEGLOSS_SHIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SEGLOSS_SHIM_ASAN 1
#endif
#endif

#ifdef SEGLOSS_SHIM_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace segloss_shim {

// A stack, and where on it to go on.
struct Context {
  ucontext_t registers{};
  const void* stack = nullptr;
  size_t bytes = 0;
  void* fake_stack = nullptr;  // where ASan keeps variables, if it looks for use after return
};

inline void leave([[maybe_unused]] Context& from, [[maybe_unused]] const Context& to) {
#ifdef SEGLOSS_SHIM_ASAN
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.bytes);
#endif
}

// `previous` learns where the stack that was left lies: that of the launch is known only so.
inline void arrive([[maybe_unused]] Context& at, [[maybe_unused]] Context& previous) {
#ifdef SEGLOSS_SHIM_ASAN
  __sanitizer_finish_switch_fiber(at.fake_stack, &previous.stack, &previous.bytes);
#endif
}

inline void switch_to(Context& from, Context& to) {
  leave(from, to);
  swapcontext(&from.registers, &to.registers);
  arrive(from, to);
}

// Gives `context` a stack between two guard pages, on which `entry` starts. It must never return.
inline void prepare(Context& context, void (*entry)()) {
  constexpr size_t kStack = 256 * 1024, kGuard = 64 * 1024;  // no page is larger
  void* memory = mmap(nullptr, kStack + 2 * kGuard, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  char* stack = static_cast<char*>(memory) + kGuard;
  if (memory == MAP_FAILED || mprotect(stack, kStack, PROT_READ | PROT_WRITE) != 0) {
    std::perror("segloss shim: no memory for a stack");
    std::abort();
  }
  getcontext(&context.registers);
  context.registers.uc_stack.ss_sp = stack;
  context.registers.uc_stack.ss_size = kStack;
  context.registers.uc_link = nullptr;
  makecontext(&context.registers, entry, 0);
  // ASan's swapcontext would forget, at each change, all it knows about a stack named here.
  context.registers.uc_stack.ss_size = 0;
  context.stack = stack;
  context.bytes = kStack;
}

}  // namespace segloss_shim
