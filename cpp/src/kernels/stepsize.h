// The kernels of adapting step sizes: which functor or row function runs on which operands.
#pragma once

#include "../engine.h"
#include "kexue/stepsize.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

// One new scale from the whole row, where it has a rate at all; then one pass over all.
template <class T, class Engine>
long long eg_stepsize_step(Engine&, const Call& call) {
  const Operand* op = call.operand;
  const Operand &old_scale = op[5], &scale = op[10];
  const double* p = call.parameter;
  const StepScale<T> of_all = {p[4], p[7], p[8], p[9], p[12] != 0};
  Call sums = call;
  if (p[4] == 0) sums.n = 0;
  Engine by_row(sums);
  const long long failed =
      by_row.template reduce<T, double>(of_all, {1, {&scale}, nullptr}, Vector<T>{op[1]},
                                        Vector<T>{op[3]}, PerRow<double>{old_scale});
  if (failed) return failed;

  Call elements = call;  // a row of n as n elements
  elements.n = 1;
  elements.dims = 1;
  elements.rows = elements.shape[0] = call.n;
  for (int k = 0; k < 10; ++k) elements.operand[k].stride[0] = op[k].step;
  Engine by_element(elements);
  const Operand* e = elements.operand;
  StepsizeStep<T> fn;
  fn.lr = p[0], fn.momentum = p[1], fn.beta = p[2], fn.rate = p[3], fn.low = p[5], fn.high = p[6];
  fn.correction = p[10], fn.by_sign = p[11] != 0;
  fn.up = multiplied<double>(1.0, p[3], 0.0, no_unit<double>());
  fn.down = multiplied<double>(1.0, -p[3], 0.0, no_unit<double>());
  fn.scale = reinterpret_cast<const double*>(scale.data);
  return by_element.template map<T>(fn, {&e[6], &e[7], &e[8], &e[9]}, PerRow<T>{e[0]},
                                    PerRow<T>{e[1]}, PerRow<T>{e[2]}, PerRow<T>{e[3]},
                                    PerRow<T>{e[4]});
}

template <class T, class Engine>
long long eg_gain_step(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return engine.template map<T>(GainStep<T>{call.parameter[0], call.parameter[1]}, {&op[4], &op[5]},
                                PerRow<T>{op[0]}, PerRow<T>{op[1]}, PerRow<T>{op[2]},
                                PerRow<T>{op[3]});
}

template <class Engine>
constexpr Entry stepsize_entries[] = {
    KX_KERNEL(eg_stepsize_step, "(n),(n),(n),(n),(n),any()->(n),(n),(n),(n),any()", 13),
    KX_KERNEL(eg_gain_step, "(),(),(),()->(),()", 2),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
