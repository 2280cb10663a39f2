// Chunks of queries or keys with their features, and the states that take them in. Features are
// panels with a feature a row, so that maxima and sums over features run along registers.
//
// Features of exponential maps stay logarithms until their unit e^c is known, c the largest log of
// each feature so far: then no exponent is positive.
#pragma once

#include "../product.h"
#include "kexue/sincos.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

constexpr index chunk = 64;  // rows of a panel

// What does not change during a call.
template <class T>
struct Maps {
  int kind;
  index d, f, e, d_pitch, e_pitch;
  T scale, eps;
  const T *weights, *bias;  // of affine maps, f x d and f, or null
  bool log() const { return is_log(kind); }
  bool per_feature() const { return kind == efficient; }
  T bias_of(index t) const { return bias ? bias[t] : T(0); }
  index weight_rows() const { return kind == trigonometric ? f / 2 : f; }
};

// Queries or keys of one head, in the order of the scan.
struct Rows {
  index count;
  View x, values;      // values: v of keys, g of queries
  View weight, decay;  // of keys, null data where there are none
  View place;          // of queries: sums of decays at their places; null data likewise
  char* stats;         // of queries: top, 1 / denominator, delta, as T; pitch in bytes
  index stats_pitch;
  View masses;  // of queries with a z for each feature: its logarithm, then the gradient for it
  bool query;
  Rows turned() const {
    Rows other = *this;
    other.x = x.turned(count);
    other.values = values.turned(count);
    other.weight = weight.turned(count);
    other.decay = decay.turned(count);
    other.place = place.turned(count);
    other.stats = stats + (count - 1) * stats_pitch;
    other.stats_pitch = -stats_pitch;
    other.masses = masses.turned(count);
    return other;
  }
};

template <class T>
struct Stats {
  T top, inverse, delta;
};

template <class T>
constexpr Dtype type_of = sizeof(T) == 8 ? float64 : float32;

// Up to `chunk` rows in working memory. Logarithms of features are what stands in `features` plus
// the row's shift and the feature's bias, which are added where they are used.
template <class T>
struct Block {
  T *x, *features, *values, *turned;  // x: d x chunk; f x chunk; chunk x e; e x chunk
  T* tails = nullptr;                 // d x chunk, of sources with a tail for each feature
  T* tops;                            // f, of sources: the largest log of each feature
  T shift[chunk], tail[chunk], keep[chunk];
  int count;
  index columns;  // of panels that are in use: one register's, or all
};

template <class T>
struct State {
  T *c, *s, *z;  // f, f x e_pitch, f
  double place;  // sum of decays that its unit refers to
  index live;    // sources that are not masked
};

template <class T>
struct Head {
  using V = typename Panel<T>::V;
  static constexpr int width = Panel<T>::width;
  const Maps<T>& maps;

  State<T> state_at(T* memory) const {
    const index room = padded_features(maps);
    return {memory, memory + 2 * room, memory + room, 0, 0};
  }
  // At least one: maps without logarithms have their unit in the first.
  static index padded_features(const Maps<T>& maps) { return (maps.f + 16) / 16 * 16; }
  static index state_room(const Maps<T>& maps) {
    return 2 * padded_features(maps) + maps.f * maps.e_pitch + 16;
  }
  void clear(State<T>& to) const {
    to.c[0] = T(-infinity);
    for (index t = 0; t < maps.f; ++t) {
      to.c[t] = T(-infinity);
      to.z[t] = 0;
    }
    for (index i = 0; i < maps.f * maps.e_pitch; ++i) to.s[i] = 0;
    to.place = 0;
    to.live = 0;
  }
  void copy(const State<T>& from, State<T>& to) const {
    const State<T> own = to;
    to = from;
    to.c = own.c, to.s = own.s, to.z = own.z;
    for (index t = 0; t < maps.f; ++t) to.c[t] = from.c[t], to.z[t] = from.z[t];
    for (index i = 0; i < maps.f * maps.e_pitch; ++i) to.s[i] = from.s[i];
  }
  void scale_row(const State<T>& state, index t, T factor) const {
    if (factor == 1) return;
    state.z[t] *= factor;
    multiply(state.s + t * maps.e_pitch, maps.e_pitch, factor);
  }
  // Raises the unit of feature t.
  void raise(const State<T>& state, index t, T c) const {
    if (!(c > state.c[t])) return;
    if (state.c[t] != T(-infinity)) scale_row(state, t, exp_anywhere(T(state.c[t] - c)));
    state.c[t] = c;
  }
  void move(State<T>& state, double place, T direction) const {
    const T by = T(direction * T(place - state.place));
    if (by != 0) {
      for (index t = 0; t < maps.f; ++t) state.c[t] += by;
    }
    state.place = place;
  }
  // What two have, as sums over both; `by` is what units of the second move by. `to` may be the
  // first.
  void merge(const State<T>& one, const State<T>& two, T direction, State<T>& to) const {
    const T by = T(direction * T(one.place - two.place));
    const index pitch = maps.e_pitch;
    for (index first = 0; first < maps.f; first += width) {
      alignas(64) T left[width], right[width];
      const V c = kexue::load<V>(one.c + first), d = kexue::load<V>(two.c + first) + splat<V>(by);
      const V top = maximum(d, c);
      const auto factor = [&](V own) {
        return select(own == top, splat<V>(1), exp_up_to(V(own - top)));
      };
      kexue::store(left, factor(c));
      kexue::store(right, factor(d));
      kexue::store(to.c + first, top);
      const index last = first + width < maps.f ? first + width : maps.f;
      for (index t = first; t < last; ++t) {
        const T a = left[t - first], b = right[t - first];
        to.z[t] = a * one.z[t] + b * two.z[t];
        for (index i = t * pitch; i < (t + 1) * pitch; i += width) {
          kexue::store(to.s + i, V(splat<V>(a) * kexue::load<V>(one.s + i) +
                                   splat<V>(b) * kexue::load<V>(two.s + i)));
        }
      }
    }
    to.place = one.place;
    to.live = one.live + two.live;
  }

