// How the CPU engine reads the inputs of losses (targets.h).
#pragma once

#include "../targets.h"
#include "kexue/multilabel.h"
#include "rows.h"

namespace kexue {
inline namespace KX_ISA {

// t of a stretch of rows, and 1 - t where rounding t loses it.
template <class V, class X>
struct RowWeights {
  X positive, negative;
  bool both;
  template <class At>
  KX_FN Both<V> operator[](At at) const {
    const V t = positive[at];
    return {both ? V(negative[at]) : V(1 - t), t};
  }
};
template <class V, class X>
struct RowsWeights {
  X positive, negative;
  bool both;
  template <class Row>
  KX_FN auto of(Row row) const {
    return RowWeights<V, decltype(positive.of(row))>{positive.of(row), negative.of(row), both};
  }
};

template <class T, class V, class R>
struct Reader<Targets<T>, V, R> {
  Places<R> at;
  Buffer<T> positive, negative;
  const char* other[lanes<R>];  // the blocks of 1 - t
  Reader(Targets<T> in, const Call& call) : at(in.op, call) {}

  bool as_stored() const { return at.op.type == (sizeof(T) == sizeof(double) ? float64 : float32); }
  bool both() const { return at.op.type == float64 && sizeof(T) < sizeof(double); }
  bool direct() const { return as_stored() && at.op.step == index(sizeof(T)); }

  void rows(index r0, int count) { at.go(r0, count); }
  auto block(index i0, int len) {
    if (direct()) {
      at.template look<T>(i0, len, positive);
    } else {
      for (int j = 0; j < at.count; ++j) {
        convert_run(at.row[j] + i0 * at.op.step, j * len, 1, len);
        at.block[j] = reinterpret_cast<const char*>(positive.values + j * len);
        other[j] = reinterpret_cast<const char*>(negative.values + j * len);
      }
    }
    using X = RowsView<T, V>;
    return RowsWeights<V, X>{X{at.block, at.ahead(len)}, X{other, 0}, both()};
  }
  void tile(index r0, int count, index i0, int len) {
    if (as_stored() && at.op.type == at.call.dtype) {
      positive.load(at.op, at.call, r0, count, i0, len);
      return;
    }
    for (int j = 0; j < tile_rows; ++j) {
      const index r = j < count ? r0 + j : r0;
      convert_run(at.op.data + offset(at.op, at.call, r) + i0 * at.op.step, j, tile_rows, len);
    }
  }
  auto group(int g) const {
    using X = LaneView<T, V>;
    auto from = [&](const Buffer<T>& buffer) {
      return X{reinterpret_cast<const char*>(buffer.values + g * lanes<V>), tile_rows};
    };
    return RowsWeights<V, X>{from(positive), from(negative), both()};
  }

 private:
  // To places first, first + pitch, ... of the buffers.
  void convert_run(const char* from, int first, int pitch, int count) {
    with_stored(at.op.type, [&](auto stored) {
      using S = decltype(stored);
      for (int i = 0; i < count; ++i) {
        auto t = element_at<S>(from + i * at.op.step);
        positive.values[first + i * pitch] = static_cast<T>(t);
        if constexpr (__is_same(S, double)) {
          negative.values[first + i * pitch] = static_cast<T>(1 - t);
        }
      }
    });
  }
};

// Flags of a block that the reader writes itself, a byte each.
template <class V>
struct RowMarks {
  const char* data;  // null: all false
  using Raw = Pack<unsigned char, lanes<V>>;
  KX_FN auto operator[](Full at) const {
    return RowFlags<V>::test(data ? load<Raw>(data + at.i) : Raw{});
  }
  KX_FN auto operator[](Part at) const {
    return RowFlags<V>::test(data ? load_part<Raw>(data + at.i, at.count) : Raw{});
  }
};
template <class V>
struct RowsMarks {
  const char* const* data;
  int rows;
  bool none() const {
    for (int j = 0; j < rows; ++j) {
      if (data[j]) return false;
    }
    return true;
  }
  template <class Row>
  KX_FN RowMarks<V> of(Row row) const {
    return {data[row.j]};
  }
};

template <class V, class R>
struct Reader<Listed, V, R> {
  const Operand &indices, &ends;
  index r0 = 0;
  int count = 0;
  const char* block_of[lanes<R>];
  Buffer<unsigned char> buffer;
  Reader(Listed in, const Call&) : indices(in.indices), ends(in.ends) {}
  bool direct() const { return false; }

  void rows(index first, int some) {
    r0 = first;
    count = some;
  }
  RowsMarks<V> block(index i0, int len) {
    for (int j = 0; j < count; ++j) {
      unsigned char* const marks = buffer.values + j * len;
      const Range listed = range(r0 + j, i0, len);
      block_of[j] = nullptr;
      if (listed.first == listed.last) continue;
      block_of[j] = reinterpret_cast<const char*>(marks);
      __builtin_memset(marks, 0, size_t(len));
      mark(listed, i0, marks, 1);
    }
    return {block_of, count};
  }
  void tile(index first, int some, index i0, int len) {
    __builtin_memset(buffer.values, 0, size_t(len) * tile_rows);
    for (int j = 0; j < some; ++j) {
      mark(range(first + j, i0, len), i0, buffer.values + j, tile_rows);
    }
  }
  LaneFlags<V> group(int g) const {
    return {reinterpret_cast<const char*>(buffer.values + g * lanes<V>), tile_rows};
  }

 private:
  struct Range {
    index first, last;
  };
  static index at(const Operand& list, index k) {
    return element_at<long long>(list.data + k * list.step);
  }
  // The entries of row r that are in [i0, i0 + len).
  Range range(index r, index i0, int len) const {
    const index end = at(ends, r + 1), first = lower_bound(at(ends, r), end, i0);
    return {first, lower_bound(first, end, i0 + len)};
  }
  index lower_bound(index first, index last, index value) const {
    while (first < last) {
      const index middle = first + (last - first) / 2;
      if (at(indices, middle) < value) {
        first = middle + 1;
      } else {
        last = middle;
      }
    }
    return first;
  }
  void mark(Range listed, index i0, unsigned char* marks, int pitch) const {
    for (index k = listed.first; k < listed.last; ++k) marks[(at(indices, k) - i0) * pitch] = 1;
  }
};

template <class V, class R>
struct Reader<Cells, V, R> {
  Places<R> at;
  bool upper;
  index side = 0;
  Buffer<unsigned char> buffer;
  Reader(Cells in, const Call& call) : at(in.op, call), upper(in.upper) {
    while (side * side < call.n) ++side;
  }
  bool given() const { return at.op.data != nullptr; }
  bool direct() const { return !given() && !upper; }

  void rows(index r0, int count) {
    at.count = count;
    if (given()) at.go(r0, count);
  }
  RowsFlags<V> block(index i0, int len) {
    if (direct()) return {nullptr};
    for (int j = 0; j < at.count; ++j) {
      fill(given() ? at.row[j] : nullptr, i0, len, buffer.values + j * len, 1);
      at.block[j] = reinterpret_cast<const char*>(buffer.values + j * len);
    }
    return {at.block};
  }
  void tile(index r0, int count, index i0, int len) {
    for (int j = 0; j < tile_rows && !direct(); ++j) {
      const index r = j < count ? r0 + j : r0;
      const char* tokens = given() ? at.op.data + offset(at.op, at.call, r) : nullptr;
      fill(tokens, i0, len, buffer.values + j, tile_rows);
    }
  }
  LaneFlags<V> group(int g) const {
    const auto* from = reinterpret_cast<const char*>(buffer.values + g * lanes<V>);
    return {direct() ? nullptr : from, tile_rows};
  }

 private:
  void fill(const char* tokens, index i0, int len, unsigned char* to, int pitch) const {
    const auto is_token = [&](index k) { return !tokens || tokens[k * at.op.step] != 0; };
    for (int c = 0; c < len;) {
      const index row = (i0 + c) / side, column = (i0 + c) % side;
      const index run = side - column < len - c ? side - column : len - c;
      const bool here = is_token(row);
      for (index k = 0; k < run; ++k, ++c) {
        to[c * pitch] = here && (!upper || row <= column + k) && is_token(column + k);
      }
    }
  }
};

// Row functions and functors.
class LossEngine : public CpuEngine {
 public:
  static constexpr bool specialises = true;  // see kernels/losses.h

  explicit LossEngine(const Call& call) : CpuEngine(call), call_(call) {}
  template <class T, class Fn, int outputs, class... In>
  long long map(const Fn& fn, const Operand* const (&to)[outputs], In... in) {
    return map_elements<T>(call_, fn, to, in...);
  }
  // Whether an operand is one value for all, and that value.
  template <class T>
  bool one_value(const Operand& op, double& value) const {
    if (call_.rows == 0) return false;
    for (int d = 0; d < call_.dims; ++d) {
      if (op.stride[d] != 0) return false;
    }
    dispatch<T>(call_.dtype, [&](auto s) { value = double(load_wide<decltype(s), T>(op.data)); });
    return true;
  }
  // How many rows fn finds invalid; without a mask, all elements may be one row.
  template <class T, class Fn, class C, class M>
  long long count(const Fn& fn, C targets, M mask) {
    if constexpr (__is_same(M, Flags)) {
      const Operand& op = targets.op;
      if (mask.op.data) return reduce<T>(fn, Outputs<T, T>{}, targets, mask);
      if (call_.dims == 1 && op.stride[0] == call_.n * op.step) {
        Call flat = call_;
        flat.n *= call_.rows;
        flat.rows = 1;
        flat.dims = 0;
        return CpuEngine(flat).reduce<T>(fn, Outputs<T, T>{}, targets, Everything{});
      }
      return reduce<T>(fn, Outputs<T, T>{}, targets, Everything{});
    } else {
      return reduce<T>(fn, Outputs<T, T>{}, targets, mask);
    }
  }

 private:
  const Call& call_;
};

}  // namespace KX_ISA
}  // namespace kexue
