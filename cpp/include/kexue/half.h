// 16-bit storage types. Values are widened to float, computed there, and rounded once.
#pragma once

#include "pack.h"

namespace kexue {
inline namespace KX_ISA {

struct Half {  // IEEE binary16
  unsigned short bits;
};
struct Bfloat16 {
  unsigned short bits;
};

// The scalar that a stored type occupies in memory.
template <class T>
struct Storage {
  using type = T;
};
template <>
struct Storage<Half> {
  using type = unsigned short;
};
template <>
struct Storage<Bfloat16> {
  using type = unsigned short;
};

// `bits` holds the 16 bits in the low half of each 32-bit lane, V is float or a pack of it.
template <class V>
KX_FN V widen_bits(Half, bits_t<V> bits) {
  using B = bits_t<V>;
  const B magnitude = (bits & 0x7fff) << 13;
  // The exponent is rebased by a product, which also normalises subnormals.
  const V finite = bit_cast<V>(magnitude) * 0x1p112f;
  const V special = bit_cast<V>(B(magnitude | 0x7f800000));
  const V value = select(magnitude >= (0x7c00 << 13), special, finite);
  return bit_cast<V>(B(bit_cast<B>(value) | ((bits & 0x8000) << 16)));
}

template <class V>
KX_FN V widen_bits(Bfloat16, bits_t<V> bits) {
  return bit_cast<V>(bits_t<V>(bits << 16));
}

// Round half to even.
template <class V>
KX_FN bits_t<V> narrow_bits(Half, V value) {
  using B = bits_t<V>;
  const B all = bit_cast<B>(value);
  const B magnitude = all & 0x7fffffff;
  const V a = bit_cast<V>(magnitude);
  const B normal = (magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding 0.5 aligns the last bit of a subnormal half with the last bit of the float.
  const B subnormal = bit_cast<B>(V(a + 0.5f)) - 0x3f000000;
  B out = select(a < splat<V>(0x1p-14f), subnormal, normal);
  out = select(a >= splat<V>(65520.0f), splat<B>(0x7c00u), out);
  out = select(a != a, splat<B>(0x7e00u), out);
  return out | ((all >> 16) & 0x8000);
}

template <class V>
KX_FN bits_t<V> narrow_bits(Bfloat16, V value) {
  using B = bits_t<V>;
  const B all = bit_cast<B>(value);
  const B rounded = all + 0x7fff + ((all >> 16) & 1);
  return (select(value != value, B(all | 0x400000), rounded) >> 16) & 0xffff;
}

#if defined(__F16C__) && !defined(__CUDACC__)
KX_FN Pack<float, 8> widen_bits(Half, __m128i bits) {
  return bit_cast<Pack<float, 8>>(_mm256_cvtph_ps(bits));
}
#if defined(__AVX512F__)
KX_FN Pack<float, 16> widen_bits(Half, __m256i bits) {
  return bit_cast<Pack<float, 16>>(_mm512_cvtph_ps(bits));
}
#endif
#endif

// Loads lanes<V> stored values as float lanes.
template <class H, class V>
KX_FN V load_half(const void* from) {
  if constexpr (lanes<V> == 1) {
    return widen_bits<V>(H{}, unsigned(load<unsigned short>(from)));
  } else {
#if !defined(__CUDACC__)
#if defined(__F16C__)
    if constexpr (sizeof(V) == 32 && __is_same(H, Half)) {
      return widen_bits(Half{}, load<__m128i>(from));
    }
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64 && __is_same(H, Half)) {
      return widen_bits(Half{}, load<__m256i>(from));
    }
#endif
#endif
    const auto narrow = load<Pack<unsigned short, lanes<V>>>(from);
    return widen_bits<V>(H{}, convert<bits_t<V>>(narrow));
#endif
  }
}

template <class H, class V>
KX_FN void store_half(void* to, V value) {
  if constexpr (lanes<V> == 1) {
    store(to, static_cast<unsigned short>(narrow_bits(H{}, value)));
  } else {
#if !defined(__CUDACC__)
#if defined(__F16C__)
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    if constexpr (sizeof(V) == 32 && __is_same(H, Half)) {
      return store(to, _mm256_cvtps_ph(bit_cast<__m256>(value), nearest));
    }
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64 && __is_same(H, Half)) {
      return store(to, _mm512_cvtps_ph(bit_cast<__m512>(value), nearest));
    }
#endif
#endif
    store(to, convert<Pack<unsigned short, lanes<V>>>(narrow_bits(H{}, value)));
#endif
  }
}

}  // namespace KX_ISA
}  // namespace kexue