  // --- Features ---

  // Rows from `first` on: inputs, features or their logarithms, values, what their exponents are
  // shifted by, tails. `place` is what sums of decays are taken relative to. `weighted` queries
  // give g / denominator as values and delta as tails.
  void load(const Rows& rows, index first, int count, double place, bool weighted, Block<T>& to,
            T* rough) const {
    to.count = count;
    to.columns = count <= width ? width : chunk;
    fetch(rows.x.from(first), count, maps.d, rough, maps.d_pitch);
    if (rows.values.data) {
      fetch(rows.values.from(first), count, maps.e, to.values, maps.e_pitch);
    }
    for (index i = 0; i < chunk; ++i) {
      to.shift[i] = 0;
      to.keep[i] = i < count;
      to.tail[i] = i < count;
    }
    if (rows.weight.data) fetch(rows.weight.from(first), count, 1, to.keep, 1);
    if (rows.query && weighted) {
      for (int i = 0; i < count; ++i) {
        const auto own = load_stats(rows, first + i);
        to.shift[i] = -own.top;
        to.tail[i] = own.delta;
        multiply_or_clear(to.values + i * maps.e_pitch, maps.e_pitch, own.inverse);
        if (own.inverse == 0) to.keep[i] = 0;
      }
    }
    for (index i = 0; i < to.columns; ++i) {
      if (to.keep[i] > 0 || (i < count && to.keep[i] != to.keep[i])) continue;
      to.keep[i] = 0;
      to.tail[i] = 0;
      for (index c = 0; c < maps.d_pitch; ++c) rough[i * maps.d_pitch + c] = 0;
      for (index c = 0; c < maps.e_pitch; ++c) to.values[i * maps.e_pitch + c] = 0;
    }
    const View& decays = rows.query ? rows.place : rows.decay;
    if (decays.data) {
      for (int i = 0; i < count; ++i) {
        const double sum = kexue::load<double>(decays.data + (first + i) * decays.pitch);
        to.shift[i] += T(rows.query ? sum - place : place - sum);
      }
    }
    if (maps.scale != 1) multiply(rough, count * maps.d_pitch, maps.scale);
    turn(rough, maps.d_pitch, to.columns, maps.d_pitch, to.x, chunk);
    for (int i = 0; i < int(chunk); ++i) {
      if (to.keep[i] == 0) {
        to.shift[i] = T(-infinity);
      } else if (to.keep[i] != 1 && maps.log()) {
        to.shift[i] += kexue::log(to.keep[i]);
      }
    }
    features(to, map_of(maps.kind, rows.query));
    if (maps.per_feature() && rows.query && weighted) load_masses(rows, first, to, rough);
    if (maps.log() || (count == chunk && !rows.weight.data && !weighted)) return;
    each_feature(to.features, to.columns,
                 [&](V x, index i, index) { return x * kexue::load<V>(to.keep + i); });
  }
  // Takes logarithms of denominators from those of features, and gradients for them as tails.
  void load_masses(const Rows& rows, index first, Block<T>& to, T* rough) const {
    const auto next = [&](index part) {
      View from = rows.masses.from(first);
      from.data += part * maps.f * index(sizeof(T));
      fetch(from, to.count, maps.f, rough, maps.d_pitch);
      for (index i = to.count * maps.d_pitch; i < chunk * maps.d_pitch; ++i) rough[i] = 0;
      turn(rough, maps.d_pitch, chunk, maps.d_pitch, to.tails, chunk);
    };
    next(0);
    each_feature(to.features, to.columns, [&](V x, index i, index t) {
      return x - kexue::load<V>(to.tails + t * chunk + i);
    });
    next(1);
    each_feature(to.tails, to.columns, [&](V x, index i, index) {
      return select(kexue::load<V>(to.keep + i) == V{}, V{}, x);
    });
  }
  Stats<T> load_stats(const Rows& rows, index i) const {
    return kexue::load<Stats<T>>(rows.stats + i * rows.stats_pitch);
  }
  void store_stats(const Rows& rows, index i, const Stats<T>& own) const {
    kexue::store(rows.stats + i * rows.stats_pitch, own);
  }

