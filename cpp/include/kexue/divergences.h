// Divergences of two distributions given by their logits (kexue.fm 9039). One text for every CPU
// level and the GPU; the steps of a row function are described in reductions.h.
//
// KL(p || q) = sum p log(p / q) = sum p phi(delta), delta = log(p / q), phi(x) = e^-x - 1 + x >= 0.
// delta is formed from gaps, by how much more x_i falls short of max x than y_i of max y, and from
// the logarithm of the ratio of the rows' masses, a sum over what differs: digits that both rows
// share are gone before anything is rounded.
#pragma once

#include "crossentropy.h"

namespace kexue {
inline namespace KX_ISA {

// x - y for x = y e^log_ratio, neither negative.
template <class T, class V>
KX_FN V difference(V x, V y, V log_ratio) {
  const V size = -maximum(x, y) * expm1_nonpositive<T>(V(-abs(log_ratio)));
  return select(log_ratio < V{}, V(-size), size);
}

// p phi(delta) for change = p - q. Infinite where q is 0 and p, though it may round to 0, is not.
template <class T, class V>
KX_FN V information(V p, V delta, V change) {
  const V near = p * (delta * delta * exp_tail(T{}, V(-delta)));
  const V far = select(delta == splat<V>(infinity), delta, V(times_or_zero(p, delta) - change));
  return select(abs(delta) < splat<V>(0.34), near, far);
}

// sum p_i (log p_i - log q_i), p = softmax(scale s), q = softmax(scale t); `symmetric` adds the
// same for q and p.  (n),(n),mask(n)?->(),(n)?,(n)?
template <class T>
struct SoftmaxDivergence {
  static constexpr bool crowded = sizeof(wide_t<T>) == sizeof(double);
  wide_t<T> scale;
  bool symmetric;

  // One of the two rows, and sums of gap_i e^(x_i - max): where x is the largest, and elsewhere.
  template <class R>
  struct Logits {
    LogSum<R> sum;
    R top, others;

    KX_FN R mean() const { return (top + others) / (1 + sum.rest); }
    // p_w (gap_w - mean) of a winner w that holds more than half of the mass, else NaN.
    KX_FN R of_winner() const {
      const R value = (sum.rest * mean() - others) / (1 + sum.rest);
      return select(sum.rest < splat<R>(1), value, splat<R>(not_a_number));
    }
  };
  template <class R>
  struct State {
    Logits<R> s, t;
    R log_ratio;          // of the masses, 1 + rest, of s and t
    R forward, backward;  // KL(p || q), KL(q || p)
    R count;
  };
  template <class R>
  struct Results {
    R out[1];
  };
  template <class R>
  struct Done {
    R s_max, t_max, s_inverse, t_inverse, log_ratio, s_mean, t_mean, s_winner, t_winner;
  };

  // e^(x - max) of both rows, and x - max of s less that of t.
  template <class V>
  struct Entry {
    V p, q, gap;
  };
  // scale (x - max) with its rounding error; 0 for the maximum itself, infinite or not.
  template <class V>
  KX_FN Two<V> below(V x, V max) const {
    const V size = splat<V>(scale < 0 ? -scale : scale), d = x - max;
    const Two<V> exact = two_sum(x, V(-max)), scaled = two_product(exact.hi, size);
    const V lo = scaled.lo + exact.lo * size;
    return {select(x == max, V{}, select(d == splat<V>(-infinity), d, scaled.hi)), finite(lo)};
  }
  template <class V>
  KX_FN static V finite(V x) {
    return select(abs(x) < splat<V>(infinity), x, V{});
  }
  template <class V>
  KX_FN static V weight(Two<V> d) {
    return select(d.hi < splat<V>(-1000), V{}, exp_nonpositive<T>(d.hi, d.lo));
  }
  template <class V>
  KX_FN Entry<V> entry(V x, V x_max, V y, V y_max) const {
    const Two<V> a = below(x, x_max), b = below(y, y_max), d = two_sum(a.hi, V(-b.hi));
    const auto absent = (a.hi == b.hi) & (a.hi == splat<V>(-infinity));
    return {weight(a), weight(b), select(absent, V{}, V(d.hi + finite(V(d.lo + (a.lo - b.lo)))))};
  }
  template <class R>
  KX_FN static R log_of_ratio(R excess, R s_rest, R t_rest) {
    const R ratio = excess / (1 + t_rest);
    return select(abs(ratio) < splat<R>(0.5), log1p(ratio), R(log1p(s_rest) - log1p(t_rest)));
  }

  // The steps that give x with the sign of scale, and the entries.
  template <class X, class M>
  KX_FN auto keys(X x, M mask) const {
    return [=, flip = scale < 0](auto i) {
      using V = Plain<decltype(x[i])>;
      const V v = x[i];
      return select(mask[i], flip ? V(-v) : v, splat<V>(-infinity));
    };
  }
  template <class Row, class R, class S, class U, class M>
  KX_FN auto entries(Row row, R s_max, R t_max, S s, U t, M mask) const {
    using V = typename Row::Value;
    return [=, fn = *this, x = keys(row(s), row(mask)), y = keys(row(t), row(mask)),
            x_max = V(row(s_max)),
            y_max = V(row(t_max))](auto i) { return fn.entry(x(i), x_max, y(i), y_max); };
  }

  template <class Team, class S, class U, class M>
  KX_FN auto gather(const Team& team, S s, U t, M mask) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R s_max = team.max([&](auto row) { return keys(row(s), row(mask)); });
    const R t_max = team.max([&](auto row) { return keys(row(t), row(mask)); });
    auto sums = team.template sum<10, 3>([&](auto row) {
      const V one = splat<V>(1);
      return [=, entry = entries(row, s_max, t_max, s, t, mask), x = keys(row(s), row(mask)),
              y = keys(row(t), row(mask)), x_max = V(row(s_max)), y_max = V(row(t_max)),
              on = row(mask)](auto i) {
        Entry<V> e = entry(i);
        const auto x_leads = x(i) == x_max, y_leads = y(i) == y_max;
        const V p = times_or_zero(e.p, e.gap), q = times_or_zero(e.q, e.gap);
        return Sums<V, 10>{select(x_leads, V{}, e.p),      select(x_leads, p, V{}),
                           select(x_leads, V{}, p),        select(y_leads, V{}, e.q),
                           select(y_leads, q, V{}),        select(y_leads, V{}, q),
                           difference<T>(e.p, e.q, e.gap), select(x_leads, one, V{}),
                           select(y_leads, one, V{}),      select(on[i], one, V{})};
      };
    });
    const R s_rest = sums[0] + (sums[7] - 1), t_rest = sums[3] + (sums[8] - 1);
    const R log_ratio = log_of_ratio(sums[6], s_rest, t_rest);
    const R s_inverse = 1 / (1 + s_rest), t_inverse = 1 / (1 + t_rest);
    auto divergences = team.template sum<2>([&](auto row) {
      return [=, entry = entries(row, s_max, t_max, s, t, mask), log_r = V(row(log_ratio)),
              p_unit = V(row(s_inverse)), q_unit = V(row(t_inverse))](auto i) {
        Entry<V> e = entry(i);
        const V p = e.p * p_unit, q = e.q * q_unit, delta = e.gap - log_r;
        const V change = difference<T>(p, q, delta);
        return Sums<V, 2>{information<T>(p, delta, change),
                          information<T>(q, V(-delta), V(-change))};
      };
    });
    return State<R>{{{s_max, s_rest}, sums[1], sums[2]},
                    {{t_max, t_rest}, sums[4], sums[5]},
                    log_ratio,
                    divergences[0],
                    divergences[1],
                    sums[9]};
  }

  // A block is an entry of its own: KL is that of the blocks' masses and, weighted with these, that
  // within the blocks.
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    const R s_max = maximum(a.s.sum.max, b.s.sum.max), t_max = maximum(a.t.sum.max, b.t.sum.max);
    const Entry<R> at_a = entry(a.s.sum.max, s_max, a.t.sum.max, t_max);
    const Entry<R> at_b = entry(b.s.sum.max, s_max, b.t.sum.max, t_max);
    State<R> out;
    out.s = join(a.s, at_a.p, at_a.gap, b.s, at_b.p, at_b.gap);
    out.t = join(a.t, at_a.q, at_a.gap, b.t, at_b.q, at_b.gap);
    const R a_gap = at_a.gap + a.log_ratio, b_gap = at_b.gap + b.log_ratio;
    const R ap = at_a.p * (1 + a.s.sum.rest), aq = at_a.q * (1 + a.t.sum.rest);
    const R bp = at_b.p * (1 + b.s.sum.rest), bq = at_b.q * (1 + b.t.sum.rest);
    const R excess = difference<T>(ap, aq, a_gap) + difference<T>(bp, bq, b_gap);
    out.log_ratio = log_of_ratio(excess, out.s.sum.rest, out.t.sum.rest);
    out.forward = out.backward = R{};
    const R p_unit = 1 / (1 + out.s.sum.rest), q_unit = 1 / (1 + out.t.sum.rest);
    const auto add = [&](const State<R>& block, R p, R q, R delta) {
      const R change = difference<T>(p, q, delta);
      out.forward =
          out.forward + times_or_zero(p, block.forward) + information<T>(p, delta, change);
      out.backward = out.backward + times_or_zero(q, block.backward) +
                     information<T>(q, R(-delta), R(-change));
    };
    add(a, R(ap * p_unit), R(aq * q_unit), R(a_gap - out.log_ratio));
    add(b, R(bp * p_unit), R(bq * q_unit), R(b_gap - out.log_ratio));
    out.count = a.count + b.count;
    return out;
  }
  // One row of two blocks, e^(max - common max) and the gaps of whose maxima are given.
  template <class R>
  KX_FN static Logits<R> join(Logits<R> a, R a_weight, R a_gap, Logits<R> b, R b_weight, R b_gap) {
    const auto b_leads = b.sum.max > a.sum.max;
    const R a_top = times_or_zero(a_weight, R(a.top + a_gap));
    const R b_top = times_or_zero(b_weight, R(b.top + b_gap));
    const R a_others = times_or_zero(a_weight, R(a.others + times_or_zero(a.sum.rest, a_gap)));
    const R b_others = times_or_zero(b_weight, R(b.others + times_or_zero(b.sum.rest, b_gap)));
    const R rest = a_weight * a.sum.rest + b_weight * b.sum.rest;
    return {{select(b_leads, b.sum.max, a.sum.max), rest + select(b_leads, a_weight, b_weight)},
            select(b_leads, b_top, a_top),
            a_others + b_others + select(b_leads, a_top, b_top)};
  }

