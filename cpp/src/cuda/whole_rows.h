// Runs functions of whole rows (kexue/argmax.h), a team of threads on a row.
#pragma once

#include "engine.h"
#include "kexue/argmax.h"

namespace kexue {
inline namespace KX_ISA {

template <class F>
KX_FN void each(const BlockTeam<double, double>& team, F f) {
  for (index i = team.lane; i < team.n; i += team.size) f(i);
}
template <class F>
KX_FN auto product(const BlockTeam<double, double>& team, F f) {
  auto all = Factors<double, nodes_at_once>::none();
  each(team, [&](index i) { all = all.times(f(i)); });
  return team.combine(all, team.size, [](const auto& a, const auto& b) { return a.times(b); });
}

template <class Fn>
struct WholeRows {
  static constexpr bool crowded = true;
  Fn fn;
  Plan plan;
  double* memory;

  KX_FN index jobs() const { return plan.rows; }
  KX_FN void operator()(index row, Slots* slots) const {
    const BlockTeam<double, double> team(plan.n, plan.size, slots);
    const index room = room_for(plan.n);
    on_memory<double>(fn, team, memory + row * room, plan.rows * room);
  }
};

class CudaWholeRows : public CudaEngine {
 public:
  using CudaEngine::CudaEngine;

  template <class Fn>
  bool whole_rows(const Fn& fn, double* memory) {
    Plan p = {};
    p.n = call_.n;
    p.rows = call_.rows;
    p.chunks = 1;
    p.size = team_size(p.n);
    return launch(WholeRows<Fn>{fn, p, memory});
  }
};

}  // namespace KX_ISA
}  // namespace kexue
