// The kernels of the multi-label loss: which row function runs on which operands.
#pragma once

#include "../targets.h"
#include "kexue/multilabel.h"
#include "losses.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

// Results to `out`: the loss, its gradient and the diagonal of its Hessian, the last two if wanted.
// Without a mask, the first two are worth a text of their own.
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
    const Outputs<T, T> to = {1, {&loss}, grad.data ? &grad : &hess, &hess};
    MultilabelCurvature<T> fn;
    fn.bound = bound;
    return engine.template transform<T>(fn, to, Vector<T>{x}, targets, mask, PerRow<T>{threshold});
  }
  if constexpr (Engine::specialises && __is_same(M, Flags)) {
    if (!mask.op.data) return multilabel_loss<T>(engine, x, targets, Everything{}, threshold, out);
  }
  return multilabel_loss<T>(engine, x, targets, mask, threshold, out);
}

template <class T, class Engine>
long long multilabel_crossentropy(Engine& engine, const Call& call) {
  const Operand *op = call.operand, &targets = op[1];
  const auto with = [&](auto t) {
    return multilabel_derivatives<T>(engine, op[0], t, Flags{op[2]}, op[3], call.parameter[0] != 0,
                                     op + 4);
  };
  if constexpr (Engine::specialises) {
    if (targets.type == flag) return with(Flags{targets});
  }
  return with(Targets<T>{targets});
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
    KX_KERNEL(multilabel_crossentropy, "(n),any(n),mask(n)?,()->(),(n)?,(n)?", 1),
    KX_KERNEL(sparse_multilabel_crossentropy, "(n),list,list,mask(n)?,()->(),(n)?,(n)?", 1),
    KX_KERNEL(globalpointer_crossentropy, "(n),any(n),mask(k)?,()->(),(n)?,(n)?", 2),
    KX_KERNEL(multilabel_probability, "(),()->()", 0),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
