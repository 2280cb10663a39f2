// The loop that carries a functor (kexue/elements.h) over arrays. It goes through the elements in
// runs along the last loop axis: straight in memory where the elements of the functor's type lie
// side by side, by way of a block in the first-level cache where they are 16-bit numbers, lie
// apart or are one for all, and where results go past the caches.
#pragma once

#include "kexue/elements.h"
#include "pool.h"
#include "store.h"

namespace kexue {
inline namespace KX_ISA {

struct Sum {
  template <class V>
  KX_FN V operator()(V a, V b) const {
    return a + b;
  }
};
// Passes by a nan that comes first.
struct Largest {
  template <class V>
  KX_FN V operator()(V a, V b) const {
    return maximum(a, b);
  }
};

// The lanes of each of lanes<R> packs folded, halves first, one to a lane.
template <int apart, class R, class F>
KX_FN R fold_pair(R a, R b, F f) {
  using B = bits_t<R>;
  const B at = lane_numbers<B>(), upper = at & element_t<B>(apart), width = splat<B>(lanes<R>);
  const B first = at - upper + (upper != B{} ? width : B{});
  return f(__builtin_shuffle(a, b, first), __builtin_shuffle(a, b, first + element_t<B>(apart)));
}
template <class R, class F, int apart = lanes<R> / 2>
KX_FN R fold_packs(R* pack, F f) {
  KX_UNROLL
  for (int k = 0; k < apart; ++k) pack[k] = fold_pair<apart>(pack[k], pack[k + apart], f);
  if constexpr (apart > 1) {
    return fold_packs<R, F, apart / 2>(pack, f);
  } else {
    return pack[0];
  }
}

constexpr index elements_a_job = 32768;
constexpr int element_block = 1024;

template <class S, class T>
inline void scatter_run(char* to, index step, const T* from, int count, bool streams) {
  if (step == index(sizeof(S))) {
    narrow_run<S>(to, from, count, streams);
  } else {
    for (int i = 0; i < count; ++i) store_wide<S>(to + i * step, from[i]);
  }
}

// A place in several operands at once.
template <int operands>
class Walk {
 public:
  Walk(const Call& call, const Operand* const* op, index first) : call_(call), op_(op) {
    for (int d = call.dims - 1; d >= 0; --d) {
      position_[d] = first % call.shape[d];
      first /= call.shape[d];
      move(d, position_[d]);
    }
  }
  char* at(int k) const { return op_[k]->data + offset_[k]; }
  index step(int k) const { return call_.dims ? op_[k]->stride[call_.dims - 1] : 0; }
  // Elements from here to the end of the run.
  index left() const {
    return call_.dims ? call_.shape[call_.dims - 1] - position_[call_.dims - 1] : 1;
  }
  void advance(index count) {
    for (int d = call_.dims - 1; d >= 0; --d, count = 1) {
      position_[d] += count;
      move(d, count);
      if (position_[d] < call_.shape[d] || d == 0) return;
      move(d, -position_[d]);
      position_[d] = 0;
    }
  }

 private:
  void move(int d, index count) {
    for (int k = 0; k < operands; ++k) offset_[k] += count * op_[k]->stride[d];
  }
  const Call& call_;
  const Operand* const* op_;
  index offset_[operands] = {};
  index position_[max_dims];
};

// One call: fn over all elements. T is what values are outside the functor, float for 16-bit ones.
template <class T, class Fn, int inputs, int outputs>
struct ElementLoop {
  static constexpr int operands = inputs + outputs;
  using V = Pack<typename Fn::Term, register_bytes / int(sizeof(typename Fn::Term))>;
  static constexpr int width = lanes<V>;

  const Fn& fn;
  const Call& call;
  const Operand* op[operands];  // inputs, then outputs

  template <class Load>
  KX_FN auto step(const Load& load) const {
    V x[inputs];
    KX_UNROLL
    for (int k = 0; k < inputs; ++k) x[k] = load(k);
    return apply<inputs>(fn, x);
  }
  void run(const T* const* from, T* const* to, index count) const {
    index i = 0;
    for (; i + width <= count; i += width) {
      const auto r = step([&](int k) { return load_wide<T, V>(from[k] + i); });
      KX_UNROLL
      for (int k = 0; k < outputs; ++k) store_wide<T, V>(to[k] + i, result_of(r, k));
    }
    if (i == count) return;
    using Raw = Pack<T, width>;
    const int bytes = int(count - i) * int(sizeof(T));
    const auto r = step([&](int k) { return convert<V>(load_part<Raw>(from[k] + i, bytes)); });
    KX_UNROLL
    for (int k = 0; k < outputs; ++k) store_part(to[k] + i, convert<Raw>(result_of(r, k)), bytes);
  }

  // `count` elements of the stored type S from `at` on.
  template <class S>
  void block(const Walk<operands>& at, index count, const bool* direct, bool streams) const {
    alignas(64) T buffer[operands][element_block];
    const T* from[inputs];
    T* to[outputs];
    for (int k = 0; k < inputs; ++k) {
      from[k] = direct[k] ? reinterpret_cast<const T*>(at.at(k)) : buffer[k];
      if (!direct[k]) gather_run<S>(buffer[k], at.at(k), at.step(k), int(count));
    }
    for (int k = 0; k < outputs; ++k) {
      const int o = inputs + k;
      to[k] = direct[o] ? reinterpret_cast<T*>(at.at(o)) : buffer[o];
    }
    run(from, to, count);
    for (int o = inputs; o < operands; ++o) {
      if (!direct[o]) scatter_run<S>(at.at(o), at.step(o), buffer[o], int(count), streams);
    }
  }
  template <class S>
  void job(index first, index last, bool streams) const {
    Walk<operands> at(call, op, first);
    bool direct[operands], all = true;
    for (int k = 0; k < operands; ++k) {
      direct[k] = sizeof(S) == sizeof(T) && at.step(k) == index(sizeof(T));
      if (k >= inputs) direct[k] &= !streams;
      all &= direct[k];
    }
    while (first < last) {
      index count = at.left() < last - first ? at.left() : last - first;
      if (!all && count > element_block) count = element_block;
      block<S>(at, count, direct, streams);
      at.advance(count);
      first += count;
    }
    if (streams) stream_done();
  }
  // Whether results replace what was read: their lines are in the cache then.
  bool in_place() const {
    for (int o = inputs; o < operands; ++o) {
      for (int k = 0; k < inputs; ++k) {
        if (op[o]->data == op[k]->data) return true;
      }
    }
    return false;
  }
  void all() const {
    dispatch<T>(call.dtype, [&](auto stored) {
      using S = decltype(stored);
      const bool streams = call.rows * outputs * index(sizeof(S)) >= stream_bytes && !in_place();
      parallel((call.rows + elements_a_job - 1) / elements_a_job, [&](index j) {
        const index first = j * elements_a_job, last = first + elements_a_job;
        job<S>(first, last < call.rows ? last : call.rows, streams);
      });
    });
  }
};

// fn over all elements of a call: results to the operands `to`.
template <class T, class Fn, int outputs, class... In>
long long map_elements(const Call& call, const Fn& fn, const Operand* const (&to)[outputs],
                       PerRow<In>... in) {
  ElementLoop<T, Fn, sizeof...(In), outputs> loop = {fn, call, {&in.op...}};
  for (int k = 0; k < outputs; ++k) loop.op[sizeof...(In) + k] = to[k];
  loop.all();
  return 0;
}

// Runs functors for one call.
class ElementEngine {
 public:
  template <class T>
  using Computed = typename ComputedType<T>::type;

  explicit ElementEngine(const Call& call) : call_(call) {}

  template <class T, class Fn, int outputs, class... In>
  long long map(const Fn& fn, const Operand* const (&to)[outputs], In... in) {
    return map_elements<T>(call_, fn, to, in...);
  }

 private:
  const Call& call_;
};

}  // namespace KX_ISA
}  // namespace kexue
