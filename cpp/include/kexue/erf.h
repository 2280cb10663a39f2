// What the smooth elementwise functions are made of: the decay of e^x far below zero, products
// known beyond their type, and the tail of the normal distribution.
#pragma once

#include "math.h"
#if defined(__SSE2__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

namespace kexue {
inline namespace KX_ISA {

// x, or `high` where x is above it; a NaN stays.
template <class V>
KX_FN V at_most(V x, V high) {
#if defined(__AVX512F__) && !defined(__CUDACC__)  // see at_least
  if constexpr (sizeof(V) == 64 && sizeof(element_t<V>) == 8) {
    return bit_cast<V>(_mm512_min_pd(bit_cast<__m512d>(high), bit_cast<__m512d>(x)));
  }
  if constexpr (sizeof(V) == 64 && sizeof(element_t<V>) == 4) {
    return bit_cast<V>(_mm512_min_ps(bit_cast<__m512>(high), bit_cast<__m512>(x)));
  }
#endif
  return select(x > high, high, x);
}
// x where it is positive, else 0.
template <class V>
KX_FN V positive_part(V x) {
  return select(x > V{}, x, V{});
}
// |x| and -|x|
template <class V>
constexpr auto sign_bit = element_t<bits_t<V>>(1) << (8 * sizeof(element_t<V>) - 1);
template <class V>
KX_FN V magnitude(V x) {
  return bit_cast<V>(bits_t<V>(bit_cast<bits_t<V>>(x) & ~sign_bit<V>));
}
template <class V>
KX_FN V minus_magnitude(V x) {
  return bit_cast<V>(bits_t<V>(bit_cast<bits_t<V>>(x) | sign_bit<V>));
}

template <class V>
KX_FN V square_root(V x) {
#if defined(__CUDA_ARCH__)
  return sizeof(V) == 8 ? V(__dsqrt_rn(x)) : V(__fsqrt_rn(float(x)));
#else
#if defined(__SSE2__) && !defined(__CUDACC__)
  constexpr bool wide = sizeof(element_t<V>) == 8;
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && wide) return bit_cast<V>(_mm512_sqrt_pd(bit_cast<__m512d>(x)));
  if constexpr (sizeof(V) == 64 && !wide) return bit_cast<V>(_mm512_sqrt_ps(bit_cast<__m512>(x)));
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32 && wide) return bit_cast<V>(_mm256_sqrt_pd(bit_cast<__m256d>(x)));
  if constexpr (sizeof(V) == 32 && !wide) return bit_cast<V>(_mm256_sqrt_ps(bit_cast<__m256>(x)));
#endif
  if constexpr (sizeof(V) == 16 && wide) return bit_cast<V>(_mm_sqrt_pd(bit_cast<__m128d>(x)));
  if constexpr (sizeof(V) == 16 && !wide) return bit_cast<V>(_mm_sqrt_ps(bit_cast<__m128>(x)));
#endif
  if constexpr (lanes<V> == 1) {
    return sizeof(V) == 8 ? V(__builtin_sqrt(x)) : V(__builtin_sqrtf(x));
  } else {
    KX_UNROLL
    for (int i = 0; i < lanes<V>; ++i) x[i] = square_root(x[i]);
    return x;
  }
#endif
}

template <class E>
constexpr E largest = sizeof(E) == 8 ? E(0x1.fffffffffffffp1023) : E(0x1.fffffep127f);

// c + x (c1 + x (c2 + ...))
template <class V>
KX_FN V polynomial(V, double c) {
  return splat<V>(c);
}
template <class V, class... Rest>
KX_FN V polynomial(V x, double c, Rest... rest) {
  return polynomial(x, rest...) * x + element_t<V>(c);
}

