// Launches the kernels of kexue/cuda/cells.h.
#pragma once

#include "engine.h"
#include "kexue/cuda/cells.h"

namespace kexue {
inline namespace KX_ISA {

class CudaCells : public CudaEngine {
 public:
  using CudaEngine::CudaEngine;

  // fn on every loop position, whose operands are the call's; `width` numbers keep a team busy.
  template <class T, class Fn>
  long long rows(const Fn& fn, index width) {
    const bool done = each_piece([&] {
      CellWork<T, Fn> work = {fn, plan(false), {}, {}};
      work.plan.size = team_size(width);
      for (int k = 0; k < Fn::operands; ++k) {
        work.op[k] = place(&call_.operand[k]);
        work.pitch[k] = call_.operand[k].pitch;
      }
      return launch(work);
    });
    return done ? 0 : -1;
  }
};

// A kernel is run(engine, call, zero of the type of sums).
template <class T, class Run>
long long with(const Call& call, Run run) {
  CudaCells engine(call);
  return run(engine, call, T(0));
}
#define KX_CELLS(name, signature, parameters)                                               \
  {                                                                                         \
    #name, signature, parameters, {                                                         \
      [](const Call& call) -> long long { return with<double>(call, name{}); },             \
          [](const Call& call) -> long long { return with<float>(call, name{}); }, nullptr, \
          nullptr                                                                           \
    }                                                                                       \
  }

}  // namespace KX_ISA
}  // namespace kexue
