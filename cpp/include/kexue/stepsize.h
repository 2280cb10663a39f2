// Gradient descent whose step sizes adapt by exponentiated gradient (kexue.fm 8968). One text for
// every CPU level and the GPU; functors are described in elements.h, row functions in reductions.h.
#pragma once

#include "clipping.h"
#include "eg.h"

namespace kexue {
inline namespace KX_ISA {

template <class V>
KX_FN V clipped(V x, double low, double high) {
  const V least = splat<V>(low), most = splat<V>(high);
  return select(x < least, least, select(x > most, most, x));
}

// gain e^a, for gains of either sign
template <class T, class V>
KX_FN V grown(V gain, V a) {
  const V size = multiplied<T>(abs(gain), a, V{}, no_unit<V>());
  return select(gain < V{}, V(-size), size);
}

// The scale of the steps: clip(s e^(rate a)), a = <g, v>, over (|g| + eps) (|v| + eps) with
// `direction`.  (n),(n),()->()
template <class T>
struct StepScale {
  using Term = wide_t<T>;
  double rate, low, high, eps;
  bool direction;
  template <class R>
  struct State {
    R g_unit, v_unit, g, v, dot, scale;  // sums of squares and products in these units
  };
  template <class R>
  struct Results {
    R out[1];
  };
  template <class Team, class G, class M>
  KX_FN auto gather(const Team& team, G slopes, M steps, typename Team::Result scale) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    R g_unit = splat<R>(1), v_unit = g_unit;
    if constexpr (!squares_fit<T>) {
      const auto largest = [&](auto values) {
        return R(
            team.max([&](auto row) { return [v = row(values)](auto i) { return abs(V(v[i])); }; }));
      };
      g_unit = power_below(largest(slopes));
      v_unit = power_below(largest(steps));
    }
    auto s = team.template sum<3>([&](auto row) {
      return [g = row(slopes), v = row(steps), g_inverse = V(row(R(1 / g_unit))),
              v_inverse = V(row(R(1 / v_unit)))](auto i) {
        const V a = squares_fit<T> ? V(g[i]) : V(g[i] * g_inverse);
        const V b = squares_fit<T> ? V(v[i]) : V(v[i] * v_inverse);
        return Sums<V, 3>{a * a, b * b, a * b};
      };
    });
    return State<R>{g_unit, v_unit, s[0], s[1], s[2], scale};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    const auto unit_of_both = [](R x, R x_squares, R y, R y_squares) {
      return maximum(select(x_squares == R{}, y, x), select(y_squares == R{}, x, y));
    };
    const R g = unit_of_both(a.g_unit, a.g, b.g_unit, b.g);
    const R v = unit_of_both(a.v_unit, a.v, b.v_unit, b.v);
    const auto part = [](R x, R squares, R unit) {
      return select(squares == R{}, R{}, R(x / unit));
    };
    const R ga = part(a.g_unit, a.g, g), gb = part(b.g_unit, b.g, g);
    const R va = part(a.v_unit, a.v, v), vb = part(b.v_unit, b.v, v);
    return {g,
            v,
            a.g * (ga * ga) + b.g * (gb * gb),
            a.v * (va * va) + b.v * (vb * vb),
            a.dot * (ga * va) + b.dot * (gb * vb),
            a.scale};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    using D = DoubleOf<R>;
    const auto norm = [&](R squares, R unit) {
      return D(square_root(convert<D>(squares)) + splat<D>(eps) / convert<D>(unit));
    };
    const D dot = convert<D>(s.dot), scale = convert<D>(s.scale);
    D a = dot * convert<D>(s.g_unit) * convert<D>(s.v_unit);
    if (direction) a = dot / norm(s.g, s.g_unit) / norm(s.v, s.v_unit);
    const D exponent = rate * select(dot == D{}, D{}, a);
    const D next = rate == 0 ? scale : multiplied<double>(scale, exponent, D{}, no_unit<D>());
    return {{convert<R>(clipped(next, low, high))}};
  }
};

// One parameter: gain e^(rate drive), velocity, average, and theta - scale velocity. The scale is
// read from memory.  (),(),(),(),()->(),(),(),()
template <class T>
struct StepsizeStep {
  using Term = double;
  double lr, momentum, beta, rate, low, high, correction;
  double up, down;  // e^+-rate
  bool by_sign;
  const double* scale;
  template <class V>
  KX_FN Values<V, 4> operator()(V theta, V g, V gain, V velocity, V average) const {
    const V product = g * average;
    V p;
    if (by_sign) {
      // The product itself may underflow or overflow.
      const auto onward = ((g > V{}) & (average > V{})) | ((g < V{}) & (average < V{}));
      const auto back = ((g > V{}) & (average < V{})) | ((g < V{}) & (average > V{}));
      const V same = select((g == g) & (average == average), splat<V>(1), product);
      const V factor = select(onward, splat<V>(up), select(back, splat<V>(down), same));
      p = gain * factor;
    } else {
      p = grown<T>(gain, V(rate * (product / correction)));
    }
    p = clipped(p, low, high);
    const V v = momentum * velocity + lr * (p * g);
    const V m = beta * average + (1 - beta) * g;
    return {{V(theta - *scale * v), p, v, m}};
  }
};

// gain e^(gamma g_prev g), then theta - lr gain g.  (),(),(),()->(),()
template <class T>
struct GainStep {
  using Term = double;
  double lr, gamma;
  template <class V>
  KX_FN Values<V, 2> operator()(V theta, V g, V before, V gain) const {
    const V p = grown<T>(gain, V(gamma * (before * g)));
    return {{V(theta - lr * (p * g)), p}};
  }
};

}  // namespace KX_ISA
}  // namespace kexue
