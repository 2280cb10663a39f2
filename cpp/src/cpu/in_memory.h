// Runs functions of rows that a thread has in memory, as doubles, a row at a time.
#pragma once

#include "whole_rows.h"

namespace kexue {
inline namespace KX_ISA {

class MemoryEngine : public CpuEngine {
 public:
  explicit MemoryEngine(const Call& call) : CpuEngine(call), call_(call) {}

  // Whether a row function gathers rows of x in one piece.
  bool takes_whole(const Operand& x) const {
    return call_.n <= (goes_by_lanes(call_, x) ? index(tile_size) : batch_size);
  }
  // fn(team, row, value) on a copy of each row of x, which becomes that of `out`.
  template <class T, class Fn>
  long long in_memory(const Fn& fn, const Operand& x, const Operand& value, const Operand& out) {
    using V = Pack<double, register_bytes / int(sizeof(double))>;
    const index n = call_.n;
    long long failed = 0;
    parallel(call_.rows, [&](index r) {
      const auto memory = scratch(index(sizeof(double)) * room_for(n));
      auto* const row = static_cast<double*>(memory.data);
      if (row == nullptr) {
        __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        return;
      }
      dispatch<T>(call_.dtype, [&](auto stored) {
        using S = decltype(stored);
        const char* from = x.data + offset(x, call_, r);
        for (index i = 0; i < n; ++i) row[i] = double(load_wide<S, T>(from + i * x.step));
        for (index i = n; i < room_for(n); ++i) row[i] = 0;
        const double given = double(load_wide<S, T>(value.data + offset(value, call_, r)));
        fn(RowTeam<V, double>{n, 1}, Memory<V>{row}, given);
        char* to = out.data + offset(out, call_, r);
        for (index i = 0; i < n; ++i) store_wide<S>(to + i * out.step, T(row[i]));
      });
    });
    return failed ? -1 : 0;
  }

 private:
  const Call& call_;
};

}  // namespace KX_ISA
}  // namespace kexue
