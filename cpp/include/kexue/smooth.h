// Smooth forms of the maximum and of its position, and the Taylor softmax (kexue.fm 3290, 6620,
// 7919), as row functions (reductions.h). One text for every CPU level and the GPU.
#pragma once

#include "reductions.h"
#include "taylor.h"

namespace kexue {
inline namespace KX_ISA {

// x, or -x to make the smallest the largest.
template <class X>
struct Turned {
  X x;
  bool turned;
  template <class I>
  KX_FN auto operator[](I i) const {
    using V = Plain<decltype(x[i])>;
    const V value = x[i];
    return select(turned, V(-value), value);
  }
  template <class Row>
  KX_FN auto of(Row row) const {
    return Turned<Plain<decltype(row(x))>>{row(x), turned};
  }
};
template <class X>
KX_FN Turned<X> turned(X x, bool turned) {
  return {x, turned};
}

// softmax(k x).  (n)->(n)
template <class T>
struct SoftOnehot : ScaledSoftmax<T> {
  using Base = ScaledSoftmax<T>;
  wide_t<T> k;
  KX_FN explicit SoftOnehot(wide_t<T> sharpness) : k(sharpness) {}

  template <class Team, class X>
  KX_FN auto gather(const Team& team, X x) const {
    const auto scale = splat<typename Team::Result>(abs(k));
    return Base::gather(team, turned(x, k < 0), Everything{}, scale);
  }
  template <class R, class Row, class X>
  KX_FN auto each(const typename Base::template Done<R>& done, Row row, X x) const {
    return Base::each(done, row, turned(x, k < 0), Everything{}, done.scale);
  }
};

// Sums over e_i = e^(|k| d_i) and e_i q_i, d_i = x_i - m with the largest x, m. For k < 0 x is -x.
template <class R>
struct PeakSum {
  LogSum<R> sum;
  R dot;
};
template <class T>
struct Peak {
  wide_t<T> k;

  template <class V>
  KX_FN V weight(V x, V m) const {
    return exp_or_zero<T>(scaled_difference<T>(x, m, splat<V>(abs(k))));
  }
  // quantity(row) gives q from i and d.
  template <class Team, class X, class Q>
  KX_FN auto gather(const Team& team, X x, Q quantity) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    auto key = turned(x, k < 0);
    const R max = team.max([&](auto row) { return [v = row(key)](auto i) { return v[i]; }; });
    auto s = team.template sum<3, 1>([&](auto row) {
      return [*this, v = row(key), q = quantity(row), m = V(row(max))](auto i) {
        const V value = v[i];
        const auto tie = value == m;
        const V e = weight(value, m), own = q(i, select(tie, V{}, V(value - m)));
        return Sums<V, 3>{select(tie, V{}, e), select(tie, own, times_or_zero(e, own)),
                          select(tie, splat<V>(1), V{})};
      };
    });
    return PeakSum<R>{{max, s[0] + (s[2] - 1)}, s[1]};
  }
  // d moves by what m does, if it is part of q.
  template <class R>
  KX_FN PeakSum<R> merge(PeakSum<R> a, PeakSum<R> b, bool q_moves) const {
    const R max = maximum(a.sum.max, b.sum.max);
    const R fa = factor(a.sum.max, max), fb = factor(b.sum.max, max);
    const R ta = (1 + a.sum.rest) * fa, tb = (1 + b.sum.rest) * fb;
    const R rest = select(a.sum.max == max, R(a.sum.rest + tb), R(ta + b.sum.rest));
    R dot = times_or_zero(fa, a.dot) + times_or_zero(fb, b.dot);
    if (q_moves) dot = dot + moved(ta, a.sum.max, max) + moved(tb, b.sum.max, max);
    return {{max, rest}, dot};
  }

 private:
  template <class R>
  KX_FN R factor(R m, R max) const {
    return select(m == max, splat<R>(1), weight(m, max));
  }
  template <class R>
  KX_FN static R moved(R total, R m, R max) {
    return times_or_zero(total, select(m == max, R{}, R(m - max)));
  }
};

// log(sum(e^(k x))) / k = m + log1p(rest) / k, or sum(p x) = m + sum(p d), p = softmax(k x).
// (n)->()
template <class T>
struct SmoothMax {
  Peak<T> peak;
  bool mean;  // the second
  template <class R>
  using State = PeakSum<R>;
  template <class R>
  struct Results {
    R out[1];
  };
  template <class Team, class X>
  KX_FN auto gather(const Team& team, X x) const {
    return peak.gather(team, x, [](auto) { return [](auto, auto d) { return d; }; });
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return peak.merge(a, b, true);
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    const R mass = 1 + s.sum.rest, below = select(mass == R{}, R{}, R(s.dot / mass));
    const R value = s.sum.max + (mean ? below : R(log1p(s.sum.rest) / abs(peak.k)));
    return {{peak.k < 0 ? R(-value) : value}};
  }
};

// Their gradients: g p_i and g p_i (1 + k (x_i - sum(p x))) = g p_i (1 + k (d_i - sum(p d))).
// (n),()->(n)
template <class T>
struct SmoothMaxVjp {
  SmoothMax<T> value;
  template <class R>
  struct State {
    PeakSum<R> peak;
    R g;
  };
  template <class R>
  struct Done {
    R max, mean, factor;
  };
  template <class Team, class X>
  KX_FN auto gather(const Team& team, X x, typename Team::Result g) const {
    return State<typename Team::Result>{value.gather(team, x), g};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {value.merge(a.peak, b.peak), a.g};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R mass = 1 + s.peak.sum.rest;
    const auto nothing = (s.peak.sum.max == splat<R>(-infinity)) & (mass == mass);
    return {s.peak.sum.max, s.peak.dot / mass, select(nothing, R{}, R(s.g / mass))};
  }
  template <class R, class Row, class X, class G>
  KX_FN auto each(const Done<R>& done, Row row, X x, G) const {
    using V = typename Row::Value;
    const V m = row(done.max), mean = row(done.mean), factor = row(done.factor);
    return [=, *this, v = row(turned(x, value.peak.k < 0))](auto i) {
      const V one = splat<V>(1), own = v[i];
      const V d = select(own == m, V{}, V(own - m));
      const V e = select(own == m, one, value.peak.weight(own, m));
      const V bend = value.mean ? V(one + abs(value.peak.k) * (d - mean)) : one;
      return times_or_zero(times_or_zero(e, bend), factor);
    };
  }
};

// start + sum(i p_i), p = softmax(k x).  (n),positions->()
template <class T>
struct SoftArgmax {
  Peak<T> peak;
  wide_t<T> start;
  template <class R>
  using State = PeakSum<R>;
  template <class R>
  struct Results {
    R out[1];
  };
  template <class Team, class X, class I>
  KX_FN auto gather(const Team& team, X x, I positions) const {
    return peak.gather(
        team, x, [&](auto row) { return [at = row(positions)](auto i, auto) { return at[i]; }; });
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return peak.merge(a, b, false);
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{start + s.dot * inverse_of(s.sum)}};
  }
};

