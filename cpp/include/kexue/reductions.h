// The logsumexp family (kexue.fm 9070, 8823, 9034). One text for every CPU level and the GPU.
//
// A row function has up to four steps, written on a team (team.h):
//   gather(team, inputs...) -> State   sweeps over a block of each row of the team
//   merge(State, State) -> State       of two blocks of a row
//   results(State) -> Results          the scalars of the row: values `out`, perhaps `invalid`
//   finish(State) -> Done              what each element of the row needs
//   each(done, row, inputs...) -> step the value of element i, where the result has the row's shape
// State, Results and Done have members of one type R, a scalar or a pack with a row in each lane.
// `Term` is the type of the steps along a row where it is not wide_t<T>; `keeps` says how many
// values the steps of gather keep for those of each.
//
// Leave one out: with m = max x and rest = sum of e^(x_i - m) without one of the largest,
// log(sum(e^x)) = m + log1p(rest) and softmax_i = e^(x_i - m) / (1 + rest); 1 + rest is never
// asked for what rest alone knows. Elements equal to m count as 1 each, whether m is finite or
// not, which makes the limits at infinity come out of the same lines.
#pragma once

#include "team.h"

namespace kexue {
inline namespace KX_ISA {

// e^(x - m), 1 where x is m itself.
template <class T, class V>
KX_FN V relative_exp(V x, V m) {
  return select(x == m, splat<V>(1), exp_difference<T>(x, m));
}
// scale (x - m), 0 where x is m itself and -inf where x is infinitely far from it; scale >= 0.
// Where results are stored in double its rounding error stands beside it; that of a wider type is
// nothing to them.
template <class T, class V>
KX_FN Two<V> scaled_difference(V x, V m, V scale) {
  if constexpr (sizeof(T) < sizeof(double)) {
    const V d = x - m;
    return {select(x == m, V{}, select(d == splat<V>(-infinity), d, V(scale * d))), V{}};
  } else {
    const Two<V> d = two_sum(x, V(-m));
    const Two<V> product = two_product(scale, d.hi);
    const V hi = select(x == m, V{}, select(d.hi == splat<V>(-infinity), d.hi, product.hi));
    const V lo = scale * d.lo + product.lo;
    return {hi, select(lo == lo, lo, V{})};
  }
}
// e^x for x <= 0, 0 where even a very large factor leaves nothing of it.
template <class T, class V>
KX_FN V exp_or_zero(V x, V x_lo = V{}) {
  return select(x < splat<V>(-1000), V{}, exp_nonpositive<T>(x, x_lo));
}
template <class T, class V>
KX_FN V exp_or_zero(Two<V> x) {
  return exp_or_zero<T>(x.hi, x.lo);
}
// a b, and 0 where a is 0 whatever b is.
template <class V>
KX_FN V times_or_skip(V a, V b) {
  return select(a == V{}, a, V(a * b));
}
// a b, and 0 where a is 0 even if b is infinite.
template <class V>
KX_FN V times_or_zero(V a, V b) {
  return select((a == V{}) & (b == b), a, V(a * b));
}

// The two sums every function of the family begins with, and what rounding the second lost at last.
template <class R>
struct LogSum {
  R max, rest, lost;
  LogSum() = default;
  KX_FN LogSum(R top, R others, R missing = R{}) : max(top), rest(others), lost(missing) {}
};

// sum (1 + unit) and what rounding it loses.
template <class R>
KX_FN Two<R> from_unit(R sum, Two<R> unit) {
  const Two<R> more = two_product(sum, unit.hi), moved = quick_two_sum(sum, more.hi);
  return {moved.hi, moved.lo + (more.lo + sum * unit.lo)};
}
template <class T, class Team, class X, class M>
KX_FN auto log_sum(const Team& team, X x, M mask) {
  using V = typename Team::Value;
  using R = typename Team::Result;
  constexpr int parts = Exp<V>::parts;
  const R max = team.max([&](auto row) {
    auto live = masked(row(x), row(mask), -infinity);
    return [=](auto i) { return live[i]; };
  });
  Two<R> unit;
  auto base = exp_base<element_t<V>>(max, unit);
  auto s = team.template sum<parts + 1, parts>([&](auto row) {
    auto live = masked(row(x), row(mask), -infinity);
    ExpBase<V> from = row(base);
    const V m = row(max), one = splat<V>(1);
    return [=](auto i) {
      const V v = live[i];
      const auto below = v != m;
      Exp<V> e = exp_term<T>(v, from, below);
      const V others = select(below, one, V{});
      if constexpr (parts == 1) {
        row.keep(i, e.hi);
        return Sums<V, 2>{e.hi, others};
      } else {
        row.keep(i, e.hi, e.lo);
        return Sums<V, 3>{e.hi, e.lo, others};
      }
    };
  });
  R sum = s[0];
  if constexpr (parts == 2) sum = sum + s[1];
  const Two<R> moved = from_unit(sum, unit);
  const element_t<R> lowered = exp_lowered;
  const Two<R> rest = two_sum(R(moved.hi * lowered), R((element_t<R>(team.n) - 1) - s[parts]));
  const R lost = moved.lo * lowered + rest.lo;
  return LogSum<R>{max, rest.hi, select(lost == lost, lost, R{})};
}

// factor e^(x - max), and factor where x is max itself: for every row what that takes.
template <class P>
struct TermFactor {
  ExpBase<P> base;
  P hi, lo;  // what a term is multiplied by
  P max, factor;
};
template <class T, class R>
KX_FN auto term_factor(R max, Two<R> factor) {
  using P = Pack<term_t<T>, lanes<R>>;
  Two<R> unit;
  ExpBase<P> base = exp_base<term_t<T>>(max, unit);
  const Two<R> one = quick_two_sum(splat<R>(1), unit.hi);
  const Two<R> whole = factor * Two<R>{one.hi, one.lo + unit.lo};
  const R lowered = whole.hi * element_t<R>(exp_lowered);
  const P hi = convert<P>(lowered);
  const R rest = (lowered - convert<R>(hi)) + whole.lo * element_t<R>(exp_lowered);
  const R lo = select(abs(lowered) < splat<R>(infinity), rest, R{});
  return TermFactor<P>{base, hi, convert<P>(lo), convert<P>(max), convert<P>(factor.hi)};
}
template <class T, class R>
KX_FN auto term_factor(R max, R factor) {
  return term_factor<T>(max, Two<R>{factor, R{}});
}
template <class T, class Row, class P>
KX_FN auto term_of(Row row, const TermFactor<P>& f) {
  using V = typename Row::Value;
  ExpBase<V> from = row(f.base);
  const V hi = row(f.hi), lo = row(f.lo), max = row(f.max), factor = row(f.factor);
  return [=](auto i, V x) {
    Exp<V> e;
    if constexpr (Row::remembers) {
      e.hi = row.recall(i, 0);
      if constexpr (Exp<V>::parts == 2) e.lo = row.recall(i, 1);
    } else {
      e = exp_term<T>(x, from);
    }
    return select(x == max, factor, e.times(hi, lo));
  };
}

template <class T, class R>
KX_FN LogSum<R> merge(LogSum<R> a, LogSum<R> b) {
  const R max = maximum(a.max, b.max);
  const R fa = relative_exp<T>(a.max, max), fb = relative_exp<T>(b.max, max);
  // One of the two maxima is the merged one and stays out of the sum.
  const R rest = select(a.max == max, R(a.rest + (1 + b.rest) * fb), R((1 + a.rest) * fa + b.rest));
  return {max, rest};
}

// max + log1p(rest). A result in R's own type is rounded once, since the two may cancel.
template <class T, class R>
KX_FN R log_of(LogSum<R> s) {
  const R plain = s.max + log1p(s.rest);
  if constexpr (sizeof(T) < sizeof(element_t<R>)) return plain;
  const R once = (Two<R>{s.max, R{}} + log1p_two(s.rest, s.lost)).hi;
  return select(abs(plain) < splat<R>(infinity), once, plain);
}

// 1 / (1 + rest), NaN for a row that is -inf throughout.
template <class R>
KX_FN R inverse_of(LogSum<R> s) {
  return select(s.max == splat<R>(-infinity), splat<R>(not_a_number), R(1 / (1 + s.rest)));
}

// The same with its rounding error.
template <class R>
KX_FN Two<R> inverse_two(LogSum<R> s) {
  Two<R> sum = two_sum(splat<R>(1), s.rest);
  const R inverse = inverse_of(s);
  const Two<R> back = two_product(inverse, sum.hi);
  const R missing = ((1 - back.hi) - back.lo) - inverse * (sum.lo + s.lost);
  return {inverse, select(abs(s.rest) < splat<R>(infinity), R(inverse * missing), R{})};
}

// log(sum(e^x)).  (n),mask(n)?->()
template <class T>
struct Logsumexp {
  using Term = term_t<T>;
  template <class R>
  using State = LogSum<R>;
  template <class R>
  struct Results {
    R out[1];
  };
  template <class Team, class X, class M>
  KX_FN auto gather(const Team& team, X x, M mask) const {
    return log_sum<T>(team, x, mask);
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return kexue::merge<T>(a, b);
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{log_of<T>(s)}};
  }
};

// softmax_i = e^(x_i - m) / (1 + rest), and log(sum(e^x)) beside it.  (n),mask(n)?->(),(n)
template <class T>
struct Softmax : Logsumexp<T> {
  static constexpr int keeps = Exp<term_t<T>>::parts;
  template <class R>
  KX_FN auto finish(LogSum<R> s) const {
    return term_factor<T>(s.max, inverse_two(s));
  }
  template <class Done, class Row, class X, class M>
  KX_FN auto each(const Done& done, Row row, X x, M mask) const {
    using V = typename Row::Value;
    auto share = term_of<T>(row, done);
    return [=, v = row(x), on = row(mask)](auto i) { return select(on[i], share(i, v[i]), V{}); };
  }
};

// log(softmax_i) = (x_i - m) - log1p(rest), the difference of x_i and log(sum(e^x)) but for x_i =
// m. (n),mask(n)?->(n)
template <class T>
struct LogSoftmax : Logsumexp<T> {
  template <class P>
  struct Done {
    P max, log_rest;
    P sum_hi, sum_lo;  // max + log_rest
  };
  template <class R>
  KX_FN auto finish(LogSum<R> s) const {
    using P = Pack<term_t<T>, lanes<R>>;
    const R nan = splat<R>(not_a_number);
    const R log_rest = select(s.max == splat<R>(-infinity), nan, log1p(s.rest));
    Two<R> sum = two_sum(s.max, log_rest);
    const P hi = convert<P>(sum.hi);
    const R lo = (sum.hi - convert<R>(hi)) + sum.lo;
    const auto finite = abs(sum.hi) < splat<R>(infinity);
    return Done<P>{convert<P>(s.max), convert<P>(log_rest), hi,
                   convert<P>(select(finite, lo, R{}))};
  }
  template <class D, class Row, class X, class M>
  KX_FN auto each(const D& done, Row row, X x, M mask) const {
    using V = typename Row::Value;
    const V m = row(done.max), top = -V(row(done.log_rest));
    const V hi = row(done.sum_hi), lo = row(done.sum_lo);
    return [=, v = row(x), on = row(mask)](auto i) {
      const V value = v[i];
      const Two<V> d = two_sum(value, V(-hi));
      const V below = select(abs(d.hi) < splat<V>(infinity), V(d.hi + (d.lo - lo)), d.hi);
      return select(on[i], select(value == m, top, below), splat<V>(-infinity));
    };
  }
};

// Gradient of logsumexp: g softmax_i, 0 for a row that is -inf throughout.  (n),(),mask(n)?->(n)
template <class T>
struct LogsumexpVjp {
  static constexpr int keeps = Exp<term_t<T>>::parts;
  using Term = term_t<T>;
  template <class R>
  struct State {
    LogSum<R> sum;
    R g;
  };
  template <class Team, class X, class M>
  KX_FN auto gather(const Team& team, X x, typename Team::Result g, M mask) const {
    return State<typename Team::Result>{log_sum<T>(team, x, mask), g};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {kexue::merge<T>(a.sum, b.sum), a.g};
  }
  template <class R>
  KX_FN auto finish(State<R> s) const {
    const R mass = 1 + s.sum.rest;
    const auto nothing = (s.sum.max == splat<R>(-infinity)) & (mass == mass);
    return term_factor<T>(s.sum.max, select(nothing, R{}, R(s.g / mass)));
  }
  template <class Done, class Row, class X, class G, class M>
  KX_FN auto each(const Done& done, Row row, X x, G, M mask) const {
    using V = typename Row::Value;
    auto share = term_of<T>(row, done);
    const V factor = row(done.factor);  // an undefined row is undefined throughout
    return [=, v = row(x), on = row(mask)](auto i) {
      return select(on[i], select(factor == factor, share(i, v[i]), factor), V{});
    };
  }
};

// Gradient of softmax(scale x): scale p_i (h_i - sum(p h)), h = g - g at the largest x, so that a
// saturated winner's own component keeps its relative accuracy.  (n),(n),mask(n)?,()->(n)
template <class T>
struct SoftmaxVjp {
  template <class R>
  struct State {
    LogSum<R> sum;  // of |scale| x, with the sign of scale moved into x
    R centre, dot, scale;
  };
  template <class R>
  struct Done {
    R max, centre, mean, factor, scale;
  };
  template <class V>
  KX_FN static V key(V x, V scale) {
    return select(scale < V{}, V(-x), x);
  }
  template <class V>
  KX_FN static V weight(V key, V max, V scale) {
    return exp_or_zero<T>(scaled_difference<T>(key, max, abs(scale)));
  }
  template <class Team, class X, class G, class M>
  KX_FN auto gather(const Team& team, X x, G g, M mask, typename Team::Result scale) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const V least = splat<V>(-infinity);
    auto top = team.template top<1>([&](auto row) {
      return [=, s = V(row(scale)), v = row(x), own = row(g), on = row(mask)](auto i) {
        return Top<V, 1>{select(on[i], key<V>(v[i], s), least), {select(on[i], V(own[i]), V{})}};
      };
    });
    auto sums = team.template sum<3>([&](auto row) {
      const V s = row(scale), m = row(top.key), centre = row(top.beside[0]);
      return [=, v = row(x), own = row(g), on = row(mask)](auto i) {
        const V value = select(on[i], key<V>(v[i], s), least);
        const V e = weight(value, m, s);
        const auto tie = value == m;
        const V h = select(on[i], V(own[i]), V{}) - centre;
        return Sums<V, 3>{select(tie, V{}, e), select(tie, splat<V>(1), V{}), times_or_zero(e, h)};
      };
    });
    return State<R>{{top.key, sums[0] + (sums[1] - 1)}, top.beside[0], sums[2], scale};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    const auto b_leads = b.sum.max > a.sum.max;
    const R max = maximum(a.sum.max, b.sum.max);
    const R centre = select(b_leads, b.centre, a.centre);
    const R fa = weight(a.sum.max, max, a.scale), fb = weight(b.sum.max, max, a.scale);
    const R ta = (1 + a.sum.rest) * fa, tb = (1 + b.sum.rest) * fb;
    const R rest = select(b_leads, R(ta + b.sum.rest), R(a.sum.rest + tb));
    const R dot = a.dot * fa + times_or_zero(ta, R(a.centre - centre)) + b.dot * fb +
                  times_or_zero(tb, R(b.centre - centre));
    return {{max, rest}, centre, dot, a.scale};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R inverse = inverse_of(s.sum);
    return {s.sum.max, s.centre, s.dot * inverse, s.scale * inverse, s.scale};
  }
  template <class R, class Row, class X, class G, class M, class S>
  KX_FN auto each(const Done<R>& done, Row row, X x, G g, M mask, S) const {
    using V = typename Row::Value;
    const V s = row(done.scale), m = row(done.max), factor = row(done.factor);
    const V centre = row(done.centre), mean = row(done.mean);
    return [=, v = row(x), own = row(g), on = row(mask)](auto i) {
      const V e = weight(key<V>(v[i], s), m, s);
      const V h = (own[i] - centre) - mean;
      return select(on[i], times_or_zero(times_or_zero(e, h), factor), V{});
    };
  }
};

