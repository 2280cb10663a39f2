// How rows are read. An algorithm takes one row of an operand, row(x), and writes x[i]; what i is
// depends on who works on the row: a `Full` or `Part` register of neighbours (one CPU thread on one
// row), or a plain index (a CUDA thread on one element, or a CPU thread on one element of many rows
// at once).
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

// Loads and stores of lanes<V> values of stored type T; 16-bit numbers reach double by way of
// float.
template <class T, class V>
KX_FN V load_wide(const void* from) {
  if constexpr (sizeof(T) == 2 && sizeof(element_t<V>) == 8) {
    return convert<V>(load_half<T, Pack<float, lanes<V>>>(from));
  } else if constexpr (sizeof(T) == 2) {
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
  if constexpr (sizeof(T) == 2 && sizeof(element_t<V>) == 8) {
    store_half<T>(to, convert<Pack<float, lanes<V>>>(value));
  } else if constexpr (sizeof(T) == 2) {
    store_half<T>(to, value);
  } else {
#if defined(__CUDACC__)
    store(to, convert<T>(value));
#else
    store(to, convert<Pack<T, lanes<V>>>(value));
#endif
  }
}

struct Everything {
  template <class I>
  KX_FN Always operator[](I) const {
    return {};
  }
  template <class Row>
  KX_FN Everything of(Row) const {
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
  template <class Row>
  KX_FN Same of(Row) const {
    return *this;
  }
};

// Two results of a step, for row functions that write two rows.
template <class V>
struct Pair {
  V first, second;
};

#if !defined(__CUDACC__)

// The first `bytes` bytes at `from`, zeros after them; nothing beyond is touched.
template <class Raw>
KX_FN Raw load_part(const void* from, int bytes) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  auto live = _bzhi_u64(~0ULL, unsigned(bytes));
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
  auto live = _bzhi_u64(~0ULL, unsigned(bytes));
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

// One row of a team that has several, one after the other. Called with a value of each row it gives
// that row's in every lane of a step's register; called with anything else, that row's part of it.
// What a step keeps (and has room for) a later sweep can recall.
template <class V, bool looks_ahead = false, bool recalls = false>
struct RowOf {
  using Value = V;
  static constexpr bool remembers = recalls;
  int j;
  element_t<V>* kept = nullptr;
  index pitch = 0;
  template <class S>
  KX_FN auto operator()(const S& s) const {
    if constexpr (__is_class(S)) {
      return s.of(*this);
    } else {
      return splat<Like<V, S>>(lane(s, j));
    }
  }
  template <class At, class... Vs>
  KX_FN void keep(At at, Vs... values) const {
    if (kept) {
      element_t<V>* to = kept + at.i;
      ((store(to, values), to += pitch), ...);
    }
  }
  template <class At>
  KX_FN V recall(At at, int k) const {
    return load<V>(kept + k * pitch + at.i);
  }
};

// A contiguous stretch of a row, a register at a time; what will be read later is fetched by the
// way, where the row is asked to.
template <class T, class V, bool looks_ahead>
struct RowView {
  const char* data;
  index ahead;
  template <class Row>
  KX_FN RowView of(Row) const {
    return *this;
  }
  KX_FN V operator[](Full at) const {
    const char* from = data + at.i * index(sizeof(T));
    if constexpr (looks_ahead) __builtin_prefetch(from + ahead, 0, 2);
    return load_wide<T, V>(from);
  }
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

// The same stretch of several rows.
template <class T, class V>
struct RowsView {
  const char* const* data;
  index ahead;
  template <bool looks_ahead, bool recalls>
  KX_FN RowView<T, V, looks_ahead> of(RowOf<V, looks_ahead, recalls> row) const {
    return {data[row.j], ahead};
  }
};
template <class V>
struct RowsFlags {
  const char* const* data;  // null: all true
  template <class Row>
  KX_FN RowFlags<V> of(Row row) const {
    return {data ? data[row.j] : nullptr};
  }
};

// One element of lanes<V> neighbouring rows, `pitch` elements from one core index to the next.
template <class T, class V>
struct LaneView {
  const char* data;
  index pitch;
  KX_FN V operator[](index i) const { return load_wide<T, V>(data + i * pitch * index(sizeof(T))); }
  template <class Row>
  KX_FN LaneView of(Row) const {
    return *this;
  }
};
template <class V>
struct LaneFlags {
  const char* data;
  index pitch;
  using Raw = Pack<unsigned char, lanes<V>>;
  KX_FN auto operator[](index i) const {
    return RowFlags<V>::test(data ? load<Raw>(data + i * pitch) : Raw{} + 1);
  }
  template <class Row>
  KX_FN LaneFlags of(Row) const {
    return *this;
  }
};

#endif

// A row whose elements are worked on one at a time, or a row in each lane: values of rows are as
// they are, but for their type.
template <class V, bool recalls = false>
struct LaneRow {
  using Value = V;
  static constexpr bool remembers = recalls;
  V* kept = nullptr;
  index pitch = 0;
  template <class S>
  KX_FN auto operator()(const S& s) const {
    if constexpr (__is_class(S)) {
      return s.of(*this);
    } else {
      return convert<Like<V, S>>(s);
    }
  }
  template <class... Vs>
  KX_FN void keep(index i, Vs... values) const {
    if (kept) {
      V* to = kept + i;
      ((*to = values, to += pitch), ...);
    }
  }
  KX_FN V recall(index i, int k) const { return kept[k * pitch + i]; }
};

// One row of scalars with any stride: a CUDA thread's view, and that of a C++ caller.
template <class T, class V = wide_t<T>>
struct Row {
  const void* data;
  index n;
  index stride = sizeof(T);  // bytes
  KX_FN V operator[](index i) const {
    return load_wide<T, V>(static_cast<const char*>(data) + i * stride);
  }
  template <class Of>
  KX_FN Row of(Of) const {
    return *this;
  }
};
struct FlagRow {
  const void* data;  // null: all true
  index stride = 1;
  KX_FN bool operator[](index i) const {
    return data == nullptr || static_cast<const unsigned char*>(data)[i * stride] != 0;
  }
  template <class R>
  KX_FN FlagRow of(R) const {
    return *this;
  }
};

// The positions of elements, from that of element 0 on.
template <class V>
struct Counting {
  index first;
  KX_FN V operator[](index i) const { return splat<V>(first + i); }
#if !defined(__CUDACC__)
  KX_FN V operator[](Full at) const { return splat<V>(first + at.i) + lane_numbers<V>(); }
  KX_FN V operator[](Part at) const { return (*this)[Full{at.i}]; }
#endif
  template <class Row>
  KX_FN Counting of(Row) const {
    return *this;
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
    auto value = x[i];
    return select(mask[i], value, splat<Plain<decltype(value)>>(absent));
  }
};
template <class X, class M, class V>
KX_FN Masked<X, M, V> masked(X x, M mask, V absent) {
  return {x, mask, absent};
}

}  // namespace KX_ISA
}  // namespace kexue
