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
  return engine.template transform<T>(fn, {0, {}, &op[3]}, Vector<T>{op[0]}, Vector<double>{op[1]},
                                      PerRow<T>{op[2]}, Given<wide_t<T>>{1});
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