// Gradient of log_softmax: g_i - p_i sum(g); for a winner that holds more than half of the mass
// (1 - p) sum(g) - (sum of the other g). Infinite g are counted apart, for the limit that a sum
// over finite ones goes to.  (n),(n),mask(n)?->(n)
template <class T>
struct LogSoftmaxVjp {
  static constexpr int keeps = Exp<term_t<T>>::parts;
  using Term = term_t<T>;
  template <class R>
  struct State {
    LogSum<R> sum;
    R top, others;  // sums of g where x is the maximum, and elsewhere
    R ups, downs;   // how many g are inf, and -inf
  };
  template <class P, class R>
  struct Done {
    TermFactor<P> share;  // p sum(g)
    R rest, winner, ups, downs;
  };
  // e^x is 0 in T below.
  static constexpr double least_exponent = sizeof(T) == sizeof(double) ? -745.2 : -104.0;
  template <class Team, class X, class G, class M>
  KX_FN auto gather(const Team& team, X x, G g, M mask) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    LogSum<R> sum = log_sum<T>(team, x, mask);
    auto sums = team.template sum<4, 2>([&](auto row) {
      const V m = row(sum.max), one = splat<V>(1), all = splat<V>(infinity);
      auto live = masked(row(x), row(mask), -infinity);
      return [=, given = row(g), on = row(mask)](auto i) {
        const V own = select(on[i], V(given[i]), V{});
        const V finite = select(abs(own) == all, V{}, own);
        const auto tie = live[i] == m;
        return Sums<V, 4>{select(tie, finite, V{}), select(tie, V{}, finite),
                          select(own == all, one, V{}), select(own == -all, one, V{})};
      };
    });
    return State<R>{sum, sums[0], sums[1], sums[2], sums[3]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    LogSum<R> sum = kexue::merge<T>(a.sum, b.sum);
    const auto a_in = a.sum.max == sum.max, b_in = b.sum.max == sum.max;
    return {sum, select(a_in, a.top, R{}) + select(b_in, b.top, R{}),
            a.others + b.others + select(a_in, R{}, a.top) + select(b_in, R{}, b.top),
            a.ups + b.ups, a.downs + b.downs};
  }
  template <class R>
  KX_FN auto finish(State<R> s) const {
    const R inverse = inverse_of(s.sum), total = s.top + s.others, rest = s.sum.rest * inverse;
    const R winner =
        select(s.sum.rest < splat<R>(1), R(rest * total - s.others), splat<R>(not_a_number));
    auto share = term_factor<T>(s.sum.max, R(inverse * total));
    return Done<Plain<decltype(share.hi)>, R>{share, rest, winner, s.ups, s.downs};
  }
  // The limit of g_i - p_i sum(g) over the infinite g: 0 without any, NaN where it is not unique.
  template <class V, class M>
  KX_FN static V infinite_part(V own, M counts, V rest, V ups, V downs) {
    const V one = splat<V>(1), all = splat<V>(infinity);
    const auto up = own == all, down = own == -all;
    const auto alone = !(rest > V{});
    const auto rises = (up & !alone) | ((select(down, V(downs - one), downs) > V{}) & counts);
    const auto falls = (down & !alone) | ((select(up, V(ups - one), ups) > V{}) & counts);
    return select(rises, select(falls, splat<V>(not_a_number), all), select(falls, -all, V{}));
  }
  template <class D, class Row, class X, class G, class M>
  KX_FN auto each(const D& done, Row row, X x, G g, M mask) const {
    using V = typename Row::Value;
    auto share = term_of<T>(row, done.share);
    const V m = row(done.share.max), winner = row(done.winner), others = row(done.rest);
    const V ups = row(done.ups), downs = row(done.downs);
    return [=, v = row(x), given = row(g), on = row(mask)](auto i) {
      const V value = v[i], own = given[i];
      const V finite = select(abs(own) == splat<V>(infinity), V{}, own);
      const V plain = finite - share(i, value);
      const auto tie = value == m;
      const V gradient = select(tie, select(winner == winner, winner, plain), plain);
      // Whether p is above 0, and how far below 1.
      const auto counts = tie | (value - m > splat<V>(least_exponent));
      const V rest = select(tie, others, splat<V>(1));
      return select(on[i], V(gradient + infinite_part(own, counts, rest, ups, downs)), V{});
    };
  }
};

