// The kernels of linear attention on a GPU: a team of threads on a row of features, on a chunk of
// the sequence or on a feature's way along it. Matrix products between them are the caller's.
//
// A chunk's sources are in units e^end, `end` the largest logarithm of each feature so far. Where
// that rises so far within a chunk that earlier readers would lose everything, the chunk is marked:
// its readers get units of their own and sum in pairs, each exponent formed as a whole.
#pragma once

#include "../erf.h"
#include "../linear.h"
#include "cells.h"

namespace kexue {
inline namespace KX_ISA {

constexpr int rises = 1, broken = 2;  // marks of a chunk: see above; numbers that are not finite

// Features of a row of inputs, of which `u` is the product with the projection. Maps with
// logarithms give `log`, others `sign`, and `unit` one logarithm for all features of the row.
template <class T>
struct LinearFeatures {
  enum { x, u, bias, weight, shift, sign, log, unit, operands };
  int kind;
  index d, f;
  T scale, eps, root;

  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    const T own = op[weight].value_or(1);
    T base = op[shift].value_or(0);
    const auto in = [&](index j) { return T(scale * op[x][j]); };
    if (own == 0) {  // takes no part, and is not read
      if (op[sign]) team.each(f, [&](index t) { op[sign].set(t, 0); });
      if (op[log]) team.each(f, [&](index t) { op[log].set(t, T(-infinity)); });
      if (op[unit] && team.lane == 0) op[unit].set(0, T(-infinity));
      return;
    }
    if (kind == affine || kind == trigonometric) {
      const T half = team.total(d, [&](index j) { return T(T(0.5) * in(j) * in(j)); });
      base = kind == affine ? base - half : base + half;
    }
    if (!is_log(kind)) {
      if (op[unit] && team.lane == 0) op[unit].set(0, base);
      plain(team, op, own, in);
      return;
    }
    if (own != 1) base += kexue::log(own);
    if (kind == affine) {
      team.each(f, [&](index t) { op[log].set(t, op[u][t] * scale + (op[bias][t] + base)); });
      return;
    }
    if (kind == softmax_d) {
      const T top = unit_of(team.largest(d, in));
      base -= top + kexue::log(team.total(d, [&](index j) { return exp_up_to(T(in(j) - top)); }));
    }
    team.each(f, [&](index t) { op[log].set(t, single_feature(kind, in(t), eps) + base); });
  }

 private:
  template <class Team, class In>
  KX_FN void plain(const Team& team, const Cell<T>* op, T own, In in) const {
    const auto set = [&](index t, T value) { op[sign].set(t, value * own); };
    if (kind == trigonometric) {
      team.each(f, [&](index t) { set(t, op[u][t] * root); });
    } else if (kind == random_relu) {
      team.each(f, [&](index t) { set(t, single_feature(kind, T(scale * op[u][t]), eps) * root); });
    } else if (kind == cosine) {
      const T top = team.largest(d, [&](index j) { return abs(in(j)); });
      const T squares = team.total(d, [&](index j) {
        const T part = top == 0 ? T(0) : in(j) / top;
        return T(part * part);
      });
      const T norm = top * square_root(squares);
      team.each(f, [&](index t) { set(t, t == 0 ? T(1) : norm == 0 ? T(0) : in(t - 1) / norm); });
    } else if (kind == taylor2) {
      team.each(1 + d, [&](index t) { set(t, t == 0 ? T(1) : in(t - 1)); });
      for (index a = 0, first = 1 + d; a < d; first += d - a, ++a) {
        team.each(d - a,
                  [&](index j) { set(first + j, pair_weight<T>(j == 0) * in(a) * in(a + j)); });
      }
    } else {
      team.each(f, [&](index t) { set(t, single_feature(kind, in(t), eps)); });
    }
  }
};

// sign e^(log - unit) of a row.
template <class T>
struct LinearSettle {
  enum { log, sign, unit, out, operands };
  index f;
  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    team.each(f, [&](index t) {
      const T by =
          op[unit] ? exp_up_to(T(op[log][t] - unit_of(op[unit][t]))) : exp_anywhere(op[log][t]);
      op[out].set(t, op[sign] ? op[sign][t] * by : by);
    });
  }
};

