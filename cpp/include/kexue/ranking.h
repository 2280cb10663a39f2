// Losses of a whole row's order (kexue.fm 7359, 9158). Protocol: reductions.h.
#pragma once

#include "multilabel.h"

namespace kexue {
inline namespace KX_ISA {

// e^x, x <= 0 with a part x_lo beyond its precision, which is no number if x is infinite.
template <class T, class V>
KX_FN V exp_decay(V x, V x_lo) {
  const V lo = select(abs(x_lo) < splat<V>(1), x_lo, V{});
  return select(x < splat<V>(-1000), V{}, exp_nonpositive<T>(x, lo));
}

// log(1 + sum e^(gamma (s_i - s_j + margin))) over negatives i and positives j: the sum is e^lead
// (1 + high.rest) (1 + low.rest), with the largest negative and the smallest positive in lead.
// Negatives have the key s and positives -s, so that either side is led by its largest. A side
// without members has the rest -1.  (n),any(n),mask(n)?->(),(n)?
template <class T>
struct PairwiseRankLoss {
  wide_t<T> gamma, margin;
  template <class R>
  struct State {
    LogSum<R> high, low;  // of gamma key
    R invalid;
  };
  template <class R>
  struct Results {
    R out[1];
    R invalid;
  };
  template <class R>
  struct Done {
    R high, low;                // the keys that lead
    R high_factor, low_factor;  // what their sides' terms are multiplied by
  };
  // e^(gamma (key - max))
  template <class V>
  KX_FN V weight(V key, V max) const {
    const V factor = splat<V>(gamma);
    const Two<V> gap = two_sum(key, V(-max)), x = two_product(factor, gap.hi);
    return select(key == max, splat<V>(1), exp_decay<T>(x.hi, V(x.lo + factor * gap.lo)));
  }
  template <class V>
  KX_FN static auto is_positive(Both<V> target) {
    return target.positive > V{};
  }
  template <class V>
  KX_FN static V key_of(V score, Both<V> target) {
    return select(is_positive(target), V(-score), score);
  }
  // The largest key of either side.
  template <bool positive, class Team, class X, class C, class M>
  KX_FN static auto leader(const Team& team, X x, C targets, M mask) {
    using V = typename Team::Value;
    return team.max([&](auto row) {
      return [v = row(x), t = row(targets), on = row(mask)](auto i) {
        Both<V> w = weights_of<V>(t[i]);
        const V key = key_of<V>(v[i], w), least = splat<V>(-infinity);
        const V here =
            positive ? select(is_positive(w), key, least) : select(is_positive(w), least, key);
        return select(on[i], here, least);
      };
    });
  }
  template <class Team, class X, class C, class M>
  KX_FN auto gather(const Team& team, X x, C targets, M mask) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R high = leader<false>(team, x, targets, mask);
    const R low = leader<true>(team, x, targets, mask);
    auto s = team.template sum<5, 3>([&](auto row) {
      return [=, high = V(row(high)), low = V(row(low)), v = row(x), t = row(targets),
              on = row(mask)](auto i) {
        Both<V> w = weights_of<V>(t[i]);
        const V key = key_of<V>(v[i], w), one = splat<V>(1), none = {};
        auto positive = is_positive(w);
        const V top = select(positive, low, high);
        const V leads = select(on[i], select(key == top, one, none), none);
        const V rest = select(on[i], select(key == top, none, weight(key, top)), none);
        const auto hard = (w.positive == none) | ((w.positive == one) & (w.negative == none));
        return Sums<V, 5>{select(positive, none, rest), select(positive, rest, none),
                          select(positive, none, leads), select(positive, leads, none),
                          select(on[i], select(hard, none, one), none)};
      };
    });
    return State<R>{{high, s[0] + (s[2] - 1)}, {low, s[1] + (s[3] - 1)}, s[4]};
  }
  template <class R>
  KX_FN LogSum<R> merge(LogSum<R> a, LogSum<R> b) const {
    const R max = maximum(a.max, b.max);
    const R ta = (1 + a.rest) * weight(a.max, max), tb = (1 + b.rest) * weight(b.max, max);
    return {max, select(a.max == max, R(a.rest + tb), R(ta + b.rest))};
  }
  template <class R>
  KX_FN State<R> merge(const State<R>& a, const State<R>& b) const {
    return {merge(a.high, b.high), merge(a.low, b.low), a.invalid + b.invalid};
  }

  template <class R>
  struct Sum {
    R lead, small;  // small = e^-|lead|
    R pairs;        // (1 + high.rest) (1 + low.rest) - 1
    R value;        // of the loss
  };
  template <class R>
  KX_FN Sum<R> sum_of(const State<R>& s) const {
    const R high = s.high.max, low = s.low.max, factor = splat<R>(gamma), zero = {};
    const Two<R> gap = two_sum(high, low);
    const R between = select(high == -low, zero, gap.hi);  // 0 for equal infinities, too
    const Two<R> ahead = two_sum(between, splat<R>(margin));
    const Two<R> lead = two_product(factor, ahead.hi);
    const R error = lead.lo + factor * (gap.lo + ahead.lo);
    const R small = exp_decay<T>(R(-abs(lead.hi)), select(lead.hi > zero, R(-error), error));
    const R pairs = s.high.rest + s.low.rest + s.high.rest * s.low.rest;
    const R some =
        select(lead.hi > zero, R(lead.hi + log1p(R(pairs + small))), log1p(R((1 + pairs) * small)));
    const R rests = s.high.rest + s.low.rest;
    const R value = select(has_pairs(s), some, R(rests - rests));  // 0 or NaN
    return {lead.hi, small, pairs, select(s.invalid == zero, value, splat<R>(not_a_number))};
  }
  template <class R>
  KX_FN static auto has_pairs(const State<R>& s) {
    const R none = splat<R>(-1);
    return !((s.high.rest == none) | (s.low.rest == none));
  }
  template <class R>
  KX_FN Results<R> results(const State<R>& s) const {
    return {{sum_of(s).value}, s.invalid};
  }
  template <class R>
  KX_FN Done<R> finish(const State<R>& s) const {
    Sum<R> sum = sum_of(s);
    const R ahead = 1 / (1 + (sum.pairs + sum.small));
    const R behind = sum.small / (1 + (1 + sum.pairs) * sum.small);
    const R some = gamma * select(sum.lead > R{}, ahead, behind);
    const R share = select(sum.value == sum.value, select(has_pairs(s), some, R{}), sum.value);
    return {s.high.max, s.low.max, share * (1 + s.low.rest), -share * (1 + s.high.rest)};
  }
  template <class R, class Row, class X, class C, class M>
  KX_FN auto each(const Done<R>& done, Row row, X x, C targets, M mask) const {
    using V = typename Row::Value;
    const V high = row(done.high), low = row(done.low);
    const V high_factor = row(done.high_factor), low_factor = row(done.low_factor);
    return [=, v = row(x), t = row(targets), on = row(mask)](auto i) {
      Both<V> w = weights_of<V>(t[i]);
      auto positive = is_positive(w);
      const V e = weight(key_of<V>(v[i], w), select(positive, low, high));
      return select(on[i], V(e * select(positive, low_factor, high_factor)), V{});
    };
  }
};

// --- n items by m classes: sum_j log(1 + sum_i t_ij e^(r_ij)), r how far a class is behind ---

// e^r = scale e^(behind + behind_lo), behind_lo beyond the precision of the other; infinite r are
// as large as each other. d r_h / d s_j = pull / among for h != j, with pull that of j and among
// that of h, and 1 less for h = j, where the first part may not count.
template <class V>
struct Margin {
  V behind, behind_lo, scale, pull, among;
};

// r_j = log(sum of e^(s_k) over k != j) - s_j, from an item's largest score and `rest`, the sum of
// the others' e^(s_k - max)
template <class T>
struct PairwiseMargin {
  static constexpr bool counts_itself = false;
  struct Item : Logsumexp<T> {
    template <class R>
    struct Results {
      R out[2];
    };
    template <class R>
    KX_FN Results<R> results(LogSum<R> s) const {
      return {{s.max, s.rest}};
    }
  };
  template <class V>
  KX_FN Margin<V> operator()(V x, V max, V rest) const {
    const V one = splat<V>(1);
    const auto leads = x == max;
    const Two<V> gap = two_sum(max, V(-x));
    const V e = select(leads, one, exp_decay<T>(V(-gap.hi), V(-gap.lo)));
    const V among = select(leads, rest, V((1 - e) + rest)), behind = select(leads, V{}, gap.hi);
    const auto finite = behind < splat<V>(infinity);
    return {behind, gap.lo, select(finite, among, select(behind == behind, one, behind)), e, among};
  }
};

// r_j = mean(s) - s_j, +inf where s_j is infinitely far below the largest; from the largest score,
// and how far the mean is below it
template <class T>
struct CenteredMargin {
  static constexpr bool counts_itself = true;
  wide_t<T> classes;
  struct Item {
    wide_t<T> classes;
    template <class R>
    struct State {
      R max, sum, count;  // sum of s - max
    };
    template <class R>
    struct Results {
      R out[2];
    };
    template <class Team, class X, class M>
    KX_FN auto gather(const Team& team, X x, M) const {
      using V = typename Team::Value;
      using R = typename Team::Result;
      const R max = team.max([&](auto row) { return [v = row(x)](auto i) { return V(v[i]); }; });
      auto s = team.template sum<2, 1>([&](auto row) {
        return [v = row(x), m = V(row(max))](auto i) {
          return Sums<V, 2>{gap(V(v[i]), m), splat<V>(1)};
        };
      });
      return State<R>{max, s[0], s[1]};
    }
    template <class R>
    KX_FN State<R> merge(State<R> a, State<R> b) const {
      const R max = maximum(a.max, b.max);
      const R moved = a.count * gap(a.max, max) + b.count * gap(b.max, max);
      return {max, a.sum + b.sum + moved, a.count + b.count};
    }
    template <class R>
    KX_FN Results<R> results(State<R> s) const {
      return {{s.max, s.sum / classes}};
    }
  };
  template <class V>
  KX_FN static V gap(V x, V max) {
    return select(x == max, V{}, V(x - max));
  }
  template <class V>
  KX_FN Margin<V> operator()(V x, V max, V mean) const {
    const V here = gap(x, max), all = splat<V>(infinity), one = splat<V>(1);
    return {select(here == -all, all, V(mean - here)), V{}, one, one, splat<V>(classes)};
  }
};

// t e^(r - shift) of one element, 2^64 too large (multilabel.h). NaN though t be 0, if r is.
template <class T, class V>
KX_FN V class_term(const Margin<V>& m, V shift, V weight) {
  Two<V> x = two_sum(m.behind, V(-shift));
  const auto beyond = (m.behind > shift) | (m.behind == splat<V>(infinity));
  const V e = select(beyond, splat<V>(1), exp_decay<T>(x.hi, V(x.lo + m.behind_lo)));
  return weight * (m.scale * (e * element_t<V>(1 / exp_lowered)));
}

// The part of a class, over items with their two numbers: the logarithm, and for the gradient what
// shifts terms and what makes shares of them.  (n),any(n),(n),(n)->(),(),(),()
template <class T, class F>
struct ClassPart {
  F margin;
  template <class R>
  struct State {
    PartSum<R> part;
    R invalid;
  };
  template <class R>
  struct Results {
    R out[4];
  };
  template <class Team, class X, class C, class W>
  KX_FN auto gather(const Team& team, X x, C targets, W first, W second) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R top = team.max([&](auto row) {
      return [=, v = row(x), t = row(targets), a = row(first), b = row(second)](auto i) {
        const V behind = margin(V(v[i]), V(a[i]), V(b[i])).behind;
        return select(weights_of<V>(t[i]).positive > V{}, behind, splat<V>(-infinity));
      };
    });
    const R shift = maximum(top, R{});
    auto s = team.template sum<2, 1>([&](auto row) {
      return [=, v = row(x), t = row(targets), a = row(first), b = row(second),
              m = V(row(shift))](auto i) {
        Both<V> w = weights_of<V>(t[i]);
        const Margin<V> r = margin(V(v[i]), V(a[i]), V(b[i]));
        return Sums<V, 2>{class_term<T>(r, m, w.positive), invalid_target(w)};
      };
    });
    return State<R>{{shift, s[0], R{}}, s[1]};
  }
  template <class R>
  KX_FN State<R> merge(const State<R>& a, const State<R>& b) const {
    return {kexue::merge<T>(a.part, b.part), a.invalid + b.invalid};
  }
  template <class R>
  KX_FN Results<R> results(const State<R>& s) const {
    const auto part = value_of<T>(s.part, R{});
    const R undefined = select(s.invalid == R{}, R{}, splat<R>(not_a_number));
    return {{part.value + undefined, s.part.shift, part.factor.hi + undefined, s.invalid}};
  }
};

