// A stand-in for nvcc: CUDA's words for g++ or Clang, and a grid that runs on the CPU. Every thread
// of a block is a fiber; __syncthreads and the shuffles yield to the others. Blocks run one after
// the other. Included before any kernel (-include).
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define KX_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KX_ASAN 1
#endif
#endif
#if KX_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static  // there is one block at a time
#define __launch_bounds__(...)
#define __grid_constant__

namespace cuda_host {

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};
inline Dim thread_index, block_index, block_size, grid_size;

// A fiber: a context of its own on a stack of its own, used again for every block.
struct Fiber {
  static constexpr size_t stack_bytes = 256 * 1024;
  ucontext_t context;
  jmp_buf at;
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  bool begun = false, done = true;
  void* fake_stack = nullptr;
  unsigned shuffles = 0;  // so far
};

// What one lane of a warp offers the others, for the current shuffle and the one before.
struct Offer {
  unsigned value, mask;
};

class Grid {
 public:
  // Runs body for every thread of every block; a reason if the threads wait for each other for
  // ever.
  const char* run(int blocks, int threads, const std::function<void()>& body) {
    std::lock_guard<std::mutex> one_launch(mutex_);
    while (fibers_.size() < size_t(threads)) fibers_.emplace_back(new Fiber);
    offers_.resize(size_t(threads) * 2);
    body_ = &body;
    threads_ = threads;
    grid_size.x = unsigned(blocks);
    block_size.x = unsigned(threads);
    failure_ = nullptr;
    for (int b = 0; b < blocks && !failure_; ++b) {
      block_index.x = unsigned(b);
      run_block();
    }
    return failure_;
  }

  // Whose turn it is: all threads one after the other; or from the last, each warp as far as it
  // comes, which shows where one warp must wait for another.
  bool warp_by_warp = false;

  void wait_for_block() {
    const unsigned long mine = barrier_;
    if (++arrived_ == threads_) {
      arrived_ = 0;
      ++barrier_;
    }
    progress_ = true;
    while (barrier_ == mine) yield();
  }

