// Metrics that can be trained for (kexue.fm 6620), flooding (7643) and cosine losses (7980).
// Protocols: reductions.h, elements.h.
#pragma once

#include "elements.h"
#include "erf.h"
#include "multilabel.h"

namespace kexue {
inline namespace KX_ISA {

// The mean of n numbers.  (n)->()
template <class T>
struct Mean {
  wide_t<T> n;
  template <class R>
  struct State {
    R sum;
  };
  template <class R>
  struct Results {
    R out[1];
  };
  template <class Team, class X>
  KX_FN auto gather(const Team& team, X x) const {
    using V = typename Team::Value;
    auto s = team.template sum<1>(
        [&](auto row) { return [v = row(x)](auto i) { return Sums<V, 1>{V(v[i])}; }; });
    return State<typename Team::Result>{s[0]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {a.sum + b.sum};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{s.sum / n}};
  }
};

// F = sum(t p) / (true_share sum(t) + found_share sum(p)), and its gradient
// (t_i - found_share F) / (that sum).  (n),any(n)->(),(n)?
template <class T>
struct SmoothRatio {
  wide_t<T> true_share, found_share, zero_division;
  template <class R>
  struct State {
    R hits, truth, found, invalid;
  };
  template <class R>
  struct Results {
    R out[1];
    R invalid;
  };
  template <class R>
  struct Done {
    R offset, total;
  };
  template <class Team, class X, class C>
  KX_FN auto gather(const Team& team, X probs, C targets) const {
    using V = typename Team::Value;
    auto s = team.template sum<4>([&](auto row) {
      return [p = row(probs), t = row(targets)](auto i) {
        Both<V> w = weights_of<V>(t[i]);
        const V v = p[i];
        return Sums<V, 4>{V(w.positive * v), w.positive, v, invalid_target(w)};
      };
    });
    return State<typename Team::Result>{s[0], s[1], s[2], s[3]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {a.hits + b.hits, a.truth + b.truth, a.found + b.found, a.invalid + b.invalid};
  }
  template <class R>
  KX_FN R total(State<R> s) const {
    return true_share * s.truth + found_share * s.found;
  }
  template <class R>
  KX_FN R value(State<R> s) const {
    const R sum = total(s);
    const R ratio = select(sum == R{}, splat<R>(zero_division), R(s.hits / sum));
    return select(s.invalid == R{}, ratio, splat<R>(not_a_number));
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{value(s)}, s.invalid};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R sum = total(s);  // infinite for a gradient of 0
    return {found_share * value(s), select(sum == R{}, splat<R>(infinity), sum)};
  }
  template <class R, class Row, class X, class C>
  KX_FN auto each(const Done<R>& done, Row row, X, C targets) const {
    using V = typename Row::Value;
    return [offset = V(row(done.offset)), total = V(row(done.total)), t = row(targets)](auto i) {
      return V((weights_of<V>(t[i]).positive - offset) / total);
    };
  }
};

// L where L >= b, else 2 b - L; and the sign of L - b.
template <class T>
struct Flooding {
  using Term = term_t<T>;
  template <class V>
  KX_FN V operator()(V x, V b) const {
    return select(x < b, V(2 * b - x), select(b == b, x, b));
  }
};
template <class T>
struct FloodingGrad : Flooding<T> {
  template <class V>
  KX_FN Values<V, 2> operator()(V x, V b) const {
    const V one = splat<V>(1), level = select(x == b, V{}, splat<V>(not_a_number));
    return {Flooding<T>::operator()(x, b), select(x < b, V(-one), select(x > b, one, level))};
  }
};

// A power of two that brings numbers up to `largest` near 1; 1 where squares of T's numbers are
// within the range of the type they are computed in.
template <class T, class R>
KX_FN R power_near_one_over(R largest) {
  if constexpr (sizeof(T) < sizeof(element_t<R>) && !__is_same(T, Bfloat16)) {
    return splat<R>(1);
  } else {
    using F = Format<element_t<R>>;
    using B = bits_t<R>;
    const B zero = {}, twice_bias = zero + 2 * F::bias;
    const B exponent = bit_cast<B>(largest) >> F::mantissa_bits;
    const B power = select(exponent < twice_bias, B(twice_bias - exponent), B(zero + 1));
    return bit_cast<R>(B(power << F::mantissa_bits));
  }
}

// -<p, z> / (|p| |z|), and its gradient for constant z, -(z / |z| - <p, z> / (|p| |z|) p / |p|) /
// |p|. (n),(n)->(),(n)?
template <class T>
struct NegativeCosine {
  template <class R>
  struct State {
    R largest_p, largest_z;
    R dot, pp, zz;  // of p and z brought near 1
  };
  template <class R>
  struct Results {
    R out[1];
  };
  template <class R>
  struct Done {
    R scale_p, scale_z;  // what brings p and z near 1
    R along, across;     // what these are multiplied by, and their sum by scale_p again
  };
  template <class Team, class P>
  KX_FN auto largest(const Team& team, P p) const {
    using V = typename Team::Value;
    return team.max([&](auto row) { return [v = row(p)](auto i) { return abs(V(v[i])); }; });
  }
  template <class Team, class P, class Z>
  KX_FN auto gather(const Team& team, P p, Z z) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R largest_p = largest(team, p), largest_z = largest(team, z);
    const R scale_p = power_near_one_over<T>(largest_p);
    const R scale_z = power_near_one_over<T>(largest_z);
    auto s = team.template sum<3>([&](auto row) {
      return [a = row(p), b = row(z), fp = V(row(scale_p)), fz = V(row(scale_z))](auto i) {
        const V x = fp * a[i], y = fz * b[i];
        return Sums<V, 3>{V(x * y), V(x * x), V(y * y)};
      };
    });
    return State<R>{largest_p, largest_z, s[0], s[1], s[2]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    const R p = maximum(a.largest_p, b.largest_p), z = maximum(a.largest_z, b.largest_z);
    const R ap = change(a.largest_p, p), bp = change(b.largest_p, p);
    const R az = change(a.largest_z, z), bz = change(b.largest_z, z);
    return {p, z, a.dot * ap * az + b.dot * bp * bz, a.pp * ap * ap + b.pp * bp * bp,
            a.zz * az * az + b.zz * bz * bz};
  }
  template <class R>
  KX_FN static R change(R from, R to) {
    return power_near_one_over<T>(to) / power_near_one_over<T>(from);
  }
  // NaN for rows with an infinity or a NaN.
  template <class R>
  KX_FN static R value(State<R> s) {
    const R one = splat<R>(1);
    const R cosine = maximum(minimum(R(s.dot / square_root(R(s.pp * s.zz))), one), R(-one));
    const R defined = select(is_zero(s), R{}, R(-cosine));
    return select(s.pp + s.zz < splat<R>(infinity), defined, splat<R>(not_a_number));
  }
  template <class R>
  KX_FN static auto is_zero(State<R> s) {
    return (s.pp == R{}) | (s.zz == R{});
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{value(s)}};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    const R inverse = 1 / square_root(s.pp), loss = value(s);
    const R across = select(is_zero(s), loss, R(-inverse / square_root(s.zz)));
    const R along = select(is_zero(s), loss, R(-loss * inverse * inverse));
    return {power_near_one_over<T>(s.largest_p), power_near_one_over<T>(s.largest_z), along,
            select(loss == loss, across, loss)};
  }
  template <class R, class Row, class P, class Z>
  KX_FN auto each(const Done<R>& done, Row row, P p, Z z) const {
    using V = typename Row::Value;
    const V fp = row(done.scale_p), fz = row(done.scale_z);
    const V along = row(done.along), across = row(done.across);
    return [=, a = row(p), b = row(z)](auto i) {
      return V((along * (fp * a[i]) + across * (fz * b[i])) * fp);
    };
  }
};

// Half the sum of two of them, and their gradients.  (n),(n),(n),(n)->(),(n)?,(n)?
template <class T>
struct SimsiamLoss {
  using Half = NegativeCosine<T>;
  template <class R>
  struct State {
    typename Half::template State<R> first, second;
  };
  template <class R>
  struct Results {
    R out[1];
  };
  template <class R>
  struct Done {
    typename Half::template Done<R> first, second;
  };
  template <class Team, class X>
  KX_FN auto gather(const Team& team, X p1, X z2, X p2, X z1) const {
    const Half half;
    return State<typename Team::Result>{half.gather(team, p1, z2), half.gather(team, p2, z1)};
  }
  template <class R>
  KX_FN State<R> merge(const State<R>& a, const State<R>& b) const {
    return {Half{}.merge(a.first, b.first), Half{}.merge(a.second, b.second)};
  }
  template <class R>
  KX_FN Results<R> results(const State<R>& s) const {
    return {{(Half::value(s.first) + Half::value(s.second)) / 2}};
  }
  template <class R>
  KX_FN Done<R> finish(const State<R>& s) const {
    const R loss = results(s).out[0];
    return {halved(Half{}.finish(s.first), loss), halved(Half{}.finish(s.second), loss)};
  }
  template <class D, class R>
  KX_FN static D halved(D done, R loss) {
    done.along = select(loss == loss, R(done.along / 2), loss);  // a row is undefined throughout
    done.across = done.across / 2;
    return done;
  }
  template <class R, class Row, class X>
  KX_FN auto each(const Done<R>& done, Row row, X p1, X z2, X p2, X z1) const {
    using V = typename Row::Value;
    return [first = Half{}.each(done.first, row, p1, z2),
            second = Half{}.each(done.second, row, p2, z1)](auto i) {
      return Pair<V>{first(i), second(i)};
    };
  }
};

}  // namespace KX_ISA
}  // namespace kexue