// e^x = p 2^k for x <= 0. A factor comes in before 2^k does, so the product is as exact as any,
// even where e^x alone would be subnormal or 0.
template <class V>
struct Decay {
  V p, rounded;  // k + Format::round
  using F = Format<element_t<V>>;

#if defined(__AVX512F__) && !defined(__CUDACC__)
  KX_FN V scale(V value) const {
    const V k = rounded - F::round;
    if constexpr (sizeof(V) == 64 && sizeof(element_t<V>) == 8) {
      return bit_cast<V>(_mm512_scalef_pd(bit_cast<__m512d>(value), bit_cast<__m512d>(k)));
    } else if constexpr (sizeof(V) == 64) {
      return bit_cast<V>(_mm512_scalef_ps(bit_cast<__m512>(value), bit_cast<__m512>(k)));
    } else {
      return value * near() * far();
    }
  }
#else
  KX_FN V scale(V value) const { return value * near() * far(); }
#endif
  // e^x, rounded once more where it is subnormal.
  KX_FN V value() const { return scale(p); }
  // e^x as a term beside 1.
  KX_FN V rough() const { return p * near(); }

 private:
  // 2^k in two factors, the second 1 unless e^x is close to the smallest numbers.
  KX_FN V top() const {
    return at_least(rounded, splat<V>(F::round + (sizeof(element_t<V>) == 8 ? -958 : -94)));
  }
  KX_FN V near() const { return power_of_two(top()); }
  KX_FN V far() const { return power_of_two(V((rounded - top()) + F::round)); }
};
// Below this e^x, and its product with numbers that are not extreme, is 0.
template <class E>
constexpr E decay_end = sizeof(E) == 8 ? -1372 : -149;

template <class V>
KX_FN Decay<V> decay(V x, V x_lo = V{}) {  // x from decay_end to 0
  Exponential<V> e = exp_reduce<element_t<V>>(x, x_lo);
  return {1 + (e.r + e.r * e.r * e.q), e.rounded};
}
// e^-|x|
template <class V>
KX_FN Decay<V> decay_of_magnitude(V x) {
  return decay(at_least(minus_magnitude(x), splat<V>(decay_end<element_t<V>>)));
}

// A constant in two parts, and products with it, with their rounding errors.
template <class E>
struct Factor {
  E hi, lo;
  KX_FN explicit Factor(Two<double> c)
      : hi(E(c.hi)), lo(sizeof(E) == 8 ? E(c.lo) : E(c.hi - double(E(c.hi)))) {}
  template <class V>
  KX_FN Two<V> operator()(V t) const {
    Two<V> p = two_product(t, splat<V>(hi));
#if defined(KX_HAS_FMA)
    return {p.hi, V(p.lo + t * lo)};
#else  // which splits t, and is not a number where t is near the largest
    return {p.hi, select(p.lo == p.lo, V(p.lo + t * lo), V{})};
#endif
  }
};

// log(1 + e^x) for x <= 0, times a factor.
template <class V>
KX_FN V log1p_decay(Decay<V> e, V factor) {
  const V q = e.p / (2 + e.rough());
  const V s = e.scale(q);
  const V z = s * s;
  V tail;
  if constexpr (sizeof(element_t<V>) == 8) {  // 2^-57
    tail =
        polynomial(z, 0.6666666666666666, 0.400000000000148, 0.2857142856705252, 0.2222222272274574,
                   0.1818178918759394, 0.15385576556321218, 0.13314044818821516,
                   0.12001959090792683, 0.08796477431234354, 0.16172581875220238);
  } else {  // 2^-31
    tail = polynomial(z, 0.6666666732988186, 0.39999703137345616, 0.285925031115786,
                      0.21704481755478772, 0.23233772288644752);
  }
  return e.scale(q * factor * (2 + z * tail));
}

// The normal distribution's lower tail at -t, t >= 0: probability = normal_share(t) e^(-t^2/2) and
// (density - t * probability) = normal_excess(t) e^(-t^2/2). At normal_end both are 0.
template <class E>
constexpr E normal_end = sizeof(E) == 8 ? 40 : 15;

template <class V>
KX_FN Decay<V> normal_decay(V t, V t_lo = V{}) {
  const element_t<V> half = 0.5;
  const Two<V> square = two_product(t, t);
  return decay(V(-half * square.hi), V(-(half * square.lo + t * t_lo)));
}

