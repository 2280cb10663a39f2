// The formats of kernels on words, and what such kernels are told about them.
#pragma once

#include "../engine.h"
#include "kexue/mitchell.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

template <class F>
struct OfFormat {
  using type = F;
};
// f of a floating-point format.
template <class F>
long long with_float(Number number, F f) {
  switch (number) {
    case Number::float64:
      return f(OfFormat<Binary64>{});
    case Number::float32:
      return f(OfFormat<Binary32>{});
    case Number::float16:
      return f(OfFormat<Binary16>{});
    default:
      return f(OfFormat<Brain16>{});
  }
}
// f of an integer format.
template <class F>
long long with_integer(Number number, F f) {
  switch (number) {
    case Number::int8:
      return f(OfFormat<IntegerFormat<Word8, true>>{});
    case Number::uint8:
      return f(OfFormat<IntegerFormat<Word8, false>>{});
    case Number::int16:
      return f(OfFormat<IntegerFormat<Word16, true>>{});
    case Number::uint16:
      return f(OfFormat<IntegerFormat<Word16, false>>{});
    case Number::int32:
      return f(OfFormat<IntegerFormat<Word32, true>>{});
    case Number::uint32:
      return f(OfFormat<IntegerFormat<Word32, false>>{});
    case Number::int64:
      return f(OfFormat<IntegerFormat<Word64, true>>{});
    default:
      return f(OfFormat<IntegerFormat<Word64, false>>{});
  }
}
constexpr bool is_float(Number number) { return number < Number::int8; }
inline Number format_number(const Call& call) {
  return static_cast<Number>(int(call.parameter[0]));
}

inline Cut cut_from(double bits) {
  const int whole = int(bits);
  return {bits < 0 ? -1 : whole, bits > whole};
}

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