// g k p_i (i - sum(j p_j)): the gradient of softmax(k x) for cotangents i, times g.
// (n),positions,()->(n)
template <class T>
struct SoftArgmaxVjp {
  using Softmax = SoftmaxVjp<T>;
  wide_t<T> k;
  template <class R>
  struct State {
    typename Softmax::template State<R> softmax;
    R g;
  };
  template <class R>
  struct Done {
    typename Softmax::template Done<R> softmax;
    R g;
  };
  template <class Team, class X, class I>
  KX_FN auto gather(const Team& team, X x, I positions, typename Team::Result g) const {
    using R = typename Team::Result;
    return State<R>{Softmax{}.gather(team, x, positions, Everything{}, splat<R>(k)), g};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {Softmax{}.merge(a.softmax, b.softmax), a.g};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    return {Softmax{}.finish(s.softmax), s.g};
  }
  template <class R, class Row, class X, class I, class G>
  KX_FN auto each(const Done<R>& done, Row row, X x, I positions, G) const {
    using V = typename Row::Value;
    auto step = Softmax{}.each(done.softmax, row, x, positions, Everything{}, 0);
    return [=, g = V(row(done.g))](auto i) { return g * step(i); };
  }
};

// A Taylor polynomial f of e^x that is positive, flat below `floor`. It is counted in units of
// size^n, size a power of two that makes the largest f of a row 1 to 2^n or a few of those.
template <class E>
struct PositiveTaylor {
  TaylorRule rule;
  E floor;

