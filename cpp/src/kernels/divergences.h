// The kernels of the divergences: which row function runs on which operands.
#pragma once

#include "kexue/divergences.h"
#include "losses.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

template <class T, class Fn, class Engine>
long long divergence(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  const Fn fn = {static_cast<wide_t<T>>(call.parameter[0]), call.parameter[1] != 0};
  return run_loss<T>(engine, fn, op + 3, Vector<T>{op[0]}, Vector<T>{op[1]}, Flags{op[2]});
}
template <class T, class Engine>
long long softmax_divergence(Engine& engine, const Call& call) {
  return divergence<T, SoftmaxDivergence<T>>(engine, call);
}
template <class T, class Engine>
long long sigmoid_divergence(Engine& engine, const Call& call) {
  return divergence<T, SigmoidDivergence<T>>(engine, call);
}

template <class Engine>
constexpr Entry divergences_entries[] = {
    KX_KERNEL(softmax_divergence, "(n),(n),mask(n)?->(),(n)?,(n)?", 2),
    KX_KERNEL(sigmoid_divergence, "(n),(n),mask(n)?->(),(n)?,(n)?", 2),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
