// The engine for algorithms that take a row as a whole, one thread at a time.
#pragma once

#include "targets.h"

namespace kexue {
inline namespace KX_ISA {

// `count` rows from `first` on: a copy of each row, its scores and targets as fn computes, then
// room to work in.
template <class T, class Fn>
struct Serial {
  using W = typename Fn::W;
  Fn fn;
  Plan plan;
  index first, count;
  W* memory;
  VectorIn<T> scores;
  TargetsIn targets;
  Array loss, grad;

  KX_FN index jobs() const { return count; }
  KX_FN void operator()(index job, Slots*) const {
    Cursor<VectorIn<T>, W, W> s(scores);
    Cursor<TargetsIn, W, W> t(targets);
    ArrayCursor value(loss), slope(grad);
    go_to(plan, first + job, s, t, value, slope);
    W* const row = memory + job * fn.room();
    const index n = plan.n;
    const auto from = s.look(0);
    const auto wanted = t.look(0);
    for (index i = 0; i < n; ++i) {
      row[i] = from[i];
      row[n + i] = wanted[i].positive;
    }
    bool wrong = false;
    store_wide<T, W>(value.to(0), fn(row, grad.data != nullptr, wrong));
    for (index i = 0; grad.data && i < n; ++i) store_wide<T, W>(slope.to(i), row[i]);
  }
};

class CudaSerial : public CudaEngine {
 public:
  using CudaEngine::CudaEngine;

  // A thread works on a row in memory; rows wait for each other where that would be too much.
  template <class T, class Fn>
  long long serial(const Fn& fn, const Operand& scores, const Operand& targets, const Operand& loss,
                   const Operand& grad) {
    constexpr index most_bytes = 1 << 28;
    using W = typename Fn::W;
    const index bytes = index(sizeof(W)) * fn.room(), fit = most_bytes / bytes + 1;
    const index most = fit < call_.rows ? fit : call_.rows;
    if (call_.rows == 0) return 0;
    W* const memory = static_cast<W*>(scratch(bytes * most).data);
    if (memory == nullptr) return -1;
    const bool done = each_piece([&] {
      Plan p = plan(true);
      p.size = p.chunks = 1;
      for (index first = 0; first < p.rows; first += most) {
        const index count = p.rows - first < most ? p.rows - first : most;
        const Serial<T, Fn> work = {fn,
                                    p,
                                    first,
                                    count,
                                    memory,
                                    placed(*this, Vector<T>{scores}),
                                    placed(*this, Targets<T>{targets}),
                                    place(&loss),
                                    place(&grad)};
        if (!launch(work, warp_threads)) return false;
      }
      return true;
    });
    return done ? 0 : -1;
  }
};

}  // namespace KX_ISA
}  // namespace kexue
