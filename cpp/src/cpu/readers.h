// How the loops of rows.h read their inputs: the elements of some rows as they lie in memory or in
// a copy, or a tile of many rows, one to a lane.
#pragma once

#include "../engine.h"
#include "store.h"

namespace kexue {
inline namespace KX_ISA {

constexpr index batch_size = 4096;  // elements worked on at once where rows are short or copied
constexpr int tile_rows = 64;       // rows of a tile
constexpr int tile_size = 64;       // core indices of a tile
static_assert(tile_rows * tile_size <= batch_size, "one buffer serves both");

inline index offset(const Operand& op, const Call& call, index row) {
  if (call.dims <= 1) return row * (call.dims ? op.stride[0] : 0);
  index at = 0;
  for (int d = call.dims - 1; d >= 0; --d) {
    at += row % call.shape[d] * op.stride[d];
    row /= call.shape[d];
  }
  return at;
}

// f(j, offset) for row r0 + j, of `count` rows.
template <class F>
KX_FN void each_offset(const Operand& op, const Call& call, index r0, int count, F f) {
  const index run = call.dims > 0 ? call.shape[call.dims - 1] : 1;
  const index stride = call.dims > 0 ? op.stride[call.dims - 1] : 0;
  for (index j = 0, left = run - r0 % run; j < count; left = run) {
    index at = offset(op, call, r0 + j);
    for (; left > 0 && j < count; --left, ++j, at += stride) f(int(j), at);
  }
}

// Elements as they are computed with, copied together from anywhere: a tile, bytes[i * tile_rows +
// lane] = element i0 + i of row r0 + lane, or stretches of rows.
template <class T>
struct Buffer {
  alignas(64) T values[batch_size];

  // Missing lanes repeat the first.
  KX_NOINLINE void load(const Operand& op, const Call& call, index r0, int count, index i0,
                        int len) {
    dispatch<T>(call.dtype,
                [&](auto stored) { load_stored(stored, op, call, r0, count, i0, len); });
  }
  KX_NOINLINE void save(const Operand& op, const Call& call, index r0, int count, index i0, int len,
                        bool streams) const {
    dispatch<T>(call.dtype,
                [&](auto stored) { save_stored(stored, op, call, r0, count, i0, len, streams); });
  }

 private:
  template <class S>
  void load_stored(S, const Operand& op, const Call& call, index r0, int count, index i0, int len) {
    const char* at = op.data + i0 * op.step;
    const bool even = call.dims <= 1;
    const index stride = call.dims == 1 ? op.stride[0] : 0;
    if (even && stride == index(sizeof(S))) {
      for (int i = 0; i < len; ++i) {
        T* to = values + i * tile_rows;
        // The runs are too short for the hardware to foresee the next tile's.
        const char* ahead = at + r0 * stride + (i + len) * op.step;
        for (int b = 0; b < tile_rows * int(sizeof(S)); b += 64) __builtin_prefetch(ahead + b);
        widen_run<S>(to, at + r0 * stride + i * op.step, count);
        for (int j = count; j < tile_rows; ++j) to[j] = to[0];
      }
      return;
    }
    int done = 0;
    if (even && op.step == index(sizeof(S)) && count == tile_rows && sizeof(S) == sizeof(T)) {
      done = each_square<T>(len, [&](int i) {
        for (int j = 0; j < tile_rows; j += square<T>) {
          transpose<T>(at + (r0 + j) * stride + i * op.step, stride, values + i * tile_rows + j,
                       tile_rows * sizeof(T));
        }
      });
    }
    for (int j = 0; j < tile_rows; ++j) {
      const index r = j < count ? r0 + j : r0;
      const char* from = at + (even ? r * stride : offset(op, call, r));
      for (int i = done; i < len; ++i) {
        values[i * tile_rows + j] = load_wide<S, T>(from + i * op.step);
      }
    }
  }
  template <class S>
  void save_stored(S, const Operand& op, const Call& call, index r0, int count, index i0, int len,
                   bool streams) const {
    char* at = op.data + i0 * op.step;
    const bool even = call.dims <= 1;
    const index stride = call.dims == 1 ? op.stride[0] : 0, size = sizeof(S);
    if (even && stride == size) {
      for (int i = 0; i < len; ++i) {
        narrow_run<S>(at + r0 * stride + i * op.step, values + i * tile_rows, count, streams);
      }
    } else if (even && op.step == size && stride == len * size) {
      alignas(64) T run[tile_rows * tile_size];
      const int done = each_square<T>(len, [&](int i) {
        for (int j = 0; j < tile_rows; j += square<T>) {
          transpose<T>(values + i * tile_rows + j, tile_rows * sizeof(T), run + j * len + i,
                       len * index(sizeof(T)));
        }
      });
      for (int j = 0; j < count; ++j) {
        for (int i = done; i < len; ++i) run[j * len + i] = values[i * tile_rows + j];
      }
      narrow_run<S>(at + r0 * stride, run, count * len, streams);
    } else {
      for (int j = 0; j < count; ++j) {
        char* to = at + (even ? (r0 + j) * stride : offset(op, call, r0 + j));
        for (int i = 0; i < len; ++i) store_wide<S>(to + i * op.step, values[i * tile_rows + j]);
      }
    }
  }
};

// A reader goes to some rows and gives views of a block of them (rows, block), or loads a tile and
// gives views of its lanes (tile, group). V is the type of steps, R that of values of rows.
template <class In, class V, class R>
struct Reader;

// Where some rows of an operand begin, and a block of each.
template <class R>
struct Places {
  const Operand& op;
  const Call& call;
  int count = 0;
  const char* row[lanes<R>];
  const char* block[lanes<R>];
  Places(const Operand& operand, const Call& c) : op(operand), call(c) {}

  KX_NOINLINE void go(index r0, int rows) {
    count = rows;
    each_offset(op, call, r0, rows, [&](int j, index at) { row[j] = op.data + at; });
  }
  // Whether rows can be read as they lie there.
  template <class T>
  bool direct() const {
    bool yes = true;
    dispatch<T>(call.dtype, [&](auto s) { yes = sizeof s == sizeof(T) && op.step == sizeof s; });
    return yes;
  }
  // Points `block` at element i0 of each row, or at a copy of `len` elements from there.
  template <class S, class T>
  KX_NOINLINE void look(index i0, int len, Buffer<T>& buffer) {
    const bool direct = op.step == index(sizeof(S)) && sizeof(S) == sizeof(T);
    for (int j = 0; j < count; ++j) {
      const char* from = row[j] + i0 * op.step;
      if (!direct) gather_run<S>(buffer.values + j * len, from, op.step, len);
      block[j] = direct ? from : reinterpret_cast<const char*>(buffer.values + j * len);
    }
  }
  // From here to what will be read after this block.
  index ahead(int len) const {
    return count > 1 ? row[count - 1] - row[0] + call.n * op.step : len * op.step;
  }
};

template <class T, class V, class R>
struct Reader<Vector<T>, V, R> {
  Places<R> at;
  Buffer<T> buffer;
  Reader(Vector<T> in, const Call& call) : at(in.op, call) {}
  bool direct() const { return at.template direct<T>(); }

  void rows(index r0, int count) { at.go(r0, count); }
  RowsView<T, V> block(index i0, int len) {
    dispatch<T>(at.call.dtype,
                [&](auto stored) { at.template look<decltype(stored)>(i0, len, buffer); });
    return {at.block, at.ahead(len)};
  }
  void tile(index r0, int count, index i0, int len) {
    buffer.load(at.op, at.call, r0, count, i0, len);
  }
  LaneView<T, V> group(int g) const {
    return {reinterpret_cast<const char*>(buffer.values + g * lanes<V>), tile_rows};
  }
};

template <class V, class R>
struct Reader<Flags, V, R> {
  Places<R> at;
  Buffer<unsigned char> buffer;
  Reader(Flags in, const Call& call) : at(in.op, call) {}
  bool given() const { return at.op.data != nullptr; }
  bool direct() const { return !given() || at.op.step == 1; }

  void rows(index r0, int count) {
    if (given()) at.go(r0, count);
  }
  RowsFlags<V> block(index i0, int len) {
    if (!given()) return {nullptr};
    at.template look<unsigned char>(i0, len, buffer);
    return {at.block};
  }
  void tile(index r0, int count, index i0, int len) {
    if (given()) buffer.load(at.op, at.call, r0, count, i0, len);
  }
  LaneFlags<V> group(int g) const {
    const auto* from = reinterpret_cast<const char*>(buffer.values + g * lanes<V>);
    return {given() ? from : nullptr, tile_rows};
  }
};

template <class E, class V, class R>
struct Reader<PerRow<E>, V, R> {
  const Operand& op;
  const Call& call;
  alignas(64) element_t<R> values[tile_rows];
  Reader(PerRow<E> in, const Call& c) : op(in.op), call(c) {}
  bool direct() const { return true; }

  void rows(index r0, int count) { load_values(r0, count, lanes<R>); }
  R block(index, int) const { return group(0); }
  void tile(index r0, int count, index, int) { load_values(r0, count, tile_rows); }
  R group(int g) const { return load<R>(values + g * lanes<R>); }

 private:
  KX_NOINLINE void load_values(index r0, int count, int room) {
    dispatch<E>(call.dtype, [&](auto stored) {
      each_offset(op, call, r0, count, [&](int j, index at) {
        values[j] = load_wide<decltype(stored), E>(op.data + at);
      });
      for (int j = count; j < room; ++j) values[j] = values[0];
    });
  }
};

// What needs no memory: Given, Everything, Same.
template <class T>
struct NoMemory {
  T value;
  bool direct() const { return true; }
  void rows(index, int) {}
  T block(index, int) const { return value; }
  void tile(index, int, index, int) {}
  T group(int) const { return value; }
};
template <class W, class V, class R>
struct Reader<Given<W>, V, R> : NoMemory<R> {
  Reader(Given<W> in, const Call&) : NoMemory<R>{splat<R>(in.value)} {}
};
template <class V, class R>
struct Reader<Everything, V, R> : NoMemory<Everything> {
  Reader(Everything, const Call&) : NoMemory<Everything>{} {}
};
template <class W, class V, class R>
struct Reader<Same<W>, V, R> : NoMemory<Same<V>> {
  Reader(Same<W> in, const Call&) : NoMemory<Same<V>>{{splat<V>(in.value)}} {}
};

template <class V, class R>
struct Reader<Positions, V, R> {
  index first = 0;
  Reader(Positions, const Call&) {}
  bool direct() const { return true; }
  void rows(index, int) {}
  Counting<V> block(index i0, int) const { return {i0}; }
  void tile(index, int, index i0, int) { first = i0; }
  Counting<V> group(int) const { return {first}; }
};

// The readers of all inputs, in order.
template <class V, class R, class... In>
struct Readers {
  explicit Readers(const Call&) {}
  bool direct() const { return true; }
  void rows(index, int) {}
  void tile(index, int, index, int) {}
  template <class F, class... X>
  KX_FN auto with_blocks(index, int, F f, X... x) {
    return f(x...);
  }
  template <class F, class... X>
  KX_FN auto with_groups(int, F f, X... x) const {
    return f(x...);
  }
};
template <class V, class R, class First, class... In>
struct Readers<V, R, First, In...> {
  Reader<First, V, R> first;
  Readers<V, R, In...> rest;
  Readers(const Call& call, First in, In... others) : first(in, call), rest(call, others...) {}

  // Whether all can be read where they lie.
  bool direct() const { return first.direct() && rest.direct(); }
  void rows(index r0, int count) {
    first.rows(r0, count);
    rest.rows(r0, count);
  }
  void tile(index r0, int count, index i0, int len) {
    first.tile(r0, count, i0, len);
    rest.tile(r0, count, i0, len);
  }
  // f(views...) of a block of the rows, or of a group of the tile's lanes.
  template <class F, class... X>
  KX_FN auto with_blocks(index i0, int len, F f, X... x) {
    return rest.with_blocks(i0, len, f, x..., first.block(i0, len));
  }
  template <class F, class... X>
  KX_FN auto with_groups(int g, F f, X... x) const {
    return rest.with_groups(g, f, x..., first.group(g));
  }
};

}  // namespace KX_ISA
}  // namespace kexue
