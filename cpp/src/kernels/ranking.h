// The kernels of the ranking losses: which row function runs on which operands.
#pragma once

#include "../targets.h"
#include "kexue/ranking.h"
#include "kexue/subsets.h"
#include "losses.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

template <class T, class Engine>
long long pairwise_rank_loss(Engine& engine, const Call& call) {
  using W = wide_t<T>;
  const Operand* op = call.operand;
  const PairwiseRankLoss<T> fn = {W(call.parameter[0]), W(call.parameter[1])};
  const Targets<T> targets = {op[1]};
  const Flags mask = {op[2]};
  const long long refused =
      count_invalid<T>(engine, call.parameter[2], Allowed::hard, targets, mask);
  if (refused) return refused;
  return run_wanted<T>(engine, fn, {1, {op + 3}, op + 4}, Vector<T>{op[0]}, targets, mask);
}

// The rows of a call that has `rows` of n elements in place of each of its rows.
inline Call with_rows(const Call& call, index rows, index n) {
  Call split = call;
  split.shape[split.dims++] = rows;
  split.rows *= rows;
  split.n = n;
  return split;
}
// An operand of such a call: distances from row to row and within rows, in elements.
inline Operand as_rows(Operand op, int axis, index apart, index pitch) {
  op.stride[axis] = op.step * apart;
  op.step *= pitch;
  return op;
}
// The same operand with the new axis and the core axis exchanged.
inline Operand turned(Operand op, int axis) {
  auto step = op.step;
  op.step = op.stride[axis];
  op.stride[axis] = step;
  return op;
}

// In four passes: two numbers of each item; four of each class; the loss of each table; gradients.
template <class T, class Engine, class F>
long long multiclass(Engine& engine, const Call& call, const F& margin,
                     const typename F::Item& item) {
  using W = wide_t<T>;
  const Operand &loss = call.operand[2], &grad = call.operand[3];
  const index m = index(call.parameter[0]), n = m > 0 ? call.n / m : 0;
  const int axis = call.dims;
  const Call items = with_rows(call, n, m), classes = with_rows(call, m, n);
  Call tables = call;
  tables.n = m;
  Engine by_item(items), by_class(classes), by_table(tables);

  auto memory = engine.scratch(index(sizeof(W)) * (2 * items.rows + 4 * classes.rows + 1));
  if (memory.data == nullptr) return -1;
  W* room = static_cast<W*>(memory.data);
  Operand of_item[2], of_class[4], items_of[2], classes_of[4];  // and turned over
  for (int k = 0; k < 2; ++k, room += items.rows) {
    of_item[k] = packed_scalars(items, room, sizeof(W));
    items_of[k] = turned(of_item[k], axis);
  }
  for (int k = 0; k < 4; ++k, room += classes.rows) {
    of_class[k] = packed_scalars(classes, room, sizeof(W));
    classes_of[k] = turned(of_class[k], axis);
  }
  const Vector<W> shift = {classes_of[1]}, factor = {classes_of[2]};

  Operand x = as_rows(call.operand[0], axis, m, 1), t = as_rows(call.operand[1], axis, m, 1);
  const Operand x_turned = turned(x, axis), t_turned = turned(t, axis);
  if (by_item.template reduce<T, W>(item, {2, {of_item, of_item + 1}, nullptr}, Vector<T>{x},
                                    Everything{}) < 0 ||
      by_class.template reduce<T, W>(
          ClassPart<T, F>{margin},
          {4, {of_class, of_class + 1, of_class + 2, of_class + 3}, nullptr}, Vector<T>{x_turned},
          Targets<T>{t_turned}, Vector<W>{items_of[0]}, Vector<W>{items_of[1]}) < 0) {
    return -1;
  }
  const long long invalid = by_table.template reduce<T>(
      SumOfParts<T>{}, {1, {&loss}, nullptr}, Vector<W>{classes_of[0]}, Vector<W>{classes_of[3]});
  if (invalid < 0 || grad.data == nullptr) return invalid;
  const Operand slope = as_rows(grad, axis, m, 1);
  const long long failed = by_item.template transform<T>(
      ItemGradient<T, F>{margin}, {0, {}, &slope}, Vector<T>{x}, Targets<T>{t}, shift, factor,
      PerRow<W>{of_item[0]}, PerRow<W>{of_item[1]});
  return failed ? failed : invalid;
}

template <class T, class Engine>
long long multiclass_multilabel_loss(Engine& engine, const Call& call) {
  const wide_t<T> m = static_cast<wide_t<T>>(call.parameter[0]);
  if (call.rows == 0) return 0;
  const long long refused = count_invalid<T>(engine, call.parameter[2], Allowed::shares,
                                             Targets<T>{call.operand[1]}, Flags{no_operand});
  if (refused) return refused;
  if (call.parameter[1] != 0) {
    using F = CenteredMargin<T>;
    return multiclass<T>(engine, call, F{m}, typename F::Item{m});
  }
  return multiclass<T>(engine, call, PairwiseMargin<T>{}, typename PairwiseMargin<T>::Item{});
}

template <class T, class Engine>
long long subset_crossentropy(Engine& engine, const Call& call) {
  const Operand* op = call.operand;
  const long long refused = count_invalid<T>(engine, call.parameter[0], Allowed::hard,
                                             Targets<T>{op[1]}, Flags{no_operand});
  if (refused) return refused;
  return engine.template serial<T>(SubsetCrossentropy<T>{call.n}, op[0], op[1], op[2], op[3]);
}

template <class Engine>
constexpr Entry ranking_entries[] = {
    KX_KERNEL(pairwise_rank_loss, "(n),any(n),mask(n)?->(),(n)?", 3),
    KX_KERNEL(multiclass_multilabel_loss, "(n),any(n)->(),(n)?", 3),
    KX_KERNEL(subset_crossentropy, "(n),any(n)->(),(n)?", 1),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
