// Exponentiated gradient of short rows that lie one behind the other, with one rate for all. Terms
// that need no pivot do not depend on their row: they are formed along memory, with no register
// half empty, then added up row by row. A row that needs a pivot goes the general way.
#pragma once

#include "flat_rows.h"
#include "kexue/eg.h"
#include "targets.h"

namespace kexue {
inline namespace KX_ISA {

template <class T>
class ShortWeights {
  static constexpr int width = register_bytes / int(sizeof(double));
  using V = Pack<double, width>;
  using In = Readers<V, V, Vector<T>, Vector<T>>;
  using State = typename EgStep<T>::template State<V>;

 public:
  ShortWeights(const EgStep<T>& fn, const Call& call, double lr)
      : fn_(fn), call_(call), lr_(lr), w_(call.operand[0]), out_(call.operand[4]) {
    streams_ = w_.data != out_.data && call.rows * call.n * index(sizeof(T)) >= stream_bytes;
  }
  // Whether the rows are of this kind.
  bool fit() const {
    return !fn_.keep && call_.dims == 1 && call_.rows >= 4 && call_.n > 0 && call_.n <= short_row &&
           is_flat(w_, call_) && is_flat(call_.operand[1], call_) && is_flat(out_, call_);
  }
  void run() const {
    const auto make = [&] { return In(call_, Vector<T>{w_}, Vector<T>{call_.operand[1]}); };
    for_tiles(call_, streams_, make, [&](In& in, index r0, int count) { tile(in, r0, count); });
  }

 private:
  const EgStep<T>& fn_;
  const Call& call_;
  const double lr_;
  const Operand &w_, &out_;
  bool streams_;

  KX_NOINLINE void tile(In& in, index r0, int count) const {
    const index n = call_.n;
    alignas(64) double terms[short_row * tile_rows + width];
    alignas(64) T result[short_row * tile_rows + width];
    Reader<PerRow<T>, V, V> mass(PerRow<T>{call_.operand[3]}, call_);
    mass.tile(r0, count, 0, 1);
    in.rows(r0, 1);
    in.with_blocks(0, count * int(n), [&](auto w, auto g) {
      const RowOf<V, true> row = {0};
      form(w.of(row), g.of(row), count * n, terms);
    });
    const V lr = splat<V>(lr_), one = splat<V>(1);
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
          alone(in, m[j], to);
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
      scatter_run<decltype(stored)>(out_.data + r0 * out_.stride[0], out_.step, result,
                                    count * int(n), streams_);
    });
  }
  template <class W, class G>
  void form(W w, G g, index end, double* terms) const {
    const V step = splat<V>(-lr_);
    along<width>(0, end,
                 [&](auto at) { store(terms + at.i, plain_term<T>(V(w[at]), V(g[at]), step)); });
  }
  KX_NOINLINE void alone(In& in, double mass, T* to) const {
    const int n = int(call_.n);
    in.with_blocks(0, n, [&](auto w, auto g) {
      const V lr = splat<V>(lr_), m = splat<V>(mass);
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
  template <class T>
  bool short_rows(const EgStep<T>& fn, double lr) {
    const ShortWeights<T> rows(fn, call_, lr);
    if (!rows.fit()) return false;
    rows.run();
    return true;
  }

 private:
  const Call& call_;
};

}  // namespace KX_ISA
}  // namespace kexue
