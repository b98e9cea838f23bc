// What the self-tests share: launches, memory that host and device see, checks.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

// The one place where code has to know that it runs on the CPU.
template <typename T>
__device__ T* dynamic_shared() {
#ifdef SEGLOSS_HOST_SHIM
  return reinterpret_cast<T*>(segloss_shim::dynamic_shared());
#else
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
#endif
}

inline void check(bool condition, const char* what) {
  if (condition) return;
  std::printf("wrong: %s\n", what);
  std::exit(1);
}

inline void check(cudaError_t error) { check(error == cudaSuccess, cudaGetErrorString(error)); }

inline std::vector<void*> arrays;

// An array of zeros, freed after the case.
template <typename T>
T* zeros(size_t count) {
  T* memory = nullptr;
  check(cudaMallocManaged(&memory, count * sizeof(T)));
  std::memset(static_cast<void*>(memory), 0, count * sizeof(T));
  arrays.push_back(memory);
  return memory;
}

template <typename... Parameters, typename... Arguments>
cudaError_t try_launch(dim3 grid, dim3 block, size_t shared, void (*kernel)(Parameters...),
                       Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

template <typename... Parameters, typename... Arguments>
void launch(dim3 grid, dim3 block, size_t shared, void (*kernel)(Parameters...),
            Arguments... arguments) {
  check(try_launch(grid, block, shared, kernel, arguments...));
  check(cudaDeviceSynchronize());
}

struct Case {
  const char* name;
  void (*run)();
};

// Runs the case that the command line names; without a name, prints the names.
template <size_t count>
int run_case(const Case (&cases)[count], int argc, char** argv) {
  for (const Case& it : cases) {
    if (argc < 2) {
      std::printf("%s\n", it.name);
    } else if (std::strcmp(it.name, argv[1]) == 0) {
      it.run();
      for (void* array : arrays) check(cudaFree(array));
      std::printf("as expected\n");
      return 0;
    }
  }
  return argc < 2 ? 0 : 2;
}
