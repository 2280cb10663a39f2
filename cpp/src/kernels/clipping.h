// The kernels of clipping by the norm: which functor or row function runs on which operands.
#pragma once

#include "../engine.h"
#include "kexue/clipping.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

template <class T, class Engine>
long long scaled_squares(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  return engine.template reduce<T, double>(ScaledSquares<T>{}, {2, {&op[1], &op[2]}, nullptr},
                                           Vector<T>{op[0]});
}

template <class T, class Engine>
long long scaled(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  const auto number = [&](int k) { return reinterpret_cast<const double*>(op[k].data); };
  const Scaled fn = {number(1), number(2), call.parameter[0], call.parameter[1] != 0};
  return engine.template map<T>(fn, {&op[3]}, PerRow<T>{op[0]});
}

template <class Engine>
constexpr Entry clipping_entries[] = {
    KX_KERNEL(scaled_squares, "(n)->any(),any()", 0),
    KX_KERNEL(scaled, "(),any(),any()->()", 2),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
