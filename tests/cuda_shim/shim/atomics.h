// Atomic operations, for the types that CUDA has them for. Fibers need no locks.
#pragma once

#include <algorithm>
#include <concepts>
#include <type_traits>

namespace segloss_shim {

template <typename T, typename... Types>
concept OneOf = (std::same_as<T, Types> || ...);

template <typename T>
concept AtomicInteger = OneOf<T, int, unsigned, unsigned long long>;
template <typename T>
concept AtomicOrdered = AtomicInteger<T> || OneOf<T, long long>;
template <typename T>
concept AtomicNumber = AtomicInteger<T> || OneOf<T, float, double>;
template <typename T>
concept AtomicWord = AtomicInteger<T> || OneOf<T, float>;

template <typename T>
using Given = std::type_identity_t<T>;  // converts to the type that the address has

template <typename T>
T replace(T* address, T value) {
  const T old = *address;
  *address = value;
  return old;
}

}  // namespace segloss_shim

template <segloss_shim::AtomicNumber T>
T atomicAdd(T* address, segloss_shim::Given<T> value) {
  if constexpr (std::same_as<T, int>) {  // wraps around on a GPU
    return segloss_shim::replace(
        address, static_cast<int>(static_cast<unsigned>(*address) + static_cast<unsigned>(value)));
  } else {
    return segloss_shim::replace(address, *address + value);
  }
}

template <segloss_shim::OneOf<int, unsigned> T>
T atomicSub(T* address, segloss_shim::Given<T> value) {
  return static_cast<T>(
      atomicAdd(reinterpret_cast<unsigned*>(address), 0u - static_cast<unsigned>(value)));
}

template <segloss_shim::AtomicOrdered T>
T atomicMin(T* address, segloss_shim::Given<T> value) {
  return segloss_shim::replace(address, std::min(*address, value));
}

template <segloss_shim::AtomicOrdered T>
T atomicMax(T* address, segloss_shim::Given<T> value) {
  return segloss_shim::replace(address, std::max(*address, value));
}

template <segloss_shim::AtomicInteger T>
T atomicOr(T* address, segloss_shim::Given<T> value) {
  return segloss_shim::replace(address, *address | value);
}

template <segloss_shim::AtomicInteger T>
T atomicAnd(T* address, segloss_shim::Given<T> value) {
  return segloss_shim::replace(address, *address & value);
}

template <segloss_shim::AtomicInteger T>
T atomicXor(T* address, segloss_shim::Given<T> value) {
  return segloss_shim::replace(address, *address ^ value);
}

template <segloss_shim::AtomicWord T>
T atomicExch(T* address, segloss_shim::Given<T> value) {
  return segloss_shim::replace(address, value);
}

template <segloss_shim::AtomicInteger T>
T atomicCAS(T* address, segloss_shim::Given<T> expected, segloss_shim::Given<T> value) {
  return segloss_shim::replace(address, *address == expected ? value : *address);
}

// Counts up to `last`, then starts again at 0.
inline unsigned atomicInc(unsigned* address, unsigned last) {
  return segloss_shim::replace(address, *address >= last ? 0 : *address + 1);
}
