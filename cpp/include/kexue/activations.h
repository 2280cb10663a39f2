// Smooth versions of the ramp, the step and their kin (kexue.fm 8833, 7309, 8718, 3290, 7919), as
// functors (elements.h). One text for every CPU level and the GPU. E is the type they compute with;
// a Parameter is made of a number, and says by `takes` whether E holds what comes of that: double
// always does.
//
// Most are the ramp max(x, 0), or the step, and a correction that decays with t = |x|; its factors
// are gathered before the decaying exponential is applied, so it keeps its relative accuracy down
// to the smallest numbers.
#pragma once

#include "elements.h"
#include "erf.h"
#include "taylor.h"

namespace kexue {
inline namespace KX_ISA {

// --- With a square root ------------------------------------------------------------------------

// h = sqrt(x^2 + b) from t = |x|. From `far` on h is t; below it t is scaled to sqrt(b), so that no
// square leaves the range of E.
template <class E>
struct Hypotenuse {
  E b, scaled, far, down, up;  // scaled = b * down^2 is between 1/4 and 4

  KX_FN static bool takes(double b) { return sizeof(E) == 8 || (b > 1e-30 && b < 1e30); }
  KX_FN explicit Hypotenuse(double b) : b(E(b)) {
    double shrink = 1, grow = 1, rest = b;
    for (; rest >= 4; rest *= 0.25, shrink *= 0.5) grow *= 2;
    for (; rest < 0.25 && rest > 0; rest *= 4, shrink *= 2) grow *= 0.5;
    scaled = E(rest), down = E(shrink), up = E(grow);
    far = b > 0 ? E(grow * 0x1p30) : E(0);
  }
  template <class V>
  KX_FN V operator()(V t) const {
    const V s = t * down;
    return select(t >= splat<V>(far), t, V(square_root(V(s * s + scaled)) * up));
  }
};

// (x + sqrt(x^2 + b)) / 2; b / (2 (h - x)) for x < 0.
template <class E>
struct Squareplus {
  using Term = E;
  using Parameter = Hypotenuse<E>;
  Parameter radius;
  template <class V>
  KX_FN V value(V x, V h) const {
    const E half = 0.5, quarter = 0.25;
    const V mean = half * magnitude(x) + half * h;
    return select(x < V{}, V(radius.b / mean * quarter), mean);
  }
  template <class V>
  KX_FN V operator()(V x) const {
    return value(x, radius(magnitude(x)));
  }
};
// (1 + x / h) / 2 = squareplus / h.
template <class E>
struct SquareplusGrad {
  using Term = E;
  using Parameter = Hypotenuse<E>;
  Parameter radius;
  template <class V>
  KX_FN V operator()(V x) const {
    const V most = splat<V>(largest<E>), y = at_least(at_most(x, most), V(-most));
    const V h = radius(magnitude(y));
    return select(h == V{}, splat<V>(0.5), V(Squareplus<E>{radius}.value(y, h) / h));
  }
};
// 1 / (4 h)
template <class E>
struct SquareplusGradB {
  using Term = E;
  using Parameter = Hypotenuse<E>;
  Parameter radius;
  template <class V>
  KX_FN V operator()(V x) const {
    return E(0.25) / radius(magnitude(x));
  }
};

// (x + y + sqrt((x - y)^2 + b)) / 2 = max(x, y) + squareplus(-|x - y|).
template <class E>
struct SmoothMax2 {
  using Term = E;
  using Parameter = Hypotenuse<E>;
  Parameter radius;
  template <class V>
  KX_FN static V difference(V x, V y) {
    return select(x == y, V{}, V(x - y));  // equal infinities, too
  }
  template <class V>
  KX_FN V operator()(V x, V y) const {
    return maximum(x, y) + Squareplus<E>{radius}(minus_magnitude(difference(x, y)));
  }
};
template <class E>
struct SmoothMax2Grad {
  using Term = E;
  using Parameter = Hypotenuse<E>;
  Parameter radius;
  template <class V>
  KX_FN Values<V, 2> operator()(V x, V y) const {
    SquareplusGrad<E> share = {radius};
    const V d = SmoothMax2<E>::difference(x, y);
    return {{share(d), share(V(-d))}};
  }
};

// sqrt(x^2 + b) and x / sqrt(x^2 + b)
template <class E>
struct SmoothAbsSqrt {
  using Term = E;
  using Parameter = Hypotenuse<E>;
  Parameter radius;
  template <class V>
  KX_FN V operator()(V x) const {
    return radius(magnitude(x));
  }
};
template <class E>
struct SmoothAbsSqrtGrad {
  using Term = E;
  using Parameter = Hypotenuse<E>;
  Parameter radius;
  template <class V>
  KX_FN V operator()(V x) const {
    const V most = splat<V>(largest<E>), y = at_least(at_most(x, most), V(-most));
    return select(y == V{}, V{}, V(y / radius(magnitude(y))));
  }
};

// --- With the logistic function ----------------------------------------------------------------

// A rate beta, of either sign.
template <class E>
struct Rate {
  Factor<E> size;
  E inverse, sign, end;  // from -end on e^(|beta| x) is 0
  bool tiny;             // so that the end is not far from the largest numbers, or beyond them

  KX_FN static bool takes(double beta) {
    return sizeof(E) == 8 || (abs(beta) > 1e-15 && abs(beta) < 1e15);
  }
  KX_FN explicit Rate(double beta)
      : size(Two<double>{abs(beta), 0}), inverse(E(1 / abs(beta))), sign(beta < 0 ? -1 : 1) {
    const double last = -decay_end<E> / abs(beta);
    tiny = !(last < 0.5 * largest<double>);
    end = E(last);
  }
  KX_FN E own() const { return size.hi; }
  // |x|, not beyond the end; if the rate is tiny, 0 from there on.
  template <class V>
  KX_FN V distance(V x) const {
    const V t = magnitude(x), last = splat<V>(end);
    return tiny ? select(t >= last, V{}, t) : at_most(t, last);
  }
  // -|beta x|
  template <class V>
  KX_FN Two<V> exponent(V x) const {
    Two<V> v = size(V(-distance(x)));
    if (tiny) v.hi = select(magnitude(x) >= splat<V>(end), splat<V>(decay_end<E>), v.hi);
    return v;
  }
  // e^-|beta x|
  template <class V>
  KX_FN Decay<V> decay(V x) const {
    Two<V> v = exponent(x);
    return kexue::decay(v.hi, v.lo);
  }
};

// The rate 1, the most frequent one, which costs no products.
template <class E>
struct UnitRate {
  static constexpr E inverse = 1, sign = 1;
  static constexpr bool tiny = false;

  KX_FN E own() const { return 1; }
  template <class V>
  KX_FN V distance(V x) const {
    return -exponent(x).hi;
  }
  template <class V>
  KX_FN Two<V> exponent(V x) const {
    return {at_least(minus_magnitude(x), splat<V>(decay_end<E>)), V{}};
  }
  template <class V>
  KX_FN Decay<V> decay(V x) const {
    return decay_of_magnitude(x);
  }
};

// 1 / (1 + e^(-beta x))
template <class E, class R = Rate<E>>
struct Sigmoid {
  using Term = E;
  using Parameter = R;
  Parameter beta;
  template <class V>
  KX_FN V operator()(V x) const {
    const V e = beta.decay(x).value();
    return select(x * beta.sign < V{}, e, splat<V>(1)) / (1 + e);
  }
};
// s (1 - s) = e / (1 + e)^2
template <class E>
struct SigmoidGrad {
  using Term = E;
  template <class V>
  KX_FN V operator()(V x) const {
    Decay<V> e = decay_of_magnitude(x);
    const V one = 1 + e.rough();
    return e.scale(V(e.p / (one * one)));
  }
};

// log(1 + e^(beta x)) / beta = max(x, 0) + log1p(e^(-beta |x|)) / beta
template <class E, class R = Rate<E>>
struct Softplus {
  using Term = E;
  using Parameter = R;
  Parameter beta;
  template <class V>
  KX_FN V correction(V x) const {
    if (beta.tiny) return log1p_decay(beta.decay(x), splat<V>(1)) / beta.own();
    return log1p_decay(beta.decay(x), splat<V>(beta.inverse));
  }
  template <class V>
  KX_FN V operator()(V x) const {
    return positive_part(x) + correction(x);
  }
};
// -log(1 + e^(-x)) = min(x, 0) - log1p(e^(-|x|))
template <class E>
struct LogSigmoid {
  using Term = E;
  template <class V>
  KX_FN V operator()(V x) const {
    return -(positive_part(V(-x)) + log1p_decay(decay_of_magnitude(x), splat<V>(1)));
  }
};

// |x| + 2 log1p(e^(-slope |x|)) / slope, with derivative tanh(slope x / 2).
template <class E>
struct SmoothAbs {
  using Term = E;
  using Parameter = Rate<E>;
  Parameter slope;
  template <class V>
  KX_FN V operator()(V x) const {
    return magnitude(x) + 2 * Softplus<E>{slope}.correction(x);
  }
};
template <class E>
struct SmoothAbsGrad {
  using Term = E;
  using Parameter = Rate<E>;
  Parameter slope;
  template <class V>
  KX_FN V operator()(V x) const {
    const V m = expm1_nonpositive<E>(V(slope.size.hi * minus_magnitude(x)));
    const V y = m / (2 + m);
    return select(x < V{}, y, V(-y));
  }
};

// x sigmoid(z) for an odd, growing z, from -t = -|x| and v = -|z|, neither beyond the end of decay.
template <class V>
KX_FN V gated(V x, V minus_t, Two<V> v) {
  const auto below = x < V{};
  Decay<V> e = decay(v.hi, v.lo);
  const V q = select(below, V(minus_t * e.p), x) / (1 + e.rough());
  return select(below, e.scale(q), q);
}
// Its derivative s (1 + x z' (1 - s)), from slope = -|x z'|; that at x and that at -x sum to 1.
template <class V>
KX_FN V gated_slope(V x, Two<V> v, V slope) {
  Decay<V> e = decay(v.hi, v.lo);
  const V share = 1 / (1 + e.rough());
  const V lower = e.scale(V(e.p * share * (1 + slope * share)));
  return select(x < V{}, lower, V(1 - lower));
}

// x sigmoid(beta x)
template <class E, class R = Rate<E>>
struct Silu {
  using Term = E;
  using Parameter = R;
  Parameter beta;
  template <class V>
  KX_FN V operator()(V x) const {
    const V minus_t = -beta.distance(x);
    if (!beta.tiny) return gated(x, minus_t, beta.exponent(x));
    const V one = splat<V>(1), down = select(minus_t < V(-one), V(one * E(0.25)), one);
    return gated(V(x * down), V(minus_t * down), beta.exponent(x)) / down;
  }
};
template <class E, class R = Rate<E>>
struct SiluGrad {
  using Term = E;
  using Parameter = R;
  Parameter beta;
  template <class V>
  KX_FN V operator()(V x) const {
    Two<V> v = beta.exponent(x);
    return gated_slope(x, v, v.hi);
  }
};

// x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3). From -end on sigmoid(2 u) is 0.
template <class E>
struct TanhGate {
  static constexpr E end = sizeof(E) == 8 ? 26 : 12;
  template <class V>
  KX_FN static V distance(V x) {
    return at_least(minus_magnitude(x), splat<V>(-end));
  }
  template <class V>
  KX_FN static Two<V> of(V t) {  // 2 u
    const Factor<E> a(Two<double>{1.5957691216057308, -9.96930880911092e-17});
    const Factor<E> b(Two<double>{0.07135481627260025, -4.1218577217431825e-18});
    const Two<V> square = two_product(t, t), bend = b(square.hi);
    Two<V> sum = two_sum(splat<V>(a.hi), bend.hi);
    Two<V> v = two_product(t, sum.hi);
    return {v.hi, V(v.lo + t * (sum.lo + (bend.lo + (a.lo + b.hi * square.lo))))};
  }
  template <class V>
  KX_FN static V slope(V t) {  // 2 u' t
    return t * (E(1.5957691216057308) + E(0.21406444881780075) * (t * t));
  }
};
template <class E>
struct GeluTanh {
  using Term = E;
  template <class V>
  KX_FN V operator()(V x) const {
    const V minus_t = TanhGate<E>::distance(x);
    return gated(x, minus_t, TanhGate<E>::of(minus_t));
  }
};
template <class E>
struct GeluTanhGrad {
  using Term = E;
  template <class V>
  KX_FN V operator()(V x) const {
    const V minus_t = TanhGate<E>::distance(x);
    return gated_slope(x, TanhGate<E>::of(minus_t), TanhGate<E>::slope(minus_t));
  }
};

// --- With the normal distribution --------------------------------------------------------------

constexpr double normal_peak = 0.3989422804014327;  // 1 / sqrt(2 pi)

// x P(x) = max(x, 0) - t P(-t), P the distribution function.
template <class E>
struct Gelu {
  using Term = E;
  template <class V>
  KX_FN V operator()(V x) const {
    const V t = at_most(magnitude(x), splat<V>(normal_end<E>));
    Decay<V> e = normal_decay(t);
    return positive_part(x) - e.scale(V(t * normal_share(t) * e.p));
  }
};
// P(x) + x p(x); that at x and that at -x sum to 1.
template <class E>
struct GeluGrad {
  using Term = E;
  template <class V>
  KX_FN V operator()(V x) const {
    const V t = at_most(magnitude(x), splat<V>(normal_end<E>));
    Decay<V> e = normal_decay(t);
    const V lower = e.scale(V((normal_share(t) - t * E(normal_peak)) * e.p));
    return select(x < V{}, lower, V(1 - lower));
  }
};

// A width sigma.
template <class E>
struct Width {
  Factor<E> inverse;
  E sigma;

  KX_FN static bool takes(double sigma) {
    return sizeof(E) == 8 || (sigma > 1e-20 && sigma < 1e20);
  }
  KX_FN explicit Width(double width) : inverse(inverse_of(width)), sigma(E(width)) {}
  // t / sigma, not beyond the end.
  template <class V>
  KX_FN Two<V> operator()(V t) const {
    const V end = splat<V>(normal_end<E>);
    const Two<V> z = inverse(t);
    return {at_most(z.hi, end), select(z.hi < end, z.lo, V{})};
  }

 private:
  KX_FN static Two<double> inverse_of(double c) {
    const double least = Format<double>::smallest_normal;
    c = c < least ? least : c;
    const double hi = 1 / c;
    const double unit = c > 0x1p512 ? 0x1p512 : 1;  // a factor near the end may not be split
    const Two<double> back = two_product(hi * unit, c / unit);
    return {hi, ((1 - back.hi) - back.lo) * hi};
  }
};
// x P(x / sigma) + sigma p(x / sigma) = max(x, 0) + sigma (p - z P(-z)) at z = t / sigma.
template <class E>
struct ReluGaussian {
  using Term = E;
  using Parameter = Width<E>;
  Parameter width;
  template <class V>
  KX_FN V operator()(V x) const {
    const Two<V> z = width(magnitude(x));
    Decay<V> e = normal_decay(z.hi, z.lo);
    return positive_part(x) + e.scale(V(normal_excess(z.hi) * e.p * width.sigma));
  }
};
// P(x / sigma)
template <class E>
struct ReluGaussianGrad {
  using Term = E;
  using Parameter = Width<E>;
  Parameter width;
  template <class V>
  KX_FN V operator()(V x) const {
    const Two<V> z = width(magnitude(x));
    Decay<V> e = normal_decay(z.hi, z.lo);
    const V lower = e.scale(V(normal_share(z.hi) * e.p));
    return select(x < V{}, lower, V(1 - lower));
  }
};

// --- Stairs ------------------------------------------------------------------------------------

// Integers m and the odd, periodic rest F of the stairs m + F(x - m), whose steps are logistic
// functions of slope t. Two series for it: the steps by pairs, as they lie about f,
//   F(f) = (1 - e) / (2 (1 + e)) + sum over n of (1 - e^2) / (1 + e^2 + 2 e cosh(t n)), e = e^(-t
//   f)
// for 0 <= f <= 1/2, and, where many steps overlap, Fourier's
//   F(f) = f + sum over k of a_k sin(2 pi k f), a_k = (2 pi / t) / sinh(2 pi^2 k / t).
struct Stairs {
  static constexpr int most = 26;
  static constexpr double overlapping = 12;
  double t;
  int terms;
  double term[most + 1];  // a_k from k = 1 on, or 2 cosh(t n) from n = 1 on; else 0

  KX_FN static Stairs of(double t) {
    Stairs stairs = {t, 0, {}};
    int& n = stairs.terms;
    if (t < overlapping) {
      constexpr double pi = 3.141592653589793;
      for (double y; n < most && (y = 2 * pi * pi / t * (n + 1)) < 45;) {
        stairs.term[++n] =
            -4 * pi / t * exp_nonpositive<double>(-y) / expm1_nonpositive<double>(-2 * y);
      }
    } else {
      for (double y; n < most && (y = t * (n + 1)) < 45 + t / 2;) {
        const double e = exp_nonpositive<double>(-y);
        stairs.term[++n] = e + 1 / e;
      }
    }
    return stairs;
  }
};

// sin(pi f) and cos(pi f) for |f| <= 1/2
template <class V>
KX_FN V sine_of_turn(V f) {
  return f * polynomial(V(f * f), 3.141592653589793, -5.167712780049969, 2.550164039877294,
                        -0.5992645293187376, 0.08214588656988271, -0.007370430478671038,
                        0.00046629968831037266, -2.1903184213668205e-05, 7.694714657452184e-07);
}
template <class V>
KX_FN V cosine_of_turn(V f) {
  const V z = f * f;
  return 1 - z * polynomial(z, 4.934802200544679, -4.0587121264167685, 1.335262768854582,
                            -0.23533063035858756, 0.02580689138379647, -0.0019295742382076252,
                            0.00010463762511742928, -4.301181099195594e-06, 1.3476799574303693e-07);
}

// The nearest integer m to x - shift, and x - shift - m, exact close to 0; x where all numbers are
// integers.
template <class V>
struct Stair {
  V m, f;
};
template <class V>
KX_FN Stair<V> stair_of(V x, double shift) {
  constexpr double round = Format<double>::round;
  const V m = select(magnitude(x) < splat<V>(0x1p51), V((x - shift + round) - round), x);
  return {m, select(m == x, splat<V>(-shift), V(x - (m + shift)))};
}

// Value and derivative of the stairs.
template <class V>
struct Curve {
  V value, slope;
};
template <class V>
KX_FN Curve<V> curve_of(const Stairs& stairs, V f) {
  const double t = stairs.t;
  if (t < Stairs::overlapping) {  // Clenshaw's summation of both series
    const V half_sine = sine_of_turn(f), half_cosine = cosine_of_turn(f);
    const V sine = 2 * half_sine * half_cosine, twice_cosine = 2 - 4 * half_sine * half_sine;
    V b1{}, b2{}, d1{}, d2{};
    for (int k = stairs.terms; k > 0; --k) {
      const V b = stairs.term[k] + (twice_cosine * b1 - b2);
      const V d = stairs.term[k] * k + (twice_cosine * d1 - d2);
      b2 = b1, b1 = b;
      d2 = d1, d1 = d;
    }
    return {f + sine * b1, 1 + 6.283185307179586 * (0.5 * twice_cosine * d1 - d2)};
  }
  const V e = exp_nonpositive<double>(V(t * minus_magnitude(f)));
  const V one = 1 + e, squares = 1 + e * e;
  V value = (1 - e) / (2 * one), slope = e / (one * one);
  for (int n = 1; n <= stairs.terms; ++n) {
    const V inverse = 1 / (squares + e * stairs.term[n]);
    value = value + (1 - e * e) * inverse;
    slope = slope + e * (squares * stairs.term[n] + 4 * e) * inverse * inverse;
  }
  return {select(f < V{}, V(-value), value), t * slope};
}

// The stairs at x - shift, with their steps in the middle `level` above m.
struct SmoothStairs {
  using Term = double;
  Stairs stairs;
  double shift, level;
  template <class V>
  KX_FN V operator()(V x) const {
    const Stair<V> at = stair_of(x, shift);
    return at.m + (level + curve_of(stairs, at.f).value);
  }
};
struct SmoothStairsGrad {
  using Term = double;
  Stairs stairs;
  double shift;
  template <class V>
  KX_FN V operator()(V x) const {
    const V nothing = x - x;  // not a number where there is no limit
    return select(nothing == V{}, curve_of(stairs, stair_of(x, shift).f).slope, nothing);
  }
};

// --- Taylor ------------------------------------------------------------------------------------

// The sum of x^k / k! as one of powers.
struct TaylorExp {
  using Term = double;
  TaylorRule rule;
  template <class V>
  KX_FN V operator()(V x) const {
    V sum{};
    for (int j = 0; j < rule.nodes; ++j) {
      sum = sum + integer_power(V(rule.c[j] * (x + rule.t[j])), rule.power);
    }
    return sum;
  }
};

}  // namespace KX_ISA
}  // namespace kexue
