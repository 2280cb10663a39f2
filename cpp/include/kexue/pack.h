// Values the row algorithms compute with: a scalar, or on the CPU a pack of them (GCC vector
// extension). Every function of math.h and of the families takes either.
#pragma once

#include "config.h"
#if defined(__AVX2__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

namespace kexue {
inline namespace KX_ISA {

template <class T>
T&& declval() noexcept;

template <class T>
struct Bare {
  using type = T;
};
template <class T>
struct Bare<T&> {
  using type = T;
};

template <class T>
struct Bare<const T> {
  using type = T;
};
template <class T>
using Plain = typename Bare<T>::type;

template <class V>
struct ValueTraits {  // of a pack; scalars are specialised below
  using Element = typename Bare<decltype(declval<V&>()[0])>::type;
  using Bits = typename ValueTraits<Element>::Bits;
  static constexpr int lanes = sizeof(V) / sizeof(Element);
};
template <class E, class B>
struct ScalarTraits {
  using Element = E;
  using Bits = B;
  static constexpr int lanes = 1;
};
template <>
struct ValueTraits<double> : ScalarTraits<double, unsigned long long> {};
template <>
struct ValueTraits<float> : ScalarTraits<float, unsigned> {};
template <>
struct ValueTraits<unsigned long long> : ScalarTraits<unsigned long long, unsigned long long> {};
template <>
struct ValueTraits<unsigned> : ScalarTraits<unsigned, unsigned> {};
template <>
struct ValueTraits<int> : ScalarTraits<int, unsigned> {};
template <>
struct ValueTraits<long long> : ScalarTraits<long long, unsigned long long> {};
template <>
struct ValueTraits<unsigned short> : ScalarTraits<unsigned short, unsigned short> {};
template <>
struct ValueTraits<unsigned char> : ScalarTraits<unsigned char, unsigned char> {};

template <class V>
using element_t = typename ValueTraits<V>::Element;
template <class V>
constexpr int lanes = ValueTraits<V>::lanes;

template <class To, class From>
KX_FN To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <class B>
constexpr bool is_bits = __is_same(B, unsigned) || __is_same(B, unsigned long long);

// Conditions that hold everywhere, known at compile time: they cost nothing.
struct Always {};
template <class V>
KX_FN V select(Always, V yes, V) {
  return yes;
}

template <class V>
KX_FN V select(bool condition, V yes, V no) {
  return condition ? yes : no;
}

#if !defined(__CUDACC__)

template <class E, int N>
struct PackType {
  typedef E type __attribute__((vector_size(N * sizeof(E))));
};
template <class E>
struct PackType<E, 1> {
  using type = E;
};
template <class E, int N>
using Pack = typename PackType<E, N>::type;

// Bytes of a vector register of this level.
#if defined(__AVX512F__)
constexpr int register_bytes = 64;
#elif defined(__AVX2__)
constexpr int register_bytes = 32;
#else
constexpr int register_bytes = 16;
#endif

template <class V>
using bits_t = Pack<typename ValueTraits<element_t<V>>::Bits, lanes<V>>;

template <class M, class V>
KX_FN V select(M condition, V yes, V no) {
  return condition ? yes : no;
}

template <class V, class S>
KX_FN V splat(S value) {
  if constexpr (lanes<V> == lanes<Plain<S>> && lanes<V> > 1) {
    return value;
  } else if constexpr (lanes<V> == 1) {
    return static_cast<V>(value);
  } else {
    return static_cast<element_t<V>>(value) - V{};  // which keeps -0, and is no work
  }
}

template <class V>
KX_FN element_t<V> lane(V v, int i) {
  if constexpr (lanes<V> == 1) {
    return v;
  } else {
    return v[i];
  }
}

template <class V>
KX_FN V lane_numbers() {
  V v{};
  KX_UNROLL
  for (int i = 0; i < lanes<V>; ++i) v[i] = static_cast<element_t<V>>(i);
  return v;
}

template <class To, class From>
KX_FN To convert(From from) {
  if constexpr (__is_same(To, From)) {
    return from;
  } else if constexpr (lanes<To> == 1 && lanes<From> == 1) {
    return static_cast<To>(from);
  } else {
#if defined(__AVX512F__)  // one instruction, where the compiler takes several
    constexpr bool wide = sizeof(To) == 64;
    if constexpr (wide && __is_same(From, Pack<float, 8>) && __is_same(To, Pack<double, 8>)) {
      return bit_cast<To>(_mm512_cvtps_pd(bit_cast<__m256>(from)));
    } else if constexpr (__is_same(From, Pack<double, 8>) && __is_same(To, Pack<float, 8>)) {
      return bit_cast<To>(_mm512_cvtpd_ps(bit_cast<__m512d>(from)));
    } else if constexpr (wide && __is_same(element_t<From>, unsigned char) && lanes<To> == 8) {
      return bit_cast<To>(_mm512_cvtepu8_epi64(_mm_cvtsi64_si128(bit_cast<long long>(from))));
    } else if constexpr (wide && __is_same(element_t<From>, unsigned char) && lanes<To> == 16) {
      return bit_cast<To>(_mm512_cvtepu8_epi32(bit_cast<__m128i>(from)));
    } else if constexpr (wide && __is_same(element_t<From>, unsigned short) && lanes<To> == 16) {
      return bit_cast<To>(_mm512_cvtepu16_epi32(bit_cast<__m256i>(from)));
    } else
#endif
      return __builtin_convertvector(from, To);
  }
}

template <class V>
KX_FN V load(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
KX_FN void store(void* to, V v) {
  __builtin_memcpy(to, &v, sizeof v);
}

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define KX_HAS_FMA
// a b + c rounded once, where that is relied upon and not just welcome.
KX_FN double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
KX_FN float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
template <class V>
KX_FN V fused(V a, V b, V c) {
  constexpr bool wide = sizeof(element_t<V>) == 8;
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && wide) {
    return bit_cast<V>(
        _mm512_fmadd_pd(bit_cast<__m512d>(a), bit_cast<__m512d>(b), bit_cast<__m512d>(c)));
  } else if constexpr (sizeof(V) == 64) {
    return bit_cast<V>(
        _mm512_fmadd_ps(bit_cast<__m512>(a), bit_cast<__m512>(b), bit_cast<__m512>(c)));
  } else
#endif
#if defined(__AVX2__)
      if constexpr (sizeof(V) == 32 && wide) {
    return bit_cast<V>(
        _mm256_fmadd_pd(bit_cast<__m256d>(a), bit_cast<__m256d>(b), bit_cast<__m256d>(c)));
  } else if constexpr (sizeof(V) == 32) {
    return bit_cast<V>(
        _mm256_fmadd_ps(bit_cast<__m256>(a), bit_cast<__m256>(b), bit_cast<__m256>(c)));
  } else
#endif
  {
    KX_UNROLL
    for (int i = 0; i < lanes<V>; ++i) a[i] = fused(a[i], b[i], c[i]);
    return a;
  }
}
#endif

#else  // device: a value is a scalar

template <class E, int>
using Pack = E;
template <class V>
using bits_t = typename ValueTraits<V>::Bits;

template <class V, class S>
KX_FN V splat(S value) {
  return static_cast<V>(value);
}
template <class V>
KX_FN V lane(V v, int) {
  return v;
}
template <class To, class From>
KX_FN To convert(From from) {
  return static_cast<To>(from);
}
template <class V>
KX_FN V load(const void* from) {  // aligned; a memcpy would go byte by byte
  return *static_cast<const V*>(from);
}
template <class V>
KX_FN void store(void* to, V v) {
  *static_cast<V*>(to) = v;
}

#define KX_HAS_FMA
KX_FN double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
KX_FN float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

#endif

// Whether a condition holds in some lane.
template <class M>
KX_FN bool any_of(M mask) {
  if constexpr (sizeof(M) < 16) {
    return mask;
  } else {
#if !defined(__CUDACC__)
#if defined(__AVX512F__)
    if constexpr (sizeof(M) == 64) {
      const __m512i m = bit_cast<__m512i>(mask);
      return _mm512_test_epi64_mask(m, m) != 0;
    }
#endif
#if defined(__AVX2__)
    if constexpr (sizeof(M) == 32) {
      const __m256i m = bit_cast<__m256i>(mask);
      return !_mm256_testz_si256(m, m);
    }
#endif
    const auto part = bit_cast<Pack<unsigned long long, int(sizeof(M)) / 8>>(mask);
    unsigned long long all = 0;
    KX_UNROLL
    for (int i = 0; i < int(sizeof(M)) / 8; ++i) all |= part[i];
    return all != 0;
#else
    return mask;
#endif
  }
}

// What S is to one lane of its own, to a lane of V: bits to its bits, a number to its number.
template <bool bits, class V>
struct LikeType {
  using type = V;
};
template <class V>
struct LikeType<true, V> {
  using type = bits_t<V>;
};
template <class V, class S>
using Like = typename LikeType<is_bits<element_t<S>>, V>::type;

}  // namespace KX_ISA
}  // namespace kexue