  template <class V>
  KX_FN V raised(V x) const {
    return at_least(x, splat<V>(floor));
  }
  template <class V>
  KX_FN V power_of(V x) const {
    return integer_power(x, rule.power);
  }
  // f(x) / size^n, and f'(x) / size^n; down = 1 / size
  template <class V>
  KX_FN V value(V x, V down) const {
    V sum{};
    for (int j = 0; j < rule.nodes; ++j) sum = sum + power_of(base(raised(x), j, down));
    return sum;
  }
  template <class V>
  KX_FN V slope(V x, V down) const {
    V sum{};
    for (int j = 0; j < rule.nodes; ++j) {
      sum = sum + E(rule.c[j]) * integer_power(base(x, j, down), rule.power - 1);
    }
    return select(x <= splat<V>(floor), V{}, V(E(rule.power) * down * sum));
  }
  // 1 / size for values from -low to high: 2^-e where the largest base of a power is from 2^e to
  // 2^(e + 1), or the smallest normal number.
  template <class R>
  KX_FN R down_for(R high, R low) const {
    using F = Format<E>;
    using B = bits_t<R>;
    const R least = splat<R>(-infinity);  // there are no values
    const R a = select(high > least, high, R{}), b = select(low > least, low, R{});
    R most = splat<R>(1);
    for (int j = 0; j < rule.nodes; ++j) {
      const E t = E(rule.t[j]), c = E(rule.c[j]);
      most = maximum(maximum(R(c * abs(R(a + t))), R(c * abs(R(b - t)))), most);
    }
    const B cap = B{} + (2 * F::bias - 1), exponent = bit_cast<B>(most) >> F::mantissa_bits;
    const B down = cap + 1 - select(exponent > cap, cap, exponent);
    return bit_cast<R>(B(down << F::mantissa_bits));
  }

 private:
  template <class V>
  KX_FN V base(V x, int j, V down) const {
    return (x + E(rule.t[j])) * (E(rule.c[j]) * down);
  }
};

// f(x_i) / sum(f(x)). Infinite entries leave nothing to the others.  (n),mask(n)?->(n)
template <class T>
struct TaylorSoftmax {
  PositiveTaylor<wide_t<T>> taylor;

  template <class R>
  struct State {
    R down, sum, infinite;  // 1 / size, the sum of f, and how many entries are infinite
  };
  template <class R>
  struct Done {
    R down, inverse, share;  // share: of an infinite entry, 0 if there is none
  };
  template <class Team, class X, class M>
  KX_FN auto gather(const Team& team, X x, M mask) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const auto extreme = [&](bool low) {
      return team.max([&](auto row) {
        return [=, v = row(x), on = row(mask)](auto i) {
          const V own = taylor.raised(V(v[i]));
          return select(on[i], select(low, V(-own), own), splat<V>(-infinity));
        };
      });
    };
    const R down = taylor.down_for(extreme(false), extreme(true));
    auto s = team.template sum<2>([&](auto row) {
      return [=, v = row(x), on = row(mask), unit = V(row(down))](auto i) {
        const auto [f, infinite] = terms(V(v[i]), on[i], unit);
        return Sums<V, 2>{f, infinite};
      };
    });
    return State<R>{down, s[0], s[1]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    const R down = minimum(a.down, b.down);
    return {down, a.sum * factor(a, down) + b.sum * factor(b, down), a.infinite + b.infinite};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R share = 1 / s.infinite + select(s.sum == s.sum, R{}, s.sum);
    return {s.down, 1 / s.sum, select(s.infinite > R{}, share, R{})};
  }
  template <class R, class Row, class X, class M>
  KX_FN auto each(const Done<R>& done, Row row, X x, M mask) const {
    using V = typename Row::Value;
    const V down = row(done.down), inverse = row(done.inverse), share = row(done.share);
    return [=, v = row(x), on = row(mask)](auto i) {
      const Pair<V> own = terms(V(v[i]), on[i], down);
      const V value = select(share == V{}, V(own.first * inverse), V(own.second * share));
      return select(on[i], value, V{});
    };
  }