  unsigned exchange(unsigned mask, unsigned value, int from_lane_of(int, int, int), int distance,
                    int width) {
    const int first = current_ & ~31, lane = current_ & 31;
    const unsigned turn = ++fibers_[size_t(current_)]->shuffles;
    if (!(mask >> lane & 1)) return fail("a thread shuffles with a mask that lacks it"), value;
    offer(current_, turn) = {value, mask};
    progress_ = true;
    for (int other = 0; other < 32; ++other) {
      if (!(mask >> other & 1)) continue;
      if (first + other >= threads_) return fail("a mask names threads that are not there"), value;
      while (fibers_[size_t(first + other)]->shuffles < turn) yield();
      if (offer(first + other, turn).mask != mask) return fail("masks of a shuffle differ"), value;
    }
    return offer(first + from_lane_of(lane, distance, width), turn).value;
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Offer> offers_;
  const std::function<void()>* body_ = nullptr;
  const char* failure_ = nullptr;
  int threads_ = 0, current_ = 0, arrived_ = 0;
  unsigned long barrier_ = 0;
  bool progress_ = false;
  ucontext_t main_context_;
  jmp_buf main_;
  const void* main_stack_ = nullptr;
  size_t main_stack_bytes_ = 0;

  Offer& offer(int thread, unsigned turn) { return offers_[size_t(thread) * 2 + (turn & 1)]; }

  void fail(const char* why) {
    failure_ = why;
    for (;;) yield();  // never resumed: the launch is over
  }

  void run_block() {
    arrived_ = 0;
    for (int t = 0; t < threads_; ++t) {
      Fiber& fiber = *fibers_[size_t(t)];
      fiber.done = false;
      fiber.shuffles = 0;
    }
    const int warps = threads_ / 32;
    for (int left = threads_; left > 0;) {
      const int before = left;
      bool moved = false;
      for (int w = 0; w < warps && !failure_; ++w) {
        do {
          progress_ = false;
          left -= run_warp(warp_by_warp ? warps - 1 - w : w);
          moved = moved || progress_;
        } while (warp_by_warp && progress_ && !failure_);
      }
      progress_ = moved || left < before;
      if (!progress_ && !failure_) failure_ = "threads of a block wait at different places";
      if (failure_) {  // their stacks still hold calls
        for (auto& fiber : fibers_) fiber.reset(new Fiber);
        return;
      }
    }
  }

  // One turn for every thread of a warp; how many came to their end.
  int run_warp(int warp) {
    int ended = 0;
    for (int k = 0; k < 32 && !failure_; ++k) {
      current_ = warp * 32 + (warp_by_warp ? 31 - k : k);
      Fiber& fiber = *fibers_[size_t(current_)];
      if (fiber.done) continue;
      thread_index.x = unsigned(current_);
      enter(fiber);
      ended += fiber.done;
    }
    return ended;
  }

  static void start() {
    self().landed(nullptr);
    for (;;) {
      (*self().body_)();
      self().fibers_[size_t(self().current_)]->done = true;
      self().yield();
    }
  }

  __attribute__((noinline)) void enter(Fiber& fiber) {
    if (!fiber.begun) {
      fiber.begun = true;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = Fiber::stack_bytes;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, &Grid::start, 0);
#if !KX_ASAN
      if (_setjmp(main_) == 0) setcontext(&fiber.context);
      return;
#endif
    }
#if KX_ASAN
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, fiber.stack.get(), Fiber::stack_bytes);
    swapcontext(&main_context_, &fiber.context);
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
    if (_setjmp(main_) == 0) _longjmp(fiber.at, 1);
#endif
  }

  __attribute__((noinline)) void yield() {
    Fiber& fiber = *fibers_[size_t(current_)];
#if KX_ASAN
    __sanitizer_start_switch_fiber(&fiber.fake_stack, main_stack_, main_stack_bytes_);
    swapcontext(&fiber.context, &main_context_);
    landed(fiber.fake_stack);
#else
    if (_setjmp(fiber.at) == 0) _longjmp(main_, 1);
#endif
  }

  void landed(void* fake_stack) {
#if KX_ASAN
    __sanitizer_finish_switch_fiber(fake_stack, &main_stack_, &main_stack_bytes_);
#else
    (void)fake_stack;
#endif
  }

 public:
  static Grid& self() {
    static Grid grid;
    return grid;
  }
};

}  // namespace cuda_host

#define threadIdx cuda_host::thread_index
#define blockIdx cuda_host::block_index
#define blockDim cuda_host::block_size
#define gridDim cuda_host::grid_size

inline void __syncthreads() { cuda_host::Grid::self().wait_for_block(); }
inline unsigned __shfl_sync(unsigned mask, unsigned value, int from, int width) {
  const auto lane_of = [](int lane, int source, int span) {
    return (lane & ~(span - 1)) + (source & (span - 1));
  };
  return cuda_host::Grid::self().exchange(mask, value, lane_of, from, width);
}
inline unsigned __shfl_down_sync(unsigned mask, unsigned value, int distance, int width) {
  const auto lane_of = [](int lane, int step, int span) {
    return (lane & (span - 1)) + step < span ? lane + step : lane;
  };
  return cuda_host::Grid::self().exchange(mask, value, lane_of, distance, width);
}

// The runtime's few names.
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
inline const char* last_launch = nullptr;
inline cudaError_t cudaGetLastError() { return static_cast<cudaError_t>(last_launch != nullptr); }
inline const char* cudaGetErrorString(cudaError_t) { return last_launch; }

#define KX_LAUNCH(kernel, blocks, threads, stream, ...)                                 \
  ((void)(stream), last_launch = cuda_host::Grid::self().run(int(blocks), int(threads), \
                                                             [&] { kernel(__VA_ARGS__); }))
