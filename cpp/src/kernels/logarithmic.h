// The kernels of Mitchell's elementwise operations: which functor runs on which format.
#pragma once

#include "numbers.h"

namespace kexue {
inline namespace KX_ISA {
namespace {
namespace logarithmic {  // names that are functions of numbers elsewhere

// number offset iterations ilm cut flush wrap
template <class Engine>
long long mul(Engine& engine, const Call& call) {
  const double* p = call.parameter;
  const ProductOptions o = {
      static_cast<long long>(p[1]), int(p[2]), p[3] != 0, cut_from(p[4]), p[5] != 0, p[6] != 0};
  const Number number = format_number(call);
  const bool iterates = o.iterations > 0 || o.ilm, both = call.operand[3].data != nullptr;
  if (is_float(number)) {
    return with_float(number, [&](auto format) {
      using F = typename decltype(format)::type;
      if (!iterates) return engine.template map<2, 1>(FloatMul<F>{o});
      if constexpr (F::width == 64) {
        return engine.template map<2, 1>(EachProduct<F>{o});
      } else {
        return engine.template map<2, 1>(FloatIterated<F>{o});
      }
    });
  }
  return with_integer(number, [&](auto format) {
    using N = typename decltype(format)::type;
    if constexpr (N::width == 64) {
      if (both && iterates) return engine.template map<2, 2>(IntegerIterated<N, true>{o});
      if (both) return engine.template map<2, 2>(WideMul<N, true>{o});
      if (!iterates) return engine.template map<2, 1>(WideMul<N, false>{o});
    } else {
      if (!iterates) return engine.template map<2, 1>(SmallMul<N>{o});
    }
    return engine.template map<2, 1>(IntegerIterated<N, false>{o});
  });
}

// number offset flush
template <class Engine>
long long div(Engine& engine, const Call& call) {
  const auto offset = static_cast<long long>(call.parameter[1]);
  const Number number = format_number(call);
  if (is_float(number)) {
    return with_float(number, [&](auto format) {
      using F = typename decltype(format)::type;
      return engine.template map<2, 1>(FloatDiv<F>{offset, call.parameter[2] != 0});
    });
  }
  return with_integer(number, [&](auto format) {
    using N = typename decltype(format)::type;
    if constexpr (N::width == 64) {
      return engine.template map<2, 1>(WideDiv<N>{offset});
    } else {
      return engine.template map<2, 1>(SmallDiv<N>{offset});
    }
  });
}

// number flush
template <class Engine>
long long log2(Engine& engine, const Call& call) {
  const Number number = format_number(call);
  if (is_float(number)) {
    return with_float(number, [&](auto format) {
      using F = typename decltype(format)::type;
      return engine.template map<1, 1>(FloatLog2<F>{call.parameter[1] != 0});
    });
  }
  return with_integer(number, [&](auto format) {
    using N = typename decltype(format)::type;
    if constexpr (N::width == 64) {
      return engine.template map<1, 1>(WideLog2<N>{});
    } else {
      return engine.template map<1, 1>(SmallLog2<N>{});
    }
  });
}
template <class Engine>
long long exp2(Engine& engine, const Call& call) {
  return with_float(format_number(call), [&](auto format) {
    using F = typename decltype(format)::type;
    return engine.template map<1, 1>(FloatExp2<F>{call.parameter[1] != 0});
  });
}

template <class Op, class Engine>
long long power(Engine& engine, const Call& call) {
  return with_float(format_number(call), [&](auto format) {
    using F = typename decltype(format)::type;
    return engine.template map<1, 1>(FloatPower<F, Op>{call.parameter[1] != 0});
  });
}
template <class Engine>
long long square(Engine& engine, const Call& call) {
  return power<Square>(engine, call);
}
template <class Engine>
long long sqrt(Engine& engine, const Call& call) {
  return power<Sqrt>(engine, call);
}
template <class Engine>
long long rsqrt(Engine& engine, const Call& call) {
  return power<Rsqrt>(engine, call);
}
template <class Engine>
long long reciprocal(Engine& engine, const Call& call) {
  return power<Reciprocal>(engine, call);
}
// number p flush
template <class Engine>
long long pow(Engine& engine, const Call& call) {
  return with_float(format_number(call), [&](auto format) {
    using F = typename decltype(format)::type;
    return engine.template map<1, 1>(FloatPow<F>(call.parameter[1], call.parameter[2] != 0));
  });
}

template <class Engine>
constexpr Entry logarithmic_entries[] = {
    KX_WORDS(log2, "any()->any()", 2),
    KX_WORDS(exp2, "any()->any()", 2),
    KX_WORDS(mul, "any(),any()->any(),any()?", 7),
    KX_WORDS(div, "any(),any()->any()", 3),
    KX_WORDS(square, "any()->any()", 2),
    KX_WORDS(sqrt, "any()->any()", 2),
    KX_WORDS(rsqrt, "any()->any()", 2),
    KX_WORDS(reciprocal, "any()->any()", 2),
    KX_WORDS(pow, "any()->any()", 3),
};

}  // namespace logarithmic
using logarithmic::logarithmic_entries;

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
