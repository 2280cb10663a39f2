// The kernels of the multi-label loss: which row function runs on which operands.
#pragma once

#include "../targets.h"
#include "kexue/multilabel.h"
#include "losses.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

// Results to `out`: the loss, its gradient and the diagonal of its Hessian, the last two if wanted.
// Without a mask, the first two are worth a text of their own in float, but for listed targets.
template <class T, class Engine, class C, class M>
long long multilabel_loss(Engine& engine, const Operand& x, C targets, M mask,
                          const Operand& threshold, const Operand* out) {
  return run_wanted<T>(engine, MultilabelGradient<T>{}, {1, {out}, out + 1}, Vector<T>{x}, targets,
                       mask, PerRow<T>{threshold});
}
template <class T, class Engine, class C, class M>
long long multilabel_derivatives(Engine& engine, const Operand& x, C targets, M mask,
                                 const Operand& threshold, bool bound, const Operand* out) {
  const Operand &loss = out[0], &grad = out[1], &hess = out[2];
  if (hess.data) {  // a gradient that is not wanted is written over
    Outputs<T, T> to = {1, {&loss}, grad.data ? &grad : &hess, &hess};
    MultilabelCurvature<T> fn;
    fn.bound = bound;
    return engine.template transform<T>(fn, to, Vector<T>{x}, targets, mask, PerRow<T>{threshold});
  }
  constexpr bool often = sizeof(T) == sizeof(float) && !__is_same(C, Listed);
  if constexpr (Engine::specialises && often && __is_same(M, Flags)) {
    if (!mask.op.data) return multilabel_loss<T>(engine, x, targets, Everything{}, threshold, out);
  }
  return multilabel_loss<T>(engine, x, targets, mask, threshold, out);
}

// Without a mask and a Hessian an engine may have a way of its own for short rows.
template <class T, class Engine, class C>
long long multilabel_dense(Engine& engine, const Call& call, C targets) {
  const Operand* op = call.operand;
  const long long refused =
      count_invalid<T>(engine, call.parameter[1], Allowed::shares, targets, Flags{op[2]});
  if (refused) return refused;
  if constexpr (Engine::specialises) {
    long long invalid = 0;
    const bool plain = !op[2].data && !op[6].data;
    if (plain && engine.template short_rows<T>(op[0], targets, op[3], op + 4, invalid)) {
      return invalid;
    }
  }
  return multilabel_derivatives<T>(engine, op[0], targets, Flags{op[2]}, op[3],
                                   call.parameter[0] != 0, op + 4);
}

template <class T, class Engine>
long long multilabel_crossentropy(Engine& engine, const Call& call) {
  const Operand& targets = call.operand[1];
  if constexpr (Engine::specialises) {
    if (targets.type == flag) return multilabel_dense<T>(engine, call, Flags{targets});
  }
  return multilabel_dense<T>(engine, call, Targets<T>{targets});
}

template <class T, class Engine>
long long sparse_multilabel_crossentropy(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return multilabel_derivatives<T>(engine, op[0], Listed{op[1], op[2]}, Flags{op[3]}, op[4],
                                   call.parameter[0] != 0, op + 5);
}

template <class T, class Engine>
long long globalpointer_crossentropy(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  const Cells cells = {op[2], call.parameter[0] != 0};
  const long long refused =
      count_invalid<T>(engine, call.parameter[2], Allowed::shares, Targets<T>{op[1]}, cells);
  if (refused) return refused;
  return multilabel_derivatives<T>(engine, op[0], Targets<T>{op[1]}, cells, op[3],
                                   call.parameter[1] != 0, op + 4);
}

template <class T, class Engine>
long long multilabel_probability(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return engine.template map<T>(MultilabelProbability<T>{}, {&op[2]}, PerRow<T>{op[0]},
                                PerRow<T>{op[1]});
}

template <class Engine>
constexpr Entry multilabel_entries[] = {
    KX_KERNEL(multilabel_crossentropy, "(n),any(n),mask(n)?,()->(),(n)?,(n)?", 2),
    KX_KERNEL(sparse_multilabel_crossentropy, "(n),list,list,mask(n)?,()->(),(n)?,(n)?", 1),
    KX_KERNEL(globalpointer_crossentropy, "(n),any(n),mask(k)?,()->(),(n)?,(n)?", 3),
    KX_KERNEL(multilabel_probability, "(),()->()", 0),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
