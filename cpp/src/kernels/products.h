// The kernel of sums of Mitchell products. A matrix product comes as scalar products of operands
// that are broadcast, rows along one axis and columns along the next; engines see that.
#pragma once

#include "kexue/mitchell_dot.h"
#include "numbers.h"

namespace kexue {
inline namespace KX_ISA {

// Axes of a product of matrices: out[i, j] = sum_k a[i, k] b[j, k], in bytes.
struct MatrixPlan {
  index n = 1, m = 1, k = 0;
  index a_row = 0, b_row = 0, out_row = 0, out_column = 0;
  int outer = 0;  // loop axes before these

  explicit MatrixPlan(const Call& call) : k(call.n), outer(call.dims) {
    const Operand *a = call.operand, *b = a + 1, *out = a + 2;
    if (outer > 0 && a->stride[outer - 1] == 0) {
      m = call.shape[--outer];
      b_row = b->stride[outer];
      out_column = out->stride[outer];
    }
    if (outer > 0 && b->stride[outer - 1] == 0) {
      n = call.shape[--outer];
      a_row = a->stride[outer];
      out_row = out->stride[outer];
    }
  }
};

namespace {

// number accumulator result offset iterations ilm cut flush
template <class Engine>
long long dot(Engine& engine, const Call& call) {
  const double* p = call.parameter;
  const ProductOptions o = {
      static_cast<long long>(p[3]), int(p[4]), p[5] != 0, cut_from(p[6]), p[7] != 0, false};
  const auto accumulator = static_cast<Number>(int(p[1])), result = static_cast<Number>(int(p[2]));
  if (is_float(format_number(call))) {
    return with_float(format_number(call), [&](auto format) {
      using F = typename decltype(format)::type;
      if (accumulator == Number::float64) return engine.template real<F, Binary64>(o, result);
      if constexpr (F::width == 64) {
        return -1LL;
      } else {
        return engine.template real<F, Binary32>(o, result);
      }
    });
  }
  return with_integer(format_number(call), [&](auto format) {
    using N = typename decltype(format)::type;
    return engine.template whole<N>(o, accumulator == Number::int32);
  });
}

template <class Engine>
constexpr Entry products_entries[] = {KX_WORDS(dot, "any(n),any(n)->any()", 8)};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
