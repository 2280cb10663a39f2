// Runs functions of rows that a team has in memory, as doubles: a block's threads on a row.
#pragma once

#include "elements.h"
#include "whole_rows.h"

namespace kexue {
inline namespace KX_ISA {

// fn(team, row, value) on a copy of each row of x from `first` on, which becomes that of `out`.
template <class T, class Fn>
struct InMemory {
  static constexpr bool crowded = true;
  Fn fn;
  Plan plan;
  index first, count;
  double* memory;
  VectorIn<T> x;
  PerRowIn<T> value;
  Array out;

  KX_FN index jobs() const { return count; }
  KX_FN void operator()(index job, Slots* slots) const {
    const BlockTeam<double, double> team(plan.n, plan.size, slots);
    Cursor<VectorIn<T>, double, double> from(x);
    Cursor<PerRowIn<T>, double, double> given(value);
    ArrayCursor to(out);
    go_to(plan, first + job, from, given, to);
    const Memory<double> row = {memory + job * room_for(plan.n)};
    const auto own = from.look(0);
    kexue::each(team, [=](index i) { row.set(i, own[i]); });
    fn(team, row, given.look(0));
    kexue::each(team, [=](index i) { store_element<T>(to.to(i), row[i]); });
  }
};

class CudaMemory : public CudaElements {
 public:
  using CudaElements::CudaElements;

  bool takes_whole(const Operand&) const { return false; }  // rows may be in several chunks
  // Rows wait for each other where all together would be too large.
  template <class T, class Fn>
  long long in_memory(const Fn& fn, const Operand& x, const Operand& value, const Operand& out) {
    constexpr index most_bytes = 1 << 28;
    const index bytes = index(sizeof(double)) * room_for(call_.n), fit = most_bytes / bytes + 1;
    const index most = fit < call_.rows ? fit : call_.rows;
    if (call_.rows == 0) return 0;
    auto* const memory = static_cast<double*>(scratch(bytes * most).data);
    if (memory == nullptr) return -1;
    const bool done = each_piece([&] {
      Plan p = plan(false);
      p.chunks = 1;
      p.size = team_size(p.n);
      for (index first = 0; first < p.rows; first += most) {
        const index count = p.rows - first < most ? p.rows - first : most;
        const InMemory<T, Fn> work = {fn,
                                      p,
                                      first,
                                      count,
                                      memory,
                                      placed(*this, Vector<T>{x}),
                                      placed(*this, PerRow<T>{value}),
                                      place(&out)};
        if (!launch(work)) return false;
      }
      return true;
    });
    return done ? 0 : -1;
  }
};

}  // namespace KX_ISA
}  // namespace kexue
