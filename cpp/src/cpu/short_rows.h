// The multi-label loss of short rows that lie one behind the other. Terms that need no shift do not
// depend on their row: they are worked out along memory, with no register half empty, then added up
// row by row. A row that needs a shift is one for MultilabelGradient.
#pragma once

#include "flat_rows.h"
#include "targets.h"

namespace kexue {
inline namespace KX_ISA {

template <class T, class C>
class ShortRows {
  static constexpr int width = register_bytes / int(sizeof(T));
  static constexpr int most_rows = register_bytes / int(sizeof(wide_t<T>));
  using V = Pack<T, width>;
  using R = Pack<wide_t<T>, most_rows>;
  using In = Readers<V, R, Vector<T>, C>;
  struct Terms {
    alignas(64) T negative[batch_size + width], positive[batch_size + width];
  };

 public:
  ShortRows(const Call& call, const Operand& x, C targets, const Operand& threshold,
            const Operand* out)
      : call_(call), x_(x), targets_(targets), threshold_(threshold), loss_(out[0]), grad_(out[1]) {
    streams_ = grad_.data && call.rows * call.n * index(sizeof(T)) >= stream_bytes;
  }

  // Whether the rows are of this kind.
  bool fit() const {
    return call_.dims == 1 && call_.rows >= 4 && call_.n > 0 && call_.n <= flat_row &&
           is_flat(x_, call_) && is_flat(targets_.op, call_) &&
           (!grad_.data || is_flat(grad_, call_));
  }
  // Returns how many are invalid.
  long long run() {
    long long invalid = 0;
    const auto make = [&] { return In(call_, Vector<T>{x_}, targets_); };
    for_tiles(call_, streams_, make, [&](In& in, index r0, int count) {
      const long long found = tile(in, r0, count);
      if (found) __atomic_fetch_add(&invalid, found, __ATOMIC_RELAXED);
    });
    return invalid;
  }

 private:
  const Call& call_;
  const Operand& x_;
  const C targets_;
  const Operand &threshold_, &loss_, &grad_;
  bool streams_;

  KX_NOINLINE long long tile(In& in, index r0, int count) const {
    const index n = call_.n;
    Terms terms;
    bool odd[tile_rows] = {};
    const auto work_out = [&](index begin, index end) {
      return in.with_blocks(0, count * int(n), [&](auto x, auto t) {
        const RowOf<V> row = {0};
        return work_out_terms(x.of(row), t.of(row), begin, end, terms);
      });
    };
    in.rows(r0, 1);
    if (!work_out(0, count * n)) {
      for (int j = 0; j < count; ++j) odd[j] = !work_out(j * n, (j + 1) * n);
    }
    Reader<PerRow<T>, V, R> threshold(PerRow<T>{threshold_}, call_);
    threshold.tile(r0, count, 0, 1);
    alignas(64) wide_t<T> loss[tile_rows], part[2][tile_rows];  // sums, then factors
    for (int g = 0; g < count; g += most_rows) {
      const int some = count - g < most_rows ? count - g : most_rows;
      store(part[0] + g, sums_of_rows<R>(terms.negative + g * n, n, some));
      store(part[1] + g, sums_of_rows<R>(terms.positive + g * n, n, some));
    }
    R held{};                                  // a threshold, mostly that of all rows
    Both<R> one = {splat<R>(1), splat<R>(1)};  // the powers e^-held and e^held
    for (int g = 0; g < count; g += most_rows) {
      const R given = threshold.group(g / most_rows);
      const auto near = near_threshold(given);
      const R s0 = select(near, given, R{});
      if (any_of(s0 != held)) held = s0, one = exp_both(R(-s0));
      if (any_of(!near)) {
        for (int j = g; j < count && j < g + most_rows; ++j) odd[j] |= near[j - g] == 0;
      }
      NearLoss<T, R> rows(load<R>(part[0] + g), load<R>(part[1] + g), one);
      store(loss + g, rows.value());
      if (grad_.data) {
        Both<R> by = rows.factor();
        store(part[0] + g, by.negative);
        store(part[1] + g, by.positive);
      }
    }
    alignas(64) T grad[batch_size + width];
    long long invalid = 0;
    for (int j = 0; j < count; ++j) {  // what a row writes behind its end the next one replaces
      T* const to = grad_.data ? grad + j * n : nullptr;
      if (odd[j]) {
        in.rows(r0 + j, 1);
        invalid += alone(in, splat<R>(threshold.values[j]), loss[j], to);
      } else if (to) {
        const Two<V> a = in_two(part[0][j]), b = in_two(part[1][j]);
        for (index i = 0; i < n; i += width) {
          const V p = load<V>(terms.negative + j * n + i), q = load<V>(terms.positive + j * n + i);
          store(to + i, V(product_and(p, a.hi, V(p * a.lo)) - product_and(q, b.hi, V(q * b.lo))));
        }
      }
    }
    for (int g = 0; g < count; g += most_rows) {
      const int some = count - g < most_rows ? count - g : most_rows;
      store_scalars<T>(loss_, call_, r0 + g, some, load<R>(loss + g));
    }
    if (grad_.data) {
      dispatch<T>(call_.dtype, [&](auto stored) {
        scatter_run<decltype(stored)>(grad_.data + r0 * grad_.stride[0], grad_.step, grad,
                                      count * int(n), streams_);
      });
    }
    return invalid;
  }
  // From begin to end, which may spill behind. Returns whether all terms are in order.
  template <class X, class Y>
  static bool work_out_terms(X x, Y targets, index begin, index end, Terms& terms) {
    V odd{};
    along<width>(begin, end, [&](auto at) {
      const V score = x[at];
      const auto target = targets[at];
      Both<V> term = near_terms<V>(target, score);
      odd = odd + is_odd<T, V>(target, score);
      store(terms.negative + at.i, term.negative);
      store(terms.positive + at.i, term.positive);
    });
    return fold_lanes(odd, [](auto a, auto b) { return a + b; }) == 0;
  }
  // A row by the general way. Returns whether it is invalid.
  KX_NOINLINE bool alone(In& in, R threshold, wide_t<T>& loss, T* grad) const {
    const int n = int(call_.n);
    return in.with_blocks(0, n, [&](auto x, auto t) {
      const MultilabelGradient<T> fn;
      const auto state =
          gather_block<V, R>(fn, 1, n, Kept<T>{nullptr, 0}, x, t, Everything{}, threshold);
      const auto results = fn.results(state);
      loss = lane(results.out[0], 0);
      if (grad) {
        auto step = fn.each(fn.finish(state), RowOf<V>{0}, x, t, Everything{}, threshold);
        along<width>(0, n, [&](auto at) { store(grad + at.i, step(at)); });
      }
      return lane(results.invalid, 0) != 0;
    });
  }
  static Two<V> in_two(wide_t<T> x) {
    const T hi = static_cast<T>(x);
    return {splat<V>(hi), splat<V>(static_cast<T>(x - hi))};
  }
};

// Row functions, functors, and short rows.
class MultilabelEngine : public LossEngine {
 public:
  explicit MultilabelEngine(const Call& call) : LossEngine(call), call_(call) {}
  // Losses, and gradients if wanted, if the rows are short ones; else false.
  template <class T, class C>
  bool short_rows(const Operand& x, C targets, const Operand& threshold, const Operand* out,
                  long long& invalid) {
    ShortRows<T, C> rows(call_, x, targets, threshold, out);
    if (!rows.fit()) return false;
    invalid = rows.run();
    return true;
  }

 private:
  const Call& call_;
};

}  // namespace KX_ISA
}  // namespace kexue
