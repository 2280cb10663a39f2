// A team is whoever works on a row, or on some rows one after the other or side by side, with the
// verbs an algorithm needs: max, top, sum. Value is what one step handles, Result what a verb
// returns: a value of each row.
//
// A verb takes a function of a row (row.h) that gives the step: a function of the element. What a
// step needs of its row is fetched once per row that way.
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

// Sums are formed of sums of a few terms: equal terms added one by one err all the same way. The
// last `counts` of the values of a sum are small integers, whose few are added up in V.
constexpr int few_terms = 8;

// Sums of a few terms of type V. Where R is no wider, terms go to two sums by turns, which errs
// less than one.
template <class R, class V, int K>
struct Few {
  static constexpr bool by_turns = sizeof(element_t<R>) == sizeof(element_t<V>);
  R sum[K] = {}, next[by_turns ? K : 1] = {};
  KX_FN void add(int k, R term) {
    if constexpr (by_turns) {
      const R more = sum[k] + term;
      sum[k] = next[k];
      next[k] = more;
    } else {
      sum[k] = sum[k] + term;
    }
  }
  KX_FN R total(int k) const {
    if constexpr (by_turns) return sum[k] + next[k];
    return sum[k];
  }
};

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

// One element at a time, of one row or of a row in each lane.
template <class V, class R = V>
struct LaneTeam {
  using Value = V;
  using Result = R;
  index n;
  V* kept = nullptr;
  index pitch = 0;

  // Whether a condition holds for some row.
  template <class M>
  KX_FN bool any(M condition) const {
    return any_of(condition);
  }
  template <class F>
  KX_FN R max(F f) const {
    auto step = f(LaneRow<V>{});
    const V least = splat<V>(-infinity);
    V m[4] = {least, least, least, least};  // one would wait for itself
    index i = 0;
    for (; i + 4 <= n; i += 4) {
      KX_UNROLL
      for (int k = 0; k < 4; ++k) m[k] = maximum(step(i + k), m[k]);
    }
    for (; i < n; ++i) m[0] = maximum(step(i), m[0]);
    return convert<R>(maximum(maximum(m[0], m[1]), maximum(m[2], m[3])));
  }
  template <int K, class F>
  KX_FN Top<R, K> top(F f) const {
    auto step = f(LaneRow<V>{});
    Top<V, K> best = {splat<V>(-infinity), {}};
    if (n > 0) best = step(index(0));
    best.key = select(best.key == best.key, best.key, splat<V>(-infinity));
    for (index i = 1; i < n; ++i) best.take(step(i));
    Top<R, K> out = {convert<R>(best.key), {}};
    KX_UNROLL
    for (int k = 0; k < K; ++k) out.beside[k] = convert<R>(best.beside[k]);
    return out;
  }
  template <int K, int counts = 0, class F>
  KX_FN Sums<R, K> sum(F f) const {
    auto step = f(LaneRow<V>{kept, pitch});
    Sums<R, K> s = {};
    constexpr int terms = K - counts;
    for (index i = 0; i < n;) {
      Few<R, V, terms + 1> few;
      V counted[counts + 1] = {};
      for (const index end = i + few_terms < n ? i + few_terms : n; i < end; ++i) {
        Sums<V, K> term = step(i);
        KX_UNROLL
        for (int k = 0; k < terms; ++k) few.add(k, convert<R>(term.value[k]));
        KX_UNROLL
        for (int k = 0; k < counts; ++k) counted[k] = counted[k] + term.value[terms + k];
      }
      KX_UNROLL
      for (int k = 0; k < terms; ++k) s.value[k] = s.value[k] + few.total(k);
      KX_UNROLL
      for (int k = 0; k < counts; ++k) {
        s.value[terms + k] = s.value[terms + k] + convert<R>(counted[k]);
      }
    }
    return s;
  }
};

// One thread, one row, one element at a time.
template <class T>
using SerialTeam = LaneTeam<term_t<T>, wide_t<T>>;

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

