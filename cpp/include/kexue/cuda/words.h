// The kernel that carries a functor on words (mitchell.h) over arrays on a GPU. A thread takes the
// words of a vector load at a time where they lie side by side, else one.
#pragma once

#include "../mitchell.h"
#include "elements.h"

namespace kexue {
inline namespace KX_ISA {

constexpr int vector_bytes = 16;  // the widest load

template <class W, int count>
struct alignas(sizeof(W) * count) WordVector {
  W word[count];
};

// The work of the kernel `run` (rows.h). In `packed` work a row of the plan is `count` neighbours,
// the last one perhaps fewer; else a row is one element.
template <class Fn, int inputs, int outputs>
struct WordMap {
  using In = typename Fn::In;
  using Out = typename Fn::Out;
  static constexpr int operands = inputs + outputs;
  static constexpr int widest = sizeof(In) > sizeof(Out) ? int(sizeof(In)) : int(sizeof(Out));
  static constexpr int count = vector_bytes / widest;

  Fn fn;
  Plan plan;
  Array op[operands];  // inputs, then outputs
  index packed;        // elements, 0 where they do not lie side by side

  KX_FN index jobs() const { return plan.rows; }
  KX_FN void operator()(index job, Slots*) const {
    if (packed == 0) {
      ElementCursor<operands> place = {op, {}};
      go_to(plan, job, place);
      one([&](int k) { return place[k]; });
      return;
    }
    const index first = job * count;
    if (first + count > packed) {
      for (index i = first; i < packed; ++i) {
        one([&](int k) { return op[k].data + i * size(k); });
      }
      return;
    }
    using From = WordVector<In, count>;
    From x[inputs];
    WordVector<Out, count> y[outputs];
    KX_UNROLL
    for (int k = 0; k < inputs; ++k) {
      x[k] = *reinterpret_cast<const From*>(op[k].data + first * size(k));
    }
    KX_UNROLL
    for (int i = 0; i < count; ++i) {
      In each[inputs];
      KX_UNROLL
      for (int k = 0; k < inputs; ++k) each[k] = x[k].word[i];
      const auto r = apply<inputs>(fn, each);
      KX_UNROLL
      for (int k = 0; k < outputs; ++k) y[k].word[i] = Out(result_of(r, k));
    }
    KX_UNROLL
    for (int k = 0; k < outputs; ++k) {
      *reinterpret_cast<WordVector<Out, count>*>(op[inputs + k].data + first * size(inputs + k)) =
          y[k];
    }
  }

  KX_FN static index size(int k) { return k < inputs ? index(sizeof(In)) : index(sizeof(Out)); }

 private:
  template <class At>
  KX_FN void one(const At& at) const {
    In x[inputs];
    KX_UNROLL
    for (int k = 0; k < inputs; ++k) x[k] = load<In>(at(k));
    const auto r = apply<inputs>(fn, x);
    KX_UNROLL
    for (int k = 0; k < outputs; ++k) store(at(inputs + k), Out(result_of(r, k)));
  }
};

}  // namespace KX_ISA
}  // namespace kexue
