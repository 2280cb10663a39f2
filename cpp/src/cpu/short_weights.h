// Exponentiated gradient of short rows that lie one behind the other, with one rate for all of the
// last axis. Terms that need no pivot do not depend on their row: they are formed along memory,
// with no register half empty, then added up row by row. A row that needs a pivot goes the general
// way.
#pragma once

#include "flat_rows.h"
#include "kexue/eg.h"
#include "targets.h"

namespace kexue {
inline namespace KX_ISA {

// G and Mass: how gradients and the mass are given.
template <class T, class G, class Mass>
class ShortWeights {
  static constexpr int width = register_bytes / int(sizeof(double));
  using V = Pack<double, width>;
  using In = Readers<V, V, Vector<T>, G>;
  using Rate = Reader<PerRow<T>, V, V>;
  using State = typename EgStep<T>::template State<V>;

 public:
  ShortWeights(const EgStep<T>& fn, const Call& call, const Operand& w, G g, PerRow<T> lr,
               Mass mass, const Operand& out)
      : fn_(fn), call_(call), w_(w), g_(g), lr_(lr), mass_(mass), out_(out) {
    const index bytes = call.rows * call.n * index(sizeof(T));
    streams_ = w_.data != out_.data && g.op.data != out_.data && bytes >= stream_bytes;
  }
  // Whether the rows are of this kind.
  bool fit() const {
    const index run = run_of(call_);
    return !fn_.keep && call_.dims > 0 && (call_.dims == 1 ? run >= 4 : run >= tile_rows / 2) &&
           call_.n > 0 && call_.n <= flat_row && pitch_of(lr_.op, call_) == 0 &&
           is_flat(g_.op, call_) && is_flat(out_, call_) && (is_flat(w_, call_) || is_one_row());
  }
  void run() {
    if (!is_flat(w_, call_)) repeat();
    const auto make = [&] { return In(call_, Vector<T>{w_}, g_); };
    for_tiles(call_, streams_, make, [&](In& in, index r0, int count) { tile(in, r0, count); });
  }

 private:
  const EgStep<T>& fn_;
  const Call& call_;
  Operand w_;
  const G g_;
  const PerRow<T> lr_;
  const Mass mass_;
  const Operand& out_;
  bool streams_;
  alignas(64) char rows_[flat_row * tile_rows * sizeof(T)];

  // Whether all rows have the same weights.
  bool is_one_row() const {
    for (int d = 0; d < call_.dims; ++d) {
      if (w_.stride[d] != 0) return false;
    }
    return true;
  }
  // Those, for a tile of rows, as if they lay in memory like that.
  void repeat() {
    dispatch<T>(call_.dtype, [&](auto stored) {
      using S = decltype(stored);
      for (index i = 0; i < call_.n; ++i) {
        for (int j = 0; j < tile_rows; ++j) {
          __builtin_memcpy(rows_ + (j * call_.n + i) * sizeof(S), w_.data + i * w_.step, sizeof(S));
        }
      }
      w_.step = sizeof(S);
    });
    w_.data = rows_;
  }

  KX_NOINLINE void tile(In& in, index r0, int count) const {
    const index n = call_.n;
    alignas(64) double terms[flat_row * tile_rows + width];
    alignas(64) T result[flat_row * tile_rows + width];
    Reader<Mass, V, V> mass(mass_, call_);
    mass.tile(r0, count, 0, 1);
    Rate rate(lr_, call_);
    rate.rows(r0, 1);
    const V lr = rate.block(0, 1), one = splat<V>(1);
    in.rows(r0, 1);
    in.with_blocks(0, count * int(n), [&](auto w, auto g) {
      const RowOf<V, true> row = {0};
      form(w.of(row), g.of(row), V(-lr), count * n, terms);
    });
    for (int first = 0; first < count; first += width) {
      const int some = count - first < width ? count - first : width;
      const V sum = sums_of_rows<V>(terms + first * n, n, some), m = mass.group(first / width);
      const V far = select(suffices<T>(sum, m), V{}, one);
      const auto done =
          fn_.finish(State{{one, V{}}, V{}, sum / splat<V>(plain_unit<T>), V{}, lr, m});
      for (int j = 0; j < some; ++j) {  // what a row writes behind its end the next one replaces
        T* const to = result + (first + j) * n;
        if (far[j] != 0) {
          in.rows(r0 + first + j, 1);
          alone(in, lr, m[j], to);
          continue;
        }
        const V factor = splat<V>(done.factor[j]), floor = splat<V>(done.floor[j]);
        for (index i = 0; i < n; i += width) {
          const V value = load<V>(terms + (first + j) * n + i) * factor + floor;
          store(to + i, convert<Pack<T, width>>(value));
        }
      }
    }
    dispatch<T>(call_.dtype, [&](auto stored) {
      scatter_run<decltype(stored)>(out_.data + offset(out_, call_, r0), out_.step, result,
                                    count * int(n), streams_);
    });
  }
  template <class W, class X>
  void form(W w, X g, V step, index end, double* terms) const {
    along<width>(0, end,
                 [&](auto at) { store(terms + at.i, plain_term<T>(V(w[at]), V(g[at]), step)); });
  }
  KX_NOINLINE void alone(In& in, V lr, double mass, T* to) const {
    const int n = int(call_.n);
    in.with_blocks(0, n, [&](auto w, auto g) {
      const V m = splat<V>(mass);
      auto state = gather_block<V, V>(fn_, 1, n, Kept<double>{nullptr, 0}, w, g, lr, m);
      const auto step = fn_.each(fn_.finish(state), RowOf<V>{0}, w, g, lr, m);
      along<width>(0, n, [&](auto at) { store(to + at.i, convert<Pack<T, width>>(step(at))); });
    });
  }
};

// Row functions, functors, and short rows of weights.
class WeightEngine : public LossEngine {
 public:
  explicit WeightEngine(const Call& call) : LossEngine(call), call_(call) {}
  // Steps if the rows are short ones; else false.
  template <class T, class G, class Mass>
  bool short_rows(const EgStep<T>& fn, Vector<T> w, G g, PerRow<T> lr, Mass mass,
                  const Operand& out) {
    if (call_.rows == 0) return false;
    ShortWeights<T, G, Mass> rows(fn, call_, w.op, g, lr, mass, out);
    if (!rows.fit()) return false;
    rows.run();
    return true;
  }

 private:
  const Call& call_;
};

}  // namespace KX_ISA
}  // namespace kexue
