// The distribution of arg max under noise (kexue.fm 9085), and Gumbel-max and Gumbel-softmax
// (6705). One text for every CPU level and the GPU.
#pragma once

#include "erf.h"
#include "reductions.h"

namespace kexue {
inline namespace KX_ISA {

// --- Quadrature over whole rows ------------------------------------------------------------------
//
// With F the distribution function of the noise, f its density and h = f / F,
//   p_i = int f(y - mu_i) prod_{j != i} F(y - mu_j) dy = int prod F h_i dy,
//   g J = int prod F h_j (g_j sum(h) - sum(g h)) dy:
// a node y costs one sweep over the row for the product and one that adds to each entry. So the
// row stays where it is, as doubles in memory, and a function of whole rows takes a team (team.h)
// with two more verbs, each and product.

// A row of doubles that a team has to itself, with room for a register beyond its end, where the
// CPU keeps gaps of -inf.
KX_FN index room_for(index n) { return n + 8; }
template <class V>
struct Memory {
  double* data;
  KX_FN V operator[](index i) const { return load<V>(data + i); }
  KX_FN void set(index i, V value) const { store(data + i, value); }
#if !defined(__CUDACC__)
  KX_FN V operator[](Full at) const { return (*this)[at.i]; }
  KX_FN V operator[](Part at) const { return (*this)[at.i]; }
  KX_FN void set(Full at, V value) const { set(at.i, value); }
  KX_FN void set(Part at, V value) const { set(at.i, value); }
#endif
  template <class Row>
  KX_FN Memory of(Row) const {
    return *this;
  }
};

// K products, and what their values have lost by rounding, which n equal factors would add up.
template <class V, int K>
struct Factors {
  V value[K], rest[K];
  KX_FN static Factors none() {
    Factors f;
    for (int k = 0; k < K; ++k) f.value[k] = splat<V>(1), f.rest[k] = V{};
    return f;
  }
  KX_FN Factors times(const Factors& other) const {
    Factors f;
    KX_UNROLL
    for (int k = 0; k < K; ++k) {
      const Two<V> p = two_product(value[k], other.value[k]);
      f.value[k] = p.hi;
      f.rest[k] = rest[k] * other.value[k] + (value[k] * other.rest[k] + p.lo);
    }
    return f;
  }
  KX_FN V product(int k) const { return value[k] + rest[k]; }
};

constexpr int nodes_at_once = 8;

#if !defined(__CUDACC__)

template <class V, class F>
KX_FN void each(const RowTeam<V, double>& team, F f) {
  index i = 0;
  for (; i + lanes<V> <= team.n; i += lanes<V>) f(Full{i});
  if (i < team.n) f(Part{i, int(team.n - i)});
}
// Of all lanes.
template <class V, int K>
KX_FN Factors<double, K> folded(const Factors<V, K>& all) {
  if constexpr (lanes<V> == 1) {
    return all;
  } else {
    using H = Pack<double, lanes<V> / 2>;
    Factors<H, K> low, high;
    KX_UNROLL
    for (int k = 0; k < K; ++k) {
      H value[2], rest[2];
      __builtin_memcpy(value, &all.value[k], sizeof value);
      __builtin_memcpy(rest, &all.rest[k], sizeof rest);
      low.value[k] = value[0], high.value[k] = value[1];
      low.rest[k] = rest[0], high.rest[k] = rest[1];
    }
    return folded(low.times(high));
  }
}
template <class V, class F>
KX_FN auto product(const RowTeam<V, double>& team, F f) {
  auto all = Factors<V, nodes_at_once>::none();
  for (index i = 0; i < team.n; i += lanes<V>) all = all.times(f(Full{i}));
  return folded(all);
}

#endif

// fn on the first of its rows in memory and the others, each `apart` from the one before.
template <class V, class Fn, class Team>
KX_FN void on_memory(const Fn& fn, const Team& team, double* row, index apart) {
  if constexpr (Fn::rows == 2) {
    fn(team, Memory<V>{row}, Memory<V>{row + apart});
  } else {
    fn(team, Memory<V>{row}, Memory<V>{row + apart}, Memory<V>{row + 2 * apart});
  }
}

// Noises. prepare(gap) is what a row keeps of gap_i = mu_i - max mu; entries with gaps of -reach or
// less have p = 0. for_nodes calls f with some nodes at a time, `nodes_at_once` values y with
//   weight[k]     of the node
//   factor(x, k)  F(y - mu_i), and what it has lost by rounding in `rest`
//   hazard(x, k)  f(y - mu_i) / F(y - mu_i)

// Gauss-Legendre quadrature, exact for polynomials of degree 15.
struct LegendreNodes {
  double t[nodes_at_once], weight[nodes_at_once];
  KX_FN LegendreNodes(double start, double width) {
    constexpr double node[] = {0.019855071751231884, 0.10166676129318664, 0.2372337950418355,
                               0.4082826787521751};
    constexpr double share[] = {0.05061426814518813, 0.11119051722668724, 0.15685332293894363,
                                0.181341891689181};
    for (int k = 0; k < nodes_at_once; ++k) {
      t[k] = start + width * (k < 4 ? node[k] : 1 - node[7 - k]);
      weight[k] = width * share[k < 4 ? k : 7 - k];
    }
  }
};
// For a product of n - 1 factors 1 - c_j t, t in [0, length], sum(c_j) = rate. It falls like
// e^(-rate t) or faster: for large n panels up to t = 44 / rate leave an error of 2e-16.
template <class F>
KX_FN void for_legendre_nodes(index n, double rate, double length, F f) {
  constexpr double edge[] = {2, 4.5, 7.5, 11, 15.5, 21.5, 30, 44};
  if (n <= 16) return f(LegendreNodes(0, length));
  double start = 0;
  for (int panel = 0; panel < 8 && start < length; ++panel) {
    const double end = minimum(edge[panel] / rate, length);
    f(LegendreNodes(start, end - start));
    start = end;
  }
}

// Density e^-x for x >= 0. With v = e^-(y - max mu) and a = e^gap: F = 1 - a v, f dy = a dv, and
// p_i = a_i int_0^1 prod_{j != i} (1 - a_j v) dv.
struct ExponentialNoise {
  static constexpr double reach = infinity;

  template <class V>
  KX_FN static V prepare(V gap) {
    return exp_or_zero<double>(gap);
  }
  struct Batch : LegendreNodes {
    template <class V>
    KX_FN V factor(V a, int k, V& rest) const {
      const V share = a * t[k], value = 1 - share;
      rest = (1 - value) - share;
      return value;
    }
    template <class V>
    KX_FN V hazard(V a, int k) const {
      const V share = a * t[k];
      return share / (1 - share);
    }
  };
  template <class Team, class V, class F>
  KX_FN void for_nodes(const Team& team, Memory<V> row, F f) const {
    const double rate =
        team.template sum<1>([=](auto) { return [=](auto i) { return Sums<V, 1>{row[i]}; }; })[0];
    for_legendre_nodes(team.n, rate, 1, [&](const LegendreNodes& nodes) {
      Batch batch = {nodes};
      for (int k = 0; k < nodes_at_once; ++k) batch.weight[k] /= nodes.t[k];  // dy = dv / v
      f(batch);
    });
  }
};

// Density 1 on [0, 1]. With s = y - max mu: F = min(s - gap, 1), and p_i is an integral over s from
// 0 to 1 + gap_i. Between these breakpoints the product is a polynomial.
struct UniformNoise {
  static constexpr double reach = 1;

  template <class V>
  KX_FN static V prepare(V gap) {
    return gap;
  }
  template <class V>
  KX_FN static V breakpoint(V gap) {
    return at_least(V(1 + gap), V{});
  }
  struct Batch : LegendreNodes {
    double high;  // t is the distance below this breakpoint
    template <class V>
    KX_FN auto rises(V gap) const {
      return breakpoint(gap) >= splat<V>(high);
    }
    template <class V>
    KX_FN V factor(V gap, int k, V& rest) const {
      Two<V> value = two_sum(splat<V>(high - t[k]), V(-gap));
      const auto rising = rises(gap);
      rest = select(rising, value.lo, V{});
      return select(rising, value.hi, splat<V>(1));
    }
    template <class V>
    KX_FN V hazard(V gap, int k) const {
      return select(rises(gap), V(1 / ((high - t[k]) - gap)), V{});
    }
  };
  template <class Team, class V, class F>
  KX_FN void for_nodes(const Team& team, Memory<V> row, F f) const {
    for (double high = 1, low = 0; high > 0; high = low) {
      low = team.max([=](auto) {
        return [=](auto i) {
          const V end = breakpoint(V(row[i]));
          return select(end < splat<V>(high), end, V{});
        };
      });
      const double rate = team.template sum<1>([=](auto) {
        return [=](auto i) {
          const V gap = row[i];
          return Sums<V, 1>{select(breakpoint(gap) < splat<V>(high), V{}, V(1 / (high - gap)))};
        };
      })[0];
      for_legendre_nodes(team.n, rate, high - low,
                         [&](const LegendreNodes& nodes) { f(Batch{nodes, high}); });
    }
  }
};

// The trapezoid rule on one grid of y - max mu for all entries, from below the middle between the
// largest and the smallest to above the largest. The product rises the more steeply the more
// factors it has.
struct NormalNoise {
  static constexpr double reach = 55;  // p is below 1e-323 next to a single larger entry
  static constexpr double below = 6.5, above = 8.5;

  template <class V>
  KX_FN static V prepare(V gap) {
    return gap;
  }
  // The tail below -|t|: share e^(-t^2 / 2).
  template <class V>
  struct Tail {
    Decay<V> decay;
    V share;
    decltype(V{} > V{}) upper;  // t > 0: F is the rest
    KX_FN explicit Tail(V t) : upper(t > V{}) {
      const V size = minimum(V(abs(t)), splat<V>(normal_end<double>));
      decay = normal_decay(size);
      share = normal_share(size);
    }
  };
  struct Batch {
    double y[nodes_at_once], weight[nodes_at_once];
    template <class V>
    KX_FN V factor(V gap, int k, V& rest) const {
      const Tail<V> tail(V(y[k] - gap));
      const V below = tail.decay.scale(V(tail.decay.p * tail.share)), above = 1 - below;
      rest = select(tail.upper, V((1 - above) - below), V{});
      return select(tail.upper, above, below);
    }
    template <class V>
    KX_FN V hazard(V gap, int k) const {
      const Tail<V> tail(V(y[k] - gap));
      const V below = tail.decay.scale(V(tail.decay.p * tail.share));
      const V above = tail.decay.scale(tail.decay.p) / (1 - below);
      return 0.3989422804014327 * select(tail.upper, above, V(1 / tail.share));
    }
  };
  template <class Team, class V, class F>
  KX_FN void for_nodes(const Team& team, Memory<V> row, F f) const {
    const double lowest = team.max([=](auto) {
      return [=](auto i) {
        const V gap = row[i];
        return select(gap > splat<V>(-reach), V(-gap), V{});
      };
    });
    const int per_unit = team.n <= 8 ? 4 : team.n <= 256 ? 8 : team.n <= 1048576 ? 16 : 32;
    const double step = 1.0 / per_unit;
    const int last = int(above * per_unit);
    for (int at = -int((lowest / 2 + below) * per_unit); at <= last; at += nodes_at_once) {
      Batch batch;
      for (int k = 0; k < nodes_at_once; ++k) {
        batch.y[k] = (at + k) * step;
        batch.weight[k] = step;
      }
      f(batch);
    }
  }
};

// Products of F at some nodes with their weights.
struct Masses {
  double value[nodes_at_once];
};
template <class Team, class V, class Batch>
KX_FN Masses masses(const Team& team, Memory<V> row, const Batch& batch) {
  auto f = product(team, [&](auto i) {
    const V x = row[i];
    Factors<V, nodes_at_once> factors;
    KX_UNROLL
    for (int k = 0; k < nodes_at_once; ++k) {
      factors.value[k] = batch.factor(x, k, factors.rest[k]);
    }
    return factors;
  });
  Masses m;
  for (int k = 0; k < nodes_at_once; ++k) m.value[k] = f.product(k) * batch.weight[k];
  return m;
}

template <class Team, class V>
KX_FN bool has_nan(const Team& team, Memory<V> row) {
  const double count = team.template sum<1>([=](auto) {
    return [=](auto i) {
      const V x = row[i];
      return Sums<V, 1>{select(x == x, V{}, splat<V>(1))};
    };
  })[0];
  return count > 0;
}
template <class Team, class V>
KX_FN void fill(const Team& team, Memory<V> row, double value) {
  each(team, [=](auto i) { row.set(i, splat<V>(value)); });
}

// p in `out`. Where all entries but the largest are out of reach these share the mass.
template <class Noise>
struct ArgmaxDistribution {
  static constexpr int rows = 2;
  Noise noise;

  template <class Team, class V>
  KX_FN void operator()(const Team& team, Memory<V> row, Memory<V> out) const {
    if (has_nan(team, row)) return fill(team, out, not_a_number);
    const auto count = team.template sum<2>([=](auto) {
      return [=](auto i) {
        const V gap = row[i], one = splat<V>(1);
        const V near = select(gap > splat<V>(-Noise::reach), one, V{});
        return Sums<V, 2>{select(gap == V{}, one, V{}), select(gap == V{}, V{}, near)};
      };
    });
    const bool alone = count[1] == 0;
    each(team, [=](auto i) {
      const V gap = row[i];
      out.set(i, select((gap == V{}) & alone, splat<V>(1 / count[0]), V{}));
      row.set(i, Noise::prepare(gap));
    });
    if (alone) return;
    noise.for_nodes(team, row, [&](const auto& batch) {
      Masses mass = masses(team, row, batch);
      each(team, [&](auto i) {
        const V x = row[i];
        V sum = out[i];
        for (int k = 0; k < nodes_at_once; ++k) sum = sum + mass.value[k] * batch.hazard(x, k);
        out.set(i, sum);
      });
    });
  }
};

// g J / scale in `out`, with g centred on a largest entry, which keeps the accuracy of its own.
template <class Noise>
struct ArgmaxDistributionVjp {
  static constexpr int rows = 3;
  Noise noise;
  double scale;

  template <class Team, class V>
  KX_FN void operator()(const Team& team, Memory<V> row, Memory<V> g, Memory<V> out) const {
    constexpr int K = nodes_at_once;
    if (has_nan(team, row)) return fill(team, out, not_a_number);
    const double centre = team.max([=](auto) {
      return [=](auto i) { return select(row[i] == V{}, g[i], splat<V>(-infinity)); };
    });
    each(team, [=](auto i) {
      g.set(i, g[i] - centre);
      row.set(i, Noise::prepare(row[i]));
      out.set(i, V{});
    });
    noise.for_nodes(team, row, [&](const auto& batch) {
      Masses mass = masses(team, row, batch);
      auto sums = team.template sum<2 * K>([&](auto) {
        return [&](auto i) {
          const V x = row[i], own = g[i];
          Sums<V, 2 * K> s;
          KX_UNROLL
          for (int k = 0; k < K; ++k) {
            s.value[k] = batch.hazard(x, k);
            s.value[K + k] = own * s.value[k];
          }
          return s;
        };
      });
      each(team, [&](auto i) {
        const V x = row[i], own = g[i];
        V sum = out[i];
        for (int k = 0; k < K; ++k) {
          sum = sum + mass.value[k] * batch.hazard(x, k) * (own * sums[k] - sums[K + k]);
        }
        out.set(i, sum);
      });
    });
    each(team, [=, by = scale](auto i) { out.set(i, out[i] / by); });
  }
};

// (mu_i - max mu) / scale, 0 for ties, infinite ones too, NaN where there is no maximum.  (n)->(n)
template <class T>
struct Gaps {
  using Term = wide_t<T>;
  double scale;
  template <class R>
  struct State {
    R max;
  };
  template <class R>
  using Done = State<R>;
  template <class Team, class X>
  KX_FN auto gather(const Team& team, X x) const {
    return State<typename Team::Result>{
        team.max([&](auto row) { return [v = row(x)](auto i) { return v[i]; }; })};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    return {maximum(a.max, b.max)};
  }
  template <class R>
  KX_FN Done<R> finish(State<R> s) const {
    return {select(s.max == splat<R>(-infinity), splat<R>(not_a_number), s.max)};
  }
  template <class R, class Row, class X>
  KX_FN auto each(const Done<R>& done, Row row, X x) const {
    using V = typename Row::Value;
    const V m = row(done.max);
    return [v = row(x), m, by = element_t<V>(scale)](auto i) {
      return select(v[i] == m, V{}, V((v[i] - m) / by));
    };
  }
};

// A row as it is, in another place and type.  (n)->(n)
template <class T>
struct Copy {
  using Term = wide_t<T>;
  template <class R>
  struct State {
    R nothing;
  };
  template <class Team, class X>
  KX_FN auto gather(const Team&, X) const {
    return State<typename Team::Result>{};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R>) const {
    return a;
  }
  template <class R>
  KX_FN State<R> finish(State<R> s) const {
    return s;
  }
  template <class R, class Row, class X>
  KX_FN auto each(const State<R>&, Row row, X x) const {
    return [v = row(x)](auto i) { return v[i]; };
  }
};

// --- Gumbel ------------------------------------------------------------------------------------

// -log(draw), a draw of 0 counting as the smallest number.  ()->()
template <class T>
struct GumbelNoise {
  template <class R>
  struct State {
    R draw;
  };
  template <class R>
  struct Results {
    R out[1];
  };
  template <class Team>
  KX_FN auto gather(const Team&, typename Team::Result draw) const {
    return State<typename Team::Result>{draw};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R>) const {
    return a;
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    return {{-log(at_least(s.draw, splat<R>(5e-324)))}};
  }
};

// Position, logit and noise of the first maximum of logits + gumbel; position -1 for rows that are
// all -inf or have NaN. A logit of -inf never wins.  (n),(n),positions->(),(),()
template <class T>
struct GumbelMax {
  template <class R>
  struct State {
    R max, position, logit, noise, undefined;
  };
  template <class R>
  struct Results {
    R out[3];
  };
  template <class V>
  KX_FN static V sum(V logit, V noise) {
    return select(logit == splat<V>(-infinity), logit, V(logit + noise));
  }
  template <class Team, class X, class G, class I>
  KX_FN auto gather(const Team& team, X logits, G gumbel, I positions) const {
    using V = typename Team::Value;
    using R = typename Team::Result;
    auto top = team.template top<2>([&](auto row) {
      return [l = row(logits), e = row(gumbel)](auto i) {
        return Top<V, 2>{sum(V(l[i]), V(e[i])), {l[i], e[i]}};
      };
    });
    const R before = team.max([&](auto row) {  // -position, of the first
      const V max = row(top.key);
      return [=, l = row(logits), e = row(gumbel), at = row(positions)](auto i) {
        return select(sum(V(l[i]), V(e[i])) == max, V(-at[i]), splat<V>(-infinity));
      };
    });
    const auto undefined = team.template sum<1>([&](auto row) {
      return [l = row(logits), e = row(gumbel)](auto i) {
        const V own = sum(V(l[i]), V(e[i]));
        return Sums<V, 1>{select(own == own, V{}, splat<V>(1))};
      };
    });
    return State<R>{top.key, -before, top.beside[0], top.beside[1], undefined[0]};
  }
  template <class R>
  KX_FN State<R> merge(State<R> a, State<R> b) const {
    const auto b_leads = b.max > a.max;
    return {maximum(a.max, b.max), select(b_leads, b.position, a.position),
            select(b_leads, b.logit, a.logit), select(b_leads, b.noise, a.noise),
            a.undefined + b.undefined};
  }
  template <class R>
  KX_FN Results<R> results(State<R> s) const {
    auto found = (s.undefined == R{}) & (s.max > splat<R>(-infinity));
    return {{select(found, s.position, splat<R>(-1)), s.logit, s.noise}};
  }
};

// Differences of logits + gumbel to their largest, the sum of `logit` and `noise`, without the
// rounding of the sums.
template <class X, class G, class R>
struct Perturbed {
  X logits;
  G gumbel;
  R logit, noise;
  template <class Row>
  KX_FN auto of(Row row) const {
    using V = typename Row::Value;
    return Perturbed<Plain<decltype(row(logits))>, Plain<decltype(row(gumbel))>, V>{
        row(logits), row(gumbel), row(logit), row(noise)};
  }
  template <class I>
  KX_FN R operator[](I i) const {
    const R l = logits[i], e = gumbel[i], own = GumbelMax<double>::sum(l, e), top = logit + noise;
    const R all = splat<R>(infinity);
    const auto infinite = (abs(own) == all) | (abs(top) == all);
    const R limit = select((own == top) & (l > -all), R{}, select(own == own, -all, own));
    return select(infinite, limit, R((l - logit) + (e - noise)));
  }
};

template <class X, class G, class R>
KX_FN Perturbed<X, G, R> perturbed(X logits, G gumbel, R logit, R noise) {
  return {logits, gumbel, logit, noise};
}

// softmax(scale (logits + gumbel)), given what GumbelMax finds, and its gradient.
// (n),(n),(),(),()->(n)
template <class T>
struct GumbelSoftmax : ScaledSoftmax<T> {
  using Base = ScaledSoftmax<T>;
  template <class Team, class X, class G, class R>
  KX_FN auto gather(const Team& team, X logits, G gumbel, R logit, R noise, R scale) const {
    return Base::gather(team, perturbed(logits, gumbel, logit, noise), Everything{}, scale);
  }
  template <class Done, class Row, class X, class G, class R>
  KX_FN auto each(const Done& done, Row row, X logits, G gumbel, R logit, R noise, R scale) const {
    return Base::each(done, row, perturbed(logits, gumbel, logit, noise), Everything{}, scale);
  }
};
// (n),(n),(n),(),(),()->(n)
template <class T>
struct GumbelSoftmaxVjp : SoftmaxVjp<T> {
  using Base = SoftmaxVjp<T>;
  template <class Team, class X, class G, class C, class R>
  KX_FN auto gather(const Team& team, X logits, G gumbel, C g, R logit, R noise, R scale) const {
    return Base::gather(team, perturbed(logits, gumbel, logit, noise), g, Everything{}, scale);
  }
  template <class Done, class Row, class X, class G, class C, class R>
  KX_FN auto each(const Done& done, Row row, X logits, G gumbel, C g, R logit, R noise,
                  R scale) const {
    return Base::each(done, row, perturbed(logits, gumbel, logit, noise), g, Everything{}, scale);
  }
};

}  // namespace KX_ISA
}  // namespace kexue