// Entropy of softmax(scale x): log1p(rest) - sum(p d), d = scale (x - m) <= 0, a sum of terms
// that are not negative.  (n),mask(n)?,()->()
template <class T>
struct SoftmaxEntropy {
  template <class R>
  struct State {
    LogSum<R> sum;
    R dot, count, scale;
  };
  template <class R>
  struct Results {
    R out[1];
  };
  template <class Team, class X, class M>
  KX_FN auto gather(const Team& team, X x, M mask, typename Team::Result scale) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    auto value = [&](auto row) {
      return [=, s = V(row(scale)), v = row(x), on = row(mask)](auto i) {
        return select(on[i], SoftmaxVjp<T>::template key<V>(v[i], s), splat<V>(-infinity));
      };
    };
    const R max = team.max(value);
    auto sums = team.template sum<4>([&](auto row) {
      const V m = row(max), size = abs(V(row(scale))), one = splat<V>(1);
      return [=, keys = value(row), on = row(mask)](auto i) {
        const V v = keys(i);
        const auto tie = v == m;
        const Two<V> d = scaled_difference<T>(v, m, size);
        const V e = exp_or_zero<T>(d);
        return Sums<V, 4>{select(tie, V{}, e), select(tie, one, V{}), product(e, d.hi),
                          select(on[i], one, V{})};
      };
    });
    return State<R>{{max, sums[0] + (sums[1] - 1)}, sums[2], sums[3], scale};
  }
  // e d, 0 where d is -inf
  template <class V>
  KX_FN static V product(V e, V d) {
    return select(d == splat<V>(-infinity), V{}, V(e * d));
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    const auto b_leads = b.sum.max > a.sum.max;
    const R max = maximum(a.sum.max, b.sum.max), s = abs(a.scale);
    const Two<R> da = scaled_difference<T>(a.sum.max, max, s);
    const Two<R> db = scaled_difference<T>(b.sum.max, max, s);
    const R fa = exp_or_zero<T>(da), fb = exp_or_zero<T>(db);
    const R ta = (1 + a.sum.rest) * fa, tb = (1 + b.sum.rest) * fb;
    const R rest = select(b_leads, R(ta + b.sum.rest), R(a.sum.rest + tb));
    const R dot = a.dot * fa + product(ta, da.hi) + b.dot * fb + product(tb, db.hi);
    return {{max, rest}, dot, a.count + b.count, a.scale};
  }
  template <class R>
  KX_FN static R entropy(State<R> s) {
    const R h = log_of<T>(LogSum<R>{-s.dot / (1 + s.sum.rest), s.sum.rest, s.sum.lost});
    const R empty = select(s.count == R{}, R{}, splat<R>(not_a_number));
    return select(s.sum.max == splat<R>(-infinity), empty, h);
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{entropy(s)}};
  }
};

