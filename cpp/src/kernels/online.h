// The kernels of online learning: which row function or sequence runs on which operands.
#pragma once

#include "../engine.h"
#include "kexue/online.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

// Steps from the first weights with sums of losses, which are in double whatever T and far within
// its range for float.
template <class T, class Engine>
long long hedge(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  EgStep<T> fn;
  fn.mix = 0, fn.keep = false, fn.n = call.n;
  const Vector<T> w = {op[0]};
  const Vector<double> losses = {op[1]};
  const PerRow<T> lr = {op[2]};
  const Given<wide_t<T>> mass = {1};
  if constexpr (Engine::specialises && !is_double<T>) {
    if (engine.short_rows(fn, w, losses, lr, mass, op[3])) return 0;
  }
  return engine.template transform<T>(fn, {0, {}, &op[3]}, w, losses, lr, mass);
}

template <class T, class Engine>
long long portfolio_eg(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return engine.template portfolio<T>(op[0], op[1], op[2], index(call.parameter[0]), op[3], op[4],
                                      op[5]);
}

template <class Engine>
constexpr Entry online_entries[] = {
    KX_KERNEL(hedge, "(n),any(n),()->(n)", 0),
    KX_KERNEL(portfolio_eg, "(n),(n),()->(n),(k),(k)", 1),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
