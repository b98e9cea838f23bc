// Changes from one stack to another, and tells AddressSanitizer about it.
#pragma once

#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#include <cstddef>
#include <cstdint>
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
#ifdef __x86_64__
  void* top = nullptr;  // of the stack, where exchange() left what it keeps
#else
  ucontext_t registers{};
#endif
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

#ifdef __x86_64__
// Goes on at another stack, and keeps what a function must on the one that it leaves. Without the
// two system calls, for masks of signals, of each swapcontext: most of a kernel's time was theirs.
__attribute__((naked, noinline)) inline void exchange(void**, void*) {
  asm("pushq %rbp\n\t"
      "pushq %rbx\n\t"
      "pushq %r12\n\t"
      "pushq %r13\n\t"
      "pushq %r14\n\t"
      "pushq %r15\n\t"
      "movq %rsp, (%rdi)\n\t"
      "movq %rsi, %rsp\n\t"
      "popq %r15\n\t"
      "popq %r14\n\t"
      "popq %r13\n\t"
      "popq %r12\n\t"
      "popq %rbx\n\t"
      "popq %rbp\n\t"
      "ret");
}
#endif

inline void switch_to(Context& from, Context& to) {
  leave(from, to);
#ifdef __x86_64__
  exchange(&from.top, to.top);
#else
  swapcontext(&from.registers, &to.registers);
#endif
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
#ifdef __x86_64__
  // Six registers, the address that exchange() returns to, and none that `entry` would return to.
  uint64_t* top = reinterpret_cast<uint64_t*>(stack + kStack) - 8;
  for (int i = 0; i < 8; ++i) top[i] = i == 6 ? reinterpret_cast<uint64_t>(entry) : 0;
  context.top = top;
#else
  getcontext(&context.registers);
  context.registers.uc_stack.ss_sp = stack;
  context.registers.uc_stack.ss_size = kStack;
  context.registers.uc_link = nullptr;
  makecontext(&context.registers, entry, 0);
  // ASan's swapcontext would forget, at each change, all it knows about a stack named here.
  context.registers.uc_stack.ss_size = 0;
#endif
  context.stack = stack;
  context.bytes = kStack;
}

}  // namespace segloss_shim
