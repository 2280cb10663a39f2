// Exponentiated gradient (kexue.fm 8968): multipliers e^(-lr g) of free weights, and of weights
// that are normalised. One text for every CPU level and the GPU; the steps of a row function are
// described in reductions.h, functors in elements.h.
//
// Everything is computed in double. Narrower results need no more care; for results in double a
// product keeps its rounding error, and a multiplier e^a = p 2^k joins a weight by their exponents.
#pragma once

#include "elements.h"
#include "erf.h"
#include "reductions.h"

namespace kexue {
inline namespace KX_ISA {

template <class T>
constexpr bool is_double = sizeof(T) == sizeof(double);
template <class R>
using DoubleOf = Pack<double, lanes<R>>;

// What weights are measured in: 1 / unit, for double of its mantissa, whose exponent is apart.
template <class V>
struct Unit {
  V inverse, exponent;
  template <class Row>
  KX_FN auto of(Row row) const {
    return Unit<typename Row::Value>{row(inverse), row(exponent)};
  }
};
template <class V>
KX_FN Unit<V> no_unit() {
  return {splat<V>(1), V{}};
}

// A positive finite number as mantissa, between sqrt(1/2) and sqrt(2), and exponent.
template <class V>
KX_FN Unit<V> mantissa_of(V w) {
  const auto tiny = w < splat<V>(0x1p-1022);
  const Binary<V> b = split_binary(select(tiny, V(w * 0x1p54), w));
  return {1 + b.g, select(tiny, V(b.k - 54), b.k)};
}
// The unit w; 1 if w is not positive and finite.
template <class T, class V>
KX_FN Unit<V> unit_of(V w) {
  const V one = splat<V>(1), usual = select((w > V{}) & (w < splat<V>(infinity)), w, one);
  if constexpr (is_double<T>) {
    const Unit<V> m = mantissa_of(usual);
    return {1 / m.inverse, m.exponent};
  } else {
    return {1 / usual, V{}};
  }
}

// (w / unit) e^(a + error) for w >= 0, rounded about once. 0 for w = 0 whatever a is, but NaN.
template <class T, class V>
KX_FN V multiplied(V w, V a, V error, const Unit<V>& unit) {
  const V most = splat<V>(is_double<T> ? 2500 : 700);
  const V bounded = at_least(select(a > most, most, a), V(-most));
  V value;
  if constexpr (is_double<T>) {
    const Exponential<V> e = exp_reduce<double>(bounded, error);
    const Unit<V> m = mantissa_of(w);
    const V p = (1 + (e.r + e.r * e.r * e.q)) * unit.inverse;
    // The result is p m 2^k; beyond 2^+-2044 it is infinite, or 0.
    constexpr double round = Format<double>::round;
    const V k = (e.rounded - round) + (m.exponent - unit.exponent);
    const V end = splat<V>(2044), within = at_least(select(k > end, end, k), V(-end));
    const V half = within * 0.5 + round;
    const V other = within - (half - round) + round;
    value = p * m.inverse * power_of_two(half) * power_of_two(other);
    value = select((w > V{}) & (w < splat<V>(infinity)), value, V(w * p));
  } else {
    const Exponential<V> e = exp_reduce<float>(bounded);
    value = w * unit.inverse * ((1 + (e.r + e.r * e.r * e.q)) * power_of_two(e.rounded));
  }
  return select(a == splat<V>(-infinity), V(w * 0.0), value);
}

// -lr g with its rounding error; 0 for lr = 0 even if g is infinite.
template <class T, class V>
KX_FN Two<V> exponent(V g, V lr) {
  const auto none = (lr == V{}) & (g == g);
  if constexpr (is_double<T>) {
    const Two<V> a = two_product(V(-lr), g);
    const auto usual = (abs(a.hi) < splat<V>(2500)) & (a.lo == a.lo);
    return {select(none, V{}, a.hi), select(usual, a.lo, V{})};
  } else {
    return {select(none, V{}, V(-lr * g)), V{}};
  }
}

// x 2^k for integers k, rounded once. k is within +-300.
template <class V>
KX_FN V scaled_by(V x, V k) {
#if defined(__AVX512F__) && !defined(__CUDACC__)
  if constexpr (sizeof(V) == 64) {
    return bit_cast<V>(_mm512_scalef_ps(bit_cast<__m512>(x), bit_cast<__m512>(k)));
  }
#endif
  constexpr float round = Format<float>::round;
  const V third = k * (1.0f / 3) + round, rest = k - 2 * (third - round) + round;
  return x * power_of_two(third) * power_of_two(third) * power_of_two(rest);
}
// w e^(-lr g) of floats, w >= 0: twice the lanes of double, and the rounding error of lr g.
template <class V>
KX_FN V multiplied_float(V w, V g, V lr, V flip) {
  using F = Format<float>;
  const auto none = (lr == V{}) & (g == g);
  const Two<V> product = two_product(V(-lr), V(flip * g));
  const V a = select(none, V{}, product.hi), most = splat<V>(210);
  const V bounded = at_least(select(a > most, most, a), V(-most));
  const auto usual = (abs(product.hi) < most) & (product.lo == product.lo);
  const V error = select(usual, product.lo, V{});
  const V rounded = bounded * F::log2_e + F::round, k = rounded - F::round;
  const V r = (bounded - k * F::ln2_head) - (k * F::ln2_tail - error);
  const V p = 2 + (2 * r + 2 * r * r * exp_tail(float{}, r));
  // Large weights first, small results last: only the last product rounds to subnormals.
  const V up = select(k > V{}, k, V{}) - 1, down = select(k < V{}, k, V{});
  const V value = scaled_by(V(scaled_by(w, up) * p), down);
  return select(a == splat<V>(-infinity), V(w * 0.0f), value);
}

// w e^(-lr g), or w e^(-lr g sign(w)).  (),(),()->()
template <class T>
struct EguStep {
  using Term = term_t<T>;
  bool is_signed;
  template <class V>
  KX_FN V operator()(V w, V g, V lr) const {
    if constexpr (sizeof(element_t<V>) == sizeof(float)) {
      // Straight where nothing comes near the ends of the type; the bits are those of `rare`.
      using B = bits_t<V>;
      const Two<V> a = two_product(V(-lr), g);
      const B size = B(bit_cast<B>(a.hi) & 0x7fffffffu),
              from = B(bit_cast<B>(w) - weight_bits(-38));
      const auto unusual =
          (size > splat<B>(exponent_bits)) | (from > splat<B>(weight_bits(38) - weight_bits(-38)));
      if (any_of(unusual)) return rare(w, g, lr);
      const Exponential<V> e = exp_reduce<float>(a.hi, a.lo);
      const B p = bit_cast<B>(V(1 + (e.r + e.r * e.r * e.q)));
      return w * bit_cast<V>(B(p + (bit_cast<B>(e.rounded) << Format<float>::mantissa_bits)));
    } else {
      const V flip = flip_of(w);
      const Two<V> a = exponent<T>(g, lr);
      return flip * multiplied<T>(abs(w), V(flip * a.hi), V(flip * a.lo), no_unit<V>());
    }
  }

 private:
  static constexpr unsigned exponent_bits = 0x42700000;  // of 60
  static constexpr unsigned weight_bits(int k) { return unsigned(127 + k) << 23; }
  template <class V>
  KX_FN V flip_of(V w) const {
    return select(w < V{}, splat<V>(is_signed ? -1 : not_a_number), splat<V>(1));
  }
  template <class V>
  KX_SELDOM V rare(V w, V g, V lr) const {
    const V flip = flip_of(w);
    return flip * multiplied_float(abs(w), g, lr, flip);
  }
};
// One lr for all.  (),()->()
template <class T>
struct EguStepOf {
  using Term = term_t<T>;
  EguStep<T> step;
  double lr;
  template <class V>
  KX_FN V operator()(V w, V g) const {
    return step(w, g, splat<V>(lr));
  }
};
// wp e^(-lr g), wm e^(lr g).  (),(),(),()->(),()
template <class T>
struct EguPmStep {
  using Term = term_t<T>;
  template <class V>
  KX_FN Values<V, 2> operator()(V wp, V wm, V g, V lr) const {
    const EguStep<T> step = {false};
    return {{step(wp, g, lr), step(wm, V(-g), lr)}};
  }
};
template <class T>
struct EguPmStepOf {
  using Term = term_t<T>;
  double lr;
  template <class V>
  KX_FN Values<V, 2> operator()(V wp, V wm, V g) const {
    return EguPmStep<T>{}(wp, wm, g, splat<V>(lr));
  }
};

// s (|w| e^-b - delta sinh b), s = sign w, b = s lr g, delta = beta^2 / (|w| + hypot(w, beta)).
// (),(),()->()
template <class T>
struct HypentropyStep {
  using Term = double;
  double beta;
  template <class V>
  KX_FN V operator()(V w, V g, V lr) const {
    const V one = splat<V>(1), b = splat<V>(beta), size = abs(w), all = splat<V>(infinity);
    const V sign = select(w < V{}, V(-one), one);
    const Two<V> product = exponent<T>(g, lr);
    const V a = sign * product.hi, error = sign * product.lo;  // -b
    const V large = maximum(b, size), ratio = minimum(b, size) / large;
    const V half = size * 0.5 + large * 0.5 * square_root(V(1 + ratio * ratio));
    const V delta = b * 0.5 * (b / half);
    // sinh a by e^-|a| - 1, or from |a| = 1 on as a difference
    const V bounded = at_least(V(-abs(a)), V(-one)), t = expm1_nonpositive<double>(bounded);
    const V down = t * (2 + t) / (2 * (1 + t));
    const V small = delta * (select(a < V{}, down, V(-down)) + error);
    Unit<V> unit = no_unit<V>();
    const V up = multiplied<T>(V(delta * 0.5), a, error, unit);
    const V far = up - multiplied<T>(V(delta * 0.5), V(-a), V(-error), unit);
    V value = multiplied<T>(size, a, error, unit) + select(abs(a) < one, small, far);
    value = select(abs(a) == all, a, value);
    value = select((lr == V{}) & (a == a), size, value);
    return select((w == w) & (a == a), V(sign * value), splat<V>(not_a_number));
  }
};

// --- Rows ----------------------------------------------------------------------------------------
//
// A row is normalised relative to its pivot, an active entry (w > 0) of nearly the largest
// log w - rate g. `rate` is |lr|, and g is turned over for lr < 0 and 0 for lr = 0.

template <class V>
KX_FN V direction_of(V lr) {
  return select(lr < V{}, splat<V>(-1), select(lr == V{}, V{}, splat<V>(1)));
}
template <class V>
KX_FN V downhill(V g, V direction) {
  return select((direction == V{}) & (g == g), V{}, V(direction * g));
}
// log w as far as the choice of a pivot needs it.
template <class V>
KX_FN V rough_log(V w) {
  using E = element_t<V>;
  const auto tiny = w < splat<V>(Format<E>::smallest_normal);
  const Binary<V> b = split_binary(select(tiny, V(w * E(0x1p30)), w));
  return E(0.6931471805599453) * (select(tiny, V(b.k - 30), b.k) + b.g);
}

// -rate (g - least) with its rounding error, by halves, whose difference does not overflow.
template <class T, class V>
KX_FN Two<V> fall(V g, V least, V rate) {
  if constexpr (is_double<T>) {
    const V half = g * 0.5 - least * 0.5;
    const Two<V> d = two_sum(V(g * 0.5), V(least * -0.5)), a = two_product(V(-rate), d.hi);
    const V hi = select((abs(half) < splat<V>(infinity)) | (rate == V{}), V(2 * a.hi), V(-half));
    const V lo = 2 * (a.lo - rate * d.lo);
    const auto usual = (abs(hi) < splat<V>(2500)) & (lo == lo) & (g != least);
    return {select(g == least, V{}, hi), select(usual, lo, V{})};
  } else {
    return {select(g == least, V{}, V(rate * (least - g))), V{}};
  }
}

// The entry relative to which a row is normalised.
template <class V>
struct Pivot {
  V weight, slope;  // of log-weights, the logarithm
};

template <class T>
struct EgRow {
  using Term = double;

  // (w / unit) e^(-rate (g - least)); `unit` is that of the pivot's weight.
  template <class V>
  KX_FN static V term(V w, V g, const Unit<V>& unit, V least, V rate) {
    const Two<V> a = fall<T>(g, least, rate);
    return multiplied<T>(w, a.hi, a.lo, unit);
  }
  // How to choose the pivot: the smallest gradient comes first where rate g could overflow, or lose
  // what the weights differ by.
  template <class V>
  KX_FN static V key(V log_w, V g, V least, V rate) {
    using E = element_t<V>;
    if constexpr (sizeof(T) < sizeof(E)) return log_w - rate * g;
    const V half = rate * (g * E(0.5) - least * E(0.5));
    return log_w - select(g == least, V{}, V(half + half));
  }
  template <class Team, class F>
  KX_FN static auto least_of(const Team& team, F step) {
    using R = typename Team::Result;
    if constexpr (sizeof(T) < sizeof(element_t<typename Team::Value>)) return R{};
    return R(-team.max(step));
  }
  // Whether the second of two pivots leads, and the lesser one relative to the other.
  template <class R>
  KX_FN static auto leads(Pivot<R> a, Pivot<R> b, R rate, R& lesser) {
    using D = DoubleOf<R>;
    const D aw = convert<D>(a.weight), ag = convert<D>(a.slope), bw = convert<D>(b.weight),
            bg = convert<D>(b.slope), r = convert<D>(rate);
    const D forward = term<D>(bw, bg, unit_of<T>(aw), ag, r);
    const D backward = term<D>(aw, ag, unit_of<T>(bw), bg, r);
    const R f = convert<R>(forward), g = convert<R>(backward);
    const auto second = ((f > splat<R>(1)) | (a.weight == R{})) & (b.weight > R{});
    lesser = select(second, g, f);
    return second;
  }
  // The unit of a pivot's weight, in the type of a row's values.
  template <class R>
  KX_FN static Unit<R> unit_as(R weight) {
    auto unit = unit_of<T>(convert<DoubleOf<R>>(weight));
    return {convert<R>(unit.inverse), convert<R>(unit.exponent)};
  }
  template <class M, class R>
  KX_FN static Pivot<R> chosen(M second, Pivot<R> a, Pivot<R> b) {
    return {select(second, b.weight, a.weight), select(second, b.slope, a.slope)};
  }
  // Rows that have no result: wrong entries make the sum NaN.
  template <class R>
  KX_FN static auto is_sound(Pivot<R> pivot, R sum, R rate, R mass) {
    const R all = splat<R>(infinity);
    return (sum == sum) & (pivot.slope < all) & (rate < all) & (mass >= R{}) & (mass < all);
  }
};

// e^a unit and e^-a unit for |a| < 600; those for narrow results are 2^-27 off at most. What double
// holds of narrow results needs no unit against underflow.
template <class T>
constexpr int plain_raise = is_double<T> ? 128 : 0;
template <class T>
constexpr double plain_unit = is_double<T> ? 0x1p128 : 1;
template <class V>
struct PlainPowers {
  V up, down;
};
template <class T, class V>
KX_FN PlainPowers<V> plain_powers(Two<V> a) {
  using F = Format<double>;
  using B = bits_t<V>;
  if constexpr (is_double<T>) {
    const auto power = [](V x, V low) {
      const Exponential<V> e = exp_reduce<double>(x, low);
      return (1 + (e.r + e.r * e.r * e.q)) * power_of_two(e.rounded, plain_raise<T>);
    };
    return {power(a.hi, a.lo), power(V(-a.hi), V(-a.lo))};
  } else {
    const V rounded = a.hi * F::log2_e + F::round;
    const V r = a.hi - (rounded - F::round) * 0.6931471805599453, r2 = r * r;
    const V even = 1 + r2 * (0.5 + r2 * (0.041666176 + r2 * 0.0013952411));
    const V odd = 1 + r2 * (0.16666509 + r2 * 0.00837);
    const B k = bit_cast<B>(rounded) << F::mantissa_bits;
    return {bit_cast<V>(B(bit_cast<B>(V(even + r * odd)) + k)),
            bit_cast<V>(B(bit_cast<B>(V(even - r * odd)) - k))};
  }
}
// -lr g with its rounding error.
template <class T, class V>
KX_FN Two<V> plain_exponent(V g, V step) {
  if constexpr (is_double<T>) return two_product(step, g);
  return {step * g, V{}};
}
template <class V>
KX_FN auto in_range(Two<V> a) {
  return (a.hi < splat<V>(600)) & (a.hi > splat<V>(-600));
}
// Terms w e^(-lr g) unit as they are, without a pivot; NaN where anything could be lost.
template <class T, class V>
KX_FN V plain_term(V w, V g, V step) {
  const Two<V> a = plain_exponent<T>(g, step);
  const V value = w * plain_powers<T>(a).up;
  return select((w >= V{}) & in_range(a), value, splat<V>(not_a_number));
}
// Those of w and g, and of other and -g.
template <class T, class V>
KX_FN Pair<V> plain_terms(V w, V other, V g, V step) {
  const Two<V> a = plain_exponent<T>(g, step);
  const PlainPowers<V> power = plain_powers<T>(a);
  const auto valid = (w >= V{}) & (other >= V{}) & in_range(a);
  return {select(valid, V(w * power.up), splat<V>(not_a_number)), V(other * power.down)};
}
// Whether such terms of a row have lost nothing that its results could show.
template <class T, class R>
KX_FN auto suffices(R sum, R mass) {
  using E = element_t<R>;
  const E most = E(is_double<T> ? 0x1p200 : 0x1p100), less = E(is_double<T> ? 1 : 0x1p60);
  return (sum > splat<R>(1 / most)) & (sum < splat<R>(most)) & (sum * less >= mass) &
         (sum <= mass * most);
}

// How the terms of some rows are formed: as they are, or in `far` rows relative to a pivot.
template <class T, class R>
struct EgTerms {
  R lr, far;  // 0, or 1
  Pivot<R> pivot;

  template <class V>
  struct OfRow {
    V step;
    bool any;  // row is far
    V far;
    Unit<V> unit;
    V least, rate, turn;

    KX_FN V operator()(V w, V g) const {
      const V value = plain_term<T>(w, g, step);
      return any ? select(far > V{}, relative(w, g), value) : value;
    }
    KX_FN Pair<V> operator()(V w, V other, V g) const {
      Pair<V> values = plain_terms<T>(w, other, g, step);
      return any ? Pair<V>{select(far > V{}, relative(w, g), values.first),
                           select(far > V{}, relative(other, V(-g)), values.second)}
                 : values;
    }
    KX_SELDOM V relative(V w, V g) const {
      return EgRow<T>::template term<V>(w, downhill(g, turn), unit, least, rate);
    }
  };
  template <class Row>
  KX_FN auto of(Row row) const {
    using V = typename Row::Value;
    const V is_far = row(far);
    return OfRow<V>{row(R(-lr)),
                    any_of(is_far > V{}),
                    is_far,
                    row(EgRow<T>::unit_as(pivot.weight)),
                    row(pivot.slope),
                    row(R(abs(lr))),
                    row(direction_of(lr))};
  }
  // What the sum of such terms is measured in.
  KX_FN R unit() const { return select(far > R{}, splat<R>(1), splat<R>(plain_unit<T>)); }
};
template <class T, class R>
KX_FN EgTerms<T, R> terms_of(R lr, R far, Pivot<R> pivot) {
  const auto is_far = far > R{};
  return {lr, far, {select(is_far, pivot.weight, splat<R>(1)), select(is_far, pivot.slope, R{})}};
}

// (1 - mix) m p_i / sum p + mix m / n, p_i = w_i e^(-lr g_i); with `keep` m = sum w.
// (n),(n),(),()->(n)
template <class T>
struct EgStep : EgRow<T> {
  using Base = EgRow<T>;
  static constexpr int keeps = 1;
  double mix;
  bool keep;
  index n;

  template <class R>
  struct State {
    Pivot<R> pivot;
    R far, sum, total, lr, mass;  // sums of terms, and of weights
  };
  template <class R>
  struct Done {
    EgTerms<T, R> terms;
    R factor, floor;
  };

  template <class Team, class W, class G>
  KX_FN auto gather(const Team& team, W weights, G slopes, typename Team::Result lr,
                    typename Team::Result mass) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    R total = R{};
    if (keep) {
      total = team.template sum<1>(
          [&](auto row) { return [w = row(weights)](auto i) { return Sums<V, 1>{V(w[i])}; }; })[0];
    }
    const R size = keep ? total : mass, one = splat<R>(1);
    const R sum = team.template sum<1>([&](auto row) {
      return [=, w = row(weights), g = row(slopes), step = V(row(R(-lr)))](auto i) {
        const V value = plain_term<T>(V(w[i]), V(g[i]), step);
        row.keep(i, value);
        return Sums<V, 1>{value};
      };
    })[0];
    const R far = select(suffices<T>(sum, size), R{}, one);
    State<R> state = {{one, R{}}, far, sum / splat<R>(plain_unit<T>), total, lr, mass};
    if (team.any(far > R{})) relate(team, weights, slopes, state);
    return state;
  }
  // Forms the terms again, those of far rows relative to a pivot.
  template <class Team, class W, class G>
  KX_FN void relate(const Team& team, W weights, G slopes,
                    State<typename Team::Result>& state) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R rate = abs(state.lr), turn = direction_of(state.lr);
    const V least_key = splat<V>(-infinity);
    const R least = Base::least_of(team, [&](auto row) {
      return [=, w = row(weights), g = row(slopes), turn = V(row(turn))](auto i) {
        return select(V(w[i]) > V{}, V(-downhill(V(g[i]), turn)), least_key);
      };
    });
    auto top = team.template top<2>([&](auto row) {
      return [=, w = row(weights), g = row(slopes), turn = V(row(turn)), rate = V(row(rate)),
              least = V(row(least))](auto i) {
        const V own = w[i], slope = downhill(V(g[i]), turn);
        const V key = Base::key(rough_log(own), slope, least, rate);
        return Top<V, 2>{select(own > V{}, key, least_key), {own, slope}};
      };
    });
    const EgTerms<T, R> terms =
        terms_of<T>(state.lr, state.far, Pivot<R>{top.beside[0], top.beside[1]});
    const R sum = team.template sum<1>([&](auto row) {
      return [=, w = row(weights), g = row(slopes), term = row(terms)](auto i) {
        const V own = w[i], slope = g[i], value = term(own, slope);
        row.keep(i, value);
        const auto valid = (own >= V{}) & (own < splat<V>(infinity)) & (slope == slope);
        return Sums<V, 1>{select(valid, value, splat<V>(not_a_number))};
      };
    })[0];
    state.pivot = terms.pivot;
    state.sum = sum / terms.unit();
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    R lesser;
    const auto second = Base::leads(a.pivot, b.pivot, R(abs(a.lr)), lesser);
    const R sum = select(second, b.sum, a.sum) + lesser * select(second, a.sum, b.sum);
    return {Base::chosen(second, a.pivot, b.pivot),
            maximum(a.far, b.far),
            sum,
            a.total + b.total,
            a.lr,
            a.mass};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R rate = abs(s.lr), mass = keep ? s.total : s.mass, nan = splat<R>(not_a_number);
    const auto sound = Base::is_sound(s.pivot, s.sum, rate, mass);
    EgTerms<T, R> terms = terms_of<T>(s.lr, s.far, s.pivot);
    const R share = mass * element_t<R>(1 - mix);
    R factor = select(sound & (s.sum > R{}), R(share / (s.sum * terms.unit())), nan);
    if (keep) factor = select((s.total == R{}) & sound, R{}, factor);
    // A single weight is the mass, exactly.
    if (n == 1) return {terms, R(factor * 0), mass};
    return {terms, factor, R(mass * element_t<R>(mix) / element_t<R>(n))};
  }
  template <class R, class Row, class W, class G>
  KX_FN auto each(const Done<R>& done, Row row, W weights, G slopes, R, R) const {
    using V = typename Row::Value;
    return [=, w = row(weights), g = row(slopes), term = row(done.terms),
            factor = V(row(done.factor)), floor = V(row(done.floor))](auto i) {
      if constexpr (Row::remembers) {
        return V(row.recall(i, 0) * factor + floor);
      } else {
        return V(term(V(w[i]), V(g[i])) * factor + floor);
      }
    };
  }
};