// The largest logarithm of a feature in a chunk; a nan stays with its row. A thread to a feature.
template <class T>
struct LinearPeaks {
  enum { log, out, operands };
  index rows;
  template <class Team>
  KX_FN void operator()(const Team&, const Cell<T>* op, index) const {
    T top = T(-infinity);
    for (index j = 0; j < rows; ++j) {
      const T x = op[log][j];
      top = x > top ? x : top;
    }
    op[out].set(0, top);
  }
};

// A feature's unit before and after each chunk; between chunks it moves by `moves`, as the sums of
// decays do that it refers to.
template <class T>
struct LinearUnits {
  enum { first, peaks, moves, start, end, operands };
  index chunks;
  template <class Team>
  KX_FN void operator()(const Team&, const Cell<T>* op, index) const {
    T c = op[first].value();
    for (index k = 0; k < chunks; ++k) {
      if (op[moves]) c += op[moves][k];
      op[start].set(k, c);
      const T top = op[peaks][k];
      c = top > c ? top : c;
      op[end].set(k, c);
    }
  }
};

// log z of each row of a chunk: of what its state has, and of sources up to its own row. A thread
// to a feature.
template <class T>
struct LinearMasses {
  enum { z, unit, keys, out, operands };
  index rows;
  template <class Team>
  KX_FN void operator()(const Team&, const Cell<T>* op, index) const {
    T sum = op[z].value(), c = sum == 0 ? T(-infinity) : op[unit].value();
    for (index j = 0; j < rows; ++j) {
      const T a = op[keys] ? op[keys][j] : T(-infinity);
      if (a > c) {
        sum = sum * exp_up_to(T(c - a)) + exp_up_to(T(a - a));
        c = a;
      } else if (op[keys]) {
        sum += exp_up_to(T(a - unit_of(c)));
      }
      op[out].set(j, unit_of(c) + log(sum));
    }
  }
};

// Marks a chunk, and says in which unit its first state is kept.
template <class T>
struct LinearMarks {
  enum { start, end, sign, log, values, mark, unit, operands };
  index f, rows, e;
  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    int own = 0;
    team.each(f, [&](index t) {
      const T first = op[log](0, t), start_t = op[start][t];
      if (spreads(first > start_t ? first : start_t, op[end][t])) own |= rises;
      T zero = 0;
      for (index j = 0; j < rows; ++j) {
        const T a = op[log](j, t);
        if (!(a < T(infinity))) own |= broken;
        if (op[sign]) zero += op[sign](j, t) * T(0);
      }
      if (zero != 0) own |= broken;
    });
    team.each(e, [&](index i) {
      T zero = 0;
      for (index j = 0; j < rows; ++j) zero += op[values](j, i) * T(0);
      if (zero != 0) own |= broken;
    });
    own = team.combine(own, team.size, [](int a, int b) { return a | b; });
    team.each(f, [&](index t) { op[unit].set(t, own & rises ? op[start][t] : op[end][t]); });
    if (team.lane == 0) op[mark].set(0, T(own));
  }
};

// A feature's states: what chunks add becomes what their readers begin with, in units e^unit.
template <class T>
struct LinearStates {
  enum { first, start, end, unit, states, last, operands };
  index chunks, e;
  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    team.each(e, [&](index i) {
      T s = op[first][i];
      for (index k = 0; k < chunks; ++k) {
        const T added = op[states](k, i), c = op[start][k];
        op[states].set(k, i, fading(c, op[unit][k]) * s);
        s = fading(c, op[end][k]) * s + added;
      }
      op[last].set(i, s);
    });
  }
  KX_FN static T fading(T from, T to) {
    return from == to ? T(1) : from == T(-infinity) ? T(0) : exp_up_to(T(from - to));
  }
};

// Features of a reader relative to e^top, top = max (log + unit) of what it sees.
template <class T>
struct LinearReaders {
  enum { log, sign, unit, end, mark, row, keys, phi, top, operands };
  index f;
  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    const bool rising = op[mark].mark() & rises;
    const index seen = rising ? index(op[row].value()) : 0;
    const T most = unit_of(team.largest(f, [&](index t) {
      T c = op[rising ? unit : end][t];
      for (index j = 0; rising && j <= seen; ++j) {
        const T a = op[keys](j, t);
        c = a > c ? a : c;
      }
      return T(op[log][t] + c);
    }));
    team.each(f, [&](index t) {
      const T by = exp_up_to(T(op[log][t] + op[unit][t] - most));
      op[phi].set(t, op[sign] ? op[sign][t] * by : by);
    });
    if (team.lane == 0) op[top].set(0, most);
  }
};

