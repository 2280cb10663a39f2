// Products of matrices that lie in the caches, and how their rows come from memory and go there.
// A panel is a matrix in working memory whose rows begin at whole registers.
#pragma once

#include <cstdlib>

#include "elements.h"
#include "kexue/linear.h"
#include "readers.h"

namespace kexue {
inline namespace KX_ISA {

template <class T>
struct Panel {
  using V = Pack<T, register_bytes / int(sizeof(T))>;
  static constexpr int width = lanes<V>;
  static constexpr int rows = 6, columns = register_bytes == 64 ? 4 : 2;  // of a tile, in registers
  static int padded(index n) { return int((n + width - 1) / width * width); }
};

// The left factor: element (i, k) is at data[i by_row + k by_column].
template <class T>
struct Left {
  const T* data;
  index by_row, by_column;
};

// C = A B or C += A B for R rows and N registers of columns. By reference: as a copy, `a` is
// written to the stack in parts and read back whole, which waits for the stores.
template <int R, int N, bool adds, class T>
KX_NOINLINE void product_tile(int depth, const Left<T>& a, const T* b, index b_pitch, T* c,
                              index c_pitch) {
  using V = typename Panel<T>::V;
  constexpr int width = Panel<T>::width;
  V sum[R][N];
  KX_UNROLL
  for (int i = 0; i < R; ++i) {
    KX_UNROLL
    for (int j = 0; j < N; ++j) sum[i][j] = adds ? load<V>(c + i * c_pitch + j * width) : V{};
  }
  const T* from = a.data;
  for (int k = 0; k < depth; ++k) {
    V row[N];
    KX_UNROLL
    for (int j = 0; j < N; ++j) row[j] = load<V>(b + j * width);
    KX_UNROLL
    for (int i = 0; i < R; ++i) {
      const V left = splat<V>(from[i * a.by_row]);
      KX_UNROLL
      for (int j = 0; j < N; ++j) sum[i][j] += left * row[j];
    }
    from += a.by_column;
    b += b_pitch;
  }
  KX_UNROLL
  for (int i = 0; i < R; ++i) {
    KX_UNROLL
    for (int j = 0; j < N; ++j) store(c + i * c_pitch + j * width, sum[i][j]);
  }
}

template <int N, bool adds, class T>
inline void product_strip(int rows, int depth, Left<T> a, const T* b, index b_pitch, T* c,
                          index c_pitch) {
  int i = 0;
  const auto next = [&](int count) {
    i += count;
    a.data += count * a.by_row;
    c += count * c_pitch;
  };
  for (; i + 6 <= rows; next(6)) product_tile<6, N, adds>(depth, a, b, b_pitch, c, c_pitch);
  for (; i + 4 <= rows; next(4)) product_tile<4, N, adds>(depth, a, b, b_pitch, c, c_pitch);
  for (; i + 2 <= rows; next(2)) product_tile<2, N, adds>(depth, a, b, b_pitch, c, c_pitch);
  if (i < rows) product_tile<1, N, adds>(depth, a, b, b_pitch, c, c_pitch);
}

template <bool adds, class T>
inline void product_of(int rows, int columns, int depth, Left<T> a, const T* b, index b_pitch, T* c,
                       index c_pitch) {
  constexpr int width = Panel<T>::width, strip = Panel<T>::columns;
  int j = 0;
  for (; j + strip * width <= columns; j += strip * width) {
    product_strip<strip, adds>(rows, depth, a, b + j, b_pitch, c + j, c_pitch);
  }
  for (; strip > 2 && j + 2 * width <= columns; j += 2 * width) {
    product_strip<2, adds>(rows, depth, a, b + j, b_pitch, c + j, c_pitch);
  }
  for (; j < columns; j += width) {
    product_strip<1, adds>(rows, depth, a, b + j, b_pitch, c + j, c_pitch);
  }
}

// C (rows x columns) = A B, or C += A B; b and c are panels, `columns` whole registers. An element
// is summed in the order of k whatever the sizes are. B is taken in pieces that stay in the first
// cache while all rows of C go by.
template <class T>
KX_NOINLINE void product(bool adds, int rows, int columns, int depth, Left<T> a, const T* b,
                         index b_pitch, T* c, index c_pitch) {
  constexpr int piece = 512 / int(sizeof(T));
  int k = 0;
  do {
    const int now = depth - k < piece ? depth - k : piece;
    if (adds || k > 0) {
      product_of<true>(rows, columns, now, a, b, b_pitch, c, c_pitch);
    } else {
      product_of<false>(rows, columns, now, a, b, b_pitch, c, c_pitch);
    }
    k += now;
    a.data += now * a.by_column;
    b += now * b_pitch;
  } while (k < depth);
}

// Rows in memory: element (i, j) at data + i pitch + j step bytes.
struct View {
  char* data;
  index pitch, step;
  Dtype type;

  View from(index row) const { return {data + row * pitch, pitch, step, type}; }
  View turned(index rows) const { return {data + (rows - 1) * pitch, -pitch, step, type}; }
};

// The matrix of an operand, or the numbers of one a row, at loop position `row` of the call.
inline View matrix(const Call& call, const Operand& op, index row) {
  return {op.data ? op.data + offset(op, call, row) : nullptr, op.pitch, op.step, op.type};
}
inline View column(const Call& call, const Operand& op, index row) {
  return {op.data ? op.data + offset(op, call, row) : nullptr, op.step, 0, op.type};
}

// Rows that follow one another without gaps, in memory as in the panel, are one long row.
template <class S>
inline void join(const View& rows, index pitch, index& count, index& width) {
  if (width != pitch || rows.step != index(sizeof(S)) || rows.pitch != width * rows.step) return;
  width *= count;
  count = count > 0;
}

// `count` rows of `width` numbers into a panel; what is left of its rows becomes 0.
template <class T>
KX_NOINLINE void fetch(const View& from, index count, index width, T* to, index pitch) {
  dispatch<T>(from.type, [&](auto stored) {
    using S = decltype(stored);
    join<S>(from, pitch, count, width);
    for (index i = 0; i < count; ++i) {
      const char* row = from.data + i * from.pitch;
      T* const at = to + i * pitch;
      gather_run<S>(at, row, from.step, int(width));
      for (index j = width; j < pitch; ++j) at[j] = 0;
    }
  });
}

template <class T>
KX_NOINLINE void put(const View& to, index count, index width, const T* from, index pitch) {
  dispatch<T>(to.type, [&](auto stored) {
    using S = decltype(stored);
    join<S>(to, pitch, count, width);
    for (index i = 0; i < count; ++i) {
      char* const row = to.data + i * to.pitch;
      scatter_run<S>(row, to.step, from + i * pitch, int(width), false);
    }
  });
}

// The transpose of rows x columns, both padded to squares in either panel.
template <class T>
KX_NOINLINE void turn(const T* from, index from_pitch, index rows, index columns, T* to,
                      index to_pitch) {
  constexpr int side = square<T>;
  for (index i = 0; i < rows; i += side) {
    for (index j = 0; j < columns; j += side) {
      transpose<T>(from + i * from_pitch + j, from_pitch * index(sizeof(T)), to + j * to_pitch + i,
                   to_pitch * index(sizeof(T)));
    }
  }
}

// f over all lanes, halves first.
template <class V, class F>
KX_FN auto folded(V v, F f) {
  if constexpr (lanes<V> == 1) {
    return v;
  } else {
    using H = Pack<element_t<V>, lanes<V> / 2>;
    H half[2];
    __builtin_memcpy(half, &v, sizeof v);
    return folded(f(half[0], half[1]), f);
  }
}
template <class V>
KX_FN auto largest_lane(V v) {
  return folded(v, Largest{});
}
template <class V>
KX_FN auto sum_of_lanes(V v) {
  return folded(v, Sum{});
}

// A row of a panel times a number; `count` is whole registers.
template <class T>
inline void multiply(T* row, index count, T by) {
  using V = typename Panel<T>::V;
  for (index i = 0; i < count; i += lanes<V>) store(row + i, V(load<V>(row + i) * splat<V>(by)));
}

// The same, where 0 leaves nothing, not even a nan.
template <class T>
inline void multiply_or_clear(T* row, index count, T by) {
  if (by == 0) {
    for (index i = 0; i < count; ++i) row[i] = 0;
  } else if (by != 1) {
    multiply(row, count, by);
  }
}

// Whether all numbers of a panel are finite.
template <class T>
inline bool all_finite(const T* from, index count) {
  using V = typename Panel<T>::V;
  V zero{};
  for (index i = 0; i < count; i += lanes<V>) zero += load<V>(from + i) * T(0);
  return sum_of_lanes(zero) == 0;
}

// Memory of a call; without any left, `data` is null.
struct Allocation {
  void* data;
  explicit Allocation(index bytes) : data(std::malloc(static_cast<size_t>(bytes) + 64)) {}
  ~Allocation() { std::free(data); }
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;
};

// Hands out aligned stretches of one block of memory; without a block it counts.
template <class T>
class Carver {
 public:
  explicit Carver(void* block) : at_(static_cast<T*>(block)) {}
  T* take(index count) {
    T* const taken = at_ ? at_ + used_ : nullptr;
    used_ += (count + 127) / 64 * 64 + 16;  // apart, lest equal places of panels share a cache set
    return taken;
  }
  index bytes() const { return used_ * index(sizeof(T)); }

 private:
  T* at_;
  index used_ = 0;
};

}  // namespace KX_ISA
}  // namespace kexue
