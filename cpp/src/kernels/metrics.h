// The kernels of the metrics and the small losses: which function runs on which operands.
#pragma once

#include "../targets.h"
#include "kexue/metrics.h"
#include "losses.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

template <class T, class Engine>
long long smooth_accuracy(Engine& engine, const Call& call) {
  return engine.template reduce<T>(Mean<T>{static_cast<wide_t<T>>(call.n)},
                                   {1, {&call.operand[1]}, nullptr}, Vector<T>{call.operand[0]});
}

template <class T, class Engine>
long long smooth_ratio(Engine& engine, const Call& call) {
  using W = wide_t<T>;
  const Operand* op = call.operand;
  const double* given = call.parameter;
  const SmoothRatio<T> fn = {W(given[0]), W(given[1]), W(given[2])};
  const Targets<T> targets = {op[1]};
  const long long refused =
      count_invalid<T>(engine, given[3], Allowed::shares, targets, Flags{no_operand});
  if (refused) return refused;
  return run_wanted<T>(engine, fn, {1, {op + 2}, op + 3}, Vector<T>{op[0]}, targets);
}

template <class T, class Engine>
long long flooding(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  PerRow<T> x = {op[0]}, b = {op[1]};
  if (op[3].data) return engine.template map<T>(FloodingGrad<T>{}, {op + 2, op + 3}, x, b);
  return engine.template map<T>(Flooding<T>{}, {op + 2}, x, b);
}

template <class T, class Engine>
long long negative_cosine(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return run_wanted<T>(engine, NegativeCosine<T>{}, {1, {op + 2}, op + 3}, Vector<T>{op[0]},
                       Vector<T>{op[1]});
}

template <class T, class Engine>
long long simsiam_loss(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return run_wanted<T>(engine, SimsiamLoss<T>{}, {1, {op + 4}, op + 5, op + 6}, Vector<T>{op[0]},
                       Vector<T>{op[1]}, Vector<T>{op[2]}, Vector<T>{op[3]});
}

template <class Engine>
constexpr Entry metrics_entries[] = {
    KX_KERNEL(smooth_accuracy, "(n)->()", 0),
    KX_KERNEL(smooth_ratio, "(n),any(n)->(),(n)?", 4),
    KX_KERNEL(flooding, "(),()->(),()?", 0),
    KX_KERNEL(negative_cosine, "(n),(n)->(),(n)?", 0),
    KX_KERNEL(simsiam_loss, "(n),(n),(n),(n)->(),(n)?,(n)?", 0),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
