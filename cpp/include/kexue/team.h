// A team is whoever works on one row, with the verbs an algorithm needs: max, top, sum, keep.
// Value is what one step handles, Result what a verb returns for the row.
#pragma once

#include "row.h"

namespace kexue {
inline namespace KX_ISA {

template <class V, int K>
struct Sums {
  V value[K];
  KX_FN V operator[](int k) const { return value[k]; }
  KX_FN void add(const Sums& other) {
    KX_UNROLL
    for (int k = 0; k < K; ++k) value[k] = value[k] + other.value[k];
  }
};

// Sums are formed of sums of a few terms: equal terms added one by one err all the same way.
constexpr int few_terms = 8;

// The largest key of a row and what stood beside it.
template <class V, int K>
struct Top {
  V key;
  V beside[K];
  KX_FN void take(const Top& other) {
    const auto better = other.key > key;
    key = select(better, other.key, key);
    KX_UNROLL
    for (int k = 0; k < K; ++k) beside[k] = select(better, other.beside[k], beside[k]);
  }
};

// The steps of a scalar or lane-wise team: one index at a time.
template <class V>
struct LaneTeam {
  using Value = V;
  using Result = V;
  index n;
  V* kept = nullptr;
  index kept_size = 0;

  template <class F>
  KX_FN V max(F f) const {
    V m = splat<V>(-infinity);
    for (index i = 0; i < n; ++i) m = maximum(f(i), m);
    return m;
  }
  template <int K, class F>
  KX_FN Top<V, K> top(F f) const {
    Top<V, K> best = {splat<V>(-infinity), {}};
    if (n > 0) best = f(index(0));
    best.key = select(best.key == best.key, best.key, splat<V>(-infinity));
    for (index i = 1; i < n; ++i) best.take(f(i));
    return best;
  }
  template <int K, class F>
  KX_FN Sums<V, K> sum(F f) const {
    Sums<V, K> s = {};
    for (index i = 0; i < n;) {
      Sums<V, K> few = {};
      for (const index end = i + few_terms < n ? i + few_terms : n; i < end; ++i) few.add(f(i));
      s.add(few);
    }
    return s;
  }
  template <class... Vs>
  KX_FN void keep(index i, Vs... values) const {
    if (kept) {
      V* to = kept + i;
      ((*to = values, to += kept_size), ...);
    }
  }
};

// One thread, one row, one element at a time.
template <class W>
using SerialTeam = LaneTeam<W>;

#if !defined(__CUDACC__)

// Combines the lanes of a pack, halves first.
template <class V, class F>
KX_FN element_t<V> fold_lanes(V v, F f) {
  if constexpr (lanes<V> == 1) {
    return v;
  } else {
    using H = Pack<element_t<V>, lanes<V> / 2>;
    H half[2];
    __builtin_memcpy(half, &v, sizeof v);
    return fold_lanes(f(half[0], half[1]), f);
  }
}

// One thread on one contiguous row, a register at a time.
// Results are of type R, into which sums of narrower lanes are carried over every so often.
template <class V, class R>
struct RowTeam {
  using Value = V;
  using Result = R;
  using Element = element_t<V>;
  static constexpr int width = lanes<V>;
  index n;
  Element* kept = nullptr;
  index kept_size = 0;

  KX_FN static auto live(Part at) { return lane_numbers<V>() < splat<V>(at.count); }

  template <class F>
  KX_FN Result max(F f) const {
    const V least = splat<V>(-infinity);
    V m[4] = {least, least, least, least};
    index i = 0;
    for (; i + 4 * width <= n; i += 4 * width) {
      KX_UNROLL
      for (int k = 0; k < 4; ++k) m[k] = maximum(f(Full{i + k * width}), m[k]);
    }
    for (; i + width <= n; i += width) m[0] = maximum(f(Full{i}), m[0]);
    if (i < n) {
      const Part at = {i, int(n - i)};
      m[1] = maximum(select(live(at), f(at), least), m[1]);
    }
    const auto larger = [](auto a, auto b) { return maximum(a, b); };
    return R(fold_lanes(larger(larger(m[0], m[1]), larger(m[2], m[3])), larger));
  }

  template <int K, class F>
  KX_FN Top<Result, K> top(F f) const {
    const V least = splat<V>(-infinity);
    Top<V, K> best = {least, {}};
    if (n > 0) {  // some element's company, should no key be above -inf
      const Part first = {0, 1};
      const Top<V, K> t = f(first);
      KX_UNROLL
      for (int k = 0; k < K; ++k) best.beside[k] = splat<V>(lane(t.beside[k], 0));
    }
    index i = 0;
    for (; i + width <= n; i += width) best.take(f(Full{i}));
    if (i < n) {
      const Part at = {i, int(n - i)};
      Top<V, K> last = f(at);
      last.key = select(live(at), last.key, least);
      best.take(last);
    }
    Top<Result, K> out = {lane(best.key, 0), {}};
    KX_UNROLL
    for (int k = 0; k < K; ++k) out.beside[k] = lane(best.beside[k], 0);
    for (int j = 1; j < width; ++j) {
      Top<Result, K> other = {lane(best.key, j), {}};
      KX_UNROLL
      for (int k = 0; k < K; ++k) other.beside[k] = lane(best.beside[k], j);
      out.take(other);
    }
    return out;
  }

  template <int K, class F>
  KX_FN Sums<Result, K> sum(F f) const {
    constexpr index run = few_terms * width, long_run = few_terms * run;
    Sums<Wide, K> s = {};
    for (index i = 0; i < n; i += long_run) {
      const index end = i + long_run < n ? i + long_run : n;
      Sums<Wide, K> some = {};
      for (index j = i; j < end; j += run) {
        some.add(widened(few<K>(j, j + run < end ? j + run : end, f)));
      }
      s.add(some);
    }
    Sums<Result, K> total;
    KX_UNROLL
    for (int k = 0; k < K; ++k) {
      total.value[k] = fold_lanes(s.value[k], [](auto a, auto b) { return a + b; });
    }
    return total;
  }

  // Remembers values of step i for the sweep that writes the row, K to a step; `kept` has room for
  // K stretches of kept_size, a register longer than the row.
  template <class At, class... Vs>
  KX_FN void keep(At at, Vs... values) const {
    if (kept) {
      Element* to = kept + at.i;
      ((store(to, values), to += kept_size), ...);
    }
  }

 private:
  using Wide = Pack<R, width* int(sizeof(Element)) / int(sizeof(R))>;

  template <int K, class F>
  KX_FN Sums<V, K> few(index i, index end, F f) const {
    Sums<V, K> s = {};
    for (; i + width <= end; i += width) s.add(f(Full{i}));
    if (i < end) {
      const Part at = {i, int(end - i)};
      Sums<V, K> last = f(at);
      KX_UNROLL
      for (int k = 0; k < K; ++k) last.value[k] = select(live(at), last.value[k], V{});
      s.add(last);
    }
    return s;
  }
  template <int K>
  KX_FN static Sums<Wide, K> widened(Sums<V, K> s) {
    if constexpr (sizeof(Element) == sizeof(R)) {
      return s;
    } else {
      Sums<Wide, K> out;
      KX_UNROLL
      for (int k = 0; k < K; ++k) {
        Pack<Element, width / 2> half[2];
        __builtin_memcpy(half, &s.value[k], sizeof half);
        out.value[k] = convert<Wide>(half[0]) + convert<Wide>(half[1]);
      }
      return out;
    }
  }
};

#endif

// What `each` finds of the values kept by gather: all of them, or none.
template <class E>
struct Kept {
  const E* data;
  index size;
#if !defined(__CUDACC__)
  template <class V>
  KX_FN V get(Full at, int k) const {
    return load<V>(data + k * size + at.i);
  }
  template <class V>
  KX_FN V get(Part at, int k) const {
    return load<V>(data + k * size + at.i);
  }
#endif
  template <class V>
  KX_FN V get(index i, int k) const {
    return load<V>(data + (k * size + i) * lanes<V>);
  }
};
struct NothingKept {};

}  // namespace KX_ISA
}  // namespace kexue
