// Inputs of losses, for engines that know them, and elements of any type.
#pragma once

#include "engine.h"

namespace kexue {
inline namespace KX_ISA {

// any(n): targets of any type, as the coefficients t and 1 - t of T.
template <class T>
struct Targets {
  const Operand& op;
};
// list,list: the true ones of row r are indices[ends[r]] to indices[ends[r + 1] - 1], in order.
// Negative ones are ignored.
struct Listed {
  const Operand &indices, &ends;
};
// mask(k)?: of the n = k k cells of a matrix, those whose row and column are true, and with `upper`
// only those with row <= column.
struct Cells {
  const Operand& op;
  bool upper;
};

// f of a value of the type of elements in memory.
template <class F>
KX_FN auto with_stored(Dtype type, F f) {
  switch (type) {
    case float64:
      return f(double{});
    case float32:
      return f(float{});
    case float16:
      return f(Half{});
    case bfloat16:
      return f(Bfloat16{});
    case flag:
    case uint8:
      return f(static_cast<unsigned char>(0));
    case int8:
      return f(static_cast<signed char>(0));
    case int16:
      return f(short{});
    case int32:
      return f(int{});
    case uint32:
      return f(unsigned{});
    case int64:
      return f(0LL);
    case uint64:
      return f(0ULL);
  }
  __builtin_unreachable();
}
// An element as a number; 16-bit floating point as float.
template <class S>
KX_FN auto element_at(const void* from) {
  if constexpr (__is_same(S, Half) || __is_same(S, Bfloat16)) {
    return load_wide<S, float>(from);
  } else {
    return load<S>(from);
  }
}

}  // namespace KX_ISA
}  // namespace kexue