// Its gradient: -g scale p_i (log p_i + H) = -g scale p_i (d_i - sum(p d)).
// (n),(),mask(n)?,()->(n)
template <class T>
struct SoftmaxEntropyVjp {
  template <class R>
  struct State {
    typename SoftmaxEntropy<T>::template State<R> entropy;
    R g;
  };
  template <class R>
  struct Done {
    R max, mean, factor, scale;
  };
  template <class Team, class X, class M>
  KX_FN auto gather(const Team& team, X x, typename Team::Result g, M mask,
                    typename Team::Result scale) const {
    return State<typename Team::Result>{SoftmaxEntropy<T>{}.gather(team, x, mask, scale), g};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {SoftmaxEntropy<T>{}.merge(a.entropy, b.entropy), a.g};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R inverse = inverse_of(s.entropy.sum);
    return {s.entropy.sum.max, s.entropy.dot * inverse, -s.g * s.entropy.scale * inverse,
            s.entropy.scale};
  }
  template <class R, class Row, class X, class G, class M, class S>
  KX_FN auto each(const Done<R>& done, Row row, X x, G, M mask, S) const {
    using V = typename Row::Value;
    const V s = row(done.scale), m = row(done.max), mean = row(done.mean);
    const V factor = row(done.factor);
    return [=, v = row(x), on = row(mask)](auto i) {
      const Two<V> d = scaled_difference<T>(SoftmaxVjp<T>::template key<V>(v[i], s), m, abs(s));
      const V e = exp_or_zero<T>(d);
      const V bent = select(d.hi == splat<V>(-infinity), e, V(e * (d.hi - mean)));
      return select(on[i], times_or_zero(bent, factor), V{});
    };
  }
};

