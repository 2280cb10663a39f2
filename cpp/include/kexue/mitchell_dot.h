// Sums of Mitchell products. Products are formed in the accumulator's format: float or double, or
// an integer that holds every sum.
#pragma once

#include "mitchell.h"

namespace kexue {
inline namespace KX_ISA {

// What a format's numbers are summed in.
template <class T>
struct SumFormat;
template <>
struct SumFormat<float> {
  using type = Binary32;
};
template <>
struct SumFormat<double> {
  using type = Binary64;
};

// Words of the format Acc for floating-point numbers of the format F, which has no more of them.
template <class F, class Acc>
KX_FN typename Acc::Word lengthen(typename F::Word word) {
  if constexpr (__is_same(F, Acc)) {
    return word;
  } else {
    const float value = number_of<F, float>(word);
    if constexpr (__is_same(Acc, Binary32)) {
      return bit_cast<Word32>(value);
    } else {
      return bit_cast<Word64>(static_cast<double>(value));
    }
  }
}
// And a sum as a word of any format.
template <class T>
KX_FN void store_sum(void* to, Number number, T sum) {
  switch (number) {
    case Number::float64:
      return store(to, bit_cast<Word64>(static_cast<double>(sum)));
    case Number::float32:
      return store(to, bit_cast<Word32>(static_cast<float>(sum)));
    default:
      break;
  }
  if constexpr (sizeof(T) == 8) {  // through float it would be rounded twice: to odd, then once
    const float near = static_cast<float>(sum);
    const T back = static_cast<T>(near);
    Word32 bits = bit_cast<Word32>(near);
    if (back != sum && bits % 2 == 0 && sum == sum && back - back == 0) {
      bits += (back < sum) == (sum > 0) ? 1 : -1;
    }
    return store_sum(to, number, bit_cast<float>(bits));
  } else if (number == Number::float16) {
    store(to, words_of<Binary16, Word16>(sum));
  } else {
    store(to, words_of<Brain16, Word16>(sum));
  }
}

// The product of two words as a number of T.
template <class F>
struct RealProduct {
  using Word = typename F::Word;
  using T = Choose<F::width == 64, double, float>;
  FloatMul<F> plain;
  KX_FN T operator()(Word a, Word b) const {
    const bool iterates = plain.options.iterations > 0 || plain.options.ilm;
    return bit_cast<T>(iterates ? product_of<F>(a, b, plain.options) : plain(a, b));
  }
};
// Of integers, modulo 2^64: every sum fits.
template <class N>
struct WholeProduct {
  using Word = typename N::Word;
  using T = Word64;
  ProductOptions options;
  KX_FN T operator()(Word a, Word b) const {
    constexpr Word sign = Word(N::with_sign ? Word(1) << (N::width - 1) : 0);
    constexpr int grid = N::width <= 16 ? 23 : 52;
    const bool na = (a & sign) != 0, nb = (b & sign) != 0;
    const Word64 x = cut_integer(na ? Word(-a) : a, options.cut);
    const Word64 y = cut_integer(nb ? Word(-b) : b, options.cut);
    const bool iterates = options.iterations > 0 || options.ilm;
    const Word128 p = iterates ? iterated_product(x, y, options.iterations, options.ilm)
                               : integer_product(x, y, Word64(options.offset) << (64 - grid));
    return na != nb ? -Word64(p) : Word64(p);
  }
};

}  // namespace KX_ISA
}  // namespace kexue
