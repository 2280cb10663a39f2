// The kernels of optimising over the simplex: which row function runs on which operands.
#pragma once

#include "../engine.h"
#include "kexue/simplex.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

template <class T, class Engine>
long long project_simplex(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  if (!engine.takes_whole(op[0])) {
    return engine.template in_memory<T>(ProjectInMemory{}, op[0], op[1], op[2]);
  }
  return engine.template transform<T>(ProjectSimplex<T>{}, {0, {}, &op[2]}, Vector<T>{op[0]},
                                      PerRow<T>{op[1]});
}
template <class T, class Engine>
long long project_simplex_vjp(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return engine.template transform<T>(ProjectSimplexVjp<T>{}, {0, {}, &op[2]}, Vector<T>{op[0]},
                                      Vector<T>{op[1]});
}
template <class T, class Engine>
long long frank_wolfe_step(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return engine.template transform<T>(FrankWolfeStep<T>{call.parameter[0]}, {0, {}, &op[2]},
                                      Vector<T>{op[0]}, Vector<T>{op[1]}, Positions{});
}
template <class T, class Engine>
long long simplex_gap(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return engine.template reduce<T>(SimplexGap<T>{}, {1, {&op[2]}, nullptr}, Vector<T>{op[0]},
                                   Vector<T>{op[1]});
}
template <class T, class Engine>
long long softmax_pullback(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return engine.template transform<T>(SoftmaxPullback<T>{}, {0, {}, &op[2]}, Vector<T>{op[0]},
                                      Vector<T>{op[1]});
}
template <class T, class Engine>
long long bregman_kl(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return engine.template reduce<T>(BregmanKl<T>{call.parameter[0] != 0}, {1, {&op[2]}, nullptr},
                                   Vector<T>{op[0]}, Vector<T>{op[1]});
}

template <class Engine>
constexpr Entry simplex_entries[] = {
    KX_KERNEL(project_simplex, "(n),()->(n)", 0),
    KX_KERNEL(project_simplex_vjp, "(n),(n)->(n)", 0),
    KX_KERNEL(frank_wolfe_step, "(n),(n)->(n)", 1),
    KX_KERNEL(simplex_gap, "(n),(n)->()", 0),
    KX_KERNEL(softmax_pullback, "(n),(n)->(n)", 0),
    KX_KERNEL(bregman_kl, "(n),(n)->()", 1),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