  // Replaces the numbers of a panel with a feature a row: x = f(x, i, t) at rows i, feature t.
  template <class F>
  KX_FN void each_feature(T* panel, index columns, F f) const {
    for (index t = 0; t < maps.f; ++t) {
      T* const row = panel + t * chunk;
      for (index i = 0; i < columns; i += width) {
        kexue::store(row + i, f(kexue::load<V>(row + i), i, t));
      }
    }
  }
  // Folds each column of x: total = f(total, x_j, i, j) over its rows, four registers side by side
  // where more than one is in use.
  template <class F>
  KX_FN void folded_down(const T* x, index columns, index rows, T* to, T start, F f) const {
    if (columns == width) {
      fold_strip<1>(x, columns, rows, to, start, f);
    } else {
      fold_strip<4>(x, columns, rows, to, start, f);
    }
  }
  template <int beside, class F>
  KX_FN void fold_strip(const T* x, index columns, index rows, T* to, T start, F f) const {
    for (index i = 0; i < columns; i += beside * width) {
      V total[beside];
      KX_UNROLL
      for (V& own : total) own = splat<V>(start);
      for (index j = 0; j < rows; ++j) {
        KX_UNROLL
        for (int k = 0; k < beside; ++k) {
          const index at = i + k * width;
          total[k] = f(total[k], kexue::load<V>(x + j * chunk + at), at, j);
        }
      }
      KX_UNROLL
      for (int k = 0; k < beside; ++k) kexue::store(to + i + k * width, total[k]);
    }
  }
  // The sum over rows j of x of f(x_j), for each column.
  template <class F>
  KX_FN void down(const T* x, index columns, index rows, T* to, F f) const {
    folded_down(x, columns, rows, to, 0,
                [&](V sum, V a, index i, index j) { return sum + f(a, i, j); });
  }

