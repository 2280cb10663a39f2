// The kernels of arg max under noise: which row function runs on which operands.
#pragma once

#include "../engine.h"
#include "kexue/argmax.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

constexpr index rows_in_memory = 1 << 20;  // elements of the rows that are worked on at a time

// How many slices of the first loop axis that is.
inline index slices_in_memory(const Call& call) {
  if (call.dims == 0) return 1;
  const index fit = rows_in_memory / (call.rows / call.shape[0] * call.n);
  const index most = fit > 1 ? fit : 1;
  return most < call.shape[0] ? most : call.shape[0];
}
// Calls f with so many slices at a time, one after the other.
template <class F>
long long by_slices(const Call& call, index most, F f) {
  if (call.dims == 0) return f(call);
  for (index first = 0; first < call.shape[0]; first += most) {
    Call part = call;
    for (Operand& op : part.operand) {
      if (op.data) op.data += first * op.stride[0];
    }
    part.shape[0] = call.shape[0] - first < most ? call.shape[0] - first : most;
    part.rows = part.shape[0] * (call.rows / call.shape[0]);
    if (const long long failed = f(part)) return failed;
  }
  return 0;
}

// fn on whole rows of doubles: the gaps of the first operand, copies of others, and the result.
template <class T, class Engine, class Fn>
long long on_whole_rows(Engine& engine, const Call& call, const Fn& fn, double scale) {
  if (call.rows == 0 || call.n == 0) return 0;
  const index bytes = room_for(call.n) * index(sizeof(double)), most = slices_in_memory(call);
  const index rows = call.dims == 0 ? 1 : call.rows / call.shape[0] * most;
  auto memory = engine.scratch(Fn::rows * bytes * rows);
  if (memory.data == nullptr) return -1;
  return by_slices(call, most, [&](const Call& part) -> long long {
    Engine of_part(part);
    Operand row[Fn::rows];
    for (int k = 0; k < Fn::rows; ++k) {
      char* const begin = static_cast<char*>(memory.data) + k * bytes * part.rows;
      row[k] = packed_scalars(part, begin, bytes);
      row[k].step = sizeof(double);
    }
    const Operand *op = part.operand, *own = row;
    if (of_part.template transform<double>(Gaps<T>{scale}, {0, {}, own++}, Vector<T>{*op++})) {
      return -1;
    }
    while (own < row + Fn::rows - 1) {
      if (of_part.template transform<double>(Copy<T>{}, {0, {}, own++}, Vector<T>{*op++})) {
        return -1;
      }
    }
    if (!of_part.whole_rows(fn, static_cast<double*>(memory.data))) return -1;
    return of_part.template transform<T>(Copy<T>{}, {0, {}, op}, Vector<double>{*own});
  });
}

template <class T, class Noise, class Engine>
long long argmax_distribution(Engine& engine, const Call& call) {
  return on_whole_rows<T>(engine, call, ArgmaxDistribution<Noise>{}, call.parameter[0]);
}
template <class T, class Noise, class Engine>
long long argmax_distribution_vjp(Engine& engine, const Call& call) {
  const double scale = call.parameter[0];
  return on_whole_rows<T>(engine, call, ArgmaxDistributionVjp<Noise>{{}, scale}, scale);
}

template <class T, class Engine>
long long argmax_exponential(Engine& engine, const Call& call) {
  return argmax_distribution<T, ExponentialNoise>(engine, call);
}
template <class T, class Engine>
long long argmax_exponential_vjp(Engine& engine, const Call& call) {
  return argmax_distribution_vjp<T, ExponentialNoise>(engine, call);
}
template <class T, class Engine>
long long argmax_uniform(Engine& engine, const Call& call) {
  return argmax_distribution<T, UniformNoise>(engine, call);
}
template <class T, class Engine>
long long argmax_uniform_vjp(Engine& engine, const Call& call) {
  return argmax_distribution_vjp<T, UniformNoise>(engine, call);
}
template <class T, class Engine>
long long argmax_normal(Engine& engine, const Call& call) {
  return argmax_distribution<T, NormalNoise>(engine, call);
}
template <class T, class Engine>
long long argmax_normal_vjp(Engine& engine, const Call& call) {
  return argmax_distribution_vjp<T, NormalNoise>(engine, call);
}

template <class T, class Engine>
long long gumbel_noise(Engine& engine, const Call& call) {
  return engine.template reduce<T>(GumbelNoise<T>{}, {1, {&call.operand[1]}, nullptr},
                                   PerRow<T>{call.operand[0]});
}

template <class T, class Engine>
long long gumbel_max(Engine& engine, const Call& call) {
  return engine.template reduce<T>(GumbelMax<T>{}, {1, {&call.operand[2]}, nullptr},
                                   Vector<T>{call.operand[0]}, Vector<T>{call.operand[1]},
                                   Positions{});
}

// Calls `then` with the logit and the noise of the winner of each row.
template <class T, class Engine, class Then>
long long with_winner(Engine& engine, const Call& call, Then then) {
  using W = wide_t<T>;
  auto memory = engine.scratch(2 * static_cast<long long>(sizeof(W)) * call.rows);
  if (memory.data == nullptr) return -1;
  const Operand position{}, logit = packed_scalars(call, memory.data, sizeof(W));
  Operand noise = logit;
  noise.data += static_cast<long long>(sizeof(W)) * call.rows;
  const long long failed = engine.template reduce<T, W>(
      GumbelMax<T>{}, {3, {&position, &logit, &noise}, nullptr}, Vector<T>{call.operand[0]},
      Vector<T>{call.operand[1]}, Positions{});
  return failed ? failed : then(PerRow<W>{logit}, PerRow<W>{noise});
}

template <class T, class Engine>
long long gumbel_softmax(Engine& engine, const Call& call) {
  const Given<wide_t<T>> scale = {static_cast<wide_t<T>>(call.parameter[0])};
  return with_winner<T>(engine, call, [&](auto logit, auto noise) {
    return engine.template transform<T>(GumbelSoftmax<T>{}, {0, {}, &call.operand[2]},
                                        Vector<T>{call.operand[0]}, Vector<T>{call.operand[1]},
                                        logit, noise, scale);
  });
}
template <class T, class Engine>
long long gumbel_softmax_vjp(Engine& engine, const Call& call) {
  const Given<wide_t<T>> scale = {static_cast<wide_t<T>>(call.parameter[0])};
  return with_winner<T>(engine, call, [&](auto logit, auto noise) {
    return engine.template transform<T>(GumbelSoftmaxVjp<T>{}, {0, {}, &call.operand[3]},
                                        Vector<T>{call.operand[0]}, Vector<T>{call.operand[1]},
                                        Vector<T>{call.operand[2]}, logit, noise, scale);
  });
}

template <class Engine>
constexpr Entry argmax_entries[] = {
    KX_KERNEL(argmax_exponential, "(n)->(n)", 1),
    KX_KERNEL(argmax_exponential_vjp, "(n),(n)->(n)", 1),
    KX_KERNEL(argmax_uniform, "(n)->(n)", 1),
    KX_KERNEL(argmax_uniform_vjp, "(n),(n)->(n)", 1),
    KX_KERNEL(argmax_normal, "(n)->(n)", 1),
    KX_KERNEL(argmax_normal_vjp, "(n),(n)->(n)", 1),
    KX_KERNEL(gumbel_noise, "()->()", 0),
    KX_KERNEL(gumbel_max, "(n),(n)->()", 0),
    KX_KERNEL(gumbel_softmax, "(n),(n)->(n)", 1),
    KX_KERNEL(gumbel_softmax_vjp, "(n),(n),(n)->(n)", 1),
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