// z - log sum e^z, z = logw - lr g.  (n),(n),()->(n)
template <class T>
struct EgStepLog : EgRow<T> {
  using Base = EgRow<T>;
  template <class R>
  struct State {
    Pivot<R> pivot;
    R rest, lr;  // sum of e^d without the pivot; NaN for wrong entries
  };
  template <class R>
  struct Done {
    Pivot<R> pivot;
    R rate, direction, log_sum;
  };
  template <class V>
  KX_FN static Two<V> gap(V log_w, V g, Pivot<V> pivot, V rate) {
    const V none = splat<V>(-infinity);
    const Two<V> a = fall<T>(g, pivot.slope, rate);
    if constexpr (is_double<T>) {
      const Two<V> w = two_sum(log_w, V(-pivot.weight)), sum = two_sum(w.hi, a.hi);
      const V small = sum.lo + (w.lo + a.lo);
      return {select(log_w == none, none, sum.hi), select(abs(small) < splat<V>(1), small, V{})};
    } else {
      return {select(log_w == none, none, V((log_w - pivot.weight) + a.hi)), V{}};
    }
  }
  // e^d for gaps, which are 0 at most but for their rounding
  template <class V>
  KX_FN static V power(Two<V> d) {
    return exp_or_zero<double>(minimum(d.hi, V{}), d.lo);
  }