// The loss, a sum over classes.  (m),(m)->()
template <class T>
struct SumOfParts {
  template <class R>
  struct State {
    R sum, invalid;
  };
  template <class R>
  struct Results {
    R out[1];
    R invalid;
  };
  template <class Team, class X>
  KX_FN auto gather(const Team& team, X values, X invalid) const {
    using V = typename Team::Value;
    auto s = team.template sum<2>([&](auto row) {
      return [v = row(values), w = row(invalid)](auto i) { return Sums<V, 2>{V(v[i]), V(w[i])}; };
    });
    return State<typename Team::Result>{s[0], s[1]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {a.sum + b.sum, a.invalid + b.invalid};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{s.sum}, s.invalid};
  }
};

// The gradient of an item: pull_j sum_h w_h / among_h - w_j, w the shares in the classes' parts.
// The item's largest scores are summed apart: w / among of the only one may be far above all
// others'. (m),any(m),(m),(m),(),()->(m)
template <class T, class F>
struct ItemGradient {
  F margin;
  template <class R>
  struct State {
    R leading, others;
    R leaders;  // how many
  };
  template <class V>
  struct Share {
    V w, back, pull;
  };
  template <class V>
  KX_FN Share<V> share(V x, V weight, V shift, V factor, V first, V second) const {
    const Margin<V> m = margin(x, first, second);
    const V w = class_term<T>(m, shift, weight) * factor;
    return {w, select(w == V{}, V{}, V(w / m.among)), m.pull};
  }
  template <class Team, class X, class C, class W>
  KX_FN auto gather(const Team& team, X x, C targets, W shifts, W factors,
                    typename Team::Result first, typename Team::Result second) const {
    using V = typename Team::Value;
    auto s = team.template sum<3, 1>([&](auto row) {
      return [=, v = row(x), t = row(targets), m = row(shifts), f = row(factors), a = V(row(first)),
              b = V(row(second))](auto i) {
        const V weight = weights_of<V>(t[i]).positive, score = v[i];
        const V back = share(score, weight, V(m[i]), V(f[i]), a, b).back;
        const auto leads = score == a;
        return Sums<V, 3>{select(leads, back, V{}), select(leads, V{}, back),
                          select(leads, splat<V>(1), V{})};
      };
    });
    return State<typename Team::Result>{s[0], s[1], s[2]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {a.leading + b.leading, a.others + b.others, a.leaders + b.leaders};
  }
  template <class R>
  KX_FN State<R> finish(State<R> s) const {
    return s;
  }
  template <class R, class Row, class X, class C, class W>
  KX_FN auto each(const State<R>& done, Row row, X x, C targets, W shifts, W factors, R first,
                  R second) const {
    using V = typename Row::Value;
    return [=, v = row(x), t = row(targets), m = row(shifts), f = row(factors), a = V(row(first)),
            b = V(row(second)), leading = V(row(done.leading)), others = V(row(done.others)),
            leaders = V(row(done.leaders))](auto i) {
      const V weight = weights_of<V>(t[i]).positive, score = v[i];
      const Share<V> own = share(score, weight, V(m[i]), V(f[i]), a, b);
      if constexpr (F::counts_itself) return V(own.pull * (others + leading) - own.w);
      const V without_it = select(leaders == splat<V>(1), V{}, V(leading - own.back));
      const V sum = select(score == a, V(others + without_it), V((others - own.back) + leading));
      return V(own.pull * sum - own.w);
    };
  }
};

}  // namespace KX_ISA
}  // namespace kexue
