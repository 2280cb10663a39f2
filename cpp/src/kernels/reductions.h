// The kernels of the logsumexp family: which row function runs on which operands. An engine
// (cpu/rows.h, cuda/engine.h) knows how; this text is compiled once per engine.
#pragma once

#include "../engine.h"
#include "kexue/reductions.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

template <class T, class Engine>
long long logsumexp(Engine& engine, const Call& call) {
  const Operand &x = call.operand[0], &mask = call.operand[1], &out = call.operand[2];
  Outputs<T, T> to = {1, {&out}, nullptr};
  if (mask.data) return engine.template reduce<T>(Logsumexp<T>{}, to, Vector<T>{x}, Flags{mask});
  return engine.template reduce<T>(Logsumexp<T>{}, to, Vector<T>{x}, Everything{});
}

template <class T, class Engine>
long long logsumexp_vjp(Engine& engine, const Call& call) {
  const Operand &x = call.operand[0], &g = call.operand[1], &mask = call.operand[2];
  return engine.template transform<T>(LogsumexpVjp<T>{}, {0, {}, &call.operand[3]}, Vector<T>{x},
                                      PerRow<T>{g}, Flags{mask});
}

template <class T, class Engine>
long long logsumexp_weighted(Engine& engine, const Call& call) {
  const Operand &x = call.operand[0], &b = call.operand[1], &mask = call.operand[2];
  return engine.template reduce<T>(LogsumexpWeighted<T>{call.operand[4].data != nullptr},
                                   {2, {&call.operand[3], &call.operand[4]}, nullptr}, Vector<T>{x},
                                   Vector<T>{b}, Flags{mask});
}

template <class T, class Engine>
long long logsumexp_weighted_vjp(Engine& engine, const Call& call) {
  const Operand &x = call.operand[0], &b = call.operand[1], &g = call.operand[2];
  return engine.template transform<T>(LogsumexpWeightedVjp<T>{}, {0, {}, &call.operand[4]},
                                      Vector<T>{x}, Vector<T>{b}, PerRow<T>{g},
                                      Flags{call.operand[3]});
}

template <class T, class Engine>
long long logmeanexp(Engine& engine, const Call& call) {
  const Operand &x = call.operand[0], &weights = call.operand[1];
  Outputs<T, T> to = {1, {&call.operand[2]}, nullptr};
  if (weights.data)
    return engine.template reduce<T>(Logmeanexp<T>{}, to, Vector<T>{x}, Vector<T>{weights});
  return engine.template reduce<T>(Logmeanexp<T>{}, to, Vector<T>{x}, Same<wide_t<T>>{1});
}

template <class T, class Engine>
long long logmeanexp_vjp(Engine& engine, const Call& call) {
  const Operand &x = call.operand[0], &g = call.operand[1], &weights = call.operand[2];
  Outputs<T, T> to = {0, {}, &call.operand[3]};
  const LogmeanexpVjp<T> fn;
  if (weights.data) {
    return engine.template transform<T>(fn, to, Vector<T>{x}, PerRow<T>{g}, Vector<T>{weights});
  }
  return engine.template transform<T>(fn, to, Vector<T>{x}, PerRow<T>{g}, Same<wide_t<T>>{1});
}

template <class T, class Engine>
long long softmax_into(Engine& engine, const Call& call, const Outputs<T, T>& to) {
  const Operand &x = call.operand[0], &mask = call.operand[1];
  if (mask.data) return engine.template transform<T>(Softmax<T>{}, to, Vector<T>{x}, Flags{mask});
  return engine.template transform<T>(Softmax<T>{}, to, Vector<T>{x}, Everything{});
}
template <class T, class Engine>
long long softmax(Engine& engine, const Call& call) {
  return softmax_into<T>(engine, call, {0, {}, &call.operand[2]});
}
template <class T, class Engine>
long long logsumexp_softmax(Engine& engine, const Call& call) {
  return softmax_into<T>(engine, call, {1, {&call.operand[2]}, &call.operand[3]});
}

