// The engine of kernels on words for a GPU: one launch goes over all elements.
#pragma once

#include "engine.h"
#include "kexue/cuda/words.h"

namespace kexue {
inline namespace KX_ISA {

class CudaWords : public CudaEngine {
 public:
  using CudaEngine::CudaEngine;

  template <int inputs, int outputs, class Fn>
  long long map(const Fn& fn) {
    using Work = WordMap<Fn, inputs, outputs>;
    const bool done = each_piece([&] {
      Work work = {fn, plan(true), {}, 0};
      bool packs = work.plan.dims == 1;
      for (int k = 0; k < Work::operands; ++k) {
        work.op[k] = place(&call_.operand[k]);
        packs = packs && work.op[k].stride[0] == Work::size(k) &&
                reinterpret_cast<unsigned long long>(work.op[k].data) % vector_bytes == 0;
      }
      if (packs) {
        work.packed = work.plan.rows;
        work.plan.rows = (work.packed + Work::count - 1) / Work::count;
      }
      return launch(work);
    });
    return done ? 0 : -1;
  }
};

}  // namespace KX_ISA
}  // namespace kexue
