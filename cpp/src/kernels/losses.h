// What kernels of losses share: the loss of each row, and beside it up to two rows of results.
#pragma once

#include "../engine.h"
#include "kexue/multilabel.h"

namespace kexue {
inline namespace KX_ISA {

// A row function without the second of its results.
template <class Fn>
struct First : Fn {
  template <class... Args>
  KX_FN auto each(const Args&... args) const {
    return [step = Fn::each(args...)](auto i) { return step(i).first; };
  }
};

// The values of fn, and its rows of results where they are wanted. An engine that specialises has
// kernels of their own for less work; another has one kernel, which skips what is not wanted.
template <class T, class Engine, class Fn, class... In>
long long run_wanted(Engine& engine, const Fn& fn, const Outputs<T, T>& to, In... in) {
  if constexpr (Engine::specialises) {
    if (!to.vector->data) return engine.template reduce<T>(fn, {1, {to.scalar[0]}, nullptr}, in...);
  }
  return engine.template transform<T>(fn, to, in...);
}

// Results to `out`: the loss, and the first and second row that fn gives, where wanted.
template <class T, class Engine, class Fn, class... In>
long long run_loss(Engine& engine, const Fn& fn, const Operand* out, In... in) {
  const Operand &loss = out[0], &first = out[1], &second = out[2];
  if constexpr (Engine::specialises) {
    if (!second.data) return run_wanted<T>(engine, First<Fn>{fn}, {1, {&loss}, &first}, in...);
  }
  const Operand& any = first.data ? first : second;  // one that is not wanted is written over
  return engine.template transform<T>(fn, {1, {&loss}, &any, &second}, in...);
}

// In place of an operand that there is not.
constexpr Operand no_operand{};

// Before anything is written, how many rows have targets that are not allowed, if that is asked
// for. Not on a GPU, which gives nan for them.
template <class T, class Engine, class C, class M>
long long count_invalid(Engine& engine, double strict, Allowed allowed, C targets, M mask) {
  if constexpr (Engine::specialises) {
    if (strict != 0) {
      return engine.template count<T>(InvalidTargets<T>{allowed}, targets, mask);
    }
  }
  return 0;
}

}  // namespace KX_ISA
}  // namespace kexue
