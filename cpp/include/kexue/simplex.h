// Optimising over the simplex (kexue.fm 10289): projection, Frank-Wolfe steps, the gap, and
// divergences of weights. One text for every CPU level and the GPU; the steps of a row function are
// described in reductions.h.
#pragma once

#include "argmax.h"
#include "divergences.h"
#include "eg.h"

namespace kexue {
inline namespace KX_ISA {

// The projection is max(x - tau, 0), x = v - max v.
template <class R>
struct Threshold {
  R top, tau;
  R undefined;  // NaN for rows without a projection, else 0

  template <class V>
  KX_FN static V below(V v, V top) {
    return select(v == top, V{}, V(v - top));
  }
};
// tau by Newton's method from below on sum max(x - tau, 0) = mass: the mean of what is above the
// last tau, less its share of the mass. With each step the excess or the number of entries above
// halves, so some 50 suffice at worst. Rows that are not `open` have theirs.
template <class Team, class X, class M>
KX_FN void raise_threshold(const Team& team, X values, typename Team::Result mass, M open,
                           Threshold<typename Team::Result>& found) {
  using V = typename Team::Value;
  using R = typename Team::Result;
  const R nan = splat<R>(not_a_number);
  for (bool first = true;; first = false) {
    auto s = team.template sum<2>([&](auto row) {
      return [v = row(values), top = V(row(found.top)), tau = V(row(found.tau))](auto i) {
        const V x = Threshold<V>::below(V(v[i]), top);
        const V other = select(x == x, V{}, splat<V>(not_a_number));
        return Sums<V, 2>{select(x > tau, x, other), select(x > tau, splat<V>(1), V{})};
      };
    });
    if (first) found.undefined = select(open & (s[0] != s[0]), nan, found.undefined);
    const R next = (s[0] - mass) / s[1];
    const auto moves = open & (next > found.tau);
    if (!any_of(moves)) return;
    found.tau = select(moves, next, found.tau);
  }
}
#if !defined(__CUDACC__)
// Entries above -mass are all that matter. Where a row has few of them, they are looked through
// instead of the row. Returns which rows have more.
template <class V, class R, class X>
KX_FN R few_above(const RowTeam<V, R>& team, X values, R mass, Threshold<R>& found) {
  constexpr int room = 1024;
  using Team = RowTeam<V, R>;
  using E = element_t<R>;
  double few[room + lanes<V>];
  E more[Team::most_rows] = {}, tau[Team::most_rows] = {}, undefined[Team::most_rows] = {};
  for (int j = 0; j < team.rows; ++j) {
    const auto below_top = [&](auto row) {
      return [v = row(values), top = V(row(found.top))](auto i) {
        return Threshold<V>::below(V(v[i]), top);
      };
    };
    const E own = lane(mass, j);
    const int count = team.above(j, -own, below_top, few, room);
    more[j] = count < 0;
    if (count < 0) continue;
    Threshold<R> of_few = {R{}, splat<R>(-own), R{}};
    const auto list = RowView<double, V, false>{reinterpret_cast<const char*>(few), 0};
    raise_threshold(Team{count, 1}, list, splat<R>(own), R{} == R{}, of_few);
    tau[j] = lane(of_few.tau, 0), undefined[j] = lane(of_few.undefined, 0);
  }
  const R open = load<R>(more);
  found.tau = select(open > R{}, found.tau, load<R>(tau));
  found.undefined = found.undefined + load<R>(undefined);
  return open;
}
#endif
template <class Team, class X, class R>
KX_FN R few_above(const Team&, X, R, Threshold<R>&) {
  return splat<R>(1);
}

template <class Team, class X>
KX_FN auto simplex_threshold(const Team& team, X values, typename Team::Result mass) {
  using V = typename Team::Value;
  using R = typename Team::Result;
  const R all = splat<R>(infinity), nan = splat<R>(not_a_number);
  Threshold<R> found;
  found.top = team.max([&](auto row) { return [v = row(values)](auto i) { return V(v[i]); }; });
  found.tau = -mass;
  const auto sound = (found.top > -all) & (mass >= R{}) & (mass < all);
  found.undefined = select(sound, R{}, nan);
  const R open = few_above(team, values, mass, found);
  if (team.any(open > R{})) raise_threshold(team, values, mass, open > R{}, found);
  return found;
}

// (n),()->(n), for rows that a team has before it as a whole
template <class T>
struct ProjectSimplex {
  using Term = double;
  template <class R>
  using State = Threshold<R>;

  template <class Team, class X>
  KX_FN auto gather(const Team& team, X values, typename Team::Result mass) const {
    return simplex_threshold(team, values, mass);
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R>) const {  // there is one
    return a;
  }
  template <class R>
  KX_FN State<R> finish(State<R> s) const {
    return s;
  }
  template <class R, class Row, class X>
  KX_FN auto each(const State<R>& done, Row row, X values, R) const {
    using V = typename Row::Value;
    return [v = row(values), top = V(row(done.top)), tau = V(row(done.tau)),
            undefined = V(row(done.undefined))](auto i) {
      const V x = Threshold<V>::below(V(v[i]), top);
      return V(select(x > tau, V(x - tau), V{}) + undefined);
    };
  }
};
// The same on a row in memory, which it replaces.
struct ProjectInMemory {
  template <class Team, class X>
  KX_FN void operator()(const Team& team, X row, double mass) const {
    using V = typename Team::Value;
    auto found = simplex_threshold(team, row, splat<typename Team::Result>(mass));
    const double top = lane(found.top, 0), tau = lane(found.tau, 0), nan = lane(found.undefined, 0);
    each(team, [=](auto i) {
      const V x = Threshold<V>::below(V(row[i]), splat<V>(top));
      row.set(i, V(select(x > splat<V>(tau), V(x - tau), V{}) + nan));
    });
  }
};

// s (g - sum s g / sum s), s = 1 where p > 0.  (n),(n)->(n)
template <class T>
struct ProjectSimplexVjp {
  using Term = double;
  template <class R>
  struct State {
    R sum, count;
  };
  template <class Team, class P, class G>
  KX_FN auto gather(const Team& team, P points, G slopes) const {
    using V = typename Team::Value;
    auto s = team.template sum<2>([&](auto row) {
      return [p = row(points), g = row(slopes)](auto i) {
        const V own = p[i], nothing = select(own == own, V{}, splat<V>(not_a_number));
        return Sums<V, 2>{select(own > V{}, V(g[i]), nothing), select(own > V{}, splat<V>(1), V{})};
      };
    });
    return State<typename Team::Result>{s[0], s[1]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {a.sum + b.sum, a.count + b.count};
  }
  template <class R>
  KX_FN R finish(State<R> s) const {
    return s.sum / maximum(s.count, splat<R>(1));
  }
  template <class R, class Row, class P, class G>
  KX_FN auto each(const R& mean, Row row, P points, G slopes) const {
    using V = typename Row::Value;
    return [p = row(points), g = row(slopes), mean = V(row(mean))](auto i) {
      const V nothing = select(mean == mean, V{}, mean);
      return select(V(p[i]) > V{}, V(V(g[i]) - mean), nothing);
    };
  }
};

// (1 - lr) p, plus lr for the first of the smallest g.  (n),(n),positions->(n)
template <class T>
struct FrankWolfeStep {
  using Term = double;
  double lr;
  template <class R>
  struct State {
    R least, position, undefined;
  };
  template <class Team, class P, class G, class I>
  KX_FN auto gather(const Team& team, P, G slopes, I positions) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const V none = splat<V>(-infinity);
    const R top =
        team.max([&](auto row) { return [g = row(slopes)](auto i) { return V(-V(g[i])); }; });
    const R before = team.max([&](auto row) {  // -position, of the first
      return [=, g = row(slopes), at = row(positions), top = V(row(top))](auto i) {
        return select(V(-V(g[i])) == top, V(-V(at[i])), none);
      };
    });
    auto s = team.template sum<1>([&](auto row) {
      return [g = row(slopes)](auto i) {
        const V own = g[i];
        return Sums<V, 1>{select(own == own, V{}, splat<V>(not_a_number))};
      };
    });
    return State<R>{R(-top), R(-before), s[0]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {minimum(a.least, b.least), select(b.least < a.least, b.position, a.position),
            a.undefined + b.undefined};
  }
  template <class R>
  KX_FN State<R> finish(State<R> s) const {
    return s;
  }
  template <class R, class Row, class P, class G, class I>
  KX_FN auto each(const State<R>& done, Row row, P points, G, I positions) const {
    using V = typename Row::Value;
    return [p = row(points), at = row(positions), vertex = V(row(done.position)),
            undefined = V(row(done.undefined)), lr = lr](auto i) {
      const V own = V(p[i]) * (1 - lr);
      return V(select(V(at[i]) == vertex, V(own + lr), own) + undefined);
    };
  }
};

// sum p (g - min g).  (n),(n)->()
template <class T>
struct SimplexGap {
  using Term = double;
  template <class R>
  struct State {
    R least, gap, weight;
  };
  template <class R>
  struct Results {
    R out[1];
  };
  template <class V>
  KX_FN static V rise(V g, V least) {
    return select(g == least, V{}, V(g - least));
  }
  template <class Team, class P, class G>
  KX_FN auto gather(const Team& team, P points, G slopes) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    const R least =
        R(-team.max([&](auto row) { return [g = row(slopes)](auto i) { return V(-V(g[i])); }; }));
    auto s = team.template sum<2>([&](auto row) {
      return [p = row(points), g = row(slopes), least = V(row(least))](auto i) {
        return Sums<V, 2>{times_or_zero(V(p[i]), rise(V(g[i]), least)), p[i]};
      };
    });
    return State<R>{least, s[0], s[1]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    const R least = minimum(a.least, b.least);
    return {least,
            a.gap + b.gap + times_or_zero(a.weight, rise(a.least, least)) +
                times_or_zero(b.weight, rise(b.least, least)),
            a.weight + b.weight};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{s.gap}};
  }
};

// p (g - sum p g).  (n),(n)->(n)
template <class T>
struct SoftmaxPullback {
  using Term = double;
  template <class R>
  struct State {
    R mean;
  };
  template <class Team, class P, class G>
  KX_FN auto gather(const Team& team, P points, G slopes) const {
    using V = typename Team::Value;
    auto s = team.template sum<1>([&](auto row) {
      return [p = row(points), g = row(slopes)](auto i) {
        return Sums<V, 1>{times_or_zero(V(p[i]), V(g[i]))};
      };
    });
    return State<typename Team::Result>{s[0]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {a.mean + b.mean};
  }
  template <class R>
  KX_FN R finish(State<R> s) const {
    return s.mean;
  }
  template <class R, class Row, class P, class G>
  KX_FN auto each(const R& mean, Row row, P points, G slopes) const {
    using V = typename Row::Value;
    return [p = row(points), g = row(slopes), mean = V(row(mean))](auto i) {
      const V own = p[i], slope = g[i];
      const auto nothing = (own == V{}) & (slope == slope) & (mean == mean);
      return select(nothing, V{}, V(own * (slope - mean)));
    };
  }
};

// sum p log(p / q), or with `unnormalized` sum p log(p / q) - p + q.  (n),(n)->()
template <class T>
struct BregmanKl {
  using Term = double;
  bool unnormalized;
  template <class R>
  struct State {
    R sum;
  };
  template <class R>
  struct Results {
    R out[1];
  };
  template <class V>
  KX_FN V term(V p, V q) const {
    const V all = splat<V>(infinity), change = (p - q) / q, ratio = p / q;
    const auto near = abs(change) <= splat<V>(0.5);
    const auto usual = (ratio > splat<V>(1e-300)) & (ratio < splat<V>(1e300));
    V delta = log1p(select(near, change, V(0 * change)));
    const V apart = log(select(usual, ratio, splat<V>(1)));
    delta = select(near, delta, select(usual, apart, V(log(p) - log(q))));
    V value;
    if (unnormalized) {
      value =
          select(abs(delta) < splat<V>(0.34),
                 V(p * (delta * delta * exp_tail(double{}, V(-delta)))), V(p * delta - (p - q)));
      value = select((q == V{}) | (p == all), all, value);
      value = select(p == V{}, q, value);
    } else {
      value = select(q == V{}, all, V(p * delta));
      value = select(p == V{}, V{}, value);
    }
    return select((p >= V{}) & (q >= V{}), value, splat<V>(not_a_number));
  }
  template <class Team, class P, class Q>
  KX_FN auto gather(const Team& team, P first, Q second) const {
    using V = typename Team::Value;
    auto s = team.template sum<1>([&](auto row) {
      return [fn = *this, p = row(first), q = row(second)](auto i) {
        return Sums<V, 1>{fn.term(V(p[i]), V(q[i]))};
      };
    });
    return State<typename Team::Result>{s[0]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {a.sum + b.sum};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{s.sum}};
  }
};

}  // namespace KX_ISA
}  // namespace kexue