template <class T, class Engine>
long long softmax_vjp(Engine& engine, const Call& call) {
  const Given<wide_t<T>> scale = {static_cast<wide_t<T>>(call.parameter[0])};
  return engine.template transform<T>(SoftmaxVjp<T>{}, {0, {}, &call.operand[3]},
                                      Vector<T>{call.operand[0]}, Vector<T>{call.operand[1]},
                                      Flags{call.operand[2]}, scale);
}

template <class T, class Engine>
long long log_softmax(Engine& engine, const Call& call) {
  const Operand &x = call.operand[0], &mask = call.operand[1];
  Outputs<T, T> to = {0, {}, &call.operand[2]};
  if (mask.data)
    return engine.template transform<T>(LogSoftmax<T>{}, to, Vector<T>{x}, Flags{mask});
  return engine.template transform<T>(LogSoftmax<T>{}, to, Vector<T>{x}, Everything{});
}

template <class T, class Engine>
long long log_softmax_vjp(Engine& engine, const Call& call) {
  return engine.template transform<T>(LogSoftmaxVjp<T>{}, {0, {}, &call.operand[3]},
                                      Vector<T>{call.operand[0]}, Vector<T>{call.operand[1]},
                                      Flags{call.operand[2]});
}

template <class T, class Engine>
long long softmax_entropy(Engine& engine, const Call& call) {
  const Given<wide_t<T>> scale = {static_cast<wide_t<T>>(call.parameter[0])};
  const Operand& x = call.operand[0];
  return engine.template reduce<T>(SoftmaxEntropy<T>{}, {1, {&call.operand[2]}, nullptr},
                                   Vector<T>{x}, Flags{call.operand[1]}, scale);
}

template <class T, class Engine>
long long softmax_entropy_vjp(Engine& engine, const Call& call) {
  const Given<wide_t<T>> scale = {static_cast<wide_t<T>>(call.parameter[0])};
  return engine.template transform<T>(SoftmaxEntropyVjp<T>{}, {0, {}, &call.operand[3]},
                                      Vector<T>{call.operand[0]}, PerRow<T>{call.operand[1]},
                                      Flags{call.operand[2]}, scale);
}

// Calls `then` with the scale of each row: of its number of true mask entries, else of n.
template <class T, class Engine, class Then>
long long with_entropy_scale(Engine& engine, const Call& call, const Operand& mask, Then then) {
  using W = wide_t<T>;
  const W coefficient = static_cast<W>(call.parameter[0]);
  const W min_length = static_cast<W>(call.parameter[1]);
  if (mask.data == nullptr) {
    return then(Given<W>{entropy_scale(static_cast<W>(call.n), coefficient, min_length)});
  }
  auto memory = engine.scratch(static_cast<long long>(sizeof(W)) * call.rows);
  if (memory.data == nullptr) return -1;
  const Operand scale = packed_scalars(call, memory.data, sizeof(W));
  const EntropyScaleOfMask<W> count = {coefficient, min_length};
  const long long failed = engine.template reduce<T, W>(count, {1, {&scale}, nullptr}, Flags{mask});
  return failed ? failed : then(PerRow<W>{scale});
}

template <class T, class Engine>
long long entropy_invariant_softmax(Engine& engine, const Call& call) {
  const Operand& mask = call.operand[1];
  return with_entropy_scale<T>(engine, call, mask, [&](auto scale) {
    return engine.template transform<T>(ScaledSoftmax<T>{}, {0, {}, &call.operand[2]},
                                        Vector<T>{call.operand[0]}, Flags{mask}, scale);
  });
}

