// Linear attention. A scan takes sources (keys with values, or for gradients queries with their
// share of g) into a state S = sum psi v^T, z = sum psi t, and lets readers read it: forwards for
// results and dq, from the end for dk and dv, with the same text. Features are panels with a
// feature a row, so that maxima and sums over features run along registers.
//
// Features of exponential maps stay logarithms until their unit e^c is known, c the largest log of
// each feature so far: then no exponent is positive.
//
// Where readers see all sources but their own, none is taken away again: each chunk reads a state
// that was merged of the sources before its own and of those after them.
//
// "efficient" has a denominator for each feature: what a query sees is divided by its own z, so
// that results need no normaliser, and gradients for z are a number for each query and feature.
// Causal gradients keep them for a window of queries only, and come to them once more from states
// of keys along the way.
#include <cstdlib>

#include "kexue/sincos.h"
#include "product.h"

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
    for (index i = 0; i < chunk; ++i) {
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
    turn(rough, maps.d_pitch, chunk, maps.d_pitch, to.x, chunk);
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
    each_feature(to.features, [&](V x, index i, index) { return x * kexue::load<V>(to.keep + i); });
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
    each_feature(to.features, [&](V x, index i, index t) {
      return x - kexue::load<V>(to.tails + t * chunk + i);
    });
    next(1);
    each_feature(to.tails, [&](V x, index i, index) {
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
  KX_FN void each_feature(T* panel, F f) const {
    for (index t = 0; t < maps.f; ++t) {
      T* const row = panel + t * chunk;
      for (index i = 0; i < chunk; i += width) {
        kexue::store(row + i, f(kexue::load<V>(row + i), i, t));
      }
    }
  }
  // Folds each column of x: total = f(total, x_j, i, j) over its rows, four registers side by side.
  template <class F>
  KX_FN void folded_down(const T* x, index rows, T* to, T start, F f) const {
    constexpr int beside = 4;
    for (index i = 0; i < chunk; i += beside * width) {
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
  KX_FN void down(const T* x, index rows, T* to, F f) const {
    folded_down(x, rows, to, 0, [&](V sum, V a, index i, index j) { return sum + f(a, i, j); });
  }

  void features(Block<T>& block, int kind) const {
    T* const to = block.features;
    const T* const x = block.x;
    if (kind == affine) {
      alignas(64) T half[chunk];
      down(x, maps.d, half, [](V a, index, index) { return a * a * T(0.5); });
      for (index i = 0; i < chunk; i += width) {
        T* const at = block.shift + i;
        kexue::store(at, V(kexue::load<V>(at) - kexue::load<V>(half + i)));
      }
      products(x, to);
      return;
    }
    if (kind == random_relu) {
      products(x, to);
      const T root = random_root();
      each_feature(block.features, [&](V u, index, index) {
        return single_feature(random_relu, u, maps.eps) * root;
      });
      return;
    }
    if (kind == trigonometric) {
      const index m = maps.weight_rows();
      alignas(64) T half[chunk];
      down(x, maps.d, half, [](V a, index, index) { return a * a * T(0.5); });
      for (index i = 0; i < chunk; ++i) block.shift[i] += half[i];
      products(x, to);
      const T root = random_root();
      for (index i = 0; i < m * chunk; i += width) turn_of(to + i, to + m * chunk + i, root);
      return;
    }
    index offset = 0;
    if (kind == cosine || kind == taylor2) {
      for (index i = 0; i < chunk; ++i) to[i] = 1;
      offset = chunk;
    }
    if (kind == cosine) {
      alignas(64) T norm[chunk];
      norms(x, norm);
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
      log_masses(x, shift);
      each_feature(block.features,
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
  void products(const T* x, T* to) const {
    product(false, int(maps.weight_rows()), int(chunk), int(maps.d),
            Left<T>{maps.weights, maps.d, 1}, x, chunk, to, chunk);
  }
  T random_root() const {
    return maps.f > 0 ? T(1 / __builtin_sqrt(double(maps.weight_rows()))) : T(1);
  }
  // |x| of each column
  void norms(const T* x, T* to) const {
    alignas(64) T top[chunk];
    folded_down(x, maps.d, top, 0,
                [](V most, V a, index, index) { return maximum(V(abs(a)), most); });
    down(x, maps.d, to, [&](V a, index i, index) {
      const V most = kexue::load<V>(top + i);
      const V part = a / select(most == V{}, splat<V>(1), most);
      return part * part;
    });
    for (index i = 0; i < chunk; ++i) to[i] = top[i] * T(__builtin_sqrt(double(to[i])));
  }
  // The largest f(x_j) of each column, 0 where all are -inf; a nan stays aside.
  template <class F>
  KX_FN void tops(const T* x, index rows, T* to, F f) const {
    folded_down(x, rows, to, T(-infinity),
                [&](V top, V a, index i, index j) { return maximum(V(f(a, i, j)), top); });
    for (index i = 0; i < chunk; ++i) to[i] = to[i] == T(-infinity) ? T(0) : to[i];
  }
  void log_masses(const T* x, T* to) const {
    alignas(64) T shift[chunk];
    tops(x, maps.d, shift, [](V a, index, index) { return a; });
    down(x, maps.d, to,
         [&](V a, index i, index) { return exp_up_to(V(a - kexue::load<V>(shift + i))); });
    for (index i = 0; i < chunk; i += width) {
      kexue::store(to + i, V(kexue::load<V>(shift + i) + log(kexue::load<V>(to + i))));
    }
  }

  // --- States ---

  // f of `width` features from each `first` on, a lane each: row(t, i) of columns from i on,
  // folded.
  template <class Row, class Fold, class F>
  KX_FN void by_lanes(Row row, Fold fold, T outside, F f) const {
    for (index first = 0; first < maps.f; first += width) {
      V total[width];
      for (int k = 0; k < width; ++k) {
        total[k] = splat<V>(outside);
        if (first + k >= maps.f) continue;
        KX_UNROLL
        for (index i = 0; i < chunk; i += width) total[k] = fold(row(first + k, i), total[k]);
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
      for (index t = 0; t < f; ++t) {
        const V base = splat<V>((bias ? bias[t] : T(0)) - unit_of(c[t]));
        KX_UNROLL
        for (index i = 0; i < chunk; i += width) {
          T* const at = features + t * chunk + i;
          kexue::store(at, exp_up_to(V(kexue::load<V>(at) + (base + kexue::load<V>(shift + i)))));
        }
      }
      for (index i = 0; block.tails && i < f * chunk; ++i) block.tails[i] *= features[i];
      return;
    }
    alignas(64) T factor[chunk];
    if (!factors(block, state.c[0] == T(-infinity) ? T(0) : -state.c[0], factor)) return;
    each_feature(block.features,
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

// What readers do with what they read.
enum class Task { value, query_gradient, key_gradient };

struct Places {
  View out, dq, dk, dv, dweight, slope;  // slope: sums of the gradients for logarithms, double
};

template <class T>
struct Scan : Head<T> {
  using Base = Head<T>;
  using V = typename Base::V;
  using Base::maps;
  static constexpr int width = Base::width;

  Rows sources, readers;
  index offset;  // reader i sees sources j < i + offset, or all but its own, i + offset
  bool others;
  Task task;
  bool normalize;
  T eps, direction;
  Places to;
  index step = chunk;  // readers at a time

  T *rough = nullptr, *scores = nullptr, *total = nullptr, *slope = nullptr, *pulled = nullptr;
  T* masses = nullptr;  // z of each reader, where it has one for each feature
  Block<T> source{}, reader{};
  State<T> state{};
  State<T>* spare = nullptr;  // of `others`
  // What queries leave for keys where all see all: then what they have read serves for both.
  State<T> onward{};
  bool started = false;  // with a state that is not empty
  index done = 0;

  void rooms(Carver<T>& memory) {
    const index side = maps.d_pitch > maps.e_pitch ? maps.d_pitch : maps.e_pitch;
    rough = memory.take(chunk * side);
    scores = memory.take(chunk * chunk);
    total = memory.take(chunk * maps.e_pitch);
    slope = memory.take(maps.f * chunk);
    pulled = memory.take(maps.d_pitch * chunk);
    masses = memory.take(maps.per_feature() ? maps.d_pitch * chunk : 0);
    rooms(memory, source);
    source.tops = memory.take(Base::padded_features(maps));
    rooms(memory, reader);
    spare = states(memory, spare_states());
    if (maps.per_feature() && task == Task::key_gradient) {
      source.tails = memory.take(maps.d_pitch * chunk);
    } else if (maps.per_feature() && task == Task::query_gradient) {
      reader.tails = memory.take(maps.d_pitch * chunk);
    }
  }
  // States that `around` merges, in whose memory their handles stand first.
  static constexpr int children = 16;
  index spare_states() const {
    const index chunks = (readers.count + step - 1) / step;
    index count = 2 * (chunks < children ? chunks : children) + 4 * 7, size = step;
    for (; size * children < readers.count; size *= children) count += 2 * children;
    return others ? count : 0;
  }
  State<T>* states(Carver<T>& memory, index count) const {
    const index room = Base::state_room(maps);
    auto* const handles =
        reinterpret_cast<State<T>*>(memory.take(count * index(sizeof(State<T>) / sizeof(T))));
    T* const at = memory.take(count * room);
    for (index k = 0; at && k < count; ++k) handles[k] = this->state_at(at + k * room);
    return handles;
  }
  void rooms(Carver<T>& memory, Block<T>& block) const {
    block.x = memory.take(maps.d_pitch * chunk);
    block.features = memory.take(maps.f * chunk);
    block.values = memory.take(chunk * maps.e_pitch);
    block.turned = memory.take(maps.e_pitch * chunk);
  }

  double place_of(index source_row) const {
    const View& sums = sources.query ? sources.place : sources.decay;
    if (!sums.data || sources.count == 0) return 0;
    const index last = sources.count - 1;
    const index i = source_row < 0 ? 0 : source_row > last ? last : source_row;
    return kexue::load<double>(sums.data + i * sums.pitch);
  }
  // Starts with none of the sources before `from`.
  void start(State<T>& memory, index from) {
    this->clear(memory);
    state = memory;
    state.place = place_of(from);
    done = from;
  }
  void load_sources(index first, int count) {
    this->load(sources, first, count, state.place, true, source, rough);
    this->find_tops(source);
  }
  // Takes sources up to `stop` in.
  void absorb_until(index stop) {
    while (done < stop) {
      const int count = int(stop - done < chunk ? stop - done : chunk);
      this->move(state, place_of(done + count - 1), direction);
      load_sources(done, count);
      this->raise_all(source, state);
      this->settle(source, state);
      this->absorb(source, state);
      done += count;
    }
  }

  index inside(index i) const { return i < 0 ? 0 : i > sources.count ? sources.count : i; }
  void go(index first, index last) {
    const index start = inside(first + offset), stop = inside(last - 1 + offset);
    absorb_until(stop - (last - first) < start ? stop - (last - first) : start);
    const bool fresh = stop > done;
    const index begin = done;
    if (fresh) {
      this->move(state, place_of(stop - 1), direction);
      load_sources(done, int(stop - done));
      if (last - first > 1 && spread(start - done)) {
        const index middle = (first + last) / 2;
        go(first, middle);
        go(middle, last);
        return;
      }
      this->raise_all(source, state);
      this->settle(source, state);
    } else {
      source.count = 0;
    }
    read(first, int(last - first), begin);
    if (fresh) {
      this->absorb(source, state);
      done = stop;
    }
  }
  // Whether units rise too far between the first reader of a chunk, which sees `seen` of the
  // block's sources, and the last.
  bool spread(index seen) const {
    const bool shifted = sources.decay.data || sources.place.data || maps.kind == trigonometric;
    if (!maps.log() && !shifted) return false;
    for (index t = 0; t < (maps.log() ? maps.f : 1); ++t) {
      const T after = source.tops[t];
      if (!spreads(state.c[t], after)) continue;
      if (spreads(this->highest(source, t, seen, state.c[t]), after)) return true;
    }
    return false;
  }
  // Takes sources from `low` to `high` into a state.
  void take(State<T>& to, index low, index high) {
    state = to;
    done = low;
    absorb_until(high);
    to = state;
  }
  // Reads for readers from `first` to `last`; `outside` holds all sources but theirs, and changes.
  void around(State<T>& outside, index first, index last, State<T>* room) {
    const index count = last - first;
    if (count <= step && alone(outside, first, last)) return;
    index each = step;
    while (each * children < count) each *= children;
    if (count <= step) each = (count + 1) / 2;
    const int parts = int((count + each - 1) / each);
    const auto start = [&](int k) { return k < parts ? first + k * each : last; };
    State<T>*const own = room, *const later = own + parts, &here = later[0];
    for (int k = 0; k < parts; ++k) {
      this->clear(own[k]);
      take(own[k], inside(start(k) + offset), inside(start(k + 1) + offset));
    }
    // later[k]: from child k on, of the last its own
    const auto from = [&](int k) -> State<T>& { return k + 1 < parts ? later[k] : own[k]; };
    for (int k = parts - 2; k > 0; --k) this->merge(own[k], from(k + 1), direction, later[k]);
    for (int k = 0; k + 1 < parts; ++k) {
      this->merge(outside, from(k + 1), direction, here);
      around(here, start(k), start(k + 1), room + 2 * parts);
      this->merge(outside, own[k], direction, outside);
    }
    around(outside, start(parts - 1), last, room + 2 * parts);
  }
  // One chunk of them, unless one of their sources is so large that its reader would lose all
  // others.
  bool alone(const State<T>& outside, index first, index last) {
    const index low = inside(first + offset), high = inside(last + offset);
    state = outside;
    source.count = 0;
    if (last - first > 1 && low < high) {
      load_sources(low, int(high - low));
      if (towers(high - low)) return false;
      this->raise_all(source, state);
      this->settle(source, state);
    }
    read(first, int(last - first), low);
    return true;
  }
  // Whether the unit of all is far above that of all but one of the block's `count` sources.
  bool towers(index count) const {
    if (!maps.log() && maps.kind != trigonometric) return false;
    for (index t = 0; t < (maps.log() ? maps.f : 1); ++t) {
      const T after = source.tops[t];
      if (!spreads(state.c[t], after)) continue;
      alignas(64) T logs[chunk];
      for (index i = 0; i < chunk; i += width) kexue::store(logs + i, this->log_of(source, i, t));
      T second = state.c[t];
      bool found = false;
      for (index i = 0; i < count; ++i) {
        if (logs[i] == after && !found) {
          found = true;
        } else if (logs[i] > second) {
          second = logs[i];
        }
      }
      if (spreads(second, after)) return true;
    }
    return false;
  }
  bool sees(index reader_row, index source_row) const {
    return others ? source_row != reader_row + offset : source_row < reader_row + offset;
  }

  void mask(index first, index begin, T* pairs) const {
    for (index i = 0; others && i < chunk; ++i) {
      const index j = first + i + offset - begin;
      if (j >= 0 && j < source.count) pairs[j * chunk + i] = 0;
    }
    for (int j = 0; !others && j < source.count; ++j) {
      const index from = begin + j - offset + 1 - first;  // the first reader that sees it
      for (index i = 0; i < from && i < chunk; ++i) pairs[j * chunk + i] = 0;
    }
  }
  // f(from, count, seen) of readers, of which the last sees so many sources, the others fewer.
  template <class F>
  void by_halves(index first, index begin, F f) const {
    constexpr int half = chunk / 2;
    if (others || all_seen(first, begin)) {
      f(index(0), int(chunk), source.count);
      return;
    }
    for (index i = 0; i < chunk; i += half) {
      const index seen = first + i + half - 1 + offset - begin;
      f(i, half, seen < 0 ? 0 : seen < source.count ? int(seen) : source.count);
    }
  }
  bool all_seen(index first, index begin) const {
    return source.count == 0 || (!others && sees(first, begin + source.count - 1));
  }
  // to (rows x columns) += left(:, j) right(j, :) over sources j, for which `pairs` are weights by
  // readers; rows of `right` that are not finite must not meet zeros.
  void add_values(index first, index begin) {
    if (source.count == 0) return;
    const bool plain =
        all_seen(first, begin) || all_finite(source.values, source.count * maps.e_pitch);
    if (plain) {
      by_halves(first, begin, [&](index from, int count, int seen) {
        const int rows = int(reader.count - from < count ? reader.count - from : count);
        product(true, rows, int(maps.e_pitch), seen, Left<T>{scores + from, 1, chunk},
                source.values, maps.e_pitch, total + from * maps.e_pitch, maps.e_pitch);
      });
      return;
    }
    for (int i = 0; i < reader.count; ++i) {
      const auto add = [&](index from, index stop) {
        from = from < 0 ? 0 : from;
        stop = stop > source.count ? source.count : stop;
        if (from >= stop) return;
        product(true, 1, int(maps.e_pitch), int(stop - from),
                Left<T>{scores + from * chunk + i, 1, chunk}, source.values + from * maps.e_pitch,
                maps.e_pitch, total + i * maps.e_pitch, maps.e_pitch);
      };
      const index seen = first + i + offset - begin;
      add(0, seen);
      if (others) add(seen + 1, source.count);
    }
  }

  void read(index first, int count, index begin) {
    const double place = state.place;
    this->load(readers, first, count, place, task == Task::key_gradient, reader, rough);
    // Rows that see nothing take no part.
    bool dead[chunk];
    index live = state.live + (started ? 1 : 0);
    int next = 0;
    for (; others && next < source.count; ++next) live += source.keep[next] != 0;
    for (int i = 0; i < count; ++i) {
      while (next < source.count && sees(first + i, begin + next)) {
        live += source.keep[next++] != 0;
      }
      const index own = others ? first + i + offset - begin : -1;
      const bool one = own >= 0 && own < source.count && source.keep[own] != 0;
      dead[i] = live == index(one);
    }
    alignas(64) T top[chunk], mass[chunk];
    if (maps.per_feature() && task != Task::key_gradient) {
      to_shares(first, count, begin, top, mass);
    } else {
      to_features(top, mass);
    }
    product(false, count, int(maps.e_pitch), int(maps.f), Left<T>{reader.features, 1, chunk},
            state.s, maps.e_pitch, total, maps.e_pitch);
    if (source.count && maps.f > 0) {
      by_halves(first, begin, [&](index from, int count, int seen) {
        product(false, seen, count, int(maps.f), Left<T>{source.features, 1, chunk},
                reader.features + from, chunk, scores + from, chunk);
      });
      mask(first, begin, scores);
      for (int j = 0; j < source.count; ++j) {
        for (index i = 0; i < chunk; ++i) mass[i] += scores[j * chunk + i] * source.tail[j];
      }
      add_values(first, begin);
    }
    if (task == Task::key_gradient) {
      for (int i = 0; i < count; ++i) {
        const T unit = dead[i] || reader.keep[i] == 0 ? T(0) : exp_anywhere(top[i]);
        multiply_or_clear(total + i * maps.e_pitch, maps.e_pitch, unit);
      }
      put(to.dv.from(first), count, maps.e, total, maps.e_pitch);
    } else {
      finish(first, count, dead, top, mass);
    }
    if (task != Task::value) gradient(first, count, begin, dead, top);
    if (onward.s) this->absorb(reader, onward);
  }
  // Before queries go onward: their features are in units of e^c already.
  void go_onward(const State<T>& to) {
    onward = to;
    this->clear(onward);
    for (index t = 0; t < maps.f; ++t) {
      onward.c[t] = state.c[t] == T(-infinity) ? T(-infinity) : -state.c[t];
    }
  }
  // Results of queries and what gradients need of them.
  void finish(index first, int count, const bool* dead, const T* top, const T* mass) {
    for (int i = 0; i < count; ++i) {
      T* const own = total + i * maps.e_pitch;
      T inverse = 1, unit = 1;
      if (normalize) {
        unit = inverse = dead[i] ? T(0) : row_factor(maps.kind, true, mass[i], top[i], eps);
      } else {
        unit = dead[i] ? T(0) : exp_anywhere(top[i]);
        inverse = dead[i] ? T(0) : T(1);
      }
      multiply_or_clear(own, maps.e_pitch, unit);
      if (task == Task::value) continue;
      T* const g = reader.values + i * maps.e_pitch;
      multiply_or_clear(g, maps.e_pitch, inverse);
      V delta{};
      for (index c = 0; c < maps.e_pitch; c += width) {
        delta -= kexue::load<V>(g + c) * kexue::load<V>(own + c);
      }
      reader.tail[i] = normalize ? sum_of_lanes(delta) : T(0);
      if (onward.s && inverse == 0) {
        reader.keep[i] = 0;
        for (index t = 0; t < maps.f; ++t) reader.features[t * chunk + i] = 0;
      }
      this->store_stats(readers, first + i, {normalize ? top[i] : T(0), inverse, reader.tail[i]});
    }
    if (task == Task::value) put(to.out.from(first), count, maps.e, total, maps.e_pitch);
  }
  // Adds sum_j features_tj pairs_ji to panels of readers; what is not seen must not meet
  // infinities.
  void add_features(const T* features, index first, int count, index begin, T* to) const {
    const bool plain = all_seen(first, begin) || all_finite(features, maps.f * chunk);
    if (plain) {
      by_halves(first, begin, [&](index from, int count, int seen) {
        product(true, int(maps.f), count, seen, Left<T>{features, chunk, 1}, scores + from, chunk,
                to + from, chunk);
      });
      return;
    }
    for (index t = 0; t < maps.f; ++t) {
      for (int i = 0; i < count; ++i) {
        for (int j = 0; j < source.count; ++j) {
          if (!sees(first + i, begin + j)) continue;
          to[t * chunk + i] += features[t * chunk + j] * scores[j * chunk + i];
        }
      }
    }
  }
  // Adds sums of what is seen of panels of sources.
  void add_seen(const T* features, index first, int count, index begin, T* to) {
    for (index i = 0; i < source.count * chunk; ++i) scores[i] = 1;
    mask(first, begin, scores);
    add_features(features, first, count, begin, to);
  }
  // Queries' logarithms of shares to shares of z, a number for each query and feature.
  void to_shares(index first, int count, index begin, T* top, T* mass) {
    for (index t = 0; t < maps.f; ++t) {
      for (index i = 0; i < chunk; ++i) masses[t * chunk + i] = state.z[t];
    }
    if (source.count) add_seen(source.features, first, count, begin, masses);
    this->each_feature(reader.features, [&](V b, index i, index t) {
      const V z = kexue::load<V>(masses + t * chunk + i);
      return select(z == V{}, V{}, V(exp_up_to(b) / z));
    });
    for (index i = 0; i < chunk; ++i) top[i] = mass[i] = 0;
    if (task == Task::value || onward.s) return;
    for (index t = 0; t < maps.f; ++t) {
      const V c = splat<V>(state.c[t] == T(-infinity) ? T(0) : state.c[t]);
      for (index i = 0; i < chunk; i += width) {
        const V z = kexue::load<V>(masses + t * chunk + i);
        const V size = kexue::log(z) + (c + kexue::load<V>(reader.shift + i));
        kexue::store(pulled + t * chunk + i, select(z == V{}, splat<V>(infinity), size));
      }
    }
    put_masses(first, count, 0);
  }
  // A panel of readers, `pulled`, for the scan over queries.
  void put_masses(index first, int count, index part) {
    turn(pulled, chunk, maps.d_pitch, chunk, rough, maps.d_pitch);
    View to_rows = readers.masses.from(first);
    to_rows.data += part * maps.f * index(sizeof(T));
    put(to_rows, count, maps.f, rough, maps.d_pitch);
  }
  // Readers' logarithms b to e^(b + c - top) with top = max (b + c) of each, and their products
  // with z.
  void to_features(T* top, T* mass) {
    if (!maps.log()) {
      this->down(reader.features, maps.f, mass,
                 [&](V a, index, index t) { return a * state.z[t]; });
      for (index i = 0; i < chunk; ++i) {
        const T unit = state.c[0] == T(-infinity) ? T(0) : state.c[0];
        top[i] = reader.shift[i] == T(-infinity) ? T(0) : reader.shift[i] + unit;
      }
      return;
    }
    T *const logs = reader.features, *const shift = reader.shift;
    const T *const c = state.c, *const z = state.z, *const bias = maps.bias;
    const auto base = [=](index t) { return bias ? bias[t] + c[t] : c[t]; };
    alignas(64) T highest[chunk];
    this->folded_down(logs, maps.f, highest, T(-infinity),
                      [=](V most, V b, index, index t) { return maximum(V(b + base(t)), most); });
    for (index i = 0; i < chunk; ++i) {
      top[i] = highest[i] + shift[i];
      if (top[i] == T(-infinity)) top[i] = 0;
      highest[i] = shift[i] - top[i];
    }
    this->folded_down(logs, maps.f, mass, 0, [=, &highest](V total, V b, index i, index t) {
      const V phi = exp_up_to(V(b + base(t) + kexue::load<V>(highest + i)));
      kexue::store(logs + t * chunk + i, phi);
      return V(total + phi * z[t]);
    });
  }

  // e^b (S u + z t) for each reader, and from it the gradient of its input. Queries' logarithms
  // are relative to their top by now, so that e^(b + c) is what their features are.
  void gradient(index first, int count, index begin, const bool* dead, const T* top) {
    for (index i = count * maps.e_pitch; i < chunk * maps.e_pitch; ++i) reader.values[i] = 0;
    turn(reader.values, maps.e_pitch, chunk, maps.e_pitch, reader.turned, chunk);
    product(false, int(maps.f), int(chunk), int(maps.e), Left<T>{state.s, maps.e_pitch, 1},
            reader.turned, chunk, slope, chunk);
    if (source.count) {
      by_halves(first, begin, [&](index from, int count, int seen) {
        product(false, seen, count, int(maps.e), Left<T>{source.values, maps.e_pitch, 1},
                reader.turned + from, chunk, scores + from, chunk);
      });
      for (int j = 0; j < source.count && !source.tails; ++j) {
        for (index i = 0; i < chunk; ++i) {
          scores[j * chunk + i] += source.tail[j] * reader.tail[i];
        }
      }
      mask(first, begin, scores);
      add_features(source.features, first, count, begin, slope);
      if (source.tails) add_seen(source.tails, first, count, begin, slope);
    }
    if (maps.per_feature() && task == Task::query_gradient) {
      for (index i = 0; i < maps.f * chunk; i += width) {
        const V z = kexue::load<V>(masses + i), phi = kexue::load<V>(reader.features + i);
        const V own = select(z == V{}, V{}, V(-kexue::load<V>(slope + i) / z));
        kexue::store(pulled + i, own);
        kexue::store(reader.tails + i, V(own * phi));
      }
      if (!onward.s) put_masses(first, count, 1);
    }
    alignas(64) T unit[chunk], sum[chunk];
    for (index i = 0; i < chunk; ++i) {
      const bool absent = i >= count || dead[i] || reader.keep[i] == 0;
      // A query's features are in units of its top already; a key's and a sum's are not.
      const bool relative = task == Task::query_gradient && normalize;
      unit[i] = absent ? T(0) : relative ? T(1) : exp_anywhere(top[i]);
    }
    // The part of z, what logarithms or features ask for, and the sums for logarithms.
    const bool log = maps.log();
    this->folded_down(slope, maps.f, sum, 0, [&](V total, V own, index i, index t) {
      const index at = t * chunk + i;
      const V by = kexue::load<V>(unit + i), phi = kexue::load<V>(reader.features + at);
      own += state.z[t] * kexue::load<V>(reader.tail + i);
      own = select(by == V{}, V{}, V(own * (log ? V(by * phi) : by)));
      kexue::store(slope + at, own);
      return log ? V(total + own) : V(total + own * phi);
    });
    // Sign is weight times feature; those of angles are taken so below.
    if (!log && readers.weight.data && maps.kind != trigonometric) {
      this->each_feature(slope,
                         [&](V a, index i, index) { return a * kexue::load<V>(reader.keep + i); });
    }
    for (int i = 0; i < count; ++i) {
      if (to.slope.data) {
        const bool fades = !(maps.per_feature() && task == Task::query_gradient);
        kexue::store(to.slope.data + (first + i) * to.slope.pitch,
                     unit[i] == 0 || !fades ? 0.0 : double(sum[i]));
      }
    }
    if (to.dweight.data) {
      T own[chunk];
      for (int i = 0; i < count; ++i) own[i] = reader.keep[i] == 0 ? T(0) : sum[i] / reader.keep[i];
      put(to.dweight.from(first), count, 1, own, 1);
    }
    pull(sum);
    const V scale = splat<V>(maps.scale);
    for (index i = 0; i < maps.d * chunk; i += width) {
      const V by = kexue::load<V>(unit + i % chunk), own = kexue::load<V>(pulled + i);
      kexue::store(pulled + i, select(by == V{}, V{}, V(own * scale)));
    }
    turn(pulled, chunk, maps.d_pitch, chunk, rough, maps.d_pitch);
    put((task == Task::query_gradient ? to.dq : to.dk).from(first), count, maps.d, rough,
        maps.d_pitch);
  }
  // The gradient for the inputs, from that for logarithms or features; `sum` is its sum.
  void pull(const T* sum) {
    const int kind = map_of(maps.kind, task == Task::query_gradient);
    const index d = maps.d;
    const T* const x = reader.x;
    for (index i = d * chunk; i < maps.d_pitch * chunk; ++i) pulled[i] = 0;
    if (kind == random_relu) {
      this->products(x, reader.features);  // which have done their work
      const T root = this->random_root();
      for (index i = 0; i < maps.f * chunk; ++i) {
        slope[i] = reader.features[i] > 0 ? slope[i] * root : T(0);
      }
    }
    const bool angles = kind == trigonometric;
    const index rows = maps.weight_rows();
    if (angles) {  // cos slope_sin - sin slope_cos
      const T *const cosines = reader.features, *const sines = cosines + rows * chunk;
      for (index i = 0; i < rows * chunk; i += width) {
        const V across = kexue::load<V>(cosines + i) * kexue::load<V>(slope + rows * chunk + i) -
                         kexue::load<V>(sines + i) * kexue::load<V>(slope + i);
        kexue::store(slope + i, across);
      }
    }
    if (kind == affine || kind == random_relu || angles) {
      product(false, int(d), int(chunk), int(rows), Left<T>{maps.weights, 1, d}, slope, chunk,
              pulled, chunk);
      if (kind == random_relu) return;
      for (index j = 0; j < d * chunk; j += width) {
        const V part = kexue::load<V>(x + j) * kexue::load<V>(sum + j % chunk);
        const V own = kexue::load<V>(pulled + j);
        kexue::store(pulled + j, angles ? V(own + part) : V(own - part));
      }
      return;
    }
    if (kind == cosine) {
      alignas(64) T inverse[chunk], along[chunk];
      this->norms(x, inverse);
      for (T& own : inverse) own = own == 0 ? T(0) : 1 / own;
      const T* const from = slope + chunk;
      const auto unit = [&](index i, index j) {
        return V(kexue::load<V>(x + j * chunk + i) * kexue::load<V>(inverse + i));
      };
      this->down(from, d, along, [&](V a, index i, index j) { return a * unit(i, j); });
      for (index j = 0; j < d; ++j) {
        for (index i = 0; i < chunk; i += width) {
          const V across =
              kexue::load<V>(from + j * chunk + i) - unit(i, j) * kexue::load<V>(along + i);
          kexue::store(pulled + j * chunk + i, V(across * kexue::load<V>(inverse + i)));
        }
      }
      return;
    }
    if (kind == taylor2) {
      const T* pair = slope + (1 + d) * chunk;
      for (index i = 0; i < d * chunk; ++i) pulled[i] = slope[chunk + i];
      for (index a = 0; a < d; ++a) {
        for (index b = a; b < d; ++b, pair += chunk) {
          const V factor = splat<V>(pair_weight<T>(a == b));
          for (index i = 0; i < chunk; i += width) {
            const V own = factor * kexue::load<V>(pair + i);
            const auto add = [&](index to, index from) {
              T* const at = pulled + to * chunk + i;
              kexue::store(at, V(kexue::load<V>(at) + own * kexue::load<V>(x + from * chunk + i)));
            };
            add(a, b);
            add(b, a);
          }
        }
      }
      return;
    }
    alignas(64) T shift[chunk];
    if (kind == softmax_d) this->log_masses(x, shift);
    for (index j = 0; j < d; ++j) {
      for (index i = 0; i < chunk; i += width) {
        V own = kexue::load<V>(slope + j * chunk + i);
        const V a = kexue::load<V>(x + j * chunk + i);
        if (kind == relu) own = select(a > V{}, own, V{});
        if (kind == elu1) own = select(a > V{}, V(own / (1 + a)), own);
        if (kind == softmax_d) {
          own -= exp_up_to(V(a - kexue::load<V>(shift + i))) * kexue::load<V>(sum + i);
        }
        kexue::store(pulled + j * chunk + i, own);
      }
    }
  }
};

// Causal gradients of maps with a z for each feature, from the last queries to the first.
template <class T>
struct Windows {
  static constexpr index length = 4 * chunk;  // queries whose numbers are kept
  static constexpr int children = Scan<T>::children;
  Scan<T> queries, keys;  // keys in their own order, from the last on
  index key = 0;          // of the keys, how many have read
  bool reads = true;      // or only take queries in
  T* masses = nullptr;
  State<T>* spare = nullptr;

  void rooms(Carver<T>& memory) {
    queries.rooms(memory);
    keys.rooms(memory);
    masses = memory.take(length * 2 * queries.maps.f);
    index count = 1;
    for (index each = length; each < queries.readers.count; each *= children) count += children;
    spare = queries.states(memory, count);
  }
  index turned(index query) const { return queries.readers.count - query; }
  // Keys that `query` and all after it see, but for its newest; the first has seen none.
  index seen(index query) const {
    return query == 0 ? 0 : queries.inside(query + queries.offset - 1);
  }
  // Keys, from the last on, that need no query before `query`.
  index ready(index query) const {
    const index all = keys.readers.count, last = turned(query) - keys.offset + 1;
    return query == 0 || last > all ? all : last < 0 ? 0 : last;
  }
  // Queries from `first` to `last`. What the keys' state holds are those after them; `before` has
  // the keys that all of them see, and changes.
  void go(State<T>& before, index first, index last, State<T>* room) {
    if (last - first <= length) {
      window(before, first, last);
      return;
    }
    index each = length;
    while (each * children < last - first) each *= children;
    const int parts = int((last - first + each - 1) / each);
    const auto own = [&](int part) -> State<T>& { return part ? room[part - 1] : before; };
    const auto from = [&](int part) { return first + part * each; };
    for (int part = 1; part < parts; ++part) {
      queries.copy(own(part - 1), own(part));
      queries.take(own(part), seen(from(part - 1)), seen(from(part)));
    }
    for (int part = parts - 1; part >= 0; --part) {
      go(own(part), from(part), part + 1 < parts ? from(part + 1) : last, room + parts - 1);
    }
  }
  void window(const State<T>& before, index first, index last) {
    const index pitch = 2 * queries.maps.f * index(sizeof(T));
    const View kept = {reinterpret_cast<char*>(masses) - first * pitch, pitch, index(sizeof(T)),
                       type_of<T>};
    queries.readers.masses = kept;
    keys.sources.masses = kept.turned(queries.readers.count);
    queries.state = before;
    queries.done = seen(first);
    for (index i = first; i < last; i += queries.step) {
      queries.go(i, i + queries.step < last ? i + queries.step : last);
    }
    const index all = ready(first);
    while (reads && key < all) {
      const index next = key + keys.step < all ? key + keys.step : all;
      keys.go(key, next);
      key = next;
    }
    keys.absorb_until(turned(first));
  }
};

// --- Calls ---

struct Memory {
  void* data;
  explicit Memory(index bytes) : data(std::malloc(static_cast<size_t>(bytes) + 64)) {}
  ~Memory() { std::free(data); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
};

struct Parameters {
  int kind;
  double scale, eps_of_map;
  bool causal, exclude, normalize;
  index offset;
  double eps;
  explicit Parameters(const double* p)
      : kind(int(p[0])),
        scale(p[1]),
        eps_of_map(p[2]),
        causal((int(p[3]) & 1) != 0),
        exclude((int(p[3]) & 2) != 0),
        normalize(p[5] != 0),
        offset(index(p[4])),
        eps(p[6]) {}
};

// Parts of a head that are worked on side by side, and rows of each; by the sizes alone.
inline index part_rows(index heads, index rows) {
  const index parts = heads >= 4 ? 1 : heads > 0 ? (7 + heads) / heads : 1;
  const index each = (rows + parts - 1) / parts;
  const index least = 512;
  return ((each > least ? each : least) + chunk - 1) / chunk * chunk;
}

// All scans of one kind: for each head and part of its readers the state before them, then reading.
template <class T>
class Heads {
 public:
  Heads(const Call& call, const Maps<T>& maps, index sources, index readers,
        const Parameters& options)
      : rows_(call.rows),
        sources_(sources),
        readers_(readers),
        causal_(options.causal),
        others_(options.exclude && !options.causal),
        head_{maps} {
    const index split = causal_ || others_ ? readers : sources;
    each_ = part_rows(rows_, split);
    parts_ = split > each_ ? (split + each_ - 1) / each_ : 1;
    room_ = Head<T>::state_room(maps);
    each_head_ = (others_ ? 2 * parts_ : parts_) + 1;
    memory_ = std::malloc(static_cast<size_t>(rows_ * each_head_) *
                              (static_cast<size_t>(room_) * sizeof(T) + sizeof(State<T>)) +
                          64);
    if (!memory_) return;
    T* at = reinterpret_cast<T*>((reinterpret_cast<unsigned long long>(memory_) + 63) & ~63ULL);
    state_ = reinterpret_cast<State<T>*>(at + rows_ * each_head_ * room_);
    for (index k = 0; k < rows_ * each_head_; ++k) state_[k] = head_.state_at(at + k * room_);
  }
  ~Heads() { std::free(memory_); }
  Heads(const Heads&) = delete;
  Heads& operator=(const Heads&) = delete;

  bool ready() const { return memory_ != nullptr; }
  // The state before the first source, to be filled before `run` if scans are `started`, and that
  // after the last.
  State<T>& first(index row) { return state(row, 0); }
  State<T>& last(index row) { return state(row, single() ? 0 : parts_); }
  // All sources in one state, where that is not what readers had.
  template <class Make>
  bool gather(Make make) {
    if (!others_) return true;
    return each_of(rows_, make, [&](Scan<T>& scan, index row) {
      begin(scan, row, last(row));
      scan.take(last(row), 0, sources_);
    });
  }

  // make(row) gives the scan of a head but for its state. Readers leave for `onward` what they are
  // as its sources.
  template <class Make>
  bool run(Make make, Heads* onward = nullptr) {
    if (!single() && !filled_ && !(others_ && parts_ == 1) && !sum_parts(make)) return false;
    if (others_) {
      return each_of(rows_ * parts_, make, [&](Scan<T>& scan, index job) {
        const index row = job / parts_, part = job % parts_, from = part * each_;
        const index until = from + each_ < readers_ ? from + each_ : readers_;
        State<T>& outside = state(row, parts_ + 1 + part);
        begin(scan, row, outside);
        for (index other = 0; other < parts_; ++other) {
          if (other != part) head_.merge(outside, state(row, other + 1), T(1), outside);
        }
        scan.take(outside, before(scan, part), scan.inside(from + scan.offset));
        scan.take(outside, scan.inside(until + scan.offset), before(scan, part + 1));
        if (from < until) scan.around(outside, from, until, scan.spare);
      });
    }
    if (!single()) chain(make, parts_);
    const index each = onward ? onward->each_ : causal_ ? each_ : 8 * chunk;
    const index strips = onward ? onward->parts_ : causal_ ? parts_ : (readers_ + each - 1) / each;
    if (onward) onward->filled_ = true;
    return each_of(rows_ * strips, make, [&](Scan<T>& scan, index job) {
      const index row = job / strips, strip = job % strips, from = strip * each;
      const index until = from + each < readers_ ? from + each : readers_;
      State<T>& own = state(row, causal_ ? strip : parts_);  // nobody else's where it changes
      scan.state = own;
      scan.done = causal_ ? before(scan, strip) : sources_;
      if (causal_ && strip == 0 && !scan.started) scan.start(own, 0);
      if (onward) scan.go_onward(onward->state(row, strip + 1));
      for (index i = from; i < until; i += scan.step) {
        scan.go(i, i + scan.step < until ? i + scan.step : until);
      }
      if (onward) onward->state(row, strip + 1) = scan.onward;
      if (single()) {
        scan.absorb_until(sources_);
        own = scan.state;
      }
    });
  }

  // The same by windows, make(row); parts are those of queries, whose sums go to `back`.
  template <class Make>
  bool run_windows(Make make, Heads& back) {
    const auto of_queries = [&](index row) { return make(row).queries; };
    const auto of_keys = [&](index row) { return make(row).keys; };
    const auto go = [&](Windows<T>& own, index row, index part) {
      const index last = (part + 1) * each_;
      head_.copy(state(row, part), own.spare[0]);
      own.go(own.spare[0], part * each_, last < readers_ ? last : readers_, own.spare + 1);
      return own.keys.state;
    };
    // Of the part, where queries are taken in from the last on.
    const auto from = [&](index part) {
      return part + 1 < parts_ ? readers_ - (part + 1) * each_ : 0;
    };
    if (!single()) {
      if (!sum_parts(of_queries)) return false;
      chain(of_queries, parts_ - 1);
    }
    for (index row = 0; row < rows_; ++row) {
      if (!make(row).queries.started) head_.clear(state(row, 0));
    }
    const index others = parts_ - 1;
    if (others > 0) {
      const bool done = each_of(rows_ * others, make, [&](Windows<T>& own, index job) {
        const index row = job / others, part = others - job % others;
        State<T>& sum = back.state(row, parts_ - part);
        own.reads = false;
        own.keys.start(sum, from(part));
        sum = go(own, row, part);
      });
      if (!done) return false;
      back.chain(of_keys, others);
    }
    return each_of(rows_ * parts_, make, [&](Windows<T>& own, index job) {
      const index row = job / parts_, part = others - job % parts_;
      State<T>& after = back.state(row, others - part);
      if (part == others) {
        own.keys.start(after, 0);
      } else {
        own.keys.state = after;
        own.keys.done = from(part);
        own.key = own.ready(readers_ - from(part));
      }
      (part ? after : back.last(row)) = go(own, row, part);
    });
  }

 private:
  // The state before the first source.
  void begin(const Scan<T>& scan, index row, State<T>& to) {
    if (scan.started) {
      head_.copy(state(row, 0), to);
    } else {
      head_.clear(to);
    }
  }
  // f(scan, job) for jobs, as many of which belong to each head, with working memory; or windows.
  template <class Make, class F>
  bool each_of(index jobs, Make make, F f) {
    long long failed = 0;
    parallel(jobs, [&](index job) {
      auto scan = make(job / (jobs / rows_));
      Carver<T> size(nullptr);
      scan.rooms(size);
      void* const block = thread_memory(static_cast<unsigned long long>(size.bytes()));
      if (!block) {
        __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        return;
      }
      Carver<T> memory(block);
      scan.rooms(memory);
      f(scan, job);
    });
    return !failed;
  }
  bool single() const { return causal_ && parts_ == 1; }
  // What the sources of each part add up to.
  template <class Make>
  bool sum_parts(Make make) {
    return each_of(rows_ * parts_, make, [&](Scan<T>& scan, index job) {
      const index row = job / parts_, part = job % parts_;
      scan.start(state(row, part + 1), before(scan, part));
      scan.absorb_until(before(scan, part + 1));
      state(row, part + 1) = scan.state;
    });
  }
  // The first `count` of these sums to those of all parts so far.
  template <class Make>
  void chain(Make make, index count) {
    parallel(rows_, [&](index row) {
      const Scan<T> scan = make(row);
      for (index part = scan.started ? 1 : 2; part <= count; ++part) {
        State<T>& own = state(row, part);
        head_.merge(own, state(row, part - 1), scan.direction, own);
      }
    });
  }
  State<T>& state(index row, index part) { return state_[row * each_head_ + part]; }
  // Sources before those that only the readers of `part`, or later ones, take in.
  index before(const Scan<T>& scan, index part) const {
    if (part >= parts_) return sources_;
    if (part == 0) return 0;
    const index by = causal_ ? scan.offset - 1 : others_ ? scan.offset : 0;
    return scan.inside(part * each_ + by);
  }

  index rows_, sources_, readers_, each_, parts_, room_, each_head_;
  bool causal_, others_, filled_ = false;
  Head<T> head_;
  void* memory_;
  State<T>* state_ = nullptr;
};

template <class T>
Maps<T> maps_of(const Call& call, int kind, double scale, double eps, index e) {
  const index d = call['d'];
  const index f = kind == affine || kind == random_relu ? call['p']
                  : kind == trigonometric               ? 2 * call['p']
                  : kind == cosine                      ? 1 + d
                  : kind == taylor2                     ? 1 + d + d * (d + 1) / 2
                                                        : d;
  return {kind,     d,      f,       e,      Panel<T>::padded(d), Panel<T>::padded(e),
          T(scale), T(eps), nullptr, nullptr};
}
// Copies a projection and its bias, which random_relu has not, to `to`.
template <class T>
void take_projection(const Operand& projection, const Operand& bias, T* to, Maps<T>& maps) {
  if (!projection.data) return;
  fetch(View{projection.data, projection.pitch, projection.step, projection.type},
        maps.weight_rows(), maps.d, to, maps.d);
  maps.weights = to;
  if (!bias.data) return;
  T* const constants = to + maps.f * maps.d;
  fetch(View{bias.data, bias.step, 0, bias.type}, maps.f, 1, constants, 1);
  maps.bias = constants;
}
template <class T>
index projection_room(const Call& call, const Operand& projection) {
  return projection.data ? (call['p'] + 1) * (call['d'] + 1) * index(sizeof(T)) : 0;
}

// Operands q, k, v, projection, bias, weight, decay, c, s, z in the order of the signatures.
template <class T>
struct Problem {
  const Call& call;
  const Operand* op;
  Parameters options;
  Maps<T> maps;
  index n, m;
  Memory projection, places, masses;
  bool ready = true;

  Problem(const Call& call, const Operand* op, bool gradient)
      : call(call),
        op(op),
        options(call.parameter),
        n(call['l']),
        m(call['s']),
        projection(projection_room<T>(call, op[3])),
        places(op[6].data ? call.rows * n * index(sizeof(double)) : 0),
        masses(gradient && options.kind == efficient && others()
                   ? call.rows * n * 2 * call['d'] * index(sizeof(T))
                   : 0) {
    maps = maps_of<T>(call, options.kind, options.scale, options.eps_of_map, call['v']);
    ready = projection.data && places.data && masses.data;
    if (!ready) return;
    take_projection(op[3], op[4], static_cast<T*>(projection.data), maps);
    if (op[6].data) {
      for (index row = 0; row < call.rows; ++row) {
        const View sums = column(call, op[6], row);
        double* const to = static_cast<double*>(places.data) + row * n;
        for (index i = 0; i < n; ++i) {
          index at = i + options.offset + 1;
          at = at < 0 ? 0 : at > m ? m : at;
          to[i] = at == 0 ? 0.0 : load<double>(sums.data + (at - 1) * sums.pitch);
        }
      }
    }
  }

  Rows keys(index row) const {
    Rows rows{};
    rows.count = m;
    rows.x = matrix(call, op[1], row);
    rows.values = matrix(call, op[2], row);
    rows.weight = column(call, op[5], row);
    rows.decay = column(call, op[6], row);
    return rows;
  }
  Rows queries(index row, const Operand* g, void* stats) const {
    Rows rows{};
    rows.count = n;
    rows.query = true;
    rows.x = matrix(call, op[0], row);
    if (g) rows.values = matrix(call, *g, row);
    if (op[6].data) {
      rows.place = {reinterpret_cast<char*>(static_cast<double*>(places.data) + row * n),
                    index(sizeof(double)), 0, float64};
    }
    rows.stats_pitch = index(sizeof(Stats<T>));
    if (stats) rows.stats = static_cast<char*>(stats) + row * n * rows.stats_pitch;
    const index pitch = 2 * maps.f * index(sizeof(T));
    rows.masses = {static_cast<char*>(masses.data) + row * n * pitch, pitch, index(sizeof(T)),
                   type_of<T>};
    return rows;
  }
  // With features of queries that are at most 1.
  bool all_see_all() const {
    const bool free = !options.causal && !options.exclude;
    return free && maps.log() && (options.normalize || maps.per_feature());
  }
  bool others() const { return options.exclude && !options.causal; }
  // Reader i sees sources j < i + offset, or all `others` than i + offset.
  index offset(bool back) const {
    if (!options.causal && !options.exclude) return back ? n : m;
    const index own = options.offset + (options.exclude ? 0 : 1);
    return back ? n - m + own : own;
  }
  Scan<T> scan(const Rows& sources, const Rows& readers, bool back, Task task) const {
    const bool normalize = options.normalize && !maps.per_feature();
    Scan<T> scan{{maps}, sources,   readers,        offset(back),        others(),
                 task,   normalize, T(options.eps), back ? T(-1) : T(1), {}};
    const index wanted = index(call.parameter[7]);
    scan.step = wanted < chunk ? wanted : chunk;
    scan.started = !back && op[8].data;
    return scan;
  }
  // Fills the state before the first key.
  void begin(index row, State<T>& state) const {
    if (!op[8].data) return;
    fetch(column(call, op[7], row), maps.f, 1, state.c, 1);
    fetch(matrix(call, op[8], row), maps.f, maps.e, state.s, maps.e_pitch);
    fetch(column(call, op[9], row), maps.f, 1, state.z, 1);
  }
};

template <class T>
long long forward(const Call& call) {
  const Operand* op = call.operand;
  const Problem<T> problem(call, op, false);
  if (!problem.ready) return -1;
  const Maps<T>& maps = problem.maps;
  const auto make = [&](index row) {
    Scan<T> scan =
        problem.scan(problem.keys(row), problem.queries(row, nullptr, nullptr), false, Task::value);
    scan.to.out = matrix(call, op[10], row);
    return scan;
  };
  Heads<T> heads(call, maps, problem.m, problem.n, problem.options);
  if (!heads.ready()) return -1;
  for (index row = 0; row < call.rows; ++row) problem.begin(row, heads.first(row));
  if (!heads.run(make)) return -1;
  if (!op[12].data) return 0;
  if (!heads.gather(make)) return -1;
  parallel(call.rows, [&](index row) {
    State<T>& state = heads.last(row);
    const Scan<T> scan = make(row);
    scan.move(state, scan.place_of(problem.m - 1), T(1));
    const bool in_units = maps.log() || maps.kind == trigonometric;
    for (index t = 0; !in_units && t < maps.f; ++t) {
      const T factor = exp_anywhere(state.c[t]);
      scan.scale_row(state, t, factor);
      state.c[t] = 0;
    }
    put(column(call, op[11], row), maps.f, 1, state.c, 1);
    put(matrix(call, op[12], row), maps.f, maps.e, state.s, maps.e_pitch);
    put(column(call, op[13], row), maps.f, 1, state.z, 1);
  });
  return 0;
}

template <class T>
long long backward(const Call& call) {
  const Operand *op = call.operand, *to = op + 11;
  const Problem<T> problem(call, op + 1, true);
  if (!problem.ready) return -1;
  const Maps<T>& maps = problem.maps;
  const index n = problem.n, m = problem.m;
  const bool windows = maps.per_feature() && problem.options.causal;
  Heads<T> heads(call, maps, n, windows ? n : m, problem.options);
  Memory stats(call.rows * n * index(sizeof(Stats<T>)));
  Memory slopes(to[4].data ? call.rows * (n + m) * index(sizeof(double)) : 0);
  if (!stats.data || !slopes.data) return -1;
  double* const slope = static_cast<double*>(slopes.data);
  const auto column_of = [](double* at) {
    return View{reinterpret_cast<char*>(at), index(sizeof(double)), 0, float64};
  };
  const auto of_queries = [&](index row) {
    Scan<T> scan = problem.scan(problem.keys(row), problem.queries(row, op, stats.data), false,
                                Task::query_gradient);
    scan.to.dq = matrix(call, to[0], row);
    if (to[4].data) scan.to.slope = column_of(slope + row * (n + m));
    return scan;
  };
  const auto of_keys = [&](index row) {
    Scan<T> scan = problem.scan(problem.queries(row, op, stats.data).turned(),
                                problem.keys(row).turned(), true, Task::key_gradient);
    scan.to.dk = matrix(call, to[1], row).turned(m);
    scan.to.dv = matrix(call, to[2], row).turned(m);
    if (to[3].data) scan.to.dweight = column(call, to[3], row).turned(m);
    if (to[4].data) scan.to.slope = column_of(slope + row * (n + m) + n).turned(m);
    return scan;
  };
  {
    Heads<T> first(call, maps, m, n, problem.options);
    if (!first.ready() || !heads.ready()) return -1;
    for (index row = 0; row < call.rows; ++row) problem.begin(row, first.first(row));
    if (windows) {
      const auto make = [&](index row) { return Windows<T>{of_queries(row), of_keys(row)}; };
      if (!first.run_windows(make, heads)) return -1;
    } else if (!first.run(of_queries, problem.all_see_all() ? &heads : nullptr)) {
      return -1;
    }
  }
  if (!windows && !heads.run(of_keys)) return -1;
  if (to[5].data && !heads.gather(of_keys)) return -1;
  parallel(call.rows, [&](index row) {
    if (to[4].data) {
      const double *of_query = slope + row * (n + m), *of_key = of_query + n;
      const View out = column(call, to[4], row);
      double total = 0;
      index i = n - 1;
      for (index t = m - 1; t >= 0; --t) {
        for (; i >= 0 && i + problem.options.offset + 1 > t; --i) total += of_query[i];
        total -= of_key[t];
        const T value = T(total);
        put(out.from(t), 1, 1, &value, 1);
      }
    }
    if (to[5].data) {
      State<T>& state = heads.last(row);
      const Scan<T> scan = of_keys(row);
      scan.move(state, 0, T(-1));
      T* const start = state.c;
      for (index t = 0; t < maps.f; ++t) {
        T before;
        fetch(column(call, op[8], row).from(t), 1, 1, &before, 1);
        const bool nothing = before == T(-infinity) || start[t] == T(-infinity);
        scan.scale_row(state, t, nothing ? T(0) : exp_anywhere(T(before + start[t])));
      }
      put(matrix(call, to[5], row), maps.f, maps.e, state.s, maps.e_pitch);
      put(column(call, to[6], row), maps.f, 1, state.z, 1);
    }
  });
  return 0;
}

// --- Features alone ---

// Operands x, projection, bias.
template <class T>
long long feature_rows(const Call& call) {
  const Operand* op = call.operand;
  const double* const p = call.parameter;
  int kind = int(p[0]);
  if (kind == efficient) kind = p[3] != 0 ? softmax_d : exponential;
  Maps<T> maps = maps_of<T>(call, kind, p[1], p[2], 0);
  const Memory projection(projection_room<T>(call, op[1]));
  if (!projection.data) return -1;
  take_projection(op[1], op[2], static_cast<T*>(projection.data), maps);
  const Head<T> head{maps};
  const index rows = call['l'], strips = (rows + chunk - 1) / chunk;
  const index f_pitch = Panel<T>::padded(maps.f);
  long long failed = 0;
  parallel(call.rows * strips, [&](index job) {
    Block<T> block{};
    T *rough, *turned;
    const auto carve = [&](Carver<T>& memory) {
      block.x = memory.take(maps.d_pitch * chunk);
      block.features = memory.take(f_pitch * chunk);
      block.values = memory.take(chunk);
      rough = memory.take(chunk * maps.d_pitch);
      turned = memory.take(chunk * f_pitch);
    };
    Carver<T> size(nullptr);
    carve(size);
    void* const room = thread_memory(static_cast<unsigned long long>(size.bytes()));
    if (!room) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    Carver<T> memory(room);
    carve(memory);
    const index row = job / strips, first = job % strips * chunk;
    const int count = int(rows - first < chunk ? rows - first : chunk);
    Rows own{};
    own.count = rows;
    own.x = matrix(call, op[0], row);
    own.query = true;
    head.load(own, first, count, 0, false, block, rough);
    for (index i = 0; maps.log() && i < maps.f * chunk; ++i) {
      const T log = maps.bias_of(i / chunk) + block.shift[i % chunk];
      block.features[i] = exp_anywhere(T(block.features[i] + log));
    }
    for (index i = 0; maps.kind == trigonometric && i < maps.f * chunk; ++i) {
      block.features[i] *= exp_anywhere(block.shift[i % chunk]);
    }
    for (index i = maps.f * chunk; i < f_pitch * chunk; ++i) block.features[i] = 0;
    turn(block.features, chunk, f_pitch, chunk, turned, f_pitch);
    put(matrix(call, op[3], row).from(first), count, maps.f, turned, f_pitch);
  });
  return failed ? -1 : 0;
}

// --- One key at a time ---

// Log features, or features where there are no exponentials, of two inputs.
template <class T>
void features_of(const Maps<T>& maps, T* const (&x)[2], T* const (&to)[2]) {
  using V = typename Panel<T>::V;
  T half[2] = {};
  for (int k = 0; k < 2; ++k) {
    for (index i = 0; i < maps.d_pitch; ++i) {
      x[k][i] *= maps.scale;
      half[k] += x[k][i] * x[k][i];
    }
    for (index t = 0; maps.kind != affine && t < maps.f; ++t) {
      to[k][t] = single_feature(maps.kind, x[k][t], maps.eps);
    }
  }
  constexpr int width = lanes<V>;
  for (index first = 0; maps.kind == affine && first < maps.f; first += width) {
    V sum[2][width] = {};
    for (int j = 0; j < width && first + j < maps.f; ++j) {
      for (index i = 0; i < maps.d_pitch; i += width) {
        const V weights = load<V>(maps.weights + (first + j) * maps.d_pitch + i);
        sum[0][j] += weights * load<V>(x[0] + i);
        sum[1][j] += weights * load<V>(x[1] + i);
      }
    }
    const V bias = load<V>(maps.bias + first);
    for (int k = 0; k < 2; ++k) {
      store(to[k] + first, V(fold_packs(sum[k], Sum{}) + (bias - T(0.5) * half[k])));
    }
  }
}

// f(W{}, i) for i below count, where W is a register or, at the end, a number.
template <class T, class F>
KX_FN void in_registers(index count, F f) {
  using V = typename Panel<T>::V;
  index i = 0;
  for (; i + lanes<V> <= count; i += lanes<V>) f(V{}, i);
  for (; i < count; ++i) f(T{}, i);
}

// Rows of a state, e numbers each, that fade and take in a key, and what a query reads of them.
template <class T>
struct StepRows {
  index count, e;
  T* s;
  const T *fade, *key, *query, *v;
  T* out;
  // Columns from i on, as long as there are N times W; returns the first that is left.
  template <int N, class W>
  KX_FN index columns(index i) const {
    constexpr int width = int(sizeof(W) / sizeof(T));
    for (; i + N * width <= e; i += N * width) {
      W sum[N], value[N];
      KX_UNROLL
      for (int j = 0; j < N; ++j) {
        sum[j] = load<W>(out + i + j * width);
        value[j] = load<W>(v + i + j * width);
      }
      for (index t = 0; t < count; ++t) {
        KX_UNROLL
        for (int j = 0; j < N; ++j) {
          T* const at = s + t * e + i + j * width;
          const W now = splat<W>(fade[t]) * load<W>(at) + splat<W>(key[t]) * value[j];
          store(at, now);
          sum[j] += splat<W>(query[t]) * now;
        }
      }
      KX_UNROLL
      for (int j = 0; j < N; ++j) store(out + i + j * width, sum[j]);
    }
    return i;
  }
};

// Takes a key in and reads for a query, in one pass over the state, which the last three operands
// are. Operands q, k, v, projection, bias, weight, decay; the state's arrays are contiguous.
template <class T>
long long step(const Call& call) {
  using V = typename Panel<T>::V;
  constexpr int width = Panel<T>::width;
  const Operand* op = call.operand;
  const double* const parameter = call.parameter;
  Maps<T> maps = {int(parameter[0]),
                  call['d'],
                  call['f'],
                  call['v'],
                  Panel<T>::padded(call['d']),
                  Panel<T>::padded(call['v']),
                  T(parameter[1]),
                  T(parameter[2]),
                  nullptr,
                  nullptr};
  const index f = maps.f, e = maps.e, f_pitch = Panel<T>::padded(f);
  // Rows of the projection as they are where they are whole registers.
  const View rows = {op[3].data, op[3].pitch, op[3].step, op[3].type};
  const bool direct = rows.data && rows.step == index(sizeof(T)) && maps.d == maps.d_pitch &&
                      rows.pitch == maps.d * index(sizeof(T));
  Memory copied((rows.data && !direct ? f * maps.d_pitch : 0) * index(sizeof(T)));
  Memory biases((f_pitch + 16) * index(sizeof(T)));
  if (!copied.data || !biases.data) return -1;
  if (rows.data) {
    maps.weights = static_cast<const T*>(static_cast<const void*>(rows.data));
    if (!direct) {
      fetch(rows, f, maps.d, static_cast<T*>(copied.data), maps.d_pitch);
      maps.weights = static_cast<T*>(copied.data);
    }
    fetch(View{op[4].data, op[4].step, 0, op[4].type}, f, 1, static_cast<T*>(biases.data), 1);
    maps.bias = static_cast<T*>(biases.data);
  }
  const bool normalize = parameter[3] != 0;
  long long failed = 0;
  const index grain = 65536 / (f * (maps.d + e) + 1) + 1;
  parallel((call.rows + grain - 1) / grain, [&](index job) {
    Carver<T> size(nullptr);
    const auto carve = [&](Carver<T>& memory, T** to) {
      for (int i = 0; i < 2; ++i) to[i] = memory.take(maps.d_pitch);
      for (int i = 2; i < 4; ++i) to[i] = memory.take(maps.e_pitch);
      for (int i = 4; i < 7; ++i) to[i] = memory.take(f_pitch);
    };
    T* room[7];
    carve(size, room);
    void* const block = thread_memory(static_cast<unsigned long long>(size.bytes()));
    if (!block) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    Carver<T> memory(block);
    carve(memory, room);
    T *q = room[0], *k = room[1], *v = room[2], *out = room[3], *a = room[4], *b = room[5],
      *fade = room[6];
    for (index row = job * grain; row < call.rows && row < (job + 1) * grain; ++row) {
      const auto one = [&](const Operand& from, T missing) {
        if (from.data)
          fetch(View{from.data + offset(from, call, row), 0, 0, from.type}, 1, 1, &missing, 1);
        return missing;
      };
      const auto vector = [&](const Operand& from, index count, T* to, index pitch) {
        fetch(View{from.data + offset(from, call, row), 0, from.step, from.type}, 1, count, to,
              pitch);
      };
      const T weight = one(op[5], 1), decay = one(op[6], 0);
      vector(op[0], maps.d, q, maps.d_pitch);
      for (index i = 0; i < maps.d_pitch; ++i) k[i] = 0;
      for (index i = 0; i < maps.e_pitch; ++i) v[i] = out[i] = 0;
      if (weight != 0) {
        vector(op[1], maps.d, k, maps.d_pitch);
        vector(op[2], e, v, maps.e_pitch);
      }
      const auto state = [&](int i) {
        return static_cast<T*>(static_cast<void*>(op[i].data + offset(op[i], call, row)));
      };
      T *c = state(8), *s = state(9), *z = state(10);
      features_of<T>(maps, {q, k}, {b, a});
      const T log_weight = weight == 1 ? T(0) : weight == 0 ? T(-infinity) : log(weight);
      T top = 0;
      if (maps.log()) {
        V most = splat<V>(-infinity);
        in_registers<T>(f, [&](auto as, index t) {
          using W = decltype(as);
          const StepLogs<W> logs(load<W>(a + t) + splat<W>(log_weight), load<W>(b + t),
                                 load<W>(c + t) + splat<W>(decay));
          store(c + t, logs.c);
          store(a + t, logs.key);
          store(fade + t, logs.fade);
          store(b + t, logs.query);
          most = maximum(logs.query + V{}, most);
        });
        top = largest_lane(most);
        if (top == T(-infinity)) top = 0;
        for (index t = 0; t < f; t += width) {
          store(a + t, exp_up_to(load<V>(a + t)));
          store(fade + t, exp_up_to(load<V>(fade + t)));
          store(b + t, exp_up_to(V(load<V>(b + t) - top)));
        }
      } else {
        const T down = exp_anywhere(decay);
        for (index t = 0; t < f; ++t) {
          a[t] *= weight;
          fade[t] = down;
        }
      }
      V masses{};
      T mass = 0;
      in_registers<T>(f, [&](auto as, index t) {
        using W = decltype(as);
        const W now = load<W>(fade + t) * load<W>(z + t) + load<W>(a + t);
        store(z + t, now);
        if constexpr (sizeof(W) == sizeof(V)) {
          masses += load<W>(b + t) * now;
        } else {
          mass += b[t] * now;
        }
      });
      mass += sum_of_lanes(masses);
      constexpr index together = 32;  // rows, whose columns are gone through by registers
      for (index t = 0; t < f; t += together) {
        const StepRows<T> rows = {
            f - t < together ? f - t : together, e, s + t * e, fade + t, a + t, b + t, v, out};
        index i = rows.template columns<4, V>(0);
        i = rows.template columns<1, V>(i);
        rows.template columns<1, T>(i);
      }
      const T factor = row_factor(maps.kind, normalize, mass, top, T(parameter[4]));
      for (index i = 0; i < e; ++i) out[i] = factor == 0 ? T(0) : out[i] * factor;
      put(View{op[7].data + offset(op[7], call, row), 0, op[7].step, op[7].type}, 1, e, out,
          maps.e_pitch);
    }
  });
  return failed ? -1 : 0;
}

constexpr Entry linear_entries[] = {
    {"linear_attention",
     "(l,d),(s,d),(s,v),any(p,d)?,any(p)?,any(s)?,any(s)?,any(f)?,any(f,v)?,any(f)?"
     "->any(l,v),any(f)?,any(f,v)?,any(f)?",
     8,
     {forward<double>, forward<float>, forward<float>, forward<float>}},
    {"linear_attention_vjp",
     "(l,v),(l,d),(s,d),(s,v),any(p,d)?,any(p)?,any(s)?,any(s)?,any(f)?,any(f,v)?,any(f)?"
     "->any(l,d),any(s,d),any(s,v),any(s)?,any(s)?,any(f,v)?,any(f)?",
     8,
     {backward<double>, backward<float>, backward<float>, backward<float>}},
    {"feature_map",
     "(l,d),any(p,d)?,any(p)?->any(l,f)",
     4,
     {feature_rows<double>, feature_rows<float>, feature_rows<float>, feature_rows<float>}},
    {"linear_attention_step",
     "(d),(d),(v),any(f,d)?,any(f)?,any()?,any()?->any(v),any(f),any(f,v),any(f)",
     5,
     {step<double>, step<float>, step<float>, step<float>}},
};

}  // namespace

extern const Table linear_table;
const Table linear_table = {"linear", linear_entries, sizeof linear_entries / sizeof(Entry)};

}  // namespace KX_ISA
}  // namespace kexue