  template <class R>
  KX_FN R divergence(State<R> s) const {
    const R least = splat<R>(-infinity), value = symmetric ? R(s.forward + s.backward) : s.forward;
    const auto nowhere = (s.s.sum.max == least) | (s.t.sum.max == least);
    return select(s.count == R{}, R{}, select(nowhere, splat<R>(not_a_number), value));
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{divergence(s)}};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R loss = divergence(s), undefined = loss - loss;  // NaN where it is infinite
    return {s.s.sum.max,
            s.t.sum.max,
            1 / (1 + s.s.sum.rest) + undefined,
            1 / (1 + s.t.sum.rest) + undefined,
            s.log_ratio,
            s.s.mean(),
            s.t.mean(),
            s.s.of_winner() + undefined,
            s.t.of_winner() + undefined};
  }
  template <class R, class Row, class S, class U, class M>
  KX_FN auto each(const Done<R>& done, Row row, S s, U t, M mask) const {
    using V = typename Row::Value;
    return [=, fn = *this, entry = entries(row, done.s_max, done.t_max, s, t, mask),
            x = keys(row(s), row(mask)), y = keys(row(t), row(mask)), on = row(mask),
            x_max = V(row(done.s_max)), y_max = V(row(done.t_max)), p_unit = V(row(done.s_inverse)),
            q_unit = V(row(done.t_inverse)), log_ratio = V(row(done.log_ratio)),
            p_mean = V(row(done.s_mean)), q_mean = V(row(done.t_mean)),
            p_winner = V(row(done.s_winner)), q_winner = V(row(done.t_winner))](auto i) {
      Entry<V> e = entry(i);
      const V p = e.p * p_unit, q = e.q * q_unit;
      const V change = difference<T>(p, q, V(e.gap - log_ratio));
      const auto p_wins = (x(i) == x_max) & (p_winner == p_winner);
      const V p_slope = select(p_wins, p_winner, times_or_zero(p, V(e.gap - p_mean)));
      Pair<V> slope = {p_slope, V(-change)};
      if (fn.symmetric) {
        const auto q_wins = (y(i) == y_max) & (q_winner == q_winner);
        const V q_slope = select(q_wins, q_winner, times_or_zero(q, V(e.gap - q_mean)));
        slope = {p_slope + change, V(-change - q_slope)};
      }
      const V factor = splat<V>(fn.scale);
      return Pair<V>{select(on[i], V(slope.first * factor), V{}),
                     select(on[i], V(slope.second * factor), V{})};
    };
  }
};