template <class T, class Engine>
long long entropy_invariant_softmax_vjp(Engine& engine, const Call& call) {
  const Operand& mask = call.operand[2];
  return with_entropy_scale<T>(engine, call, mask, [&](auto scale) {
    return engine.template transform<T>(SoftmaxVjp<T>{}, {0, {}, &call.operand[3]},
                                        Vector<T>{call.operand[0]}, Vector<T>{call.operand[1]},
                                        Flags{mask}, scale);
  });
}

template <class T, class Engine>
long long entropy_invariant_scale(Engine& engine, const Call& call) {
  using W = wide_t<T>;
  const EntropyScale<T> fn = {static_cast<W>(call.parameter[0]), static_cast<W>(call.parameter[1])};
  const Operand& n = call.operand[0];
  return engine.template reduce<T>(fn, {1, {&call.operand[1]}, nullptr}, PerRow<T>{n});
}

template <class T, class Engine>
long long logsumexp_bounds(Engine& engine, const Call& call) {
  using W = wide_t<T>;
  const Operand &x = call.operand[0], &p = call.operand[1], *out = &call.operand[2];
  Outputs<T, T> to = {4, {out, out + 1, out + 2, out + 3}, nullptr};
  // p may be off by 1e-6, and by what rounding to its type does to it.
  constexpr double tolerance[dtypes] = {1e-6, 1.2e-6, 1e-3, 8e-3};
  const LogsumexpBounds<T> fn = {static_cast<W>(call.parameter[0]),
                                 static_cast<W>(call.parameter[1]),
                                 static_cast<W>(tolerance[call.dtype]), p.data == nullptr};
  if (p.data) return engine.template reduce<T>(fn, to, Vector<T>{x}, Vector<T>{p});
  return engine.template reduce<T>(fn, to, Vector<T>{x}, Same<W>{1});
}

template <class T, class Engine>
long long logsumexp_lipschitz(Engine& engine, const Call& call) {
  const Operand &x = call.operand[0], &y = call.operand[1];
  return engine.template reduce<T>(LogsumexpLipschitz<T>{},
                                   {2, {&call.operand[2], &call.operand[3]}, nullptr}, Vector<T>{x},
                                   Vector<T>{y});
}

template <class Engine>
constexpr Entry reductions_entries[] = {
    KX_KERNEL(logsumexp, "(n),mask(n)?->()", 0),
    KX_KERNEL(logsumexp_vjp, "(n),(),mask(n)?->(n)", 0),
    KX_KERNEL(logsumexp_weighted, "(n),(n),mask(n)?->(),()?", 0),
    KX_KERNEL(logsumexp_weighted_vjp, "(n),(n),(),mask(n)?->(n)", 0),
    KX_KERNEL(logmeanexp, "(n),(n)?->()", 0),
    KX_KERNEL(logmeanexp_vjp, "(n),(),(n)?->(n)", 0),
    KX_KERNEL(softmax, "(n),mask(n)?->(n)", 0),
    KX_KERNEL(softmax_vjp, "(n),(n),mask(n)?->(n)", 1),
    KX_KERNEL(log_softmax, "(n),mask(n)?->(n)", 0),
    KX_KERNEL(log_softmax_vjp, "(n),(n),mask(n)?->(n)", 0),
    KX_KERNEL(logsumexp_softmax, "(n),mask(n)?->(),(n)", 0),
    KX_KERNEL(softmax_entropy, "(n),mask(n)?->()", 1),
    KX_KERNEL(softmax_entropy_vjp, "(n),(),mask(n)?->(n)", 1),
    KX_KERNEL(entropy_invariant_softmax, "(n),mask(n)?->(n)", 2),
    KX_KERNEL(entropy_invariant_softmax_vjp, "(n),(n),mask(n)?->(n)", 2),
    KX_KERNEL(entropy_invariant_scale, "()->()", 2),
    KX_KERNEL(logsumexp_bounds, "(n),(n)?->(),(),(),()", 2),
    KX_KERNEL(logsumexp_lipschitz, "(n),(n)->(),()", 0),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
