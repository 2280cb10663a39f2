// How a row is read. An algorithm writes x[i]; what i is depends on who works on the row: a
// `Full` or `Part` register of neighbours (one CPU thread on one row), or a plain index (a CUDA
// thread on one element, or a CPU thread on one element of many rows at once).
#pragma once

#include "math.h"

namespace kexue {
inline namespace KX_ISA {

struct Full {
  index i;
};
struct Part {
  index i;
  int count;
};

// Loads and stores of lanes<V> values of stored type T.
template <class T, class V>
KX_FN V load_wide(const void* from) {
  if constexpr (sizeof(T) == 2) {
    return load_half<T, V>(from);
  } else {
#if defined(__CUDACC__)
    return convert<V>(load<T>(from));
#else
    return convert<V>(load<Pack<T, lanes<V>>>(from));
#endif
  }
}
template <class T, class V>
KX_FN void store_wide(void* to, V value) {
  if constexpr (sizeof(T) == 2) {
    store_half<T>(to, value);
  } else {
#if defined(__CUDACC__)
    store(to, convert<T>(value));
#else
    store(to, convert<Pack<T, lanes<V>>>(value));
#endif
  }
}

// Conditions that hold everywhere, known at compile time: they cost nothing.
struct Always {};
template <class V>
KX_FN V select(Always, V yes, V) {
  return yes;
}
struct Everything {
  template <class I>
  KX_FN Always operator[](I) const {
    return {};
  }
};

// A row whose values are all `value`, for an absent operand.
template <class V>
struct Same {
  V value;
  template <class I>
  KX_FN V operator[](I) const {
    return value;
  }
};

#if !defined(__CUDACC__)

// The first `bytes` bytes at `from`, zeros after them; nothing beyond is touched.
template <class Raw>
KX_FN Raw load_part(const void* from, int bytes) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const auto live = _bzhi_u64(~0ULL, unsigned(bytes));
  if constexpr (sizeof(Raw) == 64) {
    return bit_cast<Raw>(_mm512_maskz_loadu_epi8(live, from));
  } else if constexpr (sizeof(Raw) == 32) {
    return bit_cast<Raw>(_mm256_maskz_loadu_epi8(__mmask32(live), from));
  } else if constexpr (sizeof(Raw) == 16) {
    return bit_cast<Raw>(_mm_maskz_loadu_epi8(__mmask16(live), from));
  } else
#endif
  {
    Raw raw{};
    __builtin_memcpy(&raw, from, unsigned(bytes));
    return raw;
  }
}
template <class Raw>
KX_FN void store_part(void* to, Raw raw, int bytes) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  const auto live = _bzhi_u64(~0ULL, unsigned(bytes));
  if constexpr (sizeof(Raw) == 64) {
    _mm512_mask_storeu_epi8(to, live, bit_cast<__m512i>(raw));
  } else if constexpr (sizeof(Raw) == 32) {
    _mm256_mask_storeu_epi8(to, __mmask32(live), bit_cast<__m256i>(raw));
  } else if constexpr (sizeof(Raw) == 16) {
    _mm_mask_storeu_epi8(to, __mmask16(live), bit_cast<__m128i>(raw));
  } else
#endif
  {
    __builtin_memcpy(to, &raw, unsigned(bytes));
  }
}

// A contiguous stretch of one row, a register at a time.
template <class T, class V>
struct RowView {
  const char* data;
  KX_FN V operator[](Full at) const { return load_wide<T, V>(data + at.i * index(sizeof(T))); }
  KX_FN V operator[](Part at) const {
    const auto raw = load_part<Pack<typename Storage<T>::type, lanes<V>>>(
        data + at.i * index(sizeof(T)), at.count * int(sizeof(T)));
    return load_wide<T, V>(&raw);
  }
};
template <class V>
struct RowFlags {
  const char* data;  // null: all true
  using Raw = Pack<unsigned char, lanes<V>>;
  KX_FN static auto test(Raw raw) { return convert<bits_t<V>>(raw) != bits_t<V>{}; }
  KX_FN auto operator[](Full at) const { return test(data ? load<Raw>(data + at.i) : Raw{} + 1); }
  KX_FN auto operator[](Part at) const {
    return test(data ? load_part<Raw>(data + at.i, at.count) : Raw{} + 1);
  }
};

// One element of lanes<V> neighbouring rows, `pitch` elements from one core index to the next.
template <class T, class V>
struct LaneView {
  const char* data;
  index pitch;
  KX_FN V operator[](index i) const { return load_wide<T, V>(data + i * pitch * index(sizeof(T))); }
};
template <class V>
struct LaneFlags {
  const char* data;
  index pitch;
  using Raw = Pack<unsigned char, lanes<V>>;
  KX_FN auto operator[](index i) const {
    return RowFlags<V>::test(data ? load<Raw>(data + i * pitch) : Raw{} + 1);
  }
};

#endif

// One row of scalars with any stride: a CUDA thread's view, and that of a C++ caller.
template <class T>
struct Row {
  const void* data;
  index n;
  index stride = sizeof(T);  // bytes
  KX_FN wide_t<T> operator[](index i) const {
    return load_wide<T, wide_t<T>>(static_cast<const char*>(data) + i * stride);
  }
};
struct FlagRow {
  const void* data;  // null: all true
  index stride = 1;
  KX_FN bool operator[](index i) const {
    return data == nullptr || static_cast<const unsigned char*>(data)[i * stride] != 0;
  }
};

// x where the mask is true; elsewhere a value that takes no part.
template <class X, class M, class V>
struct Masked {
  X x;
  M mask;
  V absent;
  template <class I>
  KX_FN auto operator[](I i) const {
    const auto value = x[i];
    return select(mask[i], value, splat<Plain<decltype(value)>>(absent));
  }
};
template <class X, class M, class V>
KX_FN Masked<X, M, V> masked(X x, M mask, V absent) {
  return {x, mask, absent};
}

}  // namespace KX_ISA
}  // namespace kexue
