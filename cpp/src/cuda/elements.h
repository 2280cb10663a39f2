// The engine of elementwise kernels for a GPU: one launch goes over all elements.
#pragma once

#include "engine.h"
#include "kexue/cuda/elements.h"

namespace kexue {
inline namespace KX_ISA {

class CudaElements : public CudaEngine {
 public:
  using CudaEngine::CudaEngine;

  template <class T, class Fn, int outputs, class... In>
  long long map(const Fn& fn, const Operand* const (&to)[outputs], In... in) {
    constexpr int inputs = sizeof...(In);
    const bool done = each_piece([&] {
      Map<T, Fn, inputs, outputs> work = {fn, plan(true), {place(&in.op)...}};
      for (int k = 0; k < outputs; ++k) work.op[inputs + k] = place(to[k]);
      return launch(work);
    });
    return done ? 0 : -1;
  }
};

}  // namespace KX_ISA
}  // namespace kexue
