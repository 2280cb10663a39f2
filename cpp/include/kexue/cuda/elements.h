// The kernel that carries a functor (elements.h) over arrays on a GPU: a thread to an element.
#pragma once

#include "../elements.h"
#include "rows.h"

namespace kexue {
inline namespace KX_ISA {

// A place in several operands at once.
template <int operands>
struct ElementCursor {
  const Array (&op)[operands];
  index at[operands];
  KX_FN void advance(int d, index steps) {
    KX_UNROLL
    for (int k = 0; k < operands; ++k) at[k] += steps * op[k].stride[d];
  }
  KX_FN char* operator[](int k) const { return op[k].data + at[k]; }
};

// Between a stored T and the functor's type; 16-bit numbers reach double by way of float.
template <class T, class V>
KX_FN V load_element(const void* from) {
  if constexpr (sizeof(T) == 2) {
    return static_cast<V>(load_half<T, float>(from));
  } else {
    return load_wide<T, V>(from);
  }
}
template <class T, class V>
KX_FN void store_element(void* to, V value) {
  if constexpr (sizeof(T) == 2) {
    store_half<T>(to, static_cast<float>(value));
  } else {
    store_wide<T>(to, value);
  }
}

// The work of the kernel `run` (rows.h): every row of the plan is one element.
template <class T, class Fn, int inputs, int outputs>
struct Map {
  static constexpr int operands = inputs + outputs;
  Fn fn;
  Plan plan;
  Array op[operands];  // inputs, then outputs

  KX_FN index jobs() const { return plan.rows; }
  KX_FN void operator()(index element, Slots*) const {
    using V = typename Fn::Term;
    ElementCursor<operands> place = {op, {}};
    go_to(plan, element, place);
    V x[inputs];
    KX_UNROLL
    for (int k = 0; k < inputs; ++k) x[k] = load_element<T, V>(place[k]);
    const auto r = apply<inputs>(fn, x);
    KX_UNROLL
    for (int k = 0; k < outputs; ++k) store_element<T>(place[inputs + k], result_of(r, k));
  }
};

}  // namespace KX_ISA
}  // namespace kexue
