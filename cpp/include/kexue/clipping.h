// Clipping by the norm (kexue.fm 7469). One text for every CPU level and the GPU; the steps of a
// row function are described in reductions.h, functors in elements.h.
#pragma once

#include "elements.h"
#include "reductions.h"

namespace kexue {
inline namespace KX_ISA {

// Whether squares of T are summed as they are: float has room in double.
template <class T>
constexpr bool squares_fit = sizeof(T) == sizeof(float);

// A power of two within a factor of 2 below a positive finite number, and 1 for others; so far from
// the ends of the range that its inverse exists.
template <class V>
KX_FN V power_below(V x) {
  using E = element_t<V>;
  using F = Format<E>;
  const V least = splat<V>(sizeof(E) == 8 ? 0x1p-1000 : 0x1p-100);
  const V most = splat<V>(sizeof(E) == 8 ? 0x1p1000 : 0x1p100);
  const V bounded = select(x < least, least, select(x > most, most, x));
  const auto mask = ~(((bits_t<V>{} + 1) << F::mantissa_bits) - 1);
  const auto usual = (x > V{}) & (x < splat<V>(infinity));
  return select(usual, bit_cast<V>(bits_t<V>(bit_cast<bits_t<V>>(bounded) & mask)), splat<V>(1));
}

// u and sum (x / u)^2: the norm is u sqrt(sum).  (n)->(),()
template <class T>
struct ScaledSquares {
  using Term = wide_t<T>;
  template <class R>
  struct State {
    R unit, squares;
  };
  template <class R>
  struct Results {
    R out[2];
  };
  template <class Team, class X>
  KX_FN auto gather(const Team& team, X values) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    R unit = splat<R>(1);
    if constexpr (!squares_fit<T>) {
      unit = power_below(R(
          team.max([&](auto row) { return [v = row(values)](auto i) { return abs(V(v[i])); }; })));
    }
    auto s = team.template sum<1>([&](auto row) {
      return [v = row(values), inverse = V(row(R(1 / unit)))](auto i) {
        const V x = squares_fit<T> ? V(v[i]) : V(v[i] * inverse);
        return Sums<V, 1>{x * x};
      };
    });
    return State<R>{unit, s[0]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    if constexpr (squares_fit<T>) return {a.unit, a.squares + b.squares};
    // A block of zeros has the unit 1, and no say.
    const R one = splat<R>(1);
    const R first = select(a.squares == R{}, b.unit, a.unit);
    const R second = select(b.squares == R{}, first, b.unit);
    const R unit = maximum(first, second), fa = first / unit, fb = second / unit;
    return {select(unit > R{}, unit, one), a.squares * (fa * fa) + b.squares * (fb * fb)};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{s.unit, s.squares}};
  }
};

// factor x; (x / divisor) limit where the divisor is subnormal. The numbers are where x is.  ()->()
struct Scaled {
  using Term = double;
  const double *factor, *divisor;
  double limit;
  bool zero;  // for divisors that are not finite
  template <class V>
  KX_FN V operator()(V x) const {
    if (zero && !(*divisor < infinity)) return V{};
    if (*divisor < 0x1p-1022 && *factor != 1) {
      return x / splat<V>(*divisor) * splat<V>(limit);
    }
    return x * splat<V>(*factor);
  }
};

}  // namespace KX_ISA
}  // namespace kexue