  void features(Block<T>& block, int kind) const {
    T* const to = block.features;
    const T* const x = block.x;
    const index columns = block.columns;
    if (kind == affine) {
      alignas(64) T half[chunk];
      down(x, columns, maps.d, half, [](V a, index, index) { return a * a * T(0.5); });
      for (index i = 0; i < columns; i += width) {
        T* const at = block.shift + i;
        kexue::store(at, V(kexue::load<V>(at) - kexue::load<V>(half + i)));
      }
      products(x, columns, to);
      return;
    }
    if (kind == random_relu) {
      products(x, columns, to);
      const T root = random_root();
      each_feature(block.features, columns, [&](V u, index, index) {
        return single_feature(random_relu, u, maps.eps) * root;
      });
      return;
    }
    if (kind == trigonometric) {
      const index m = maps.weight_rows();
      alignas(64) T half[chunk];
      down(x, columns, maps.d, half, [](V a, index, index) { return a * a * T(0.5); });
      for (index i = 0; i < columns; ++i) block.shift[i] += half[i];
      products(x, columns, to);
      const T root = random_root();
      for (index t = 0; t < m * chunk; t += chunk) {
        for (index i = t; i < t + columns; i += width) turn_of(to + i, to + m * chunk + i, root);
      }
      return;
    }
    index offset = 0;
    if (kind == cosine || kind == taylor2) {
      for (index i = 0; i < chunk; ++i) to[i] = 1;
      offset = chunk;
    }
    if (kind == cosine) {
      alignas(64) T norm[chunk];
      norms(x, columns, norm);
      for (index j = 0; j < maps.d * chunk; j += width) {
        const V own = kexue::load<V>(norm + j % chunk);
        kexue::store(to + offset + j, select(own == V{}, V{}, V(kexue::load<V>(x + j) / own)));
      }
      return;
    }
    for (index i = 0; i < maps.d * chunk; i += width) {
      kexue::store(to + offset + i, single_feature(kind, kexue::load<V>(x + i), maps.eps));
    }
    if (kind == softmax_d) {
      alignas(64) T shift[chunk];
      log_masses(x, columns, shift);
      each_feature(block.features, columns,
                   [&](V a, index i, index) { return a - kexue::load<V>(shift + i); });
    }
    if (kind == taylor2) {
      T* pair = to + (1 + maps.d) * chunk;
      for (index a = 0; a < maps.d; ++a) {
        for (index b = a; b < maps.d; ++b, pair += chunk) {
          const V factor = splat<V>(pair_weight<T>(a == b));
          for (index i = 0; i < chunk; i += width) {
            const V left = factor * kexue::load<V>(x + a * chunk + i);
            kexue::store(pair + i, V(left * kexue::load<V>(x + b * chunk + i)));
          }
        }
      }
    }
  }
  // Cosines in the place of angles, and sines, times a number.
  static void turn_of(T* cosines, T* sines, T factor) {
    const V x = kexue::load<V>(cosines);
    const SinCos<V> own(x);
    kexue::store(cosines, V(own.cos * factor));
    kexue::store(sines, V(own.sin * factor));
    if (!(largest_lane(abs(x)) > T(SinCos<V>::most))) return;
    for (int i = 0; i < width; ++i) {
      if (!(abs(lane(x, i)) > T(SinCos<V>::most))) continue;
      cosines[i] = T(__builtin_cos(double(lane(x, i)))) * factor;
      sines[i] = T(__builtin_sin(double(lane(x, i)))) * factor;
    }
  }
  // W x
  void products(const T* x, index columns, T* to) const {
    product(false, int(maps.weight_rows()), int(columns), int(maps.d),
            Left<T>{maps.weights, maps.d, 1}, x, chunk, to, chunk);
  }
  T random_root() const {
    return maps.f > 0 ? T(1 / __builtin_sqrt(double(maps.weight_rows()))) : T(1);
  }
  // |x| of each column
  void norms(const T* x, index columns, T* to) const {
    alignas(64) T top[chunk];
    folded_down(x, columns, maps.d, top, 0,
                [](V most, V a, index, index) { return maximum(V(abs(a)), most); });
    down(x, columns, maps.d, to, [&](V a, index i, index) {
      const V most = kexue::load<V>(top + i);
      const V part = a / select(most == V{}, splat<V>(1), most);
      return part * part;
    });
    for (index i = 0; i < columns; ++i) to[i] = top[i] * T(__builtin_sqrt(double(to[i])));
  }
  // The largest f(x_j) of each column, 0 where all are -inf; a nan stays aside.
  template <class F>
  KX_FN void tops(const T* x, index columns, index rows, T* to, F f) const {
    folded_down(x, columns, rows, to, T(-infinity),
                [&](V top, V a, index i, index j) { return maximum(V(f(a, i, j)), top); });
    for (index i = 0; i < columns; ++i) to[i] = to[i] == T(-infinity) ? T(0) : to[i];
  }
  void log_masses(const T* x, index columns, T* to) const {
    alignas(64) T shift[chunk];
    tops(x, columns, maps.d, shift, [](V a, index, index) { return a; });
    down(x, columns, maps.d, to,
         [&](V a, index i, index) { return exp_up_to(V(a - kexue::load<V>(shift + i))); });
    for (index i = 0; i < columns; i += width) {
      kexue::store(to + i, V(kexue::load<V>(shift + i) + log(kexue::load<V>(to + i))));
    }
  }

  // --- States ---