  template <class Team, class W, class G>
  KX_FN auto gather(const Team& team, W logs, G slopes, typename Team::Result lr) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R rate = abs(lr), turn = direction_of(lr);
    const V none = splat<V>(-infinity);
    const R least = Base::least_of(team, [&](auto row) {
      return [=, w = row(logs), g = row(slopes), turn = V(row(turn))](auto i) {
        return select(V(w[i]) > none, V(-downhill(V(g[i]), turn)), none);
      };
    });
    auto top = team.template top<2>([&](auto row) {
      return [=, w = row(logs), g = row(slopes), turn = V(row(turn)), rate = V(row(rate)),
              least = V(row(least))](auto i) {
        const V own = w[i], slope = downhill(V(g[i]), turn);
        const V key = Base::key(own, slope, least, rate);
        return Top<V, 2>{select(own > none, key, none), {own, slope}};
      };
    });
    const Pivot<R> pivot = {top.beside[0], top.beside[1]};
    auto sums = team.template sum<2>([&](auto row) {
      return [=, w = row(logs), g = row(slopes), turn = V(row(turn)), rate = V(row(rate)),
              best = Pivot<V>{row(pivot.weight), row(pivot.slope)}](auto i) {
        const V own = w[i], slope = downhill(V(g[i]), turn), one = splat<V>(1);
        const auto valid = (own < splat<V>(infinity)) & (slope == slope);
        const auto ties = (own == best.weight) & (slope == best.slope);
        const V term = select(ties, V{}, power(gap(own, slope, best, rate)));
        return Sums<V, 2>{select(valid, term, splat<V>(not_a_number)), select(ties, one, V{})};
      };
    });
    return State<R>{pivot, sums[0] + (sums[1] - 1), lr};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    using D = DoubleOf<R>;
    const auto wide = [](const Pivot<R>& p) {
      return Pivot<D>{convert<D>(p.weight), convert<D>(p.slope)};
    };
    const D rate = convert<D>(R(abs(a.lr)));
    const R one = splat<R>(1), least = splat<R>(-infinity);
    const Pivot<D> pa = wide(a.pivot), pb = wide(b.pivot);
    const Two<D> forward = gap(pb.weight, pb.slope, pa, rate),
                 back = gap(pa.weight, pa.slope, pb, rate);
    const auto ahead = (b.pivot.weight > least) & (a.pivot.weight == least);
    const auto second = ahead | (convert<R>(forward.hi) > R{});
    const R step = select(second, convert<R>(power(back)), convert<R>(power(forward)));
    const R lead = select(second, b.rest, a.rest), other = select(second, a.rest, b.rest);
    // A block without active entries has a rest of its ties, which weigh nothing.
    const R more = select(step == R{}, R(other * 0), R((one + other) * step));
    return {Base::chosen(second, a.pivot, b.pivot), lead + more, a.lr};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R all = splat<R>(infinity), rate = abs(s.lr);
    const auto sound =
        (s.rest == s.rest) & (s.pivot.weight > -all) & (s.pivot.slope < all) & (rate < all);
    return {s.pivot, rate, direction_of(s.lr),
            select(sound, log1p(s.rest), splat<R>(not_a_number))};
  }
  template <class R, class Row, class W, class G>
  KX_FN auto each(const Done<R>& done, Row row, W logs, G slopes, R) const {
    using V = typename Row::Value;
    return [=, w = row(logs), g = row(slopes), turn = V(row(done.direction)),
            rate = V(row(done.rate)), log_sum = V(row(done.log_sum)),
            best = Pivot<V>{row(done.pivot.weight), row(done.pivot.slope)}](auto i) {
      const Two<V> d = gap(V(w[i]), downhill(V(g[i]), turn), best, rate);
      return V(d.hi + (d.lo - log_sum));
    };
  }
};

