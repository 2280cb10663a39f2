// How kernels on a GPU read the inputs of losses (../targets.h). One kernel reads all kinds of
// targets and of masks: these kernels are large, and a branch that all threads take costs little.
#pragma once

#include "../targets.h"
#include "elements.h"
#include "kexue/multilabel.h"

namespace kexue {
inline namespace KX_ISA {

struct TargetsIn {
  Array array;    // for lists the row's place in `ends`, whose step leads to the next row's
  Array indices;  // of lists
  index n;
  Dtype type;
  bool listed;
};
struct MaskIn {
  Array array;
  index side;  // of the matrix whose cells are meant, or 0
  bool upper;
};

template <class T>
TargetsIn placed(const CudaEngine& engine, Targets<T> in) {
  return {engine.place(&in.op), {}, engine.call().n, in.op.type, false};
}
inline TargetsIn placed(const CudaEngine& engine, Listed in) {
  Operand ends = packed_scalars(engine.call(), in.ends.data, in.ends.step);
  ends.step = in.ends.step;
  return {engine.place(&ends), engine.place(&in.indices), engine.call().n, int64, true};
}
struct Mask {  // Flags
  const Operand& op;
};
inline MaskIn placed(const CudaEngine& engine, Mask in) { return {engine.place(&in.op), 0, false}; }
inline MaskIn placed(const CudaEngine& engine, Cells in) {
  index side = 1;
  while (side * side < engine.call().n) ++side;
  return {engine.place(&in.op), side, in.upper};
}

template <class V>
struct TargetsRow {
  const char* data;  // of targets or indices
  index step;
  index origin;       // the class of element 0
  index first, last;  // entries of a list, 0 and -1 if it is wrong
  Dtype type;
  bool listed;

  KX_FN Both<V> operator[](index i) const { return listed ? among(origin + i) : stored(i); }
  KX_FN Both<V> stored(index i) const {
    return with_stored(type, [from = data + i * step](auto value) {
      using S = decltype(value);
      const auto t = element_at<S>(from);
      const V positive = static_cast<V>(t);
      return Both<V>{__is_same(S, double) ? static_cast<V>(1 - t) : 1 - positive, positive};
    });
  }
  KX_FN Both<V> among(index target) const {
    index low = first, high = last;
    while (low < high) {
      const index middle = low + (high - low) / 2;
      if (entry(middle) < target) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const bool found = low < last && entry(low) == target;
    const V one = last < 0 ? static_cast<V>(not_a_number) : V(1);
    return {found ? V{} : one, found ? one : V{}};
  }
  KX_FN index entry(index k) const { return element_at<long long>(data + k * step); }
  template <class Row>
  KX_FN TargetsRow of(Row) const {
    return *this;
  }
};

struct MaskRow {
  FlagRow flags;
  index origin;  // the cell that is element 0
  index side;
  bool upper;
  KX_FN bool operator[](index i) const {
    if (side == 0) return flags[i];
    const index row = quotient(origin + i, side), column = origin + i - row * side;
    return (!upper || row <= column) && flags[row] && flags[column];
  }
  template <class Row>
  KX_FN MaskRow of(Row) const {
    return *this;
  }
};

template <class V, class W>
struct Cursor<TargetsIn, V, W> : ArrayCursor {
  const TargetsIn& in;
  KX_FN explicit Cursor(const TargetsIn& targets) : ArrayCursor(targets.array), in(targets) {}
  KX_FN TargetsRow<V> look(index i) const {
    if (!in.listed) return {from(i), array.step, i, 0, 0, in.type, false};
    const index first = element_at<long long>(from(0)), last = element_at<long long>(from(1));
    TargetsRow<V> row = {in.indices.data, in.indices.step, i, first, last, in.type, true};
    const bool wrong = last < first || (first < last && row.entry(last - 1) >= in.n);
    if (wrong) row.first = 0, row.last = -1;
    return row;
  }
};
template <class V, class W>
struct Cursor<MaskIn, V, W> : ArrayCursor {
  const MaskIn& in;
  KX_FN explicit Cursor(const MaskIn& mask) : ArrayCursor(mask.array), in(mask) {}
  KX_FN MaskRow look(index i) const {
    const index begin = in.side == 0 ? i : 0;
    return {{array.data ? from(begin) : nullptr, array.step}, i, in.side, in.upper};
  }
};

// Row functions and functors; masks of any kind.
class CudaLosses : public CudaElements {
 public:
  using CudaElements::CudaElements;

  template <class T, class E = T, class Fn, class... In>
  long long reduce(const Fn& fn, Outputs<E, T> to, In... in) {
    return CudaElements::reduce<T, E>(fn, to, general(in)...);
  }
  template <class T, class Fn, class... In>
  long long transform(const Fn& fn, Outputs<T, T> to, In... in) {
    return CudaElements::transform<T>(fn, to, general(in)...);
  }
  template <class T>
  bool one_value(const Operand&, double&) const {  // nothing is read from the device
    return false;
  }

 private:
  template <class In>
  static In general(In in) {
    return in;
  }
  static Mask general(Flags in) { return {in.op}; }
};

}  // namespace KX_ISA
}  // namespace kexue
