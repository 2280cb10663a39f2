// The team of a GPU: some threads of one block on one row. Compiled by nvcc, and by g++ against a
// stand-in that runs the threads of a block as fibers (tests/cuda_host).
#pragma once

#include "../team.h"

namespace kexue {
inline namespace KX_ISA {

constexpr int warp_threads = 32;
constexpr int max_block_threads = 256;
constexpr int max_warps = max_block_threads / warp_threads;

// What the warps of a block tell each other; one of it per block, in shared memory.
struct alignas(16) Slots {
  unsigned char bytes[max_warps][128];
};

#if defined(__CUDA_ARCH__) || !defined(__CUDACC__)
#define KX_ON_DEVICE 1
#endif

// The primitives. nvcc also compiles them for the host, where nobody calls them.
KX_FN int thread_of_block() {
#if KX_ON_DEVICE
  return int(threadIdx.x);
#else
  return 0;
#endif
}
KX_FN void sync_block() {
#if KX_ON_DEVICE
  __syncthreads();
#endif
}
// The value of the thread `distance` further on, or of the first, among `width` neighbours of a
// warp; `mask` names the threads that take part.
template <class S, bool from_first>
KX_FN S shuffle(unsigned mask, S value, int distance, int width) {
  constexpr int words = sizeof(S) / sizeof(unsigned);
  static_assert(sizeof(S) % sizeof(unsigned) == 0, "whole words");
  unsigned word[words];
  __builtin_memcpy(word, &value, sizeof value);
#if KX_ON_DEVICE
  for (int k = 0; k < words; ++k) {
    word[k] = from_first ? __shfl_sync(mask, word[k], 0, width)
                         : __shfl_down_sync(mask, word[k], distance, width);
  }
#endif
  __builtin_memcpy(&value, word, sizeof value);
  return value;
}

// `size` threads on one row: 1, 2, .. 32 neighbours of a warp, or the whole block. Thread `lane`
// takes the elements lane, lane + size, ...; every thread gets the results, which depend on the
// size of the team but not on timing.
//
// A step handles a V; results are of type R. Values are computed again where the row is written:
// that is cheaper than the shared memory to keep them.
template <class V, class R>
struct BlockTeam {
  using Value = V;
  using Result = R;
  index n;
  int size, lane;
  unsigned mask;  // of the neighbours within the warp
  Slots* slots;

  KX_FN BlockTeam(index elements, int threads, Slots* shared)
      : n(elements), size(threads), mask(~0u), slots(shared) {
    const int thread = thread_of_block();
    lane = thread & (size - 1);
    if (size < warp_threads) {
      mask = ((1u << size) - 1) << (thread & (warp_threads - 1) & ~(size - 1));
    }
  }

  // op over the values of the first `live` threads. Within a warp the nearer half takes from the
  // farther one; the warps' results are taken in order.
  template <class S, class F>
  KX_FN S combine(S mine, int live, F op) const {
    static_assert(sizeof(S) <= sizeof slots->bytes[0], "a slot holds it");
    if (size == 1) return mine;
    const int width = size < warp_threads ? size : warp_threads;
    const int at = lane & (width - 1), last = live - (lane - at);
    for (int distance = width / 2; distance > 0; distance /= 2) {
      const S other = shuffle<S, false>(mask, mine, distance, width);
      if (at + distance < last) mine = op(mine, other);
    }
    if (size <= warp_threads) return shuffle<S, true>(mask, mine, 0, width);
    if (at == 0) __builtin_memcpy(slots->bytes[lane / warp_threads], &mine, sizeof mine);
    sync_block();
    __builtin_memcpy(&mine, slots->bytes[0], sizeof mine);
    for (int warp = 1; warp * warp_threads < live; ++warp) {
      S other;
      __builtin_memcpy(&other, slots->bytes[warp], sizeof other);
      mine = op(mine, other);
    }
    sync_block();  // before the slots are used again
    return mine;
  }

  KX_FN bool any(bool condition) const { return condition; }
  template <class F>
  KX_FN R max(F f) const {
    const auto step = f(LaneRow<V>{});
    V m = static_cast<V>(-infinity);
    for (index i = lane; i < n; i += size) m = maximum(step(i), m);
    return static_cast<R>(combine(m, size, [](V a, V b) { return maximum(a, b); }));
  }
  template <int K, class F>
  KX_FN Top<R, K> top(F f) const {
    const auto step = f(LaneRow<V>{});
    const V least = static_cast<V>(-infinity);
    Top<V, K> best = {least, {}};
    if (lane < n) best = step(index(lane));
    best.key = select(best.key == best.key, best.key, least);
    for (index i = index(lane) + size; i < n; i += size) best.take(step(i));
    best = combine(best, size, [](Top<V, K> a, const Top<V, K>& b) {
      a.take(b);
      return a;
    });
    Top<R, K> out = {static_cast<R>(best.key), {}};
    for (int k = 0; k < K; ++k) out.beside[k] = static_cast<R>(best.beside[k]);
    return out;
  }
  // Unless terms are narrower than results, a thread keeps what rounding takes from its sums of
  // few.
  template <int K, int counts = 0, class F>
  KX_FN Sums<R, K> sum(F f) const {
    constexpr bool exact = sizeof(V) == sizeof(R);
    const auto step = f(LaneRow<V>{});
    Sums<R, K> s = {}, lost = {};
    const index stretch = index(few_terms) * size;
    for (index begin = lane; begin < n; begin += stretch) {
      const index end = n - begin < stretch ? n : begin + stretch;
      Sums<R, K> few = {};
      for (index i = begin; i < end; i += size) {
        const Sums<V, K> term = step(i);
        for (int k = 0; k < K; ++k) few.value[k] += static_cast<R>(term.value[k]);
      }
      for (int k = 0; k < K; ++k) {
        const Two<R> sum = two_sum(s.value[k], few.value[k]);
        s.value[k] = sum.hi;
        if (exact && k < K - counts) lost.value[k] += sum.lo;
      }
    }
    for (int k = 0; k < K; ++k) {  // infinite sums have no such rest
      const R sum = s.value[k] + lost.value[k];
      s.value[k] = sum == sum ? sum : s.value[k];
    }
    return combine(s, size, [](Sums<R, K> a, const Sums<R, K>& b) {
      a.add(b);
      return a;
    });
  }

  // n states, merged: each thread a run of neighbours, then as above.
  template <class Fetch, class Merge>
  KX_FN auto merge(Fetch fetch, Merge op) const {
    const index run = (n + size - 1) / size;
    const int live = int((n + run - 1) / run);
    auto mine = fetch(lane < live ? lane * run : 0);
    const index end = (lane + 1) * run < n ? (lane + 1) * run : n;
    for (index c = lane * run + 1; c < end; ++c) mine = op(mine, fetch(c));
    return combine(mine, live, op);
  }
};

}  // namespace KX_ISA
}  // namespace kexue
