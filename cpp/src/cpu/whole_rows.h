// Runs functions of whole rows (kexue/argmax.h), a row on one thread.
#pragma once

#include "kexue/argmax.h"
#include "rows.h"

namespace kexue {
inline namespace KX_ISA {

class WholeRowEngine : public CpuEngine {
 public:
  explicit WholeRowEngine(const Call& call) : CpuEngine(call), call_(call) {}

  // fn(team, row, ...) for Fn::rows rows of doubles, of which each has `rows` in `memory`.
  template <class Fn>
  bool whole_rows(const Fn& fn, double* memory) {
    using V = Pack<double, register_bytes / int(sizeof(double))>;
    const index n = call_.n, room = room_for(n), apart = call_.rows * room;
    const index rows_a_job = n < 1024 ? 1024 / n : 1;
    parallel((call_.rows + rows_a_job - 1) / rows_a_job, [&](index job) {
      const index first = job * rows_a_job, last = first + rows_a_job;
      for (index r = first; r < (last < call_.rows ? last : call_.rows); ++r) {
        double* const row = memory + r * room;
        for (index i = n; i < room; ++i) {
          row[i] = -infinity;
          for (int k = 1; k < Fn::rows; ++k) row[k * apart + i] = 0;
        }
        on_memory<V>(fn, RowTeam<V, double>{n, 1}, row, apart);
      }
    });
    return true;
  }

 private:
  const Call& call_;
};

}  // namespace KX_ISA
}  // namespace kexue
