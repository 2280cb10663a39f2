// The kernels of exponentiated gradient: which functor or row function runs on which operands.
#pragma once

#include "../engine.h"
#include "kexue/eg.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

// A functor of one learning rate for all, where the host can read it.
template <class T, class Engine>
long long egu_step(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  const EguStep<T> step = {call.parameter[0] != 0};
  const PerRow<T> w = {op[0]}, g = {op[1]};
  double lr;
  if (engine.template one_value<T>(op[2], lr)) {
    return engine.template map<T>(EguStepOf<T>{step, lr}, {&op[3]}, w, g);
  }
  return engine.template map<T>(step, {&op[3]}, w, g, PerRow<T>{op[2]});
}

template <class T, class Engine>
long long egu_pm_step(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  PerRow<T> p = {op[0]}, m = {op[1]}, g = {op[2]};
  double lr;
  if (engine.template one_value<T>(op[3], lr)) {
    return engine.template map<T>(EguPmStepOf<T>{lr}, {&op[4], &op[5]}, p, m, g);
  }
  return engine.template map<T>(EguPmStep<T>{}, {&op[4], &op[5]}, p, m, g, PerRow<T>{op[3]});
}

template <class T, class Engine>
long long hypentropy_step(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return engine.template map<T>(HypentropyStep<T>{call.parameter[0]}, {&op[3]}, PerRow<T>{op[0]},
                                PerRow<T>{op[1]}, PerRow<T>{op[2]});
}

template <class T, class Engine>
long long eg_step(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  EgStep<T> fn;
  fn.mix = call.parameter[0], fn.keep = call.parameter[1] != 0, fn.n = call.n;
  const Vector<T> w = {op[0]}, g = {op[1]};
  const PerRow<T> lr = {op[2]}, mass = {op[3]};
  if constexpr (Engine::specialises && !is_double<T>) {
    if (engine.short_rows(fn, w, g, lr, mass, op[4])) return 0;
  }
  return engine.template transform<T>(fn, {0, {}, &op[4]}, w, g, lr, mass);
}

template <class T, class Engine>
long long eg_step_log(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return engine.template transform<T>(EgStepLog<T>{}, {0, {}, &op[3]}, Vector<T>{op[0]},
                                      Vector<T>{op[1]}, PerRow<T>{op[2]});
}

template <class T, class Engine>
long long eg_pm_step(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  EgPmStep<T> fn;
  fn.scaled = call.parameter[0] != 0;
  return engine.template transform<T>(fn, {0, {}, &op[5], &op[6]}, Vector<T>{op[0]},
                                      Vector<T>{op[1]}, Vector<T>{op[2]}, PerRow<T>{op[3]},
                                      PerRow<T>{op[4]});
}

template <class T, class Engine>
long long eg_pm_init(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  const double slack = 1 + (call.dtype == float64 ? 0x1p-50 : 0x1p-21);
  return engine.template transform<T>(EgPmInit<T>{slack, call.n}, {0, {}, &op[2], &op[3]},
                                      Vector<T>{op[0]}, PerRow<T>{op[1]});
}

template <class T, class Engine>
long long eg_step_vjp(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  EgStepVjp<T> fn;
  fn.n = call.n;
  return engine.template transform<T>(fn, {1, {&op[7]}, &op[5], &op[6]}, Vector<T>{op[0]},
                                      Vector<T>{op[1]}, Vector<T>{op[2]}, PerRow<T>{op[3]},
                                      PerRow<T>{op[4]});
}

template <class Engine>
constexpr Entry eg_entries[] = {
    KX_KERNEL(egu_step, "(),(),()->()", 1),
    KX_KERNEL(egu_pm_step, "(),(),(),()->(),()", 0),
    KX_KERNEL(hypentropy_step, "(),(),()->()", 1),
    KX_KERNEL(eg_step, "(n),(n),(),()->(n)", 2),
    KX_KERNEL(eg_step_log, "(n),(n),()->(n)", 0),
    KX_KERNEL(eg_pm_step, "(n),(n),(n),(),()->(n),(n)", 1),
    KX_KERNEL(eg_pm_init, "(n),()->(n),(n)", 0),
    KX_KERNEL(eg_step_vjp, "(n),(n),(n),(),()->(n),(n),()", 0),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
