// One key at a time, for states that are read and written once.
#pragma once

#include "heads.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

// Log features, or features where there are no exponentials, of two inputs.
template <class T>
void features_of(const Maps<T>& maps, T* const (&x)[2], T* const (&to)[2]) {
  using V = typename Panel<T>::V;
  constexpr int width = lanes<V>;
  T half[2];
  for (int k = 0; k < 2; ++k) {
    V squares{};
    for (index i = 0; i < maps.d_pitch; i += width) {
      const V own = load<V>(x[k] + i) * splat<V>(maps.scale);
      store(x[k] + i, own);
      squares += own * own;
      if (maps.kind != affine) store(to[k] + i, single_feature(maps.kind, own, maps.eps));
    }
    half[k] = T(0.5) * sum_of_lanes(squares);
  }
  for (index first = 0; maps.kind == affine && first < maps.f; first += width) {
    V sum[2][width] = {};
    for (int j = 0; j < width && first + j < maps.f; ++j) {
      for (index i = 0; i < maps.d_pitch; i += width) {
        const V weights = load<V>(maps.weights + (first + j) * maps.d_pitch + i);
        sum[0][j] += weights * load<V>(x[0] + i);
        sum[1][j] += weights * load<V>(x[1] + i);
      }
    }
    const V bias = load<V>(maps.bias + first);
    for (int k = 0; k < 2; ++k) {
      store(to[k] + first, V(fold_packs(sum[k], Sum{}) + (bias - half[k])));
    }
  }
}

// f(W{}, i) for i below count, where W is a register or, at the end, a number.
template <class T, class F>
KX_FN void in_registers(index count, F f) {
  using V = typename Panel<T>::V;
  index i = 0;
  for (; i + lanes<V> <= count; i += lanes<V>) f(V{}, i);
  for (; i < count; ++i) f(T{}, i);
}

// Rows of a state, e numbers each, that fade and take in a key, and what a query reads of them.
template <class T>
struct StepRows {
  index count, e;
  T* s;
  const T *fade, *key, *query, *v;
  T* out;
  // Columns from i on, as long as there are N times W; returns the first that is left.
  template <int N, class W>
  KX_FN index columns(index i) const {
    constexpr int width = int(sizeof(W) / sizeof(T));
    for (; i + N * width <= e; i += N * width) {
      W sum[N], value[N];
      KX_UNROLL
      for (int j = 0; j < N; ++j) {
        sum[j] = load<W>(out + i + j * width);
        value[j] = load<W>(v + i + j * width);
      }
      for (index t = 0; t < count; ++t) {
        KX_UNROLL
        for (int j = 0; j < N; ++j) {
          T* const at = s + t * e + i + j * width;
          const W now = splat<W>(fade[t]) * load<W>(at) + splat<W>(key[t]) * value[j];
          store(at, now);
          sum[j] += splat<W>(query[t]) * now;
        }
      }
      KX_UNROLL
      for (int j = 0; j < N; ++j) store(out + i + j * width, sum[j]);
    }
    return i;
  }
};

