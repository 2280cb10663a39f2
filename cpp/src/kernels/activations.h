// The kernels of the activations: which functor runs on which operands.
#pragma once

#include "../engine.h"
#include "kexue/activations.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

// fn over all elements: inputs first among the operands, then outputs.
template <class T, class Engine, class Fn>
long long map(Engine& engine, const Call& call, const Fn& fn) {
  return engine.template map<T>(fn, {&call.operand[1]}, PerRow<T>{call.operand[0]});
}

// The functor for a parameter, computing in float only where float takes it.
template <template <class> class Fn, class T, class F>
long long with_parameter(double parameter, F then) {
  using E = term_t<T>;
  using P = typename Fn<E>::Parameter;
  if constexpr (sizeof(E) < sizeof(double)) {
    using Wide = typename Fn<double>::Parameter;
    if (!P::takes(parameter)) return then(Fn<double>{Wide(parameter)});
  }
  return then(Fn<E>{P(parameter)});
}
template <class Fn, class = void>
constexpr bool has_parameter = false;
template <class Fn>
constexpr bool has_parameter<Fn, decltype(void(declval<typename Fn::Parameter>()))> = true;

// A kernel that maps a functor, with the call's parameter if it takes one.
#define KX_MAP(name, Fn)                                                      \
  template <class T, class Engine>                                            \
  long long name(Engine& engine, const Call& call) {                          \
    const auto go = [&](const auto& fn) { return map<T>(engine, call, fn); }; \
    if constexpr (has_parameter<Fn<double>>)                                  \
      return with_parameter<Fn, T>(call.parameter[0], go);                    \
    else                                                                      \
      return go(Fn<term_t<T>>{});                                             \
  }

// The same for functors of a rate, which is mostly 1.
#define KX_MAP_RATE(name, Fn)                                                 \
  template <class E>                                                          \
  using Fn##OfRate = Fn<E>;                                                   \
  template <class T, class Engine>                                            \
  long long name(Engine& engine, const Call& call) {                          \
    using E = term_t<T>;                                                      \
    const auto go = [&](const auto& fn) { return map<T>(engine, call, fn); }; \
    if (call.parameter[0] == 1) return go(Fn<E, UnitRate<E>>{});              \
    return with_parameter<Fn##OfRate, T>(call.parameter[0], go);              \
  }

KX_MAP(squareplus, Squareplus)
KX_MAP(squareplus_grad, SquareplusGrad)
KX_MAP(squareplus_grad_b, SquareplusGradB)

template <class T, class Engine>
long long smooth_max2(Engine& engine, const Call& call) {
  return with_parameter<SmoothMax2, T>(call.parameter[0], [&](const auto& fn) {
    const Operand* op = call.operand;
    return engine.template map<T>(fn, {&op[2]}, PerRow<T>{op[0]}, PerRow<T>{op[1]});
  });
}
template <class T, class Engine>
long long smooth_max2_grad(Engine& engine, const Call& call) {
  return with_parameter<SmoothMax2Grad, T>(call.parameter[0], [&](const auto& fn) {
    const Operand* op = call.operand;
    return engine.template map<T>(fn, {&op[2], &op[3]}, PerRow<T>{op[0]}, PerRow<T>{op[1]});
  });
}

KX_MAP(smooth_abs, SmoothAbs)
KX_MAP(smooth_abs_grad, SmoothAbsGrad)
KX_MAP(smooth_abs_sqrt, SmoothAbsSqrt)
KX_MAP(smooth_abs_sqrt_grad, SmoothAbsSqrtGrad)

KX_MAP_RATE(sigmoid, Sigmoid)
KX_MAP(sigmoid_grad, SigmoidGrad)
KX_MAP_RATE(softplus, Softplus)
KX_MAP(log_sigmoid, LogSigmoid)
KX_MAP_RATE(silu, Silu)
KX_MAP_RATE(silu_grad, SiluGrad)

KX_MAP(gelu, Gelu)
KX_MAP(gelu_grad, GeluGrad)
KX_MAP(gelu_tanh, GeluTanh)
KX_MAP(gelu_tanh_grad, GeluTanhGrad)
KX_MAP(relu_gaussian, ReluGaussian)
KX_MAP(relu_gaussian_grad, ReluGaussianGrad)
#undef KX_MAP_RATE
#undef KX_MAP

// Parameters: slope, shift, level.
template <class T, class Engine>
long long smooth_stairs(Engine& engine, const Call& call) {
  const double* p = call.parameter;
  return map<T>(engine, call, SmoothStairs{Stairs::of(p[0]), p[1], p[2]});
}
template <class T, class Engine>
long long smooth_stairs_grad(Engine& engine, const Call& call) {
  const double* p = call.parameter;
  return map<T>(engine, call, SmoothStairsGrad{Stairs::of(p[0]), p[1]});
}

template <class T, class Engine>
long long taylor_exp(Engine& engine, const Call& call) {
  const int n = static_cast<int>(call.parameter[0]);
  return map<T>(engine, call, TaylorExp{TaylorRule::of(n, n)});
}
template <class T, class Engine>
long long taylor_exp_grad(Engine& engine, const Call& call) {
  const int n = static_cast<int>(call.parameter[0]);
  return map<T>(engine, call, TaylorExp{TaylorRule::of(n, n - 1)});
}

template <class Engine>
constexpr Entry activations_entries[] = {
    KX_KERNEL(squareplus, "()->()", 1),
    KX_KERNEL(squareplus_grad, "()->()", 1),
    KX_KERNEL(squareplus_grad_b, "()->()", 1),
    KX_KERNEL(smooth_max2, "(),()->()", 1),
    KX_KERNEL(smooth_max2_grad, "(),()->(),()", 1),
    KX_KERNEL(smooth_abs, "()->()", 1),
    KX_KERNEL(smooth_abs_grad, "()->()", 1),
    KX_KERNEL(smooth_abs_sqrt, "()->()", 1),
    KX_KERNEL(smooth_abs_sqrt_grad, "()->()", 1),
    KX_KERNEL(sigmoid, "()->()", 1),
    KX_KERNEL(sigmoid_grad, "()->()", 0),
    KX_KERNEL(softplus, "()->()", 1),
    KX_KERNEL(log_sigmoid, "()->()", 0),
    KX_KERNEL(silu, "()->()", 1),
    KX_KERNEL(silu_grad, "()->()", 1),
    KX_KERNEL(gelu, "()->()", 0),
    KX_KERNEL(gelu_grad, "()->()", 0),
    KX_KERNEL(gelu_tanh, "()->()", 0),
    KX_KERNEL(gelu_tanh_grad, "()->()", 0),
    KX_KERNEL(relu_gaussian, "()->()", 1),
    KX_KERNEL(relu_gaussian_grad, "()->()", 1),
    KX_KERNEL(smooth_stairs, "()->()", 3),
    KX_KERNEL(smooth_stairs_grad, "()->()", 2),
    KX_KERNEL(taylor_exp, "()->()", 1),
    KX_KERNEL(taylor_exp_grad, "()->()", 1),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