  // f of a finite entry, and whether it is infinite
  template <class V, class B>
  KX_FN Pair<V> terms(V x, B on, V down) const {
    const auto finite = abs(taylor.raised(x)) != splat<V>(infinity);
    const V f = select(finite, taylor.value(x, down), V{});
    return {select(on, f, V{}), select(on, select(finite, V{}, splat<V>(1)), V{})};
  }
  // What sums of a block are multiplied by for another size
  template <class R>
  KX_FN R factor(State<R> s, R down) const {
    return taylor.power_of(R(down / s.down));
  }
};

// Its gradient: f'(x_i) / sum(f(x)) (h_i - sum(p h)), h = g - g at the largest f, which is f of the
// largest or of the smallest x; 0 in rows with infinite entries.  (n),(n),mask(n)?->(n)
template <class T>
struct TaylorSoftmaxVjp {
  TaylorSoftmax<T> softmax;
  template <class R>
  struct State {
    typename TaylorSoftmax<T>::template State<R> mass;
    R lead, centre, dot;  // the largest f, g there, and the sum of f h
  };
  template <class R>
  struct Done {
    R down, inverse, centre, mean;  // inverse: of the sum, 0 where there are infinite entries
  };
  template <class Team, class X, class G, class M>
  KX_FN auto gather(const Team& team, X x, G g, M mask) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const auto& taylor = softmax.taylor;
    const auto extreme = [&](bool low) {
      return team.template top<1>([&](auto row) {
        return [=, v = row(x), own_g = row(g), on = row(mask)](auto i) {
          const V own = taylor.raised(V(v[i])), key = select(low, V(-own), own);
          return Top<V, 1>{select(on[i], key, splat<V>(-infinity)),
                           {select(on[i], V(own_g[i]), V{})}};
        };
      });
    };
    auto high = extreme(false), low = extreme(true);
    const R down = taylor.down_for(high.key, low.key);
    const auto f_at = [&](R key, R at) {  // 0 where there is no entry
      return select(key > splat<R>(-infinity), taylor.value(at, down), R{});
    };
    const R f_high = f_at(high.key, high.key), f_low = f_at(low.key, R(-low.key));
    const auto low_leads = f_low > f_high;
    const R centre = select(low_leads, low.beside[0], high.beside[0]);
    auto s = team.template sum<3>([&](auto row) {
      return [=, v = row(x), own_g = row(g), on = row(mask), unit = V(row(down)),
              c = V(row(centre))](auto i) {
        const auto [f, infinite] = softmax.terms(V(v[i]), on[i], unit);
        const V h = select(on[i], V(own_g[i] - c), V{});
        return Sums<V, 3>{f, infinite, f * h};
      };
    });
    return State<R>{{down, s[0], s[1]}, select(low_leads, f_low, f_high), centre, s[2]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    auto mass = softmax.merge(a.mass, b.mass);
    const R fa = softmax.factor(a.mass, mass.down), fb = softmax.factor(b.mass, mass.down);
    const R lead_a = a.lead * fa, lead_b = b.lead * fb;
    const auto b_leads = lead_b > lead_a;
    const R centre = select(b_leads, b.centre, a.centre);
    const R dot_a = a.dot + times_or_zero(a.mass.sum, R(a.centre - centre));
    const R dot_b = b.dot + times_or_zero(b.mass.sum, R(b.centre - centre));
    return {mass, maximum(lead_a, lead_b), centre, dot_a * fa + dot_b * fb};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R inverse = 1 / s.mass.sum;
    const R factor = select(s.mass.infinite > R{}, R(s.mass.sum - s.mass.sum), inverse);
    return {s.mass.down, factor, s.centre, s.dot * inverse};
  }
  template <class R, class Row, class X, class G, class M>
  KX_FN auto each(const Done<R>& done, Row row, X x, G g, M mask) const {
    using V = typename Row::Value;
    const V down = row(done.down), inverse = row(done.inverse);
    const V centre = row(done.centre), mean = row(done.mean);
    return [=, v = row(x), own_g = row(g), on = row(mask)](auto i) {
      const V slope = softmax.taylor.slope(V(v[i]), down), h = (own_g[i] - centre) - mean;
      const V value = select(inverse == V{}, inverse, V(slope * inverse * h));
      return select(on[i], value, V{});
    };
  }
};

}  // namespace KX_ISA
}  // namespace kexue