// Within a chunk a reader sees the sources up to its own row. `scores` are products of features
// or, without `log`, of values.
template <class T>
struct LinearScores {
  enum { row, sign, log, top, keys_sign, keys, mark, scores, operands };
  index f, rows;
  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    const index own = index(op[row].value());
    const bool rising = op[mark].mark() & rises;
    team.each(rows, [&](index j) {
      if (j > own) {
        op[scores].set(j, 0);
      } else if (rising) {
        T sum = 0;
        for (index t = 0; t < f; ++t) {
          T term = exp_up_to(T(op[log][t] + op[keys](j, t) - op[top].value()));
          if (op[sign]) term *= op[sign][t] * op[keys_sign](j, t);
          sum += term;
        }
        op[scores].set(j, sum);
      }
    });
  }
};

// In a broken chunk products with 0 are not 0: sums over what a reader sees, anew.
template <class T>
struct LinearMend {
  enum { phi, states, scores, values, mark, row, total, operands };
  index f, e;
  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    if (!(op[mark].mark() & broken)) return;
    const index own = index(op[row].value());
    team.each(e, [&](index i) {
      T sum = 0;
      for (index t = 0; t < f; ++t) sum += op[phi][t] * op[states](t, i);
      for (index j = 0; j <= own; ++j) sum += op[scores][j] * op[values](j, i);
      op[total].set(i, sum);
    });
  }
};

// From sums and denominators, which follow them, to results; for gradients also 1 / denominator
// and g / denominator followed by its product with the result. A row that is dead is not read.
template <class T>
struct LinearFinish {
  enum { total, top, dead, g, out, inverse, shares, operands };
  int kind;
  bool normalize;
  index v, e;
  T eps;
  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    const bool nothing = op[dead].mark();
    const T factor =
        nothing ? T(0) : row_factor(kind, normalize, op[total][v], op[top].value(), eps);
    const T share = nothing ? T(0) : normalize ? factor : T(1);
    const auto result = [&](index i) { return factor == 0 ? T(0) : op[total][i] * factor; };
    const auto slope = [&](index i) { return share == 0 ? T(0) : op[g][i] * share; };
    if (op[out]) team.each(v, [&](index i) { op[out].set(i, result(i)); });
    if (!op[shares]) return;
    const T delta = team.total(v, [&](index i) { return T(slope(i) * result(i)); });
    team.each(e, [&](index i) {
      op[shares].set(i, i < v ? slope(i) : i == v && normalize ? T(-delta) : T(0));
    });
    if (team.lane == 0) op[inverse].set(0, share);
  }
};

// e^(log + unit) times what a reader's sums give: the gradient for its logarithms, or features.
template <class T>
struct LinearSlopes {
  enum {
    log,
    unit,
    shares,
    states,
    pairs,
    keys_sign,
    keys,
    tails,
    mark,
    row,
    dead,
    slope,
    operands
  };
  index f, e;
  template <class Team>
  KX_FN void operator()(const Team& team, const Cell<T>* op, index) const {
    const int own = op[mark].mark();
    const index seen = own ? index(op[row].value()) : 0;
    const bool nothing = op[dead].mark();
    team.each(f, [&](index t) {
      const T b = op[log][t], by = b + op[unit][t];
      if (nothing || b == T(-infinity)) {
        op[slope].set(t, 0);
        return;
      }
      if (own == 0) {
        op[slope].set(t, op[slope][t] * exp_anywhere(by));
        return;
      }
      T sum = 0;
      for (index i = 0; i < e; ++i) sum += op[shares][i] * op[states](t, i);
      sum *= exp_anywhere(by);
      for (index j = 0; j <= seen; ++j) {
        const T pair = op[tails] ? op[pairs][j] + op[tails](j, t) : op[pairs][j];
        const T term = pair * exp_anywhere(T(b + op[keys](j, t)));
        sum += op[keys_sign] ? term * op[keys_sign](j, t) : term;
      }
      op[slope].set(t, sum);
    });
  }
};