// EgStep of the 2 n weights (wp, wm) with the gradients (g, -g); with `scaled` lr mass for lr.
// (n),(n),(n),(),()->(n),(n)
template <class T>
struct EgPmStep : EgRow<T> {
  using Base = EgRow<T>;
  static constexpr int keeps = 2;
  bool scaled;

  template <class R>
  struct State {
    Pivot<R> pivot;
    R far, sum, lr, mass;
  };
  template <class R>
  struct Done {
    EgTerms<T, R> terms;
    R factor;
  };

  template <class Team, class P, class M, class G>
  KX_FN auto gather(const Team& team, P plus, M minus, G slopes, typename Team::Result given,
                    typename Team::Result mass) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R lr = scaled ? R(given * mass) : given, one = splat<R>(1);
    const R sum = team.template sum<1>([&](auto row) {
      return [=, p = row(plus), m = row(minus), g = row(slopes), step = V(row(R(-lr)))](auto i) {
        Pair<V> terms = plain_terms<T>(V(p[i]), V(m[i]), V(g[i]), step);
        row.keep(i, terms.first, terms.second);
        return Sums<V, 1>{V(terms.first + terms.second)};
      };
    })[0];
    const R far = select(suffices<T>(sum, mass), R{}, one);
    State<R> state = {{one, R{}}, far, sum / splat<R>(plain_unit<T>), lr, mass};
    if (team.any(far > R{})) relate(team, plus, minus, slopes, state);
    return state;
  }
  template <class Team, class P, class M, class G>
  KX_FN void relate(const Team& team, P plus, M minus, G slopes,
                    State<typename Team::Result>& state) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R rate = abs(state.lr), turn = direction_of(state.lr);
    const V none = splat<V>(-infinity);
    const R least = Base::least_of(team, [&](auto row) {
      return [=, p = row(plus), m = row(minus), g = row(slopes), turn = V(row(turn))](auto i) {
        const V slope = downhill(V(g[i]), turn);
        return maximum(select(V(p[i]) > V{}, V(-slope), none), select(V(m[i]) > V{}, slope, none));
      };
    });
    auto top = team.template top<2>([&](auto row) {
      return [=, p = row(plus), m = row(minus), g = row(slopes), turn = V(row(turn)),
              rate = V(row(rate)), least = V(row(least))](auto i) {
        const V up = p[i], down = m[i], slope = downhill(V(g[i]), turn);
        const V key = Base::key(rough_log(up), slope, least, rate);
        const V other = Base::key(rough_log(down), V(-slope), least, rate);
        Top<V, 2> best = {select((up > V{}) & (key == key), key, none), {up, slope}};
        best.take({select(down > V{}, other, none), {down, V(-slope)}});
        return best;
      };
    });
    const EgTerms<T, R> terms =
        terms_of<T>(state.lr, state.far, Pivot<R>{top.beside[0], top.beside[1]});
    const R sum = team.template sum<1>([&](auto row) {
      return [=, p = row(plus), m = row(minus), g = row(slopes), term = row(terms)](auto i) {
        const V up = p[i], down = m[i], slope = g[i], all = splat<V>(infinity);
        const auto [a, b] = term(up, down, slope);
        row.keep(i, a, b);
        const auto valid =
            (up >= V{}) & (up < all) & (down >= V{}) & (down < all) & (slope == slope);
        return Sums<V, 1>{select(valid, V(a + b), splat<V>(not_a_number))};
      };
    })[0];
    state.pivot = terms.pivot;
    state.sum = sum / terms.unit();
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    R lesser;
    const auto second = Base::leads(a.pivot, b.pivot, R(abs(a.lr)), lesser);
    const R sum = select(second, b.sum, a.sum) + lesser * select(second, a.sum, b.sum);
    return {Base::chosen(second, a.pivot, b.pivot), maximum(a.far, b.far), sum, a.lr, a.mass};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R rate = abs(s.lr), nan = splat<R>(not_a_number);
    const auto sound = Base::is_sound(s.pivot, s.sum, rate, s.mass) & (s.sum > R{});
    EgTerms<T, R> terms = terms_of<T>(s.lr, s.far, s.pivot);
    return {terms, select(sound, R(s.mass / (s.sum * terms.unit())), nan)};
  }
  template <class R, class Row, class P, class M, class G>
  KX_FN auto each(const Done<R>& done, Row row, P plus, M minus, G slopes, R, R) const {
    using V = typename Row::Value;
    return [=, p = row(plus), m = row(minus), g = row(slopes), term = row(done.terms),
            factor = V(row(done.factor))](auto i) {
      V a, b;
      if constexpr (Row::remembers) {
        a = row.recall(i, 0), b = row.recall(i, 1);
      } else {
        Pair<V> pair = term(V(p[i]), V(m[i]), V(g[i]));
        a = pair.first, b = pair.second;
      }
      return Pair<V>{V(a * factor + V{}), V(b * factor + V{})};
    };
  }
};