// softmax(scale x) with a scale per row, >= 0.  (n),mask(n)?,()->(n)
template <class T>
struct ScaledSoftmax {
  template <class R>
  struct State {
    LogSum<R> sum;
    R scale;
  };
  template <class R>
  struct Done {
    R max, inverse, scale;
  };
  template <class V>
  KX_FN static V weight(V x, V m, V scale) {
    const Two<V> d = scaled_difference<T>(x, m, scale);
    return exp_nonpositive<T>(d.hi, d.lo);
  }
  template <class Team, class X, class M>
  KX_FN auto gather(const Team& team, X x, M mask, typename Team::Result scale) const {
    using V = typename Team::Value;
    const auto max = team.max([&](auto row) {
      auto live = masked(row(x), row(mask), -infinity);
      return [=](auto i) { return live[i]; };
    });
    auto sums = team.template sum<2>([&](auto row) {
      auto live = masked(row(x), row(mask), -infinity);
      const V m = row(max), s = row(scale);
      return [=](auto i) {
        const V v = live[i];
        const auto tie = v == m;
        return Sums<V, 2>{select(tie, V{}, weight(v, m, s)), select(tie, splat<V>(1), V{})};
      };
    });
    return State<typename Team::Result>{{max, sums[0] + (sums[1] - 1)}, scale};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    const R max = maximum(a.sum.max, b.sum.max);
    const R ta = (1 + a.sum.rest) * weight(a.sum.max, max, a.scale);
    const R tb = (1 + b.sum.rest) * weight(b.sum.max, max, a.scale);
    const R rest = select(a.sum.max == max, R(a.sum.rest + tb), R(ta + b.sum.rest));
    return {{max, rest}, a.scale};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    return {s.sum.max, inverse_of(s.sum), s.scale};
  }
  template <class R, class Row, class X, class M, class S>
  KX_FN auto each(const Done<R>& done, Row row, X x, M mask, S) const {
    using V = typename Row::Value;
    const V m = row(done.max), s = row(done.scale), inverse = row(done.inverse);
    return [=, v = row(x), on = row(mask)](auto i) {
      return select(on[i], V(weight(V(v[i]), m, s) * inverse), V{});
    };
  }
};

// coefficient log(max(n, min_length, 1)), the scale of entropy-invariant attention (8823, 9034).
template <class V>
KX_FN V entropy_scale(V n, element_t<V> coefficient, element_t<V> min_length) {
  const V at_least = splat<V>(min_length > 1 ? min_length : element_t<V>(1));
  return coefficient * log(select(n < at_least, at_least, n));
}

// The same for n = number of true entries of a row.  mask(n)->()
template <class W>
struct EntropyScaleOfMask {
  W coefficient, min_length;
  template <class R>
  struct State {
    R count;
  };
  template <class R>
  struct Results {
    R out[1];
  };
  template <class Team, class M>
  KX_FN auto gather(const Team& team, M mask) const {
    using V = typename Team::Value;
    auto s = team.template sum<1, 1>([&](auto row) {
      return [=, on = row(mask)](auto i) { return Sums<V, 1>{select(on[i], splat<V>(1), V{})}; };
    });
    return State<typename Team::Result>{s[0]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {a.count + b.count};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{entropy_scale(s.count, coefficient, min_length)}};
  }
};

// And for given lengths; n < 0 is invalid and gives NaN.  ()->()
template <class T>
struct EntropyScale {
  wide_t<T> coefficient, min_length;
  template <class R>
  struct State {
    R n;
  };
  template <class R>
  struct Results {
    R out[1];
    R invalid;
  };
  template <class Team>
  KX_FN auto gather(const Team&, typename Team::Result n) const {
    return State<typename Team::Result>{n};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R>) const {
    return a;
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    const R nan = splat<R>(not_a_number);
    const R scale = select(s.n == s.n, entropy_scale(s.n, coefficient, min_length), nan);
    return {{select(s.n < R{}, nan, scale)}, select(s.n < R{}, splat<R>(1), R{})};
  }
};

// One term b e^a of a weighted sum, with key = a + log|b|.
template <class V>
struct Term {
  V key, a, b;
};
template <class V>
KX_FN Term<V> weighted_term(V a, V b) {
  const auto absent = b == V{};
  const V least = splat<V>(-infinity);
  return {select(absent, least, V(a + log(abs(b)))), select(absent, least, a), b};
}
// Where a subnormal is lifted into the normal range, so that its bits can be split.
template <class V>
KX_FN V normal_magnitude(V b) {
  const V m = abs(b);
  return select(m < splat<V>(0x1p-1022), V(m * 0x1p54), m);
}
template <class V>
KX_FN V shift_of(V b) {
  return select(abs(b) < splat<V>(0x1p-1022), splat<V>(-54.0), V{});
}

