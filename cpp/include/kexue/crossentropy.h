// Cross-entropies of one class among many and of independent classes (the baselines of kexue.fm
// 7359). One text for every CPU level and the GPU; the steps of a row function are described in
// reductions.h.
#pragma once

#include "multilabel.h"

namespace kexue {
inline namespace KX_ISA {

// The probabilities of an event with logit x and of its absence, and e^-|x|.
template <class V>
struct Event {
  V on, off, tail;
};
template <class T, class V>
KX_FN Event<V> event_of(V x) {
  const V one = splat<V>(1), tail = exp_or_zero<T>(V(-abs(x)));
  const V unit = 1 / (1 + tail);
  auto negative = x < V{};
  return {select(negative, tail, one) * unit, select(negative, one, tail) * unit, tail};
}

// -sum t_i log p_i, p = softmax(x), which is A log1p(rest) + sum t_i (max - x_i), A = sum t_i.
// Smoothing e makes t_i into (1 - e) t_i + e A / n, n the number of entries.
// (n),(n),mask(n)?->(),(n)?,(n)?
template <class T>
struct SoftmaxCrossentropy {
  wide_t<T> smoothing;
  bool bound;   // of the Hessian, instead of its diagonal
  bool single;  // t is 1 for one entry, else invalid

  template <class R>
  struct State {
    LogSum<R> sum;
    R top, others;       // sums of t where x is the maximum, and elsewhere
    R depth, all_depth;  // sums of t (max - x) and of max - x
    R count, invalid;
  };
  template <class R>
  struct Results {
    R out[1];
    R invalid;
  };
  template <class R>
  struct Done {
    R max, inverse, rest;   // p = inverse e^(x - max); rest = 1 - p of the maximum
    R amount, kept, added;  // t becomes kept t + added
    R winner;               // the gradient at a maximum that holds more than half, else NaN
  };

  template <class Team, class X, class U, class M>
  KX_FN auto gather(const Team& team, X x, U targets, M mask) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R max = team.max([&](auto row) {
      auto live = masked(row(x), row(mask), -infinity);
      return [=](auto i) { return live[i]; };
    });
    auto s = team.template sum<8, 3>([&](auto row) {
      const V m = row(max), one = splat<V>(1);
      return [=, live = masked(row(x), row(mask), -infinity), given = row(targets),
              on = row(mask)](auto i) {
        const V v = live[i], t = select(on[i], weights_of<V>(given[i]).positive, V{});
        const auto tie = v == m;
        const V depth = select(on[i], select(tie, V{}, V(m - v)), V{});
        const auto valid = (t >= V{}) & (t < splat<V>(infinity));
        return Sums<V, 8>{select(tie, V{}, exp_difference<T>(v, m)),
                          select(tie, t, V{}),
                          select(tie, V{}, t),
                          times_or_zero(t, depth),
                          depth,
                          select(tie, one, V{}),
                          select(on[i], one, V{}),
                          select(valid, V{}, one)};
      };
    });
    return State<R>{{max, s[0] + (s[5] - 1)}, s[1], s[2], s[3], s[4], s[6], s[7]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    LogSum<R> sum = kexue::merge<T>(a.sum, b.sum);
    State<R> out = {sum, R{}, R{}, R{}, R{}, a.count + b.count, a.invalid + b.invalid};
    const auto add = [&](const State<R>& block) {
      const auto leads = block.sum.max == sum.max;
      const R step = select(leads, R{}, R(sum.max - block.sum.max));
      out.top = out.top + select(leads, block.top, R{});
      out.others = out.others + block.others + select(leads, R{}, block.top);
      out.depth = out.depth + block.depth + times_or_zero(R(block.top + block.others), step);
      out.all_depth = out.all_depth + block.all_depth + times_or_zero(block.count, step);
    };
    add(a);
    add(b);
    return out;
  }
  // What smoothing adds to each target.
  template <class R>
  KX_FN R added(State<R> s) const {
    return smoothing * (s.top + s.others) / maximum(s.count, splat<R>(1));
  }
  template <class R>
  KX_FN R loss(State<R> s) const {
    const R kept = splat<R>(1 - smoothing), nan = splat<R>(not_a_number);
    const R value = times_or_zero(kept, s.depth) + times_or_zero(added(s), s.all_depth) +
                    (s.top + s.others) * log1p(s.sum.rest);
    const auto undefined = (s.invalid > R{}) | (s.sum.max == splat<R>(-infinity));
    const R sound = select(undefined, nan, value);
    const R unique = single ? select(s.top + s.others == splat<R>(1), sound, nan) : sound;
    return select(s.count == R{}, R{}, unique);
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{loss(s)}, s.invalid};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R value = loss(s), one = splat<R>(1), nan = splat<R>(not_a_number);
    const R inverse = select(value == value, R(1 / (1 + s.sum.rest)), nan);
    const R amount = s.top + s.others, kept = splat<R>(1 - smoothing), rest = s.sum.rest * inverse;
    const R others = kept * s.others + added(s) * (s.count - 1);
    const R winner = select(s.sum.rest < one, R(others - amount * rest), nan);
    return {s.sum.max, inverse, rest, amount, kept, added(s), winner};
  }
  template <class R, class Row, class X, class U, class M>
  KX_FN auto each(const Done<R>& done, Row row, X x, U targets, M mask) const {
    using V = typename Row::Value;
    return [=, fn = *this, v = row(x), given = row(targets), on = row(mask), m = V(row(done.max)),
            inverse = V(row(done.inverse)), rest = V(row(done.rest)), amount = V(row(done.amount)),
            kept = V(row(done.kept)), added = V(row(done.added)),
            winner = V(row(done.winner))](auto i) {
      const V p = relative_exp<T>(V(v[i]), m) * inverse,
              t = kept * weights_of<V>(given[i]).positive + added;
      const auto wins = (v[i] == m) & (winner == winner);
      const V slope = select(wins, winner, V(amount * p - t));
      const V left = fn.bound ? splat<V>(1) : select(wins, rest, V(1 - p));
      return Pair<V>{select(on[i], slope, V{}), select(on[i], V(amount * p * left), V{})};
    };
  }
};

// sum t softplus(-x) + (1 - t) softplus(x), softplus(x) = max(x, 0) + log1p(e^-|x|).
// (n),(n),mask(n)?->(),(n)?,(n)?
template <class T>
struct SigmoidCrossentropy {
  template <class R>
  struct State {
    R loss, invalid;
  };
  template <class R>
  struct Results {
    R out[1];
    R invalid;
  };
  template <class R>
  struct Done {
    R undefined;  // NaN in a row without a loss, else 0
  };

