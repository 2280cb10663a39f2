// Elementwise functions. A functor names the type it computes with, and maps the values of one
// element, one to five of them, to a value or to `Values`:
//   struct Square {
//     using Term = double;
//     template <class V>
//     KX_FN V operator()(V x) const { return x * x; }
//   };
// V is a pack of Term on the CPU and Term itself on the GPU. One loop (src/cpu/elements.h) and one
// kernel (cuda/elements.h) carry every functor over arrays.
#pragma once

#include "row.h"

namespace kexue {
inline namespace KX_ISA {

// Several results of one element.
template <class V, int K>
struct Values {
  V value[K];
};

template <class V>
KX_FN V result_of(const V& value, int) {
  return value;
}
template <class V, int K>
KX_FN V result_of(const Values<V, K>& values, int k) {
  return values.value[k];
}

template <int inputs, class Fn, class V>
KX_FN auto apply(const Fn& fn, const V* x) {
  static_assert(inputs >= 1 && inputs <= 5, "one call for each");
  if constexpr (inputs == 1) {
    return fn(x[0]);
  } else if constexpr (inputs == 2) {
    return fn(x[0], x[1]);
  } else if constexpr (inputs == 3) {
    return fn(x[0], x[1], x[2]);
  } else if constexpr (inputs == 4) {
    return fn(x[0], x[1], x[2], x[3]);
  } else {
    return fn(x[0], x[1], x[2], x[3], x[4]);
  }
}

}  // namespace KX_ISA
}  // namespace kexue