// w = 1 / (t + c) and y = (t - c) / (t + c), which maps t >= 0 to [-1, 1): what the polynomials are
// in. y is corrected by the remainder of the division.
template <class V>
struct Mapped {
  V w, y;
};
template <class V>
KX_FN Mapped<V> mapped(V t, element_t<V> c) {
  const V w = 1 / (t + c), y = (t - c) * w;
  const V rest = (t - (y + 1) * c) - y * t;
  return {w, V(y + rest * w)};
}

template <class V>
KX_FN V normal_share(V t) {  // erfcx(t / sqrt(2)) / 2
  constexpr bool wide = sizeof(element_t<V>) == 8;
  const auto [w, y] = mapped(t, wide ? 6 : 3);
  if constexpr (wide) {  // 2^-57.8
    return w * polynomial(y, 0x1.8e010d2b8a0eap-1, -0x1.66eaa7d09640ep-1, 0x1.234fe3fd925c3p-1,
                          -0x1.a7d6577269c58p-2, 0x1.1267d7383d82bp-2, -0x1.38b069dbb38d3p-3,
                          0x1.33e777760e098p-4, -0x1.fba9d530ba220p-6, 0x1.48a83bcd097dfp-7,
                          -0x1.1764cd5679f14p-9, 0x1.13bbf536e8472p-15, 0x1.7c572323000c5p-13,
                          -0x1.0f973d44075a7p-14, 0x1.20b773efddbd8p-20, 0x1.c8280d7398c43p-18,
                          -0x1.e31150fa0b5fcp-20, -0x1.cf367f12e8cc1p-22, 0x1.4cf1e04c663aep-22,
                          0x1.5958e076074d7p-27, -0x1.6f3e6c9c4e9ccp-25, 0x1.b33800e4fcc15p-38,
                          0x1.3ea8e53d73247p-28, 0x1.6d635cf5f74c2p-31);
  } else {  // 2^-30
    return w * polynomial(y, 0.7290837168693542, -0.509332001209259, 0.23001770675182343,
                          -0.04726268723607063, -0.010462512262165546, 0.0069693089462816715,
                          0.0010247522732242942, -0.001032568165101111, -0.0002447261940687895,
                          0.00013132601452525705, 5.448576484923251e-05);
  }
}

template <class V>
KX_FN V normal_excess(V t) {
  constexpr bool wide = sizeof(element_t<V>) == 8;
  const auto [w, y] = mapped(t, wide ? 6 : element_t<V>(3.5));
  if constexpr (wide) {  // 2^-59.8
    return w * w *
           polynomial(y, 0x1.7a75da7e1027cp+0, -0x1.451d45e7144e6p+1, 0x1.796c4bc9156b6p+1,
                      -0x1.5d1f175553b6ap+1, 0x1.0d380797cf855p+1, -0x1.5dfb1c310760dp+0,
                      0x1.7c77af2996bf0p-1, -0x1.4ffef98cb2cebp-2, 0x1.c0519d2b34c81p-4,
                      -0x1.62a0abdbb1ef2p-6, -0x1.ac2f743f390bcp-10, 0x1.8319f4c4e1cf3p-9,
                      -0x1.c0a8390bd7b55p-11, -0x1.4fec64713e1fbp-14, 0x1.0e564a6027f97p-13,
                      -0x1.6fe64b1da9bc6p-16, -0x1.a44242c6f2ddcp-17, 0x1.6f2e2867e964bp-18,
                      0x1.ece4c4253f6c9p-21, -0x1.f83e483445f92p-21, -0x1.b4fe82811fefcp-25,
                      0x1.3506cb4b58758p-23, 0x1.418123a70a59bp-27, -0x1.17df9bbf8d514p-26,
                      -0x1.c22a14fbfcd6ep-29);
  } else {  // 2^-30
    return w * w *
           polynomial(y, 1.3099778890609741, -1.7619736194610596, 1.2944278717041016,
                      -0.5338348150253296, 0.054655130952596664, 0.05798938870429993,
                      -0.019185926765203476, -0.00735697615891695, 0.0036073531955480576,
                      0.001365063595585525, -0.0004968655412085354, -0.00024659550399519503);
  }
}

}  // namespace KX_ISA
}  // namespace kexue