// The same over independent events: with p = sigmoid(scale s) and q = sigmoid(scale t) the sum of
// p log(p / q) + (1 - p) log((1 - p) / (1 - q)).  (n),(n),mask(n)?->(),(n)?,(n)?
template <class T>
struct SigmoidDivergence {
  wide_t<T> scale;
  bool symmetric;

  template <class R>
  struct State {
    R loss;
  };
  template <class R>
  struct Results {
    R out[1];
  };
  template <class R>
  struct Done {
    R undefined;  // NaN where the loss is infinite, else 0
  };

  template <class V>
  struct Entry {
    V x, y, gap;  // scaled s and t, and their difference
    Event<V> p, q;
    V fall;    // e^-|gap| - 1
    V change;  // p - q
  };
  template <class V>
  KX_FN Entry<V> entry(V s, V t) const {
    const V factor = splat<V>(scale), x = times_or_zero(factor, s), y = times_or_zero(factor, t);
    const V gap = select(x == y, V{}, times_or_zero(factor, V(s - t)));
    Event<V> p = event_of<T>(x), q = event_of<T>(y);
    const V fall = expm1_nonpositive<T>(V(-abs(gap)));
    const V change = select(gap > V{}, V(-p.on * q.off), V(q.on * p.off)) * fall;
    return {x, y, gap, p, q, fall, change};
  }
  template <class V>
  KX_FN V term(const Entry<V>& e) const {
    const V all = splat<V>(infinity), one = splat<V>(1);
    if (symmetric) return select(abs(e.gap) == all, all, V(e.change * e.gap));
    // log p - log q by log1p of what they differ by, relative to q; far apart as a difference
    const auto near = abs(e.gap)<one, rises = e.gap> V{};
    const V rise = -e.fall / (1 + e.fall);
    const V on = log1p(select(near, V(e.q.off * select(rises, e.fall, rise)), e.p.tail));
    const V off = log1p(select(near, V(e.q.on * select(rises, rise, e.fall)), e.q.tail));
    const V apart = on - off;
    const V on_apart = (minimum(e.x, V{}) - minimum(e.y, V{})) - apart;
    const V off_apart = (maximum(e.y, V{}) - maximum(e.x, V{})) - apart;
    return information<T>(e.p.on, select(near, V(-on), on_apart), e.change) +
           information<T>(e.p.off, select(near, V(-off), off_apart), V(-e.change));
  }

