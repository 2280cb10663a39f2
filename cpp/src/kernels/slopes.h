// The kernels of slopes of Mitchell's operations.
#pragma once

#include "kexue/mitchell_dot.h"
#include "kexue/mitchell_slopes.h"
#include "numbers.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

inline long long offset_of(const Call& call) { return static_cast<long long>(call.parameter[1]); }

// number offset
template <class Engine>
long long mul_slope(Engine& engine, const Call& call) {
  return with_float(format_number(call), [&](auto format) {
    using F = typename decltype(format)::type;
    return engine.template map<3, 1>(MulSlope<F>{offset_of(call)});
  });
}
template <class Engine>
long long div_slope_a(Engine& engine, const Call& call) {
  return with_float(format_number(call), [&](auto format) {
    using F = typename decltype(format)::type;
    return engine.template map<3, 1>(DivSlope<F, false>{offset_of(call)});
  });
}
template <class Engine>
long long div_slope_b(Engine& engine, const Call& call) {
  return with_float(format_number(call), [&](auto format) {
    using F = typename decltype(format)::type;
    return engine.template map<3, 1>(DivSlope<F, true>{offset_of(call)});
  });
}
// number
template <class Engine>
long long log2_slope(Engine& engine, const Call& call) {
  return with_float(format_number(call), [&](auto format) {
    using F = typename decltype(format)::type;
    return engine.template map<2, 1>(Log2Slope<F>{});
  });
}
template <class Engine>
long long exp2_slope(Engine& engine, const Call& call) {
  return with_float(format_number(call), [&](auto format) {
    using F = typename decltype(format)::type;
    return engine.template map<2, 1>(Exp2Slope<F>{});
  });
}
// number p
template <class Engine>
long long pow_slope(Engine& engine, const Call& call) {
  return with_float(format_number(call), [&](auto format) {
    using F = typename decltype(format)::type;
    return engine.template map<2, 1>(PowSlope<F>(call.parameter[1]));
  });
}
// number accumulator offset
template <class Engine>
long long slope_dot(Engine& engine, const Call& call) {
  const auto offset = static_cast<long long>(call.parameter[2]);
  return with_float(format_number(call), [&](auto format) {
    using F = typename decltype(format)::type;
    using Acc = Choose<F::width == 64, Binary64, Binary32>;
    return engine.template slopes<F, Acc>(offset, format_number(call));
  });
}

template <class Engine>
constexpr Entry slopes_entries[] = {
    KX_WORDS(mul_slope, "any(),any(),any()->any()", 2),
    KX_WORDS(div_slope_a, "any(),any(),any()->any()", 2),
    KX_WORDS(div_slope_b, "any(),any(),any()->any()", 2),
    KX_WORDS(log2_slope, "any(),any()->any()", 1),
    KX_WORDS(exp2_slope, "any(),any()->any()", 1),
    KX_WORDS(pow_slope, "any(),any()->any()", 2),
    KX_WORDS(slope_dot, "any(),any(n),any(n)->any()", 3),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