// Takes a key in and reads for a query, in one pass over the state, which the last three operands
// are. Operands q, k, v, projection, bias, weight, decay; the state's arrays are contiguous.
template <class T>
long long step(const Call& call) {
  using V = typename Panel<T>::V;
  constexpr int width = Panel<T>::width;
  const Operand* op = call.operand;
  const double* const parameter = call.parameter;
  Maps<T> maps = {int(parameter[0]),
                  call['d'],
                  call['f'],
                  call['v'],
                  Panel<T>::padded(call['d']),
                  Panel<T>::padded(call['v']),
                  T(parameter[1]),
                  T(parameter[2]),
                  nullptr,
                  nullptr};
  const index f = maps.f, e = maps.e, f_pitch = Panel<T>::padded(f);
  // Rows of the projection as they are where they are whole registers.
  const View rows = {op[3].data, op[3].pitch, op[3].step, op[3].type};
  const bool direct = rows.data && rows.step == index(sizeof(T)) && maps.d == maps.d_pitch &&
                      rows.pitch == maps.d * index(sizeof(T));
  Allocation copied((rows.data && !direct ? f * maps.d_pitch : 0) * index(sizeof(T)));
  Allocation biases((f_pitch + 16) * index(sizeof(T)));
  if (!copied.data || !biases.data) return -1;
  if (rows.data) {
    maps.weights = static_cast<const T*>(static_cast<const void*>(rows.data));
    if (!direct) {
      fetch(rows, f, maps.d, static_cast<T*>(copied.data), maps.d_pitch);
      maps.weights = static_cast<T*>(copied.data);
    }
    fetch(View{op[4].data, op[4].step, 0, op[4].type}, f, 1, static_cast<T*>(biases.data), 1);
    maps.bias = static_cast<T*>(biases.data);
  }
  const bool normalize = parameter[3] != 0;
  long long failed = 0;
  const index grain = 65536 / (f * (maps.d + e) + 1) + 1;
  parallel((call.rows + grain - 1) / grain, [&](index job) {
    Carver<T> size(nullptr);
    const auto carve = [&](Carver<T>& memory, T** to) {
      for (int i = 0; i < 2; ++i) to[i] = memory.take(maps.d_pitch);
      for (int i = 2; i < 4; ++i) to[i] = memory.take(maps.e_pitch);
      for (int i = 4; i < 7; ++i) to[i] = memory.take(f_pitch);
    };
    T* room[7];
    carve(size, room);
    void* const block = thread_memory(static_cast<unsigned long long>(size.bytes()));
    if (!block) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
      return;
    }
    Carver<T> memory(block);
    carve(memory, room);
    T *q = room[0], *k = room[1], *v = room[2], *out = room[3], *a = room[4], *b = room[5],
      *fade = room[6];
    for (index row = job * grain; row < call.rows && row < (job + 1) * grain; ++row) {
      const auto one = [&](const Operand& from, T missing) {
        if (from.data)
          fetch(View{from.data + offset(from, call, row), 0, 0, from.type}, 1, 1, &missing, 1);
        return missing;
      };
      const auto vector = [&](const Operand& from, index count, T* to, index pitch) {
        fetch(View{from.data + offset(from, call, row), 0, from.step, from.type}, 1, count, to,
              pitch);
      };
      const T weight = one(op[5], 1), decay = one(op[6], 0);
      vector(op[0], maps.d, q, maps.d_pitch);
      for (index i = 0; i < maps.d_pitch; ++i) k[i] = 0;
      for (index i = 0; i < maps.e_pitch; ++i) v[i] = out[i] = 0;
      if (weight != 0) {
        vector(op[1], maps.d, k, maps.d_pitch);
        vector(op[2], e, v, maps.e_pitch);
      }
      const auto state = [&](int i) {
        return static_cast<T*>(static_cast<void*>(op[i].data + offset(op[i], call, row)));
      };
      T *c = state(8), *s = state(9), *z = state(10);
      features_of<T>(maps, {q, k}, {b, a});
      const T log_weight = weight == 1 ? T(0) : weight == 0 ? T(-infinity) : log(weight);
      T top = 0;
      if (maps.log()) {
        V most = splat<V>(-infinity);
        in_registers<T>(f, [&](auto as, index t) {
          using W = decltype(as);
          const StepLogs<W> logs(load<W>(a + t) + splat<W>(log_weight), load<W>(b + t),
                                 load<W>(c + t) + splat<W>(decay));
          store(c + t, logs.c);
          store(a + t, logs.key);
          store(fade + t, logs.fade);
          store(b + t, logs.query);
          most = maximum(logs.query + V{}, most);
        });
        top = largest_lane(most);
        if (top == T(-infinity)) top = 0;
        for (index t = 0; t < f; t += width) {
          store(a + t, exp_up_to(load<V>(a + t)));
          store(fade + t, exp_up_to(load<V>(fade + t)));
          store(b + t, exp_up_to(V(load<V>(b + t) - top)));
        }
      } else {
        const T down = exp_anywhere(decay);
        for (index t = 0; t < f; ++t) {
          a[t] *= weight;
          fade[t] = down;
        }
      }
      V masses{};
      T mass = 0;
      in_registers<T>(f, [&](auto as, index t) {
        using W = decltype(as);
        const W now = load<W>(fade + t) * load<W>(z + t) + load<W>(a + t);
        store(z + t, now);
        if constexpr (sizeof(W) == sizeof(V)) {
          masses += load<W>(b + t) * now;
        } else {
          mass += b[t] * now;
        }
      });
      mass += sum_of_lanes(masses);
      constexpr index together = 32;  // rows, whose columns are gone through by registers
      for (index t = 0; t < f; t += together) {
        const StepRows<T> rows = {
            f - t < together ? f - t : together, e, s + t * e, fade + t, a + t, b + t, v, out};
        index i = rows.template columns<4, V>(0);
        i = rows.template columns<1, V>(i);
        rows.template columns<1, T>(i);
      }
      const T factor = row_factor(maps.kind, normalize, mass, top, T(parameter[4]));
      for (index i = 0; i < e; ++i) out[i] = factor == 0 ? T(0) : out[i] * factor;
      put(View{op[7].data + offset(op[7], call, row), 0, op[7].step, op[7].type}, 1, e, out,
          maps.e_pitch);
    }
  });
  return failed ? -1 : 0;
}

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