// A term over the largest: (b / b_k) e^(a - a_k), to full precision however large the parts are.
// Terms at infinity share in proportion to their weights; two signs among them give NaN.
template <class T, class V>
KX_FN V term_ratio(Term<V> t, Term<V> top) {
  const V one = splat<V>(1), nan = splat<V>(not_a_number);
  const auto opposite = (t.b < V{}) != (top.b < V{});
  V e;
  if constexpr (sizeof(T) == sizeof(double)) {
    const Two<V> d = two_sum(t.a, V(-top.a));
    const auto far = !(abs(d.hi) < splat<V>(4000.0));
    Exponential<V> x = exp_reduce<T>(select(far, V{}, d.hi), select(far, V{}, d.lo));
    const V b = normal_magnitude(t.b), bk = normal_magnitude(top.b);
    const Binary<V> m = split_binary(b), mk = split_binary(bk);
    const V lift = shift_of(t.b) - shift_of(top.b);
    const V k = (x.rounded - Format<double>::round) + (m.k - mk.k) + lift;
    const V low = splat<V>(-1086.0), high = splat<V>(900.0);
    const V clamped = minimum(maximum(k, low), high);
    const V part = 1 + m.g, whole = 1 + mk.g, inverse = 1 / whole, ratio = part * inverse;
    const Two<V> back = two_product(ratio, whole);
    const V ratio_lo = ((part - back.hi) - back.lo) * inverse;
    const V mantissa = ratio + (ratio * (x.r + x.r * x.r * x.q) + ratio_lo);
    e = mantissa * power_of_two(V(clamped + Format<double>::round), 64) * 0x1p-64;
    e = select(d.hi < splat<V>(-3900.0), V{}, e);
    e = select(t.key == t.key, e, nan);
  } else {
    // The two keys would cancel; their parts are the more precise.
    const V d = (t.a - top.a) + (log(abs(t.b)) - log(abs(top.b)));
    // Where larger terms leave nothing behind, how small the others are tells them from 0.
    if constexpr (sizeof(element_t<V>) == sizeof(double)) {
      e = exp_nonpositive<double>(select(d > V{}, V{}, d));
    } else {
      e = exp_nonpositive<T>(select(d > V{}, V{}, d));
    }
  }
  const auto both = (t.a == top.a) & (abs(top.b) < splat<V>(infinity));
  const V share = select(both, abs(V(t.b / top.b)), one);
  e = select(both & (e == e), share, e);  // without the rounding errors of a
  const V infinite = select(t.key == top.key, share, select(t.key == t.key, V{}, nan));
  e = select(abs(top.key) == splat<V>(infinity), infinite, e);
  e = select(t.key == splat<V>(-infinity), V{}, e);
  const V mixed = select(top.key == splat<V>(infinity), select(e > V{}, nan, e), V(-e));
  return select(opposite, mixed, e);
}
template <class V>
KX_FN auto same_term(Term<V> t, Term<V> top) {
  return (t.a == top.a) & (t.b == top.b) & (abs(top.key) < splat<V>(infinity));
}

// log|S| and sign S of S = sum(b e^a), b of either sign: the largest term is left out.
template <class R>
struct WeightedLogSum {
  Term<R> top;
  R total, rest;  // S / top term and that minus 1, each to its own relative accuracy
};

template <class T, class Team, class X, class B, class M>
KX_FN auto weighted_log_sum(const Team& team, X x, B b, M mask) {
  using V = typename Team::Value;
  using R = typename Team::Result;
  auto terms = [&](auto row) {
    return [=, v = row(x), w = row(b), on = row(mask)](auto i) {
      return weighted_term(V(v[i]), select(on[i], V(w[i]), V{}));
    };
  };
  auto best = team.template top<2>([&](auto row) {
    return [=, term = terms(row)](auto i) {
      Term<V> t = term(i);
      return Top<V, 2>{t.key, {t.a, t.b}};
    };
  });
  Term<R> leader = {best.key, best.beside[0], best.beside[1]};
  // Keys so large do not tell weights of one x apart: the largest leads, whatever its sign.
  const R blind = splat<R>(32 * Format<element_t<V>>::round), all = splat<R>(infinity);
  const auto unsure = (abs(leader.key) > blind) & (abs(leader.key) < all);
  if (team.any(unsure)) {
    const R most = team.max([&](auto row) {
      return [=, term = terms(row), a = V(row(leader.a))](auto i) {
        Term<V> t = term(i);
        return select(t.a == a, abs(t.b), V{});
      };
    });
    leader.b = select(unsure & (most > abs(leader.b)), most, leader.b);
  }
  auto s = team.template sum<2>([&](auto row) {
    Term<V> top = {row(leader.key), row(leader.a), row(leader.b)};
    const V one = splat<V>(1);
    return [=, term = terms(row)](auto i) {
      Term<V> t = term(i);
      // Terms as large as the top one are counted, so that opposite ones leave nothing behind.
      const auto same = same_term(t, top), opposite = same_term({t.key, t.a, V(-t.b)}, top);
      const auto tie = same | opposite;
      const V ratio = term_ratio<T>(t, top), side = select(opposite, -one, one);
      const auto infinite = (top.key == splat<V>(infinity)) & (t.key == top.key);
      return Sums<V, 2>{select(tie, V{}, select(infinite, V(ratio - one), ratio)),
                        select(tie, side, select(infinite, one, V{}))};
    };
  });
  return WeightedLogSum<R>{leader, s[0] + s[1], s[0] + (s[1] - 1)};
}

// (n),(n),mask(n)?->(),()?
template <class T>
struct LogsumexpWeighted {
  bool signs = true;  // else a negative sum is NaN
  template <class R>
  using State = WeightedLogSum<R>;
  template <class R>
  struct Results {
    R out[2];
  };
  template <class Team, class X, class B, class M>
  KX_FN auto gather(const Team& team, X x, B b, M mask) const {
    return weighted_log_sum<T>(team, x, b, mask);
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    const auto tie = (b.top.key == a.top.key) & (b.top.a == a.top.a);
    const auto b_leads = (b.top.key > a.top.key) | (tie & (abs(b.top.b) > abs(a.top.b)));
    Term<R> top = {select(b_leads, b.top.key, a.top.key), select(b_leads, b.top.a, a.top.a),
                   select(b_leads, b.top.b, a.top.b)};
    const Term<R> other = {select(b_leads, a.top.key, b.top.key), select(b_leads, a.top.a, b.top.a),
                           select(b_leads, a.top.b, b.top.b)};
    const R more = select(b_leads, a.total, b.total) * term_ratio<T>(other, top);
    return {top, select(b_leads, b.total, a.total) + more, select(b_leads, b.rest, a.rest) + more};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    const R one = splat<R>(1), least = splat<R>(-infinity);
    const R from_rest = select(s.total < R{}, log(R(-s.total)), log1p(s.rest));
    // Near 0 the total knows more than the rest.
    const R small = select(abs(s.total) < splat<R>(0.5), log(abs(s.total)), from_rest);
    R value = s.top.key + small;
    if constexpr (sizeof(T) == sizeof(double)) {
      // The largest term may be small although its parts are not: add them in twice the precision.
      // Where the sum cancels, its weight does so in |b total|, before the logarithm.
      const R b = abs(s.top.b), product = b * abs(s.total);
      const auto cancels =
          (s.rest <= splat<R>(-0.5)) & (product > splat<R>(1e-300)) & (product < splat<R>(1e300));
      const auto ordinary = abs(s.top.key) < splat<R>(infinity);
      const Two<R> l = log_two(select(ordinary, select(cancels, product, b), one));
      Two<R> sum = l + Two<R>{select(ordinary, s.top.a, R{}), R{}};
      const Two<R> rest = log1p_two(select(cancels, R{}, s.rest));
      const Two<R> all = sum + rest;
      const auto sound = cancels | (s.rest > splat<R>(-0.5));
      value = select(ordinary & sound & (abs(small) < splat<R>(infinity)), all.hi, value);
    }
    const R side = select(s.top.b < R{}, -one, one);
    const R total = s.total;
    R sign = select(total < R{}, R(-side), select(total > R{}, side, R(total + s.top.key * 0)));
    sign = select(total == R{}, R{}, sign);
    value = select(total == R{}, least, value);
    const R nan = splat<R>(not_a_number);
    if (!signs) value = select(sign < R{}, nan, value);
    return {{select(total == total, value, nan), select(total == total, sign, nan)}};
  }
};