  template <class Team, class X, class U, class M>
  KX_FN auto gather(const Team& team, X x, U targets, M mask) const {
    using V = typename Team::Value;
    auto s = team.template sum<2, 1>([&](auto row) {
      const V one = splat<V>(1);
      return [=, v = row(x), given = row(targets), on = row(mask)](auto i) {
        const V value = v[i], t = weights_of<V>(given[i]).positive;
        const V wrong = select(value < V{}, t, V(1 - t));
        const V tail = exp_nonpositive<T>(V(-abs(value)));
        const V term = times_or_zero(wrong, abs(value)) + log1p(tail);
        const auto valid = (t >= V{}) & (t <= one);
        return Sums<V, 2>{select(on[i], term, V{}), select(on[i], select(valid, V{}, one), V{})};
      };
    });
    return State<typename Team::Result>{s[0], s[1]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {a.loss + b.loss, a.invalid + b.invalid};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{select(s.invalid > R{}, splat<R>(not_a_number), s.loss)}, s.invalid};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R loss = results(s).out[0];
    return {select(loss == loss, R{}, loss)};
  }
  template <class R, class Row, class X, class U, class M>
  KX_FN auto each(const Done<R>& done, Row row, X x, U targets, M mask) const {
    using V = typename Row::Value;
    return [=, v = row(x), given = row(targets), on = row(mask),
            undefined = V(row(done.undefined))](auto i) {
      const V t = weights_of<V>(given[i]).positive;
      Event<V> e = event_of<T>(V(v[i]));
      const V slope = (1 - t) * e.on - t * e.off;
      return Pair<V>{select(on[i], V(slope + undefined), V{}),
                     select(on[i], V(e.on * e.off + undefined), V{})};
    };
  }
};

}  // namespace KX_ISA
}  // namespace kexue
