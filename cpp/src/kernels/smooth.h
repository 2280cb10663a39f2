// The kernels of the smooth maxima and the Taylor softmax: which row function runs on which
// operands.
#pragma once

#include "../engine.h"
#include "kexue/smooth.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

template <class T>
TaylorSoftmax<T> taylor_of(const Call& call) {
  const int n = static_cast<int>(call.parameter[0]);
  return {{TaylorRule::of(n, n), static_cast<wide_t<T>>(call.parameter[1])}};
}
template <class T, class Engine>
long long taylor_softmax(Engine& engine, const Call& call) {
  return engine.template transform<T>(taylor_of<T>(call), {0, {}, &call.operand[2]},
                                      Vector<T>{call.operand[0]}, Flags{call.operand[1]});
}
template <class T, class Engine>
long long taylor_softmax_vjp(Engine& engine, const Call& call) {
  return engine.template transform<T>(TaylorSoftmaxVjp<T>{taylor_of<T>(call)},
                                      {0, {}, &call.operand[3]}, Vector<T>{call.operand[0]},
                                      Vector<T>{call.operand[1]}, Flags{call.operand[2]});
}

template <class T>
wide_t<T> sharpness(const Call& call) {
  return static_cast<wide_t<T>>(call.parameter[0]);
}
template <class T, class Engine>
long long smooth_max(Engine& engine, const Call& call, bool mean) {
  return engine.template reduce<T>(SmoothMax<T>{{sharpness<T>(call)}, mean},
                                   {1, {&call.operand[1]}, nullptr}, Vector<T>{call.operand[0]});
}
template <class T, class Engine>
long long smooth_max_logsumexp(Engine& engine, const Call& call) {
  return smooth_max<T>(engine, call, false);
}
template <class T, class Engine>
long long smooth_max_softmax(Engine& engine, const Call& call) {
  return smooth_max<T>(engine, call, true);
}
template <class T, class Engine>
long long smooth_max_vjp(Engine& engine, const Call& call, bool mean) {
  return engine.template transform<T>(SmoothMaxVjp<T>{{{sharpness<T>(call)}, mean}},
                                      {0, {}, &call.operand[2]}, Vector<T>{call.operand[0]},
                                      PerRow<T>{call.operand[1]});
}
template <class T, class Engine>
long long smooth_max_logsumexp_vjp(Engine& engine, const Call& call) {
  return smooth_max_vjp<T>(engine, call, false);
}
template <class T, class Engine>
long long smooth_max_softmax_vjp(Engine& engine, const Call& call) {
  return smooth_max_vjp<T>(engine, call, true);
}

template <class T, class Engine>
long long soft_argmax(Engine& engine, const Call& call) {
  const SoftArgmax<T> fn = {{sharpness<T>(call)}, static_cast<wide_t<T>>(call.parameter[1])};
  return engine.template reduce<T>(fn, {1, {&call.operand[1]}, nullptr}, Vector<T>{call.operand[0]},
                                   Positions{});
}
template <class T, class Engine>
long long soft_argmax_vjp(Engine& engine, const Call& call) {
  return engine.template transform<T>(SoftArgmaxVjp<T>{sharpness<T>(call)},
                                      {0, {}, &call.operand[2]}, Vector<T>{call.operand[0]},
                                      Positions{}, PerRow<T>{call.operand[1]});
}
template <class T, class Engine>
long long soft_onehot(Engine& engine, const Call& call) {
  return engine.template transform<T>(SoftOnehot<T>(sharpness<T>(call)), {0, {}, &call.operand[1]},
                                      Vector<T>{call.operand[0]});
}

template <class Engine>
constexpr Entry smooth_entries[] = {
    KX_KERNEL(taylor_softmax, "(n),mask(n)?->(n)", 2),
    KX_KERNEL(taylor_softmax_vjp, "(n),(n),mask(n)?->(n)", 2),
    KX_KERNEL(smooth_max_logsumexp, "(n)->()", 1),
    KX_KERNEL(smooth_max_logsumexp_vjp, "(n),()->(n)", 1),
    KX_KERNEL(smooth_max_softmax, "(n)->()", 1),
    KX_KERNEL(smooth_max_softmax_vjp, "(n),()->(n)", 1),
    KX_KERNEL(soft_argmax, "(n)->()", 2),
    KX_KERNEL(soft_argmax_vjp, "(n),()->(n)", 1),
    KX_KERNEL(soft_onehot, "(n)->(n)", 1),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
