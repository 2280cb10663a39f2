// Runs functions of rows that a thread has in memory, as doubles, a row at a time.
#pragma once

#include "whole_rows.h"

namespace kexue {
inline namespace KX_ISA {

// A row of elements that lie side by side, and where its results go, side by side as well.
template <class S, class V>
struct Stored {
  const char* from;
  char* to;
  KX_FN V operator[](Full at) const { return RowView<S, V, false>{from, 0}[at]; }
  KX_FN V operator[](Part at) const { return RowView<S, V, false>{from, 0}[at]; }
  KX_FN void set(Full at, V value) const { store_wide<S>(to + at.i * index(sizeof(S)), value); }
  KX_FN void set(Part at, V value) const {
    S last[lanes<V>];
    store_wide<S>(last, value);
    __builtin_memcpy(to + at.i * index(sizeof(S)), last, unsigned(at.count) * sizeof(S));
  }
  template <class Row>
  KX_FN Stored of(Row) const {
    return *this;
  }
};

class MemoryEngine : public CpuEngine {
 public:
  explicit MemoryEngine(const Call& call) : CpuEngine(call), call_(call) {}

  // Whether a row function gathers rows of x in one piece.
  bool takes_whole(const Operand& x) const {
    return call_.n <= (goes_by_lanes(call_, x) ? index(tile_size) : batch_size);
  }
  // fn(team, row, value) on each row of x, which becomes that of `out`; on a copy, unless both lie
  // side by side.
  template <class T, class Fn>
  long long in_memory(const Fn& fn, const Operand& x, const Operand& value, const Operand& out) {
    using V = Pack<double, register_bytes / int(sizeof(double))>;
    const index n = call_.n;
    const RowTeam<V, double> team = {n, 1};
    long long failed = 0;
    parallel(call_.rows, [&](index r) {
      dispatch<T>(call_.dtype, [&](auto stored) {
        using S = decltype(stored);
        const char* from = x.data + offset(x, call_, r);
        char* to = out.data + offset(out, call_, r);
        const double given = double(load_wide<S, T>(value.data + offset(value, call_, r)));
        if (x.step == index(sizeof(S)) && out.step == index(sizeof(S))) {
          fn(team, Stored<S, V>{from, to}, given);
          return;
        }
        auto memory = scratch(index(sizeof(double)) * room_for(n));
        auto* const row = static_cast<double*>(memory.data);
        if (row == nullptr) {
          __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
          return;
        }
        for (index i = 0; i < n; ++i) row[i] = double(load_wide<S, T>(from + i * x.step));
        for (index i = n; i < room_for(n); ++i) row[i] = 0;
        fn(team, Memory<V>{row}, given);
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
