// The kernels of the cross-entropies: which row function runs on which operands.
#pragma once

#include "../targets.h"
#include "kexue/crossentropy.h"
#include "losses.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

template <class T>
SoftmaxCrossentropy<T> with_parameters(const Call& call, bool single) {
  return {static_cast<wide_t<T>>(call.parameter[0]), call.parameter[1] != 0, single};
}

template <class T, class Engine>
long long softmax_crossentropy(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  const Targets<T> targets = {op[1]};
  const Flags mask = {op[2]};
  const long long refused =
      count_invalid<T>(engine, call.parameter[2], Allowed::amounts, targets, mask);
  if (refused) return refused;
  return run_loss<T>(engine, with_parameters<T>(call, false), op + 3, Vector<T>{op[0]}, targets,
                     mask);
}

template <class T, class Engine>
long long sparse_softmax_crossentropy(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return run_loss<T>(engine, with_parameters<T>(call, true), op + 4, Vector<T>{op[0]},
                     Listed{op[1], op[2]}, Flags{op[3]});
}

template <class T, class Engine>
long long sigmoid_crossentropy(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  const Targets<T> targets = {op[1]};
  const Flags mask = {op[2]};
  const long long refused =
      count_invalid<T>(engine, call.parameter[0], Allowed::shares, targets, mask);
  if (refused) return refused;
  return run_loss<T>(engine, SigmoidCrossentropy<T>{}, op + 3, Vector<T>{op[0]}, targets, mask);
}

template <class Engine>
constexpr Entry crossentropy_entries[] = {
    KX_KERNEL(softmax_crossentropy, "(n),any(n),mask(n)?->(),(n)?,(n)?", 3),
    KX_KERNEL(sparse_softmax_crossentropy, "(n),list,list,mask(n)?->(),(n)?,(n)?", 2),
    KX_KERNEL(sigmoid_crossentropy, "(n),any(n),mask(n)?->(),(n)?,(n)?", 1),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
