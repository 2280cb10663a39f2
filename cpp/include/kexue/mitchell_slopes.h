// Slopes of Mitchell's operations. These are piecewise affine: a slope is a power of two, and its
// product with g is X(L(g) + k), g with another exponent.
#pragma once

#include "mitchell.h"

namespace kexue {
inline namespace KX_ISA {

// A slope: 2^k with a sign, or what it is instead.
struct Slope {
  long long k;
  bool negative, zero, infinite, none;
};

template <class F>
KX_FN typename F::Word times_slope(typename F::Word word, const Slope& s) {
  Parts g = split<F>(word, false);
  const bool negative = g.negative != s.negative;
  if (s.none || g.nan || (g.zero && s.infinite) || (g.infinite && s.zero)) return F::nan;
  if (g.infinite || s.infinite) return with_sign<F>(negative, F::infinity);
  if (g.zero || s.zero) return with_sign<F>(negative, 0);
  long long n = (g.code >> F::fraction) + s.k;
  n = n < -1500 ? -1500 : n > 1500 ? 1500 : n;
  const long long x = g.code & static_cast<long long>(F::least - 1);
  return encode<F>(negative, Code{n * (1LL << F::fraction) + x, false, false}, false);
}
template <class F>
KX_FN long long exponent(const Parts& p) {
  return p.code >> F::fraction;
}
template <class F>
KX_FN long long fraction(const Parts& p) {
  return p.code & static_cast<long long>(F::least - 1);
}

// sgn(b) 2^(n_b + floor(x_a + x_b + c)), the slope of a b in a, times g.
template <class F>
struct MulSlope {
  using In = typename F::Word;
  using Out = In;
  using Lane = In;
  long long offset;

  template <class V>
  KX_FN V operator()(V g, V a, V b) const {
    const V magnitude = splat<V>(F::magnitude), sign = splat<V>(F::sign);
    const V h = V(g & magnitude), u = V(a & magnitude), w = V(b & magnitude);
    const V sum = V(w + (u & splat<V>(In(F::least - 1))) + splat<V>(In(offset)));
    const V power = V(sum & splat<V>(In(~(F::least - 1))));  // may carry into the sign's place
    const V t = V(h + power - splat<V>(F::one));
    const auto odd = irregular<F>(h) | irregular<F>(u) | irregular<F>(w) | irregular<F>(t);
    if (!any_of(odd)) return V(t | ((g ^ b) & sign));
    return rare(g, a, b, t);
  }

 private:
  template <class V>
  KX_SELDOM V rare(V g, V a, V b, V t) const {
    const V zero = V{}, magnitude = splat<V>(F::magnitude);
    const V h = V(g & magnitude), u = V(a & magnitude), w = V(b & magnitude);
    const V sign = V((g ^ b) & splat<V>(F::sign));
    // Zeros are frequent; all else goes one by one.
    const auto plain_a = (u == zero) | !irregular<F>(u);
    const auto plain_b = (w == zero) | !irregular<F>(w), plain_g = (h == zero) | !irregular<F>(h);
    const auto nothing = plain_a & plain_b & plain_g & ((h == zero) | (w == zero));
    auto done = nothing | (plain_a & !irregular<F>(w) & !irregular<F>(h) & !irregular<F>(t));
    const V r = V(select(nothing, zero, t) | sign);
    return in_lanes(!done, r, [&](int i) { return one(lane(g, i), lane(a, i), lane(b, i)); });
  }
  KX_SELDOM In one(In g, In a, In b) const {
    Parts x = split<F>(a, false), y = split<F>(b, false);
    const long long carry = (fraction<F>(x) + fraction<F>(y) + offset) >> F::fraction;
    const bool none = x.nan || x.infinite || y.nan || y.infinite;
    return times_slope<F>(g, {exponent<F>(y) + carry, y.negative, y.zero, false, none});
  }
};

// Of a / b in a and in b.
template <class F, bool in_b>
struct DivSlope {
  using In = typename F::Word;
  using Out = In;
  using Lane = Single;
  long long offset;

  KX_FN In operator()(In g, In a, In b) const {
    Parts x = split<F>(a, false), y = split<F>(b, false);
    const long long borrow = (fraction<F>(x) - fraction<F>(y) + offset) >> F::fraction;
    const bool none = x.nan || x.infinite || y.nan || y.infinite;
    if constexpr (in_b) {
      const long long k = exponent<F>(x) - 2 * exponent<F>(y) + borrow;
      return times_slope<F>(
          g, {k, !x.negative, x.zero, y.zero && !x.zero, none || (x.zero && y.zero)});
    } else {
      return times_slope<F>(g, {borrow - exponent<F>(y), y.negative, false, y.zero, none});
    }
  }
};

template <class F>
struct Log2Slope {
  using In = typename F::Word;
  using Out = In;
  using Lane = Single;
  KX_FN In operator()(In g, In x) const {
    Parts p = split<F>(x, false);
    const bool none = p.nan || (p.negative && !p.zero);
    return times_slope<F>(g, {-exponent<F>(p), false, p.infinite, p.zero, none});
  }
};

template <class F>
struct Exp2Slope {
  using In = typename F::Word;
  using Out = In;
  using Lane = Single;
  KX_FN In operator()(In g, In x) const {
    using T = typename ComputedAs<F>::type;
    Parts p = split<F>(x, false);
    T v = number_of<F, T>(x);
    v = !p.regular() ? T(0) : v > 4000 ? T(4000) : v < -4000 ? T(-4000) : v;
    const auto whole = static_cast<long long>(v);
    const long long k = whole - (static_cast<T>(whole) > v);
    return times_slope<F>(g,
                          {k, false, p.infinite && p.negative, p.infinite && !p.negative, p.nan});
  }
};

// g p is formed in double.
template <class F>
struct PowSlope {
  using In = typename F::Word;
  using Out = In;
  using Lane = Single;
  double p;
  Exponent parts;

  explicit PowSlope(double real) : p(real), parts(FloatPow<F>(real, false).p) {}

  KX_FN In operator()(In g, In x) const {
    using T = typename ComputedAs<F>::type;
    Parts v = split<F>(x, false);
    Slope s = {0, v.negative && parts.whole && !parts.odd && p != 0, false, false, false};
    if (v.regular()) {
      s.k = (scaled<F>(v.code, parts).floor >> F::fraction) - exponent<F>(v);
    } else if (p != 0 && p != 1) {
      s.zero = p > 1 ? v.zero : v.infinite;
      s.infinite = p > 1 ? v.infinite : v.zero;
    }
    s.none = p != 0 && (v.nan || (v.negative && !v.zero && !parts.whole));
    const double factor = static_cast<double>(number_of<F, T>(g)) * p;
    const Word64 found = times_slope<Binary64>(bit_cast<Word64>(factor), s);
    return words_of<F, In>(static_cast<T>(bit_cast<double>(found)));
  }
};

}  // namespace KX_ISA
}  // namespace kexue