// g b_i e^(a_i) / S.  (n),(n),(),mask(n)?->(n)
template <class T>
struct LogsumexpWeightedVjp {
  template <class R>
  struct State {
    WeightedLogSum<R> sum;
    R g;
  };
  template <class R>
  struct Done {
    R key, a, b, factor;
  };
  template <class Team, class X, class B, class M>
  KX_FN auto gather(const Team& team, X x, B b, typename Team::Result g, M mask) const {
    return State<typename Team::Result>{weighted_log_sum<T>(team, x, b, mask), g};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {LogsumexpWeighted<T>{}.merge(a.sum, b.sum), a.g};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R factor = s.g / s.sum.total;
    Term<R> top = s.sum.top;
    const auto nothing = (top.key == splat<R>(-infinity)) & (s.sum.total == s.sum.total);
    return {top.key, top.a, top.b, select(nothing, R{}, factor)};
  }
  template <class R, class Row, class X, class B, class G, class M>
  KX_FN auto each(const Done<R>& done, Row row, X x, B b, G, M mask) const {
    using V = typename Row::Value;
    Term<V> top = {row(done.key), row(done.a), row(done.b)};
    const V factor = row(done.factor);
    return [=, v = row(x), w = row(b), on = row(mask)](auto i) {
      Term<V> t = weighted_term(V(v[i]), select(on[i], V(w[i]), V{}));
      const V value = times_or_zero(term_ratio<T>(t, top), factor);
      return select(t.b == V{}, V{}, select(factor == factor, value, factor));
    };
  }
};

// log(sum(w e^x) / sum(w)) = m + log1p(q), q = sum(w expm1(x - m)) / sum(w), while q > -1/2: equal
// values come back exactly and small ones keep their digits. A negative weight is invalid.
// (n),(n)?->()
template <class T>
struct Logmeanexp {
  template <class R>
  struct State {
    R max, minus, plus, total, negative;  // sums of w expm1(d), w e^d, w, and [w < 0]
  };
  template <class R>
  struct Results {
    R out[1];
    R invalid;
  };
  template <class Team, class X, class W>
  KX_FN auto gather(const Team& team, X x, W w) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    auto values = [&](auto row) {
      return [=, v = row(x), weight = row(w)](auto i) {
        return select(weight[i] == V{}, splat<V>(-infinity), V(v[i]));
      };
    };
    const R max = team.max(values);
    auto s = team.template sum<4>([&](auto row) {
      const V m = row(max);
      return [=, value = values(row), weights = row(w)](auto i) {
        const V v = value(i), weight = weights[i];
        const V d = select(v == m, V{}, V(v - m));
        const V e = relative_exp<T>(v, m);
        return Sums<V, 4>{times_or_zero(weight, expm1_nonpositive<T>(d)), times_or_zero(weight, e),
                          weight, select(weight < V{}, splat<V>(1), V{})};
      };
    });
    return State<R>{max, s[0], s[1], s[2], s[3]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    const R max = maximum(a.max, b.max);
    const R da = select(a.max == max, R{}, R(a.max - max));
    const R db = select(b.max == max, R{}, R(b.max - max));
    const R fa = exp_nonpositive<T>(da), fb = exp_nonpositive<T>(db);
    const R minus = a.minus * fa + a.total * expm1_nonpositive<T>(da) + b.minus * fb +
                    b.total * expm1_nonpositive<T>(db);
    return {max, minus, a.plus * fa + b.plus * fb, a.total + b.total, a.negative + b.negative};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    const R q = s.minus / s.total, nan = splat<R>(not_a_number);
    R value = s.max + select(q > splat<R>(-0.5), log1p(q), log(R(s.plus / s.total)));
    value = select(q == q, value, nan);
    return {{select(s.negative > R{}, nan, value)}, s.negative};
  }
};

// Its gradient: g w_i e^(x_i) / sum(w e^x).  (n),(),(n)?->(n)
template <class T>
struct LogmeanexpVjp {
  template <class R>
  struct State {
    typename Logmeanexp<T>::template State<R> mean;
    R g;
  };
  template <class R>
  struct Results {
    R invalid;
  };
  template <class R>
  struct Done {
    R max, factor, absent;  // absent: the gradient at weight 0
  };
  template <class Team, class X, class W>
  KX_FN auto gather(const Team& team, X x, typename Team::Result g, W w) const {
    return State<typename Team::Result>{Logmeanexp<T>{}.gather(team, x, w), g};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {Logmeanexp<T>{}.merge(a.mean, b.mean), a.g};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R nan = splat<R>(not_a_number);
    const R absent = select((s.mean.negative == R{}) & (s.mean.total > R{}), R{}, nan);
    R factor = select(s.mean.max == splat<R>(-infinity), R{}, s.g / s.mean.plus);
    factor = select(s.mean.plus == s.mean.plus, factor, nan) + absent;
    return {s.mean.max, factor, absent};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {s.mean.negative};
  }
  template <class R, class Row, class X, class G, class W>
  KX_FN auto each(const Done<R>& done, Row row, X x, G, W w) const {
    using V = typename Row::Value;
    const V m = row(done.max), factor = row(done.factor), absent = row(done.absent);
    return [=, v = row(x), weights = row(w)](auto i) {
      const V weight = weights[i];
      const V e = relative_exp<T>(select(weight == V{}, splat<V>(-infinity), V(v[i])), m);
      // The weight with the factor first: with the term it may leave the normal range.
      const V value = select(factor == factor, times_or_zero(e, V(weight * factor)), factor);
      return select(weight == V{}, absent, value);
    };
  }
};