  // f of `width` features from each `first` on, a lane each: row(t, i) of columns from i on,
  // folded.
  template <class Row, class Fold, class F>
  KX_FN void by_lanes(index columns, Row row, Fold fold, T outside, F f) const {
    for (index first = 0; first < maps.f; first += width) {
      V total[width];
      for (int k = 0; k < width; ++k) {
        total[k] = splat<V>(outside);
        if (first + k >= maps.f) continue;
        total[k] = fold(row(first + k, 0), total[k]);
        if (columns == width) continue;
        KX_UNROLL
        for (index i = width; i < chunk; i += width) total[k] = fold(row(first + k, i), total[k]);
      }
      f(first, fold_packs(total, fold));
    }
  }
  // The largest logs of a block of sources; a nan stays aside.
  void find_tops(const Block<T>& block) const {
    if (!maps.log()) {
      block.tops[0] = highest(block, 0, chunk, T(-infinity));
      return;
    }
    const T *const features = block.features, *const shift = block.shift;
    by_lanes(
        block.columns,
        [=](index t, index i) {
          return V(kexue::load<V>(features + t * chunk + i) + kexue::load<V>(shift + i));
        },
        Largest{}, T(-infinity),
        [&](index first, V top) { kexue::store(block.tops + first, top); });
    for (index t = 0; maps.bias && t < maps.f; ++t) block.tops[t] += maps.bias[t];
  }
  // The largest log of feature t among columns below `count`, at least `c`.
  T highest(const Block<T>& block, index t, index count, T c) const {
    alignas(64) T logs[chunk];
    for (index i = 0; i < chunk; i += width) kexue::store(logs + i, log_of(block, i, t));
    for (index i = 0; i < count; ++i) c = logs[i] > c ? logs[i] : c;
    return c;
  }
  // Of rows from i on; of maps without logarithms that of all features.
  KX_FN V log_of(const Block<T>& block, index i, index t) const {
    const V shift = kexue::load<V>(block.shift + i);
    if (!maps.log()) return shift;
    return kexue::load<V>(block.features + t * chunk + i) + (maps.bias_of(t) + shift);
  }
  // Raises the units of a state to those that the block's sources need.
  void raise_all(const Block<T>& sources, const State<T>& state) const {
    if (!maps.log()) {
      for (index t = 0; t < maps.f; ++t) raise(state, t, sources.tops[0]);
      return;
    }
    for (index first = 0; first < maps.f; first += width) {
      alignas(64) T factor[width];
      const index last = first + width < maps.f ? first + width : maps.f;
      const V before = kexue::load<V>(state.c + first);
      const V now = maximum(kexue::load<V>(sources.tops + first), before);
      kexue::store(factor, select(before == now, splat<V>(1), exp_up_to(V(before - now))));
      kexue::store(state.c + first, now);
      for (index t = first; t < last; ++t) scale_row(state, t, factor[t - first]);
    }
  }
  // Logarithms of a block's features to features in units of the state.
  void settle(Block<T>& block, const State<T>& state) const {
    if (maps.log()) {
      T *const features = block.features, *const shift = block.shift;
      const T *const c = state.c, *const bias = maps.bias;
      const index f = maps.f;
      const bool narrow = block.columns == width;
      for (index t = 0; t < f; ++t) {
        const V base = splat<V>((bias ? bias[t] : T(0)) - unit_of(c[t]));
        const auto next = [&](index i) {
          T* const at = features + t * chunk + i;
          kexue::store(at, exp_up_to(V(kexue::load<V>(at) + (base + kexue::load<V>(shift + i)))));
        };
        next(0);
        if (narrow) continue;
        KX_UNROLL
        for (index i = width; i < chunk; i += width) next(i);
      }
      for (index i = 0; block.tails && i < f * chunk; ++i) block.tails[i] *= features[i];
      return;
    }
    alignas(64) T factor[chunk];
    if (!factors(block, state.c[0] == T(-infinity) ? T(0) : -state.c[0], factor)) return;
    each_feature(block.features, block.columns,
                 [&](V a, index i, index) { return a * kexue::load<V>(factor + i); });
  }
  // e^(shift + by) of each row, 0 for those that take no part; false if all are 1.
  bool factors(const Block<T>& block, T by, T* to) const {
    bool differ = false;
    for (index i = 0; i < chunk; ++i) {
      to[i] = block.shift[i] == T(-infinity) ? T(0) : exp_anywhere(T(block.shift[i] + by));
      differ |= to[i] != 1;
    }
    return differ;
  }
  // Takes sources with settled features in.
  void absorb(const Block<T>& sources, State<T>& state) const {
    product(true, int(maps.f), int(maps.e_pitch), sources.count,
            Left<T>{sources.features, chunk, 1}, sources.values, maps.e_pitch, state.s,
            maps.e_pitch);
    const T *const features = sources.features, *const tails = sources.tails;
    const T* const tail = sources.tail;
    by_lanes(
        sources.columns,
        [=](index t, index i) {
          const index at = t * chunk + i;
          return tails ? kexue::load<V>(tails + at)
                       : V(kexue::load<V>(features + at) * kexue::load<V>(tail + i));
        },
        Sum{}, 0,
        [&](index first, V sum) {
          kexue::store(state.z + first, V(kexue::load<V>(state.z + first) + sum));
        });
    for (int i = 0; i < sources.count; ++i) state.live += sources.keep[i] != 0;
  }
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
