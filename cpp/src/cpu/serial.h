// The engine of losses with algorithms that take a row as a whole, one thread at a time.
#pragma once

#include "elements.h"
#include "targets.h"

namespace kexue {
inline namespace KX_ISA {

class SerialEngine : public LossEngine {
 public:
  explicit SerialEngine(const Call& call) : LossEngine(call), call_(call) {}

  // fn on a copy of each row: its scores and targets as fn computes, then room to work in.
  template <class T, class Fn>
  long long serial(const Fn& fn, const Operand& scores, const Operand& targets, const Operand& loss,
                   const Operand& grad) {
    using W = typename Fn::W;
    const index n = call_.n, rows_a_job = job_elements / 16 / (n + 1) + 1;
    long long invalid = 0, failed = 0;
    parallel((call_.rows + rows_a_job - 1) / rows_a_job, [&](index job) {
      auto memory = scratch(index(sizeof(W)) * fn.room());
      W* const row = static_cast<W*>(memory.data);
      if (row == nullptr) __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      for (index r = job * rows_a_job, end = r + rows_a_job; row && r < end && r < call_.rows;
           ++r) {
        const auto at = [&](const Operand& op, index i) {
          return op.data + offset(op, call_, r) + i * op.step;
        };
        bool wrong = false;
        with_stored(targets.type, [&](auto stored) {
          using S = decltype(stored);
          for (index i = 0; i < n; ++i) row[n + i] = W(element_at<S>(at(targets, i)));
        });
        dispatch<T>(call_.dtype, [&](auto stored) {
          using S = decltype(stored);
          for (index i = 0; i < n; ++i) row[i] = W(load_wide<S, T>(at(scores, i)));
        });
        const W value = fn(row, grad.data != nullptr, wrong);
        dispatch<T>(call_.dtype, [&](auto stored) {
          using S = decltype(stored);
          store_wide<S>(at(loss, 0), T(value));
          for (index i = 0; grad.data && i < n; ++i) store_wide<S>(at(grad, i), T(row[i]));
        });
        if (wrong) __atomic_fetch_add(&invalid, 1, __ATOMIC_RELAXED);
      }
    });
    return failed ? -1 : invalid;
  }

 private:
  const Call& call_;
};

}  // namespace KX_ISA
}  // namespace kexue