// max x <= tau log(sum(e^(x/tau))) <= max x + tau log n, and from below mean x + tau log n and
// sum(p x) + tau R(p), R the Renyi entropy of order >= 1 (9070). With v_i = log(p_i / max p):
// R = -log(max p) - log1p(sum(p expm1((order - 1) v))) / (order - 1), whose limit at order 1 is
// -log(max p) - sum(p v); nothing cancels.  (n),(n)->(),(),(),()
template <class T>
struct LogsumexpBounds {
  wide_t<T> order, tau;
  wide_t<T> tolerance;  // how far the sum of p may be from 1
  bool uniform;         // p is not given: 1/n
  template <class R>
  struct State {
    R max, sum, count, top, weights, moment, bend, negative, unordered;
  };
  template <class R>
  struct Results {
    R out[4];
    R invalid;
  };
  // expm1((order - 1) v), or v itself in the limit
  template <class V>
  KX_FN V bent(V v) const {
    using E = element_t<V>;
    const E slope = order - 1;
    if (slope == 0) return v;
    return select(v == V{}, v, expm1_nonpositive<T>(V(slope * v)));
  }
  template <class Team, class X, class P>
  KX_FN auto gather(const Team& team, X x, P p) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R max = team.max([&](auto row) { return [v = row(x)](auto i) { return v[i]; }; });
    const R top =
        team.max([&](auto row) { return [weights = row(p)](auto i) { return weights[i]; }; });
    const R log_top = log(top);
    auto s = team.template sum<7>([&](auto row) {
      const V most = row(top), log_most = row(log_top), one = splat<V>(1);
      return [=, *this, values = row(x), weights = row(p)](auto i) {
        const V v = values[i], w = weights[i];
        const V bend = bent(select(w == most, V{}, V(log(w) - log_most)));
        return Sums<V, 7>{v,
                          one,
                          w,
                          times_or_skip(w, v),
                          times_or_skip(w, bend),
                          select(w >= V{}, V{}, one),
                          select(v == v, V{}, one)};
      };
    });
    return State<R>{max, s[0], s[1], top, s[2], s[3], s[4], s[5], s[6]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    const R top = maximum(a.top, b.top);
    return {maximum(a.max, b.max),
            a.sum + b.sum,
            a.count + b.count,
            top,
            a.weights + b.weights,
            a.moment + b.moment,
            lowered(a, top) + lowered(b, top),
            a.negative + b.negative,
            a.unordered + b.unordered};
  }
  // sum(p bent(v)) of a block, for a larger maximum of p
  template <class R>
  KX_FN R lowered(State<R> s, R top) const {
    const R down = select(s.top == top, R{}, log(R(s.top / top)));
    const R all = order == 1 ? s.bend : R(s.bend * (1 + bent(down)));
    return all + times_or_zero(s.weights, bent(down));
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    using E = element_t<R>;
    const R nan = splat<R>(not_a_number);
    const R log_n = tau * log(s.count), mean = s.sum / s.count + log_n;
    const R bend = s.bend / s.weights, log_top = log(R(s.top / s.weights));
    R renyi = order == 1 ? R(-log_top - bend) : R(-log_top - log1p(bend) / E(order - 1));
    const R weighted = uniform ? mean : R(s.moment / s.weights + tau * renyi);
    const R off = abs(R(s.weights - 1));
    const auto sound = (s.negative == R{}) & (off <= splat<R>(tolerance));
    const R invalid = uniform ? R{} : select(sound, R{}, splat<R>(1));
    const auto some = s.count > R{};
    const R max = select(s.unordered == R{}, s.max, nan);
    return {{max, select(some, mean, splat<R>(-infinity)),
             select(invalid == R{}, select(some, weighted, splat<R>(-infinity)), nan),
             select(some, R(max + log_n), splat<R>(-infinity))},
            invalid};
  }
};

// |lse x - lse y| and max|x - y|, the first never above the second.  (n),(n)->(),()
template <class T>
struct LogsumexpLipschitz {
  template <class R>
  struct State {
    LogSum<R> x, y;
    R distance, unordered;
  };
  template <class R>
  struct Results {
    R out[2];
  };
  template <class Team, class X, class Y>
  KX_FN auto gather(const Team& team, X x, Y y) const {
    using V = typename Team::Value;
    auto lx = log_sum<T>(team, x, Everything{}), ly = log_sum<T>(team, y, Everything{});
    const auto apart = [&](auto row) {
      return [v = row(x), w = row(y)](auto i) {
        const V a = v[i], b = w[i];
        return select(a == b, V{}, abs(V(a - b)));
      };
    };
    const auto distance = team.max(apart);
    const auto nan = team.template sum<1, 1>([&](auto row) {
      return [far = apart(row)](auto i) {
        const V d = far(i);
        return Sums<V, 1>{select(d == d, V{}, splat<V>(1))};
      };
    });
    return State<typename Team::Result>{lx, ly, distance, nan[0]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {kexue::merge<T>(a.x, b.x), kexue::merge<T>(a.y, b.y), maximum(a.distance, b.distance),
            a.unordered + b.unordered};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    const R lx = log_of<T>(s.x), ly = log_of<T>(s.y);
    const R far = maximum(s.distance, R{});
    const R distance = select(s.unordered > R{}, splat<R>(not_a_number), far);
    const R change = abs(R((s.x.max - s.y.max) + (log1p(s.x.rest) - log1p(s.y.rest))));
    const R difference = select(lx == ly, R{}, change);
    return {{select(difference > distance, distance, difference), distance}};
  }
};

#if !defined(__CUDACC__)

// For C++ callers: one row on the calling thread.
template <class T>
inline wide_t<T> logsumexp(const T* x, index n) {
  const Logsumexp<T> f;
  const Row<T, term_t<T>> row = {x, n};
  return f.results(f.gather(SerialTeam<T>{n}, row, Everything{})).out[0];
}
template <class T>
inline void softmax(const T* x, index n, T* out) {
  const Softmax<T> f;
  const Row<T, term_t<T>> row = {x, n};
  auto done = f.finish(f.gather(SerialTeam<T>{n}, row, Everything{}));
  const auto each = f.each(done, LaneRow<term_t<T>>{}, row, Everything{});
  for (index i = 0; i < n; ++i) store_wide<T>(out + i, each(i));
}

#endif

}  // namespace KX_ISA
}  // namespace kexue
