// The multi-label loss (kexue.fm 7359, 9064, 8888, 8373) of a row with scores s, threshold s0:
// log(1 + sum (1 - t) e^(s - s0)) + log(1 + sum t e^(s0 - s)). Protocol: reductions.h.
//
// A part log(1 + X), X = S e^a, is held as a shift and the sum S of its terms c e^(x - shift), with
// x = s in the negative part and -s in the positive one; a is the shift less the threshold's x. The
// share of a term in 1 + X is the term times a factor of the row.
#pragma once

#include "reductions.h"

namespace kexue {
inline namespace KX_ISA {

// What there is of an element in the two parts: coefficients c, or terms.
template <class V>
struct Both {
  V negative, positive;
};

// The positives of a stretch that has none, which a view of them may know.
struct Never {
  template <class V>
  KX_FN friend V select(Never, V, V no) {
    return no;
  }
};
struct Nothing {
  template <class I>
  KX_FN Never operator[](I) const {
    return {};
  }
  template <class Row>
  KX_FN Nothing of(Row) const {
    return {};
  }
};
template <class C>
KX_FN auto has_none(const C& targets, int) -> decltype(targets.none()) {
  return targets.none();
}
template <class C>
KX_FN bool has_none(const C&, long) {
  return false;
}

// e^x for |x| up to `near_most`, whose power of two is added to the exponent. Sums in wide_t<T>,
// 2^64 too large (below), stay within its range.
template <class T, class V>
constexpr element_t<V> near_most = sizeof(element_t<V>) == sizeof(double) ? 600
                                   : sizeof(wide_t<T>) == sizeof(double)  ? 60
                                                                          : 30;
template <class E>
struct NearTailOf {
  using type = E;
};
template <>
struct NearTailOf<float> {
  using type = Leading;
};
template <class E>
using NearTail = typename NearTailOf<E>::type;
template <class V>
KX_FN bits_t<V> exponent_of(V rounded) {
  return bit_cast<bits_t<V>>(rounded) << Format<element_t<V>>::mantissa_bits;
}
template <class V>
KX_FN V exp_near(V x) {
  using B = bits_t<V>;
  Exponential<V> e = exp_reduce<NearTail<element_t<V>>>(x);
  const V p = 1 + (e.r + e.r * e.r * e.q);
  return bit_cast<V>(B(bit_cast<B>(p) + exponent_of(e.rounded)));
}
// And with its inverse: cosh r + sinh r and cosh r - sinh r, times 2^k and 2^-k.
template <class V>
KX_FN V cosh_tail(double, V z) {  // (cosh r - 1) / z, z = r^2, |r| <= ln(2) / 2: 2^-58
  const V z2 = z * z;
  const V a = z * 0.0416666666665138 + 0.5000000000000013;
  const V b = z * 2.480148956647313e-05 + 0.0013888888947401414;
  return a + z2 * (b + z2 * 2.763140914028705e-07);
}
template <class V>
KX_FN V cosh_tail(float, V z) {  // 2^-34
  return z * (z * 0.0013946276f + 0.041666266f) + 0.5f;
}
template <class V>
KX_FN V sinh_tail(double, V z) {  // (sinh r - r) / (r z): 2^-64
  const V z2 = z * z;
  const V a = z * 0.008333333333316683 + 0.16666666666666685;
  const V b = z * 2.7557234096727773e-06 + 0.00019841269897197172;
  return a + z2 * (b + z2 * 2.5112289296686974e-08);
}
template <class V>
KX_FN V sinh_tail(float, V z) {  // 2^-28
  return z * 0.008368919f + 0.16666518f;
}
template <class V>
KX_FN Both<V> exp_both(V x) {
  using E = element_t<V>;
  using F = Format<E>;
  using B = bits_t<V>;
  const V rounded = x * F::log2_e + F::round;
  const V k = rounded - F::round;
  const V r = (x - k * F::ln2_head) - k * F::ln2_tail, z = r * r;
  const V c = cosh_tail(E{}, z), odd = r * z * sinh_tail(E{}, z) + r;
  const B power = exponent_of(rounded);
  return {bit_cast<V>(B(bit_cast<B>(V(1 + (z * c + odd))) + power)),
          bit_cast<V>(B(bit_cast<B>(V(1 + (z * c - odd))) - power))};
}

// The coefficients of a target, and the terms of a score that is near.
template <class V>
KX_FN Both<V> weights_of(Both<V> given) {
  return given;
}
template <class V, class M>
KX_FN Both<V> weights_of(M positive) {  // a condition: 0 or 1
  const V one = splat<V>(1);
  return {select(positive, V{}, one), select(positive, one, V{})};
}
template <class V>
KX_FN Both<V> near_terms(Both<V> weight, V x) {
  Both<V> e = exp_both(x);
  return {weight.negative * e.negative, weight.positive * e.positive};
}
template <class V, class M>
KX_FN Both<V> near_terms(M positive, V x) {
  const V e = exp_near(select(positive, V(-x), x));
  return {select(positive, V{}, e), select(positive, e, V{})};
}
// 1 for what is not near or not in [0, 1], by the order of the bits: those of negative numbers and
// of NaN come last.
template <class T, class V>
KX_FN auto not_near(V x) {
  const bits_t<V> magnitude = bit_cast<bits_t<V>>(x) << 1;
  return magnitude > bit_cast<bits_t<V>>(splat<V>(near_most<T, V>)) << 1;
}
template <class T, class V>
KX_FN V is_odd(Both<V> weight, V x) {
  const V one = splat<V>(1);
  const auto outside = maximum(bit_cast<bits_t<V>>(weight.negative),
                               bit_cast<bits_t<V>>(weight.positive)) > bit_cast<bits_t<V>>(one);
  return select(not_near<T>(x) | outside, one, V{});
}
template <class T, class V, class M>
KX_FN V is_odd(M, V x) {
  return select(not_near<T>(x), splat<V>(1), V{});
}
// 1 for a target outside [0, 1].
template <class V>
KX_FN V invalid_target(Both<V> w) {
  const V one = splat<V>(1);
  return select(w.negative >= V{}, select(w.positive >= V{}, V{}, one), one);
}
template <class V, class M>
KX_FN V invalid_target(M) {
  return V{};
}

// What targets may be: from 0 to 1, finite and not negative, or either 0 or 1.
enum class Allowed { shares, amounts, hard };

// How many rows have other targets.  any(n),mask(n)?->
template <class T>
struct InvalidTargets {
  Allowed allowed = Allowed::shares;
  using Term = term_t<T>;
  template <class R>
  struct State {
    R invalid;
  };
  template <class Team, class C, class M>
  KX_FN auto gather(const Team& team, C targets, M mask) const {
    using V = typename Team::Value;
    auto s = team.template sum<1, 1>([&](auto row) {
      return [=, t = row(targets), on = row(mask)](auto i) {
        return Sums<V, 1>{select(on[i], invalid(weights_of<V>(t[i])), V{})};
      };
    });
    return State<typename Team::Result>{s[0]};
  }
  template <class R>
  KX_FN State<R> merge(const State<R>& a, const State<R>& b) const {
    return {a.invalid + b.invalid};
  }
  template <class R>
  KX_FN State<R> results(const State<R>& s) const {
    return s;
  }

 private:
  template <class V>
  KX_FN V invalid(Both<V> w) const {
    if (allowed == Allowed::shares) return invalid_target(w);
    const V none = {}, one = splat<V>(1);
    const auto hard = (w.positive == none) | ((w.positive == one) & (w.negative == none));
    const auto amount = (w.positive >= none) & (w.positive < splat<V>(infinity));
    return allowed == Allowed::hard ? select(hard, none, one) : select(amount, none, one);
  }
};

template <class R>
KX_FN element_t<R> smallest_lane(R v) {
  if constexpr (lanes<R> == 1) {
    return v;
  } else {
    element_t<R> m = lane(v, 0);
    for (int j = 1; j < lanes<R>; ++j) m = lane(v, j) < m ? lane(v, j) : m;
    return m;
  }
}

// Terms are formed 2^64 too large (math.h), and their sum is kept so: c may be as small as it gets.
// What is lost of the sum where it is moved to the shift stands beside it.
template <class R>
struct PartSum {
  R shift, sum, lost;
};
template <class R>
KX_FN PartSum<R> part_sum(R shift, R sum, Two<R> unit) {
  const Two<R> moved = from_unit(sum, unit);
  return {shift, moved.hi, select(abs(moved.hi) < splat<R>(infinity), moved.lo, R{})};
}
template <class T, class R>
KX_FN PartSum<R> merge(PartSum<R> a, PartSum<R> b) {
  const R shift = maximum(a.shift, b.shift);
  const R fa = relative_exp<T>(a.shift, shift), fb = relative_exp<T>(b.shift, shift);
  return {shift, times_or_zero(a.sum, fa) + times_or_zero(b.sum, fb), a.lost * fa + b.lost * fb};
}

// A part's value, and what a term is multiplied by to be a share.
template <class R>
struct PartValue {
  R value;
  Two<R> factor;
  R one;  // the share of the 1
};
// all / (sum + lost), 0 without a sum.
template <class R>
KX_FN Two<R> share_factor(R all, PartSum<R> part) {
  const R factor = all / part.sum;
  const Two<R> back = two_product(factor, part.sum);
  const R rest = (((all - back.hi) - back.lo) - factor * part.lost) / part.sum;
  const R most = splat<R>(infinity);
  return {select(part.sum == R{}, R{}, factor), select(abs(rest) < most, rest, R{})};
}
template <class T, class R>
KX_FN PartValue<R> value_of(PartSum<R> part, R threshold) {
  constexpr element_t<R> most = sizeof(element_t<R>) == sizeof(double) ? 1300 : 120;
  const Two<R> gap = two_sum(part.shift, R(-threshold));
  const R a = gap.hi, half = splat<R>(0.5);
  // In two steps, since neither S nor e^a need be within the range where their product is.
  const R lost = select(abs(a) <= splat<R>(most), R(gap.lo * half), R{});
  const R root = exp_nonpositive<T>(R(minimum(a, splat<R>(most)) * half), lost);
  const R x = part.sum * root * (root * element_t<R>(exp_lowered));
  const auto finite = (a <= splat<R>(most)) & (x < splat<R>(infinity));
  const R far = a + (log(part.sum) - element_t<R>(exp_raise * 0.6931471805599453));
  const R all = select(finite, R(x / (1 + x)), splat<R>(1));
  const R down = 1 / root, one = down / (part.sum * element_t<R>(exp_lowered)) * down;
  return {select(finite, log1p(x), far), share_factor(all, part),
          select(finite, R(1 / (1 + x)), one)};
}

// The loss of a row whose terms have no shift, from their sums, and what they are multiplied by to
// be shares, for thresholds of up to 20.
template <class R>
KX_FN auto near_threshold(R threshold) {
  return abs(threshold) <= splat<R>(20);
}
template <class T, class R>
struct NearLoss {
  Both<R> one;  // e^-threshold and e^threshold
  R negative, positive;
  KX_FN NearLoss(R negatives, R positives, Both<R> powers)
      : one(powers), negative(negatives * one.negative), positive(positives * one.positive) {}

  KX_FN R value() const {
    if constexpr (sizeof(T) == sizeof(double)) {
      return log1p(negative) + log1p(positive);
    } else {  // the product is within the range of double
      return log1p(R(negative + positive + negative * positive));
    }
  }
  KX_FN Both<R> factor() const {
    return {one.negative / (1 + negative), one.positive / (1 + positive)};
  }
};

template <bool positive, class V>
KX_FN V side(V x) {
  return positive ? V(-x) : x;
}
template <bool positive, class V>
KX_FN V side(Both<V> of) {
  return positive ? of.positive : of.negative;
}

// The largest x of a part, the threshold's among them.
template <bool positive, class Team, class X, class C, class M>
KX_FN auto shift_of(const Team& team, X x, C targets, M mask, typename Team::Result threshold) {
  using V = typename Team::Value;
  using R = typename Team::Result;
  const V least = splat<V>(-infinity);
  const R top = team.max([&](auto row) {
    return [=, v = row(x), t = row(targets), on = row(mask)](auto i) {
      const V c = side<positive>(weights_of<V>(t[i]));
      return select(on[i], select(c > V{}, side<positive>(V(v[i])), least), least);
    };
  });
  return maximum(top, side<positive>(threshold));
}
// c e^(x - shift), infinite x as large as each other.
template <class T, bool positive, class Row, class P>
KX_FN auto shifted_term(Row row, const ExpBase<P>& base) {
  using V = typename Row::Value;
  return [from = ExpBase<V>(row(base))](Both<V> weight, V score) {
    const V c = side<positive>(weight), x = side<positive>(score);
    Exp<V> e = exp_term<T>(x, from);
    V term = e.hi;
    if constexpr (Exp<V>::parts == 2) term = e.hi + e.lo;
    const V most = splat<V>(1 / exp_lowered);
    return select(c == V{}, V{}, V(c * select(x == splat<V>(infinity), most, term)));
  };
}

// The loss. Scores within the range of exp_both need no shift, and one sweep serves both parts.
// Else each part has its largest x for a shift.  (n),any(n),mask(n)?,()->()
template <class T>
struct MultilabelCrossentropy {
  using Term = term_t<T>;
  static constexpr int keeps = 2;
  template <class R>
  struct State {
    PartSum<R> negative, positive;
    R threshold;
    R invalid;  // how many targets are
    R shifted;  // whether there are shifts
  };
  template <class R>
  struct Results {
    R out[1];
    R invalid;
  };
  template <class Team, class X, class C, class M>
  KX_FN auto gather(const Team& team, X x, C targets, M mask,
                    typename Team::Result threshold) const {
    return parts(team, x, targets, mask, finite_or_nan(threshold));
  }
  template <class R>
  KX_FN State<R> merge(const State<R>& a, const State<R>& b) const {
    return {kexue::merge<T>(a.negative, b.negative), kexue::merge<T>(a.positive, b.positive),
            a.threshold, a.invalid + b.invalid, maximum(a.shifted, b.shifted)};
  }
  template <class R>
  KX_FN Results<R> results(const State<R>& s) const {
    return loss<R>(s.negative, s.positive, s.threshold, s.invalid);
  }

 protected:
  template <class R>
  KX_FN static R finite_or_nan(R threshold) {
    return select(abs(threshold) < splat<R>(infinity), threshold, splat<R>(not_a_number));
  }
  template <class R>
  KX_FN static Results<R> loss(PartSum<R> negative, PartSum<R> positive, R s0, R invalid) {
    const R n = value_of<T>(negative, s0).value, p = value_of<T>(positive, R(-s0)).value;
    return {{select(invalid == R{}, R(n + p), splat<R>(not_a_number))}, invalid};
  }

  // The state, from one sweep where that will do.
  template <class Team, class X, class C, class M, class R>
  KX_COMMON static State<R> parts(const Team& team, X x, C targets, M mask, R s0) {
    using V = typename Team::Value;
    auto s = has_none(targets, 0) ? near_sums(team, x, Nothing{}, mask)
                                  : near_sums(team, x, targets, mask);
    const element_t<R> lift = 1 / exp_lowered;
    const R one = splat<R>(1), odd = select(s[2] == R{}, R{}, one);
    // A threshold within a third of the range keeps the factors of terms within it.
    const R shift = select(abs(s0) <= splat<R>(near_most<T, V> / 3), odd, one);
    const State<R> near = {{R{}, s[0] * lift, R{}}, {R{}, s[1] * lift, R{}}, s0, R{}, R{}};
    if (smallest_lane(R(-shift)) == 0) return near;
    // Rows do not depend on their neighbours: others stay as they are.
    const State<R> far = shifted(team, x, targets, mask, s0, shift);
    const auto yes = shift > R{};
    return {choose(yes, far.negative, near.negative), choose(yes, far.positive, near.positive), s0,
            select(yes, far.invalid, R{}), shift};
  }

 private:
  template <class M, class R>
  KX_FN static PartSum<R> choose(M yes, const PartSum<R>& a, const PartSum<R>& b) {
    return {select(yes, a.shift, b.shift), select(yes, a.sum, b.sum), select(yes, a.lost, b.lost)};
  }
  // Of terms without a shift, and what there is besides that has none.
  template <class Team, class X, class C, class M>
  KX_FN static auto near_sums(const Team& team, X x, C targets, M mask) {
    using V = typename Team::Value;
    // Terms are of one size here, and a few may be added up in their own type.
    return team.template sum<3, 3>([&](auto row) {
      return [=, v = row(x), t = row(targets), on = row(mask)](auto i) {
        const V score = v[i];
        const auto target = t[i];
        Both<V> terms = near_terms<V>(target, score);
        const V n = select(on[i], terms.negative, V{}), p = select(on[i], terms.positive, V{});
        row.keep(i, n, p);
        return Sums<V, 3>{n, p, select(on[i], is_odd<T, V>(target, score), V{})};
      };
    });
  }
  template <class Team, class X, class C, class M, class R>
  KX_FN static State<R> shifted(const Team& team, X x, C targets, M mask, R s0, R wanted) {
    using V = typename Team::Value;
    using E = element_t<V>;
    const R n_shift = shift_of<false>(team, x, targets, mask, s0);
    const R p_shift = shift_of<true>(team, x, targets, mask, s0);
    Two<R> n_unit, p_unit;
    auto n_base = exp_base<E>(n_shift, n_unit), p_base = exp_base<E>(p_shift, p_unit);
    auto s = team.template sum<3, 3>([&](auto row) {
      auto negative = shifted_term<T, false>(row, n_base);
      auto positive = shifted_term<T, true>(row, p_base);
      return [=, v = row(x), t = row(targets), on = row(mask), far = V(row(wanted))](auto i) {
        Both<V> w = weights_of<V>(t[i]);
        const V n = select(on[i], negative(w, v[i]), V{});
        const V p = select(on[i], positive(w, v[i]), V{});
        if (row.kept) {
          const auto other = far == V{};
          row.keep(i, select(other, row.recall(i, 0), n), select(other, row.recall(i, 1), p));
        }
        return Sums<V, 3>{n, p, select(on[i], invalid_target<V>(t[i]), V{})};
      };
    });
    return {part_sum(n_shift, s[0], n_unit), part_sum(p_shift, s[1], p_unit), s0, s[2], wanted};
  }
};

// What elements need of a part to find their share in it.
template <class P>
struct Share {
  ExpBase<P> base;
  P hi, lo;  // the factor

  // term -> its share
  template <class V, class Row>
  KX_FN auto times(Row row) const {
    return [a = V(row(hi)), b = V(row(lo))](V term) { return product_and(term, a, V(term * b)); };
  }
};
template <class T, class R>
KX_FN auto share_of(PartSum<R> part, Two<R> factor, R sound, R scale) {
  using P = Pack<term_t<T>, lanes<R>>;
  Two<R> unit;
  ExpBase<P> base = exp_base<term_t<T>>(part.shift, unit);
  const Two<R> moved = from_unit(factor.hi, unit);
  const Two<R> whole = quick_two_sum(moved.hi, R(moved.lo + factor.lo));
  const R exact = (whole.hi + sound) * scale;
  const P hi = convert<P>(exact);
  const R rest = (exact - convert<R>(hi)) + whole.lo * scale;
  return Share<P>{base, hi, convert<P>(select(abs(exact) < splat<R>(infinity), rest, R{}))};
}
// 0, or NaN for a row that is undefined throughout.
template <class R>
KX_FN R soundness(R loss, R invalid) {
  const R nan = splat<R>(not_a_number);
  return select(loss == loss, select(invalid == R{}, R{}, nan), nan);
}

// The loss, and its gradient n_i - p_i, the shares of class i in the two parts.
// (n),any(n),mask(n)?,()->(),(n)
template <class T>
struct MultilabelGradient : MultilabelCrossentropy<T> {
  template <class P>
  struct Done {
    Share<P> negative, positive;
    P shifted;
  };
  template <class S>
  KX_FN auto finish(const S& s) const {
    using R = decltype(s.threshold);
    using P = Pack<term_t<T>, lanes<R>>;
    const PartValue<R> n = value_of<T>(s.negative, s.threshold);
    PartValue<R> p = value_of<T>(s.positive, R(-s.threshold));
    // Terms that are near are not 2^64 too large.
    const R scale = select(s.shifted > R{}, splat<R>(1), splat<R>(1 / exp_lowered));
    const R sound = soundness(n.value + p.value, s.invalid);
    return Done<P>{share_of<T>(s.negative, n.factor, sound, scale),
                   share_of<T>(s.positive, p.factor, sound, scale), convert<P>(s.shifted)};
  }
  template <class D, class Row, class X, class C, class M, class S>
  KX_FN auto each(const D& done, Row row, X x, C targets, M mask, S) const {
    using V = typename Row::Value;
    return [shares = shares(done, row, x, targets), on = row(mask)](auto i) {
      Both<V> w = shares(i);
      return select(on[i], V(w.negative - w.positive), V{});
    };
  }

 protected:
  // The shares of element i in the two parts, masked or not.
  template <class D, class Row, class X, class C>
  KX_FN static auto shares(const D& done, Row row, X x, C targets) {
    using V = typename Row::Value;
    auto n_share = done.negative.template times<V>(row);
    auto p_share = done.positive.template times<V>(row);
    if constexpr (Row::remembers) {
      return [=](auto i) { return Both<V>{n_share(row.recall(i, 0)), p_share(row.recall(i, 1))}; };
    } else {
      auto negative = shifted_term<T, false>(row, done.negative.base);
      auto positive = shifted_term<T, true>(row, done.positive.base);
      const V far = row(done.shifted);
      const bool any = smallest_lane(V(-far)) < 0;
      return [=, v = row(x), t = row(targets)](auto i) {
        Both<V> terms = near_terms<V>(t[i], V(v[i]));
        if (any) {
          Both<V> w = weights_of<V>(t[i]);
          const auto yes = far > V{};
          terms = {select(yes, negative(w, v[i]), terms.negative),
                   select(yes, positive(w, v[i]), terms.positive)};
        }
        return Both<V>{n_share(terms.negative), p_share(terms.positive)};
      };
    }
  }
};

// The sum of a part's terms without the largest, so that one less the share of that is not a
// difference. `key` is the logarithm of the largest, or where none is above half of the sum, that
// of the sum; `near` is above 1 then, and where others are less than `near_key` below the largest.
// Only if it is 1 can a share be above 2/3.
template <class R>
struct Peak {
  R key, others, near;
};
constexpr double near_key = 0.5;

// From sums of terms without a shift, 2^64 too large.
template <class R>
KX_FN Peak<R> peak_of(R sum, R others) {
  const auto alone = others < sum * element_t<R>(0.75);
  const R key = log(R(select(alone, R(sum - others), sum) * element_t<R>(exp_lowered)));
  return {key, others, select(alone, splat<R>(1), splat<R>(2))};
}
// Of terms with a shift.
template <class T, bool positive, class Team, class X, class C, class M>
KX_FN auto shifted_peak(const Team& team, X x, C targets, M mask, typename Team::Result shift) {
  using V = typename Team::Value;
  using R = typename Team::Result;
  const auto keys = [&](auto row) {
    const V least = splat<V>(-infinity);
    return [=, v = row(x), t = row(targets), on = row(mask)](auto i) {
      const V c = side<positive>(weights_of<V>(t[i]));
      const V key = side<positive>(V(v[i])) + log(c);
      return select(on[i], select(c > V{}, key, least), least);
    };
  };
  const R top = team.max(keys);
  Two<R> unit;
  auto base = exp_base<element_t<V>>(shift, unit);
  auto s = team.template sum<2, 1>([&](auto row) {
    const V bound = V(row(top)) - element_t<V>(near_key);
    return [=, term = shifted_term<T, positive>(row, base), key = keys(row), v = row(x),
            t = row(targets), on = row(mask)](auto i) {
      const auto near = key(i) >= bound;
      const V e = select(on[i], term(weights_of<V>(t[i]), v[i]), V{});
      return Sums<V, 2>{select(near, V{}, e), select(near, splat<V>(1), V{})};
    };
  });
  return Peak<R>{top, s[0] + s[0] * unit.hi, s[1]};
}
template <class T, class R>
KX_FN Peak<R> merge(const Peak<R>& a, const PartSum<R>& of_a, const Peak<R>& b,
                    const PartSum<R>& of_b) {
  const R shift = maximum(of_a.shift, of_b.shift);
  const R fa = relative_exp<T>(of_a.shift, shift), fb = relative_exp<T>(of_b.shift, shift);
  const auto b_leads = b.key > a.key;
  const R others = select(b_leads, R(times_or_zero(of_a.sum, fa) + times_or_zero(b.others, fb)),
                          R(times_or_zero(a.others, fa) + times_or_zero(of_b.sum, fb)));
  const R apart = select(b_leads, R(b.key - a.key), R(a.key - b.key));
  const auto alone = apart > splat<R>(near_key);
  return {maximum(a.key, b.key), others,
          select(alone, select(b_leads, b.near, a.near), R(a.near + b.near))};
}

// The loss, its gradient, and the diagonal of its Hessian, n (1 - n) + p (1 - p), or the bound n +
// p. (n),any(n),mask(n)?,()->(),(n),(n)
template <class T>
struct MultilabelCurvature : MultilabelGradient<T> {
  using Gradient = MultilabelGradient<T>;
  static constexpr bool crowded = sizeof(wide_t<T>) == sizeof(double);
  bool bound;
  template <class R>
  struct State {
    typename Gradient::template State<R> sums;
    Peak<R> negative, positive;
  };
  template <class P>
  struct Done : Gradient::template Done<P> {
    Both<P> left;  // one less the share of the largest, -1 where that is a safe difference
  };
  template <class Team, class X, class C, class M>
  KX_FN auto gather(const Team& team, X x, C targets, M mask,
                    typename Team::Result threshold) const {
    using R = typename Team::Result;
    auto s = this->parts(team, x, targets, mask, this->finite_or_nan(threshold));
    Both<Peak<R>> peak = near_peaks(team, x, targets, mask, s);
    if (smallest_lane(R(-s.shifted)) < 0) {
      const auto far = s.shifted > R{};
      peak = {choose(far, shifted_peak<T, false>(team, x, targets, mask, s.negative.shift),
                     peak.negative),
              choose(far, shifted_peak<T, true>(team, x, targets, mask, s.positive.shift),
                     peak.positive)};
    }
    return State<R>{s, peak.negative, peak.positive};
  }
  template <class R>
  KX_FN State<R> merge(const State<R>& a, const State<R>& b) const {
    const auto &x = a.sums, &y = b.sums;
    return {Gradient::merge(x, y), kexue::merge<T>(a.negative, x.negative, b.negative, y.negative),
            kexue::merge<T>(a.positive, x.positive, b.positive, y.positive)};
  }
  template <class R>
  KX_FN auto results(const State<R>& s) const {
    return Gradient::results(s.sums);
  }
  template <class R>
  KX_FN auto finish(const State<R>& s) const {
    using P = Pack<term_t<T>, lanes<R>>;
    const auto &n = s.sums.negative, &p = s.sums.positive;
    return Done<P>{Gradient::finish(s.sums),
                   {left<P>(s.negative, value_of<T>(n, s.sums.threshold)),
                    left<P>(s.positive, value_of<T>(p, R(-s.sums.threshold)))}};
  }
  template <class D, class Row, class X, class C, class M, class S>
  KX_FN auto each(const D& done, Row row, X x, C targets, M mask, S) const {
    using V = typename Row::Value;
    return [shares = this->shares(done, row, x, targets), n_left = V(row(done.left.negative)),
            p_left = V(row(done.left.positive)), bounds = bound, on = row(mask)](auto i) {
      Both<V> w = shares(i);
      const V n = bounds ? w.negative : V(w.negative * rest(w.negative, n_left));
      const V p = bounds ? w.positive : V(w.positive * rest(w.positive, p_left));
      return Pair<V>{select(on[i], V(w.negative - w.positive), V{}), select(on[i], V(n + p), V{})};
    };
  }

 private:
  template <class M, class R>
  KX_FN static Peak<R> choose(M yes, const Peak<R>& a, const Peak<R>& b) {
    return {select(yes, a.key, b.key), select(yes, a.others, b.others),
            select(yes, a.near, b.near)};
  }
  // Of terms without a shift; a share above half is a term above half of the sum.
  template <class Team, class X, class C, class M, class S>
  KX_FN static auto near_peaks(const Team& team, X x, C targets, M mask, const S& s) {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R n = s.negative.sum, p = s.positive.sum;
    const Both<R> one = exp_both(s.threshold);
    const element_t<R> lift = 1 / exp_lowered;
    const auto large = (n > one.negative * lift) | (p > one.positive * lift);
    Both<R> others = {n, p};
    if (smallest_lane(select(large, splat<R>(-1), R{})) < 0) {
      const R n_half = n * element_t<R>(exp_lowered / 2),
              p_half = p * element_t<R>(exp_lowered / 2);
      auto sum = team.template sum<2, 2>([&](auto row) {
        return [=, v = row(x), t = row(targets), on = row(mask), a = V(row(n_half)),
                b = V(row(p_half))](auto i) {
          Both<V> e = near_terms<V>(t[i], V(v[i]));
          const V below = select(e.negative > a, V{}, e.negative);
          const V above = select(e.positive > b, V{}, e.positive);
          return Sums<V, 2>{select(on[i], below, V{}), select(on[i], above, V{})};
        };
      });
      others = {sum[0] * lift, sum[1] * lift};
    }
    return Both<Peak<R>>{peak_of(n, others.negative), peak_of(p, others.positive)};
  }
  template <class P, class R>
  KX_FN static P left(const Peak<R>& peak, const PartValue<R>& value) {
    const R rest = value.one + peak.others * value.factor.hi;
    return convert<P>(select(peak.near == splat<R>(1), rest, splat<R>(-1)));
  }
  template <class V>
  KX_FN static V rest(V share, V left) {
    return select((share > splat<V>(0.65)) & (left >= V{}), left, V(1 - share));
  }
};

// 1 / (1 + e^(-2 (s - s0))).  (),()->()
template <class T>
struct MultilabelProbability {
  using Term = wide_t<T>;
  template <class V>
  KX_FN V operator()(V score, V threshold) const {
    const Two<V> u = two_sum(score, V(-threshold));
    const auto below = u.hi < V{};
    const V side = select(below, splat<V>(2), splat<V>(-2));
    const V small = exp_nonpositive<T>(V(side * u.hi), V(side * u.lo));
    return select(below, small, splat<V>(1)) / (1 + small);
  }
};

}  // namespace KX_ISA
}  // namespace kexue
