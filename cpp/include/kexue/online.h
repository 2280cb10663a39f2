// Online portfolio selection (kexue.fm 8968): exponentiated gradient from day to day. One text for
// every CPU level and the GPU.
#pragma once

#include "argmax.h"
#include "eg.h"

namespace kexue {
inline namespace KX_ISA {

// A row that a team has in memory, a V for each element.
template <class V>
struct Held {
  double* data;
  KX_FN V operator[](index i) const { return load<V>(data + i * lanes<V>); }
  KX_FN void set(index i, V value) const { store(data + i * lanes<V>, value); }
  template <class Row>
  KX_FN Held of(Row) const {
    return *this;
  }
};

// Relatives in memory that hold for all lanes, as `as_relative` leaves them, none above `most`.
template <class V>
struct Common {
  const double* data;
  double most;
  KX_FN V operator[](index i) const { return splat<V>(data[i]); }
  template <class Row>
  KX_FN Common of(Row) const {
    return *this;
  }
};
// Whether relatives have been looked at.
template <class X>
constexpr bool looked_at = false;
template <class V>
constexpr bool looked_at<Common<V>> = true;

template <class V, class F>
KX_FN void each(const LaneTeam<V, V>& team, F f) {
  for (index i = 0; i < team.n; ++i) f(i);
}

// x factor
template <class X, class V>
struct Multiple {
  X x;
  V factor;
  template <class Row>
  KX_FN auto of(Row row) const {
    return Multiple<Plain<decltype(row(x))>, V>{row(x), factor};
  }
  KX_FN V operator[](index i) const { return V(x[i]) * factor; }
};

// A price relative; NaN where it is none.
template <class V>
KX_FN V as_relative(V x) {
  return select((x >= V{}) & (x < splat<V>(infinity)), x, splat<V>(not_a_number));
}

// Portfolios, one to a team or to each of its lanes: r = <w, x>, the sum of log r, and then
// w_i e^(lr x_i / r) / sum. Weights are held as multiples of a unit.
template <class V>
struct PortfolioRun {
  Held<V> weights, next;
  V lr, log_wealth, unit;

  KX_FN V operator[](index i) const { return weights[i] * unit; }
  // Before the first day.
  template <class Team>
  KX_FN void begin(const Team& team) {
    step(team, Same<V>{V{}}, V{});
    log_wealth = select(abs(lr) < splat<V>(infinity), V{}, splat<V>(not_a_number));
  }
  template <class Team, class X>
  KX_FN void day(const Team& team, X relatives) {
    const V nan = splat<V>(not_a_number);
    V r = gain(team, relatives);
    if (any_of(r == splat<V>(infinity))) {  // of weights that may be far above 1
      each(team, [=, w = weights, unit = unit](index i) { w.set(i, w[i] * unit); });
      unit = splat<V>(1);
      r = gain(team, relatives);
    }
    log_wealth = log_wealth + log(r);
    // Without a shift, as long as nothing can be lost: e^a for a beyond the range is NaN.
    const V least = splat<V>(1e-3), end = splat<V>(1e200), far = splat<V>(700);
    V rate = lr / r;
    if constexpr (looked_at<X>) rate = select(abs(rate) * relatives.most < far, rate, nan);
    const auto total = team.template sum<1>([=, w = weights, to = next](auto row) {
      return [=, x = row(relatives)](index i) {
        const V power = rate * V(x[i]);
        const V a = looked_at<X> ? power : select(abs(power) < far, power, nan);
        const Exponential<V> e = exp_reduce<double>(a);
        const V p = w[i] * ((1 + (e.r + e.r * e.r * e.q)) * power_of_two(e.rounded));
        to.set(i, p);
        return Sums<V, 1>{p};
      };
    });
    const auto sound = (r > V{}) & (log_wealth == log_wealth);
    const auto usual = (total[0] > least) & (total[0] < end);
    if (any_of(sound & (select(usual, least, V{}) == V{}))) {
      step(team, Multiple<X, V>{relatives, V(-1 / r)}, lr);
    } else {
      const Held<V> spare = weights;
      weights = next, next = spare;
      unit = select(sound, V(1 / total[0]), nan);
    }
  }

 private:
  // <w, x>
  template <class Team, class X>
  KX_FN V gain(const Team& team, X relatives) const {
    auto sums = team.template sum<1>([=, w = weights](auto row) {
      return [=, x = row(relatives)](index i) {
        const V own = x[i];
        return Sums<V, 1>{V(w[i] * (looked_at<X> ? own : as_relative(own)))};
      };
    });
    return sums[0] * unit;
  }
  template <class Team, class G>
  KX_FN void step(const Team& team, G slopes, V rate) {
    EgStep<double> fn;
    fn.mix = 0, fn.keep = false, fn.n = team.n;
    const V one = splat<V>(1);
    auto done = fn.finish(fn.gather(team, weights, slopes, rate, one));
    auto value = fn.each(done, LaneRow<V>{}, weights, slopes, rate, one);
    each(team, [=, w = weights](index i) { w.set(i, value(i)); });
    unit = one;
  }
};

}  // namespace KX_ISA
}  // namespace kexue