// max(w, 0) + r and max(-w, 0) + r, r = (mass - sum |w|) / (2 n).  (n),()->(n),(n)
template <class T>
struct EgPmInit {
  using Term = double;
  double slack;  // 1 + 8 u
  index n;
  template <class R>
  struct State {
    R size, mass;
  };
  template <class R>
  struct Results {
    R invalid;
  };
  template <class R>
  struct Done {
    R more;
  };
  template <class Team, class W>
  KX_FN auto gather(const Team& team, W weights, typename Team::Result mass) const {
    using V = typename Team::Value;
    auto s = team.template sum<1>(
        [&](auto row) { return [w = row(weights)](auto i) { return Sums<V, 1>{abs(V(w[i]))}; }; });
    return State<typename Team::Result>{s[0], mass};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {a.size + b.size, a.mass};
  }
  template <class R>
  KX_FN R sound(State<R> s) const {  // 0, or NaN
    const auto fits = s.size <= R(s.mass * element_t<R>(slack));
    return select(fits & (s.mass < splat<R>(infinity)), R{}, splat<R>(not_a_number));
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    const R nothing = sound(s);
    return {select(nothing == nothing, R{}, splat<R>(1))};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    return {maximum(R(s.mass - s.size), R{}) / element_t<R>(2 * n) + sound(s)};
  }
  template <class R, class Row, class W>
  KX_FN auto each(const Done<R>& done, Row row, W weights, R) const {
    using V = typename Row::Value;
    return [=, w = row(weights), more = V(row(done.more))](auto i) {
      const V own = w[i];
      return Pair<V>{V(maximum(own, V{}) + more), V(maximum(V(-own), V{}) + more)};
    };
  }
};