// One key and one query of a head, whose state is contiguous: a block of threads goes over it once.
template <class E, class T>
struct LinearStep {
  enum { q, k, v, projection, bias, weight, decay, out, c, s, z, operands };
  static constexpr bool crowded = true;
  int kind;
  bool normalize;
  index d, f, e;
  T scale, eps, below;
  Plan plan;
  Array op[operands];
  index pitch;  // of the projection
  T* memory;

  KX_FN static index room(index f, int threads) { return 3 * f + threads; }
  KX_FN index jobs() const { return plan.rows; }
  KX_FN void operator()(index row, Slots* slots) const {
    ElementCursor<operands> place = {op, {}};
    go_to(plan, row, place);
    const CellTeam<T> team(0, plan.size, slots);
    T *const a = memory + row * room(f, plan.size), *const b = a + f, *const fade = b + f,
             *const part = fade + f;
    const auto number = [&](int which, T missing) {
      return op[which].data ? load<T>(place[which]) : missing;
    };
    const auto in = [&](int which, index j) {
      return load_element<E, T>(place[which] + j * op[which].step);
    };
    const T own = number(weight, 1), by = number(decay, 0);
    T *const unit = state(place, c), *const sums = state(place, s), *const mass = state(place, z);
    const T key_half = half(team, own == 0, [&](index j) { return in(k, j); });
    const T query_half = half(team, false, [&](index j) { return in(q, j); });
    const T log_own = own == 1 ? T(0) : log(own);
    T top = T(-infinity);
    team.each(f, [&](index t) {
      T key = 0, query = 0;
      if (kind == affine) {
        for (index j = 0; j < d; ++j) {
          const T w = load<T>(op[projection].data + t * pitch + j * op[projection].step) * scale;
          if (own != 0) key += w * in(k, j);
          query += w * in(q, j);
        }
        const T constant = load<T>(op[bias].data + t * op[bias].step);
        key += constant - key_half;
        query += constant - query_half;
      } else {
        if (own != 0) key = single_feature(kind, T(scale * in(k, t)), eps);
        query = single_feature(kind, T(scale * in(q, t)), eps);
      }
      if (is_log(kind)) {
        const StepLogs<T> logs(own == 0 ? T(-infinity) : key + log_own, query, unit[t] + by);
        unit[t] = logs.c;
        a[t] = exp_up_to(logs.key);
        fade[t] = exp_up_to(logs.fade);
        b[t] = logs.query;
        top = b[t] > top || b[t] != b[t] ? b[t] : top;
      } else {
        a[t] = own == 0 ? T(0) : key * own;
        fade[t] = exp_anywhere(by);
        b[t] = query;
      }
    });
    top = team.combine(top, team.size, [](T x, T y) { return y > x || y != y ? y : x; });
    top = is_log(kind) ? unit_of(top) : T(0);
    const T amount = team.total(f, [&](index t) {
      if (is_log(kind)) b[t] = exp_up_to(T(b[t] - top));
      mass[t] = fade[t] * mass[t] + a[t];
      return b[t] * mass[t];
    });
    const T factor = row_factor(kind, normalize, amount, top, below);
    int width = 1;  // threads side by side on a feature's values
    while (width < team.size && width < e) width *= 2;
    const index groups = team.size / width;
    sync_block();
    for (index first = 0; first < e; first += width) {
      const index i = first + team.lane % width;
      T sum = 0;
      if (i < e) {
        const T value = own == 0 ? T(0) : in(v, i);
        for (index t = team.lane / width; t < f; t += groups) {
          T& at = sums[t * e + i];
          at = fade[t] * at + a[t] * value;
          sum += b[t] * at;
        }
      }
      part[team.lane] = sum;
      sync_block();
      if (team.lane < width && i < e) {
        for (index g = 1; g < groups; ++g) sum += part[g * width + team.lane];
        store_element<E, T>(place[out] + i * op[out].step, factor == 0 ? T(0) : sum * factor);
      }
      sync_block();
    }
  }

 private:
  KX_FN static T* state(const ElementCursor<operands>& place, int which) {
    return reinterpret_cast<T*>(place[which]);
  }
  template <class X>
  KX_FN T half(const CellTeam<T>& team, bool absent, X x) const {
    if (kind != affine || absent) return 0;
    return team.total(d, [&](index j) {
      const T a = scale * x(j);
      return T(T(0.5) * a * a);
    });
  }
};

}  // namespace KX_ISA
}  // namespace kexue