// One thread on up to lanes<R> rows, one after the other: a register of neighbours at a time.
template <class V, class R>
struct RowTeam {
  using Value = V;
  using Result = R;
  using Element = element_t<V>;
  static constexpr int width = lanes<V>, most_rows = lanes<R>;
  index n;
  int rows;
  element_t<V>* kept = nullptr;  // room for what steps keep: `parts` stretches of a row, then the
  index pitch = 0;               // next row's; each a register longer than the row
  int parts = 0;

  template <class M>
  KX_FN bool any(M condition) const {
    if constexpr (most_rows == 1) {
      return condition;
    } else {
      bool found = false;
      for (int j = 0; j < rows; ++j) found |= condition[j] != 0;
      return found;
    }
  }
  template <class F>
  KX_FN R max(F f) const {
    PerRow per_row(-infinity);
    for (int j = 0; j < rows; ++j) per_row.value[j] = row_max(f(RowOf<V>{j}));
    return per_row.all();
  }
  // The values of row j that are above a bound or NaN, if there is room for them: how many, or -1.
  template <class F>
  KX_FN int above(int j, double bound, F f, Element* to, int room) const {
    auto step = f(RowOf<V>{j});
    const V low = splat<V>(bound);
    int count = 0;
    const auto append = [&](V x, int live) {
      if (!any_of(!(x <= low))) return true;
      if (count > room - width) return false;
      for (int l = 0; l < live; ++l) {
        to[count] = lane(x, l);
        count += !(lane(x, l) <= Element(bound));
      }
      return true;
    };
    index i = 0;
    for (; i + width <= n; i += width) {
      if (!append(step(Full{i}), width)) return -1;
    }
    if (i < n) {
      const Part at = {i, int(n - i)};
      if (!append(step(at), at.count)) return -1;
    }
    return count;
  }
  template <int K, class F>
  KX_FN Top<R, K> top(F f) const {
    PerRow key(-infinity), beside[K];
    for (int j = 0; j < rows; ++j) {
      Top<V, K> best = row_top<K>(f(RowOf<V>{j}));
      int at = 0;
      for (int l = 1; l < width; ++l) at = lane(best.key, l) > lane(best.key, at) ? l : at;
      key.value[j] = lane(best.key, at);
      for (int k = 0; k < K; ++k) beside[k].value[j] = lane(best.beside[k], at);
    }
    Top<R, K> out = {key.all(), {}};
    for (int k = 0; k < K; ++k) out.beside[k] = beside[k].all();
    return out;
  }
  template <int K, int counts = 0, class F>
  KX_FN Sums<R, K> sum(F f) const {
    PerRow per_row[K];
    for (int j = 0; j < rows; ++j) {
      Sums<Wide, K> s = row_sum<K, counts>(f(RowOf<V, true>{j, kept_of(j), pitch}));
      KX_UNROLL
      for (int k = 0; k < K; ++k) {
        per_row[k].value[j] = fold_lanes(s.value[k], [](auto a, auto b) { return a + b; });
      }
    }
    Sums<R, K> out;
    for (int k = 0; k < K; ++k) out.value[k] = per_row[k].all();
    return out;
  }

 private:
  using E = element_t<R>;
  using Wide = Pack<E, width* int(sizeof(Element)) / int(sizeof(E))>;

  struct PerRow {
    alignas(64) E value[most_rows];
    KX_FN explicit PerRow(double all = 0) {
      for (int j = 0; j < most_rows; ++j) value[j] = E(all);
    }
    KX_FN R all() const { return load<R>(value); }
  };

  KX_FN Element* kept_of(int j) const { return kept ? kept + j * parts * pitch : nullptr; }
  KX_FN static auto live(Part at) { return lane_numbers<V>() < splat<V>(at.count); }