// y_i / w_i c_i, -lr y_i c_i and -sum g y c, c_i = v_i - <v, y> / mass, y = eg_step(w, g, lr).
// v and g enter as differences to their values at the pivot.  (n),(n),(n),(),()->(n),(n),()
template <class T>
struct EgStepVjp : EgRow<T> {
  using Base = EgRow<T>;
  static constexpr bool crowded = true;
  index n;
  template <class R>
  struct State {
    Pivot<R> pivot;
    R value;                    // of v at the pivot
    R sum, v, g, vg, lr, mass;  // sums of p, p dv, p dg, p dv dg
  };
  template <class R>
  struct Results {
    R out[1];
  };
  template <class R>
  struct Done {
    Unit<R> unit;
    R least, rate, direction, value, mean, factor, lr;
  };

  template <class Team, class C, class W, class G>
  KX_FN auto gather(const Team& team, C values, W weights, G slopes, typename Team::Result lr,
                    typename Team::Result mass) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R rate = abs(lr), turn = direction_of(lr);
    const V none = splat<V>(-infinity);
    const R least = Base::least_of(team, [&](auto row) {
      return [=, w = row(weights), g = row(slopes), turn = V(row(turn))](auto i) {
        return select(V(w[i]) > V{}, V(-downhill(V(g[i]), turn)), none);
      };
    });
    auto top = team.template top<4>([&](auto row) {
      return [=, v = row(values), w = row(weights), g = row(slopes), turn = V(row(turn)),
              rate = V(row(rate)), least = V(row(least))](auto i) {
        const V own = w[i], slope = downhill(V(g[i]), turn);
        const V key = Base::key(rough_log(own), slope, least, rate);
        return Top<V, 4>{select(own > V{}, key, none), {own, slope, v[i], g[i]}};
      };
    });
    const Pivot<R> pivot = {top.beside[0], top.beside[1]};
    Unit<R> unit = Base::unit_as(pivot.weight);
    auto sums = team.template sum<4>([&](auto row) {
      return [=, v = row(values), w = row(weights), g = row(slopes), turn = V(row(turn)),
              rate = V(row(rate)), least = V(row(pivot.slope)), unit = row(unit),
              v0 = V(row(top.beside[2])), g0 = V(row(top.beside[3]))](auto i) {
        const V own = w[i], slope = downhill(V(g[i]), turn), nan = splat<V>(not_a_number);
        const V p = Base::template term<V>(own, slope, unit, least, rate);
        const auto valid = (own >= V{}) & (own < splat<V>(infinity)) & (slope == slope);
        const V dv = V(v[i]) - v0, dg = select(p == V{}, V{}, V(V(g[i]) - g0));
        const V pv = times_or_zero(p, dv);
        return Sums<V, 4>{select(valid, p, nan), pv, V(p * dg), V(pv * dg)};
      };
    });
    return State<R>{pivot, top.beside[2], sums[0], sums[1], sums[2], sums[3], lr, mass};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    R lesser;
    const R turn = direction_of(a.lr);
    const auto second = Base::leads(a.pivot, b.pivot, R(abs(a.lr)), lesser);
    const Pivot<R> to = Base::chosen(second, a.pivot, b.pivot);
    const auto pick = [&](R first, R other) { return select(second, other, first); };
    const R value = pick(a.value, b.value);
    State<R> out = {to, value, R{}, R{}, R{}, R{}, a.lr, a.mass};
    const auto add = [&](const State<R>& s, R factor) {
      const R nothing = R{};
      const R dv = select(s.value == value, nothing, R(s.value - value));
      const R slope =
          select(s.pivot.slope == to.slope, nothing, R(turn * (s.pivot.slope - to.slope)));
      const R dg = select(factor == nothing, nothing, slope);
      out.sum = out.sum + factor * s.sum;
      out.v = out.v + times_or_zero(factor, R(s.v + s.sum * dv));
      out.g = out.g + factor * (s.g + s.sum * dg);
      out.vg = out.vg + times_or_zero(factor, R(s.vg + s.v * dg + dv * (s.g + s.sum * dg)));
    };
    add(a, select(second, lesser, splat<R>(1)));
    add(b, select(second, splat<R>(1), lesser));
    return out;
  }
  template <class R>
  KX_FN R share(const State<R>& s) const {  // mass / sum
    const auto sound = Base::is_sound(s.pivot, s.sum, R(abs(s.lr)), s.mass) & (s.sum > R{});
    return select(sound, R(s.mass / s.sum), splat<R>(not_a_number));
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    const R slope = -share(s) * (s.vg - s.v * (s.g / s.sum));
    return {{n > 0 ? slope : R{}}};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    return {Base::unit_as(s.pivot.weight),
            s.pivot.slope,
            abs(s.lr),
            direction_of(s.lr),
            s.value,
            R(s.v / s.sum),
            share(s),
            s.lr};
  }
  template <class R, class Row, class C, class W, class G>
  KX_FN auto each(const Done<R>& done, Row row, C values, W weights, G slopes, R, R) const {
    using V = typename Row::Value;
    return [=, v = row(values), w = row(weights), g = row(slopes), turn = V(row(done.direction)),
            rate = V(row(done.rate)), least = V(row(done.least)), unit = row(done.unit),
            v0 = V(row(done.value)), mean = V(row(done.mean)), factor = V(row(done.factor)),
            lr = V(row(done.lr))](auto i) {
      const V own = w[i], slope = downhill(V(g[i]), turn), one = splat<V>(1);
      const V change = (V(v[i]) - v0) - mean, none = V(factor * 0);
      const V y = Base::template term<V>(own, slope, unit, least, rate) * factor;
      const V each = Base::template term<V>(one, slope, unit, least, rate) * factor;
      return Pair<V>{select(own == V{}, none, V(each * change)), V(-lr * times_or_zero(y, change))};
    };
  }
};

}  // namespace KX_ISA
}  // namespace kexue