  template <class Team, class S, class U, class M>
  KX_FN auto gather(const Team& team, S s, U t, M mask) const {
    using V = typename Team::Value;
    auto sums = team.template sum<1>([&](auto row) {
      return [=, fn = *this, x = row(s), y = row(t), on = row(mask)](auto i) {
        return Sums<V, 1>{select(on[i], fn.term(fn.entry(V(x[i]), V(y[i]))), V{})};
      };
    });
    return State<typename Team::Result>{sums[0]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {a.loss + b.loss};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{s.loss}};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    return {s.loss - s.loss};
  }
  template <class R, class Row, class S, class U, class M>
  KX_FN auto each(const Done<R>& done, Row row, S s, U t, M mask) const {
    using V = typename Row::Value;
    return [=, fn = *this, x = row(s), y = row(t), on = row(mask),
            undefined = V(row(done.undefined))](auto i) {
      Entry<V> e = fn.entry(V(x[i]), V(y[i]));
      V p_slope = times_or_zero(V(e.p.on * e.p.off), e.gap), q_slope = e.change;
      if (fn.symmetric) {
        p_slope = p_slope + e.change;
        q_slope = q_slope + times_or_zero(V(e.q.on * e.q.off), e.gap);
      }
      const V factor = splat<V>(fn.scale);
      return Pair<V>{select(on[i], V(p_slope * factor + undefined), V{}),
                     select(on[i], V(undefined - q_slope * factor), V{})};
    };
  }
};

}  // namespace KX_ISA
}  // namespace kexue