  template <class Step>
  KX_FN Element row_max(const Step& step) const {
    const V least = splat<V>(-infinity);
    V m[4] = {least, least, least, least};
    index i = 0;
    for (; i + 4 * width <= n; i += 4 * width) {
      KX_UNROLL
      for (int k = 0; k < 4; ++k) m[k] = maximum(step(Full{i + k * width}), m[k]);
    }
    for (; i + width <= n; i += width) m[0] = maximum(step(Full{i}), m[0]);
    if (i < n) {
      const Part at = {i, int(n - i)};
      m[1] = maximum(select(live(at), step(at), least), m[1]);
    }
    const auto larger = [](auto a, auto b) { return maximum(a, b); };
    return fold_lanes(larger(larger(m[0], m[1]), larger(m[2], m[3])), larger);
  }
  template <int K, class Step>
  KX_FN Top<V, K> row_top(const Step& step) const {
    const V least = splat<V>(-infinity);
    Top<V, K> best = {least, {}};
    if (n > 0) {  // some element's company, should no key be above -inf
      const Part first = {0, 1};
      Top<V, K> t = step(first);
      KX_UNROLL
      for (int k = 0; k < K; ++k) best.beside[k] = splat<V>(lane(t.beside[k], 0));
    }
    index i = 0;
    for (; i + width <= n; i += width) best.take(step(Full{i}));
    if (i < n) {
      const Part at = {i, int(n - i)};
      Top<V, K> last = step(at);
      last.key = select(live(at), last.key, least);
      best.take(last);
    }
    return best;
  }
  // Sums of a few terms, added in pairs, pairs of pairs and so on, or where they are held in a
  // wider type than the terms, as they come.
  template <int K, int counts, class Step>
  KX_FN Sums<Wide, K> row_sum(const Step& step) const {
    Sums<Wide, K> total = {};
    if constexpr (sizeof(E) > sizeof(Element)) {
      constexpr index run = 2 * few_terms * width;
      for (index i = 0; i < n; i += run) {
        total.add(few<K, counts>(i, i + run < n ? i + run : n, step));
      }
    } else {
      constexpr index run = few_terms * width;
      Sums<Wide, K> level[16];
      unsigned count = 0;
      for (index i = 0; i < n; i += run, ++count) {
        Sums<Wide, K> s = few<K, counts>(i, i + run < n ? i + run : n, step);
        int k = 0;
        for (unsigned c = count; c & 1; c >>= 1) s.add(level[k++]);
        level[k] = s;
      }
      for (int k = 0; count >> k; ++k) {
        if ((count >> k) & 1) total.add(level[k]);
      }
    }
    return total;
  }
  template <int K, int counts, class Step>
  KX_FN Sums<Wide, K> few(index i, index end, const Step& step) const {
    constexpr int terms = K - counts;
    Few<Wide, V, terms + 1> few;
    V counted[counts + 1] = {};
    const auto add = [&](const Sums<V, K>& term) {
      KX_UNROLL
      for (int k = 0; k < terms; ++k) few.add(k, widened(term.value[k]));
      KX_UNROLL
      for (int k = 0; k < counts; ++k) counted[k] = counted[k] + term.value[terms + k];
    };
    for (; i + width <= end; i += width) add(step(Full{i}));
    if (i < end) {
      const Part at = {i, int(end - i)};
      Sums<V, K> last = step(at);
      KX_UNROLL
      for (int k = 0; k < K; ++k) last.value[k] = select(live(at), last.value[k], V{});
      add(last);
    }
    Sums<Wide, K> s;
    KX_UNROLL
    for (int k = 0; k < terms; ++k) s.value[k] = few.total(k);
    KX_UNROLL
    for (int k = 0; k < counts; ++k) s.value[terms + k] = widened(counted[k]);
    return s;
  }
  // Lanes that are narrower than the result's are added up there, in two halves.
  KX_FN static Wide widened(V value) {
    if constexpr (sizeof(Element) == sizeof(E)) {
      return value;
    } else {
      Pack<Element, width / 2> half[2];
      __builtin_memcpy(half, &value, sizeof half);
      return convert<Wide>(half[0]) + convert<Wide>(half[1]);
    }
  }
};

#endif

}  // namespace KX_ISA
}  // namespace kexue
