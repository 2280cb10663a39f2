// The kernels of exact attention on a GPU: from scores, products of queries and keys, to weights
// and slopes, a team of threads to a query. Matrix products between them are the caller's.
#pragma once

#include "../exact.h"
#include "cells.h"

namespace kexue {
inline namespace KX_ISA {

// Rows that products may read: zeros where one takes no part or is broken, not finite, which is
// noted.
template <class T>
struct ExactClean {
  enum { x, kept, clean, broken, operands };
  index e;
  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    const bool read = !op[kept] || op[kept].flag(0);
    const T zero = read ? team.total(e, [&](index i) { return T(op[x][i] * T(0)); }) : T(0);
    const bool good = read && zero == 0;
    team.each(e, [&](index i) { op[clean].set(i, good ? op[x][i] : T(0)); });
    if (team.lane == 0) op[broken].set(0, zero == 0 ? T(0) : T(1));
  }
};

// The score of the query at `row` and key j; -inf where it does not see the key, which is not read.
template <class T>
struct ExactScore {
  const Cell<T>&products, &mask, &bias;
  index row;
  T factor;
  Sight sight;
  KX_FN T operator()(index j) const {
    if (!sight.sees(row, j) || (mask && !mask.flag(j))) return T(-infinity);
    const T score = factor * products[j];
    return bias ? score + bias[j] : score;
  }
};

// Weights e^(S - max S) in the place of products, 1 / their sum, and log sum e^S.
template <class T>
struct ExactWeights {
  enum { products, row, scales, mask, bias, weights, inverse, lse, operands };
  index keys;
  T scale;
  Sight sight;
  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    const T factor = scale * op[scales].value_or(1);
    const ExactScore<T> score = {op[products], op[mask], op[bias], op[row].place(), factor, sight};
    const T top = team.largest(keys, score), shift = unit_of(top);
    const T mass = team.total(keys, [&](index j) {
      const T weight = exp_up_to(T(score(j) - shift));
      op[weights].set(j, weight);
      return weight;
    });
    if (team.lane > 0) return;
    op[inverse].set(0, mass == 0 ? T(0) : 1 / mass);
    op[lse].set(0, mass == 0 ? T(-infinity) : shift + log(mass));
  }
};

// P and dS of a query in the places of products q.k and g.v; a query that sees nothing is not read.
template <class T>
struct ExactSlopes {
  enum {
    products,
    changes,
    row,
    scales,
    mask,
    bias,
    lse,
    g,
    out,
    weights,
    slopes,
    dbias,
    operands
  };
  index keys, e;
  T scale;
  Sight sight;
  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    const T level = op[lse].value(), factor = scale * op[scales].value_or(1);
    const bool dead = level == T(-infinity);
    const ExactScore<T> score = {op[products], op[mask], op[bias], op[row].place(), factor, sight};
    const T delta = dead ? T(0) : team.total(e, [&](index i) { return T(op[g][i] * op[out][i]); });
    team.each(keys, [&](index j) {
      const T own = dead ? T(-infinity) : score(j);
      const T change = own == T(-infinity) ? T(0) : op[changes][j];
      const PairSlope<T> pair(own, level, change, delta);
      op[weights].set(j, pair.weight);
      op[slopes].set(j, pair.slope);
      if (op[dbias]) op[dbias].set(j, pair.slope);
    });
  }
};

// Ends sums of products with clean rows: adds those of broken rows that the reader at `row` sees,
// or `back`, that see it; times `factor`. `sources` are rows from `first` on. Where lse is -inf
// there is nothing.
template <class T>
struct ExactMend {
  enum { weights, values, broken, some, row, factor, lse, total, operands };
  index sources, e, first;
  bool back;
  Sight sight;
  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    const bool dead = op[lse] && op[lse].value() == T(-infinity), any = op[some].flag(0);
    const index own = op[row].place();
    const T by = op[factor].value_or(1);
    team.each(e, [&](index i) {
      T sum = op[total][i];
      for (index j = 0; any && j < sources; ++j) {
        if (op[broken][j] == 0) continue;
        if (!(back ? sight.sees(first + j, own) : sight.sees(own, first + j))) continue;
        sum += op[weights][j] * op[values](j, i);
      }
      op[total].set(i, dead ? T(0) : sum * by);
    });
  }
};

}  // namespace KX_ISA
}  // namespace kexue
