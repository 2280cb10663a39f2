// Kernels that are written with the numbers of their operands: a team of threads has some arrays at
// one place of their leading axes.
#pragma once

#include "elements.h"

namespace kexue {
inline namespace KX_ISA {

// An operand at its row.
template <class T>
struct Cell {
  char* data;
  index step, pitch;
  KX_FN explicit operator bool() const { return data != nullptr; }
  KX_FN T operator[](index i) const { return load<T>(data + i * step); }
  KX_FN T operator()(index i, index j) const { return load<T>(data + i * pitch + j * step); }
  KX_FN void set(index i, T value) const { store(data + i * step, value); }
  KX_FN void set(index i, index j, T value) const { store(data + i * pitch + j * step, value); }
  KX_FN T value() const { return load<T>(data); }
  KX_FN T value_or(T missing) const { return data ? value() : missing; }
  KX_FN int mark() const { return data ? int(value()) : 0; }
  // Of operands that hold something else.
  KX_FN bool flag(index i) const { return load<unsigned char>(data + i * step) != 0; }
  KX_FN index place() const { return load<index>(data); }
};

template <class T>
struct CellTeam : BlockTeam<T, T> {
  using BlockTeam<T, T>::BlockTeam;
  template <class F>
  KX_FN void each(index count, F f) const {
    for (index i = this->lane; i < count; i += this->size) f(i);
  }
  template <class F>
  KX_FN T total(index count, F f) const {
    T sum = 0;
    each(count, [&](index i) { sum += f(i); });
    return this->combine(sum, this->size, [](T a, T b) { return a + b; });
  }
  template <class F>
  KX_FN T largest(index count, F f) const {
    T top = T(-infinity);
    each(count, [&](index i) {
      const T x = f(i);
      top = x > top || x != x ? x : top;
    });
    return this->combine(top, this->size, [](T a, T b) { return b > a || b != b ? b : a; });
  }
};

// Fn::operands of them to a row; fn(team, cells, row).
template <class T, class Fn>
struct CellWork {
  static constexpr bool crowded = true;
  Fn fn;
  Plan plan;
  Array op[Fn::operands];
  index pitch[Fn::operands];

  KX_FN index jobs() const { return plan.rows; }
  KX_FN void operator()(index row, Slots* slots) const {
    ElementCursor<Fn::operands> place = {op, {}};
    go_to(plan, row, place);
    Cell<T> cell[Fn::operands];
    KX_UNROLL
    for (int k = 0; k < Fn::operands; ++k) {
      cell[k] = {op[k].data ? place[k] : nullptr, op[k].step, pitch[k]};
    }
    fn(CellTeam<T>(0, plan.size, slots), cell, row);
  }
};

}  // namespace KX_ISA
}  // namespace kexue
