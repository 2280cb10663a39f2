// The kernels that carry a row function (kexue/reductions.h) over arrays on a GPU. They are shells:
// which threads get which row or chunk of a row, and who writes.
#pragma once

#include "block_team.h"

namespace kexue {
inline namespace KX_ISA {

constexpr int device_dims = 8;  // loop axes of one launch

// An array as a kernel gets it; see Operand. Strides in bytes.
struct Array {
  char* data;
  index step;
  index stride[device_dims];
};
// Inputs; what they stand for is said at their namesakes in engine.h.
template <class T>
struct VectorIn {
  Array array;
};
template <class E>
struct PerRowIn {
  Array array;
};
struct FlagsIn {
  Array array;
};
template <class W>
struct GivenIn {
  W value;
};
template <class W>
struct SameIn {
  W value;
};
struct PositionsIn {};

// Where results go: `scalars` of at most S scalars a row, stored as E, and one row of T or two.
// Those without data are not wanted.
template <class E, class T, int S>
struct Destination {
  int scalars;
  Array scalar[S > 0 ? S : 1];
  Array vector, second;
  KX_FN bool wants_elements() const { return vector.data || second.data; }
};

// How the work is shared out. A job is a chunk of a row (mostly a whole row); `size` threads do it.
struct Plan {
  index n, rows, chunk, chunks;
  int size;
  int across;  // neighbouring jobs are neighbouring rows, else chunks of one row
  int dims;
  int merged;  // the states of a row's chunks are one already
  index shape[device_dims];
  void* states;  // one per job if rows have several chunks

  KX_FN index row(index job) const {
    return chunks == 1 ? job : across ? job % rows : job / chunks;
  }
  KX_FN index first(index job) const {  // element of the job's chunk
    return chunks == 1 ? 0 : (across ? job / rows : job % chunks) * chunk;
  }
  KX_FN index length(index first) const { return n - first < chunk ? n - first : chunk; }
  KX_FN index job(index row, index chunk) const {
    return across ? chunk * rows + row : row * chunks + chunk;
  }
};

KX_FN index quotient(index a, index b) {  // of numbers that are not negative; short ones are faster
  if (((a | b) >> 32) == 0) return unsigned(a) / unsigned(b);
  return a / b;
}

// The type of a row function's steps, `Term` where it names one.
template <class Fn, class W, class = void>
struct StepOf {
  using type = W;
};
template <class Fn, class W>
struct StepOf<Fn, W, decltype(void(declval<typename Fn::Term>()))> {
  using type = typename Fn::Term;
};

// How many blocks a multiprocessor holds at a time: that bounds the registers of a thread.
// Functions that say they are `crowded` do not fit into half of them.
template <class Fn, class = void>
struct Resident {
  static constexpr int blocks = 2;
};
template <class Fn>
struct Resident<Fn, decltype(void(Fn::crowded))> {
  static constexpr int blocks = Fn::crowded ? 1 : 2;
};

// One row as a thread reads it.
template <class T, class V>
struct StridedRow {
  const char* data;
  index stride;
  KX_FN V operator[](index i) const { return load_wide<T, V>(data + i * stride); }
  template <class Of>
  KX_FN StridedRow of(Of) const {
    return *this;
  }
};

// A thread's place in an input: `at` is the offset of its row, look(i) the view from element i on.
// V is the type of a step, W that of a row's scalars.
template <class In, class V, class W>
struct Cursor;

struct ArrayCursor {
  const Array& array;
  index at;
  KX_FN explicit ArrayCursor(const Array& in) : array(in), at(0) {}
  KX_FN void advance(int d, index steps) { at += steps * array.stride[d]; }
  KX_FN const char* from(index i) const { return to(i); }
  KX_FN char* to(index i) const { return array.data + at + i * array.step; }
};
template <class T, class V, class W>
struct Cursor<VectorIn<T>, V, W> : ArrayCursor {
  KX_FN explicit Cursor(const VectorIn<T>& in) : ArrayCursor(in.array) {}
  KX_FN StridedRow<T, V> look(index i) const { return {from(i), array.step}; }
};
template <class E, class V, class W>
struct Cursor<PerRowIn<E>, V, W> : ArrayCursor {
  KX_FN explicit Cursor(const PerRowIn<E>& in) : ArrayCursor(in.array) {}
  KX_FN W look(index) const { return load_wide<E, W>(from(0)); }
};
template <class V, class W>
struct Cursor<FlagsIn, V, W> : ArrayCursor {
  KX_FN explicit Cursor(const FlagsIn& in) : ArrayCursor(in.array) {}
  KX_FN FlagRow look(index i) const { return {array.data ? from(i) : nullptr, array.step}; }
};
template <class X, class V, class W>
struct Cursor<GivenIn<X>, V, W> {
  W value;
  KX_FN explicit Cursor(const GivenIn<X>& in) : value(in.value) {}
  KX_FN void advance(int, index) {}
  KX_FN W look(index) const { return value; }
};
template <class X, class V, class W>
struct Cursor<SameIn<X>, V, W> {
  V value;
  KX_FN explicit Cursor(const SameIn<X>& in) : value(static_cast<V>(in.value)) {}
  KX_FN void advance(int, index) {}
  KX_FN Same<V> look(index) const { return {value}; }
};

template <class V, class W>
struct Cursor<PositionsIn, V, W> {
  KX_FN explicit Cursor(const PositionsIn&) {}
  KX_FN void advance(int, index) {}
  KX_FN Counting<V> look(index i) const { return {i}; }
};

// And in the results.
template <class To, class W>
struct Writer;

template <class E, class T, int S, class W>
struct Writer<Destination<E, T, S>, W> {
  const Destination<E, T, S>& to;
  index scalar_at[S > 0 ? S : 1];
  index at, second_at;
  KX_FN explicit Writer(const Destination<E, T, S>& destination)
      : to(destination), scalar_at{}, at(0), second_at(0) {}
  KX_FN void advance(int d, index steps) {
    for (int k = 0; k < S; ++k) scalar_at[k] += steps * to.scalar[k].stride[d];
    at += steps * to.vector.stride[d];
    second_at += steps * to.second.stride[d];
  }
  template <class Fn, class State>
  KX_FN void scalars(const Fn& fn, const State& state) const {
    if constexpr (S > 0) {
      if (to.scalars == 0) return;
      const auto results = fn.results(state);
      for (int k = 0; k < S; ++k) {
        if (to.scalar[k].data) store_wide<E, W>(to.scalar[k].data + scalar_at[k], results.out[k]);
      }
    }
  }
  template <class V>
  KX_FN void element(index i, V value) const {
    store_wide<T, V>(to.vector.data + at + i * to.vector.step, value);
  }
  template <class V>
  KX_FN void element(index i, Pair<V> value) const {
    if (to.vector.data) element(i, value.first);
    if (to.second.data) {
      store_wide<T, V>(to.second.data + second_at + i * to.second.step, value.second);
    }
  }
};

// Moves cursors to a row; the last axis runs fastest.
template <class... C>
KX_FN void go_to(const Plan& plan, index row, C&... cursor) {
  for (int d = plan.dims - 1; d > 0; --d) {
    const index rest = quotient(row, plan.shape[d]);
    (cursor.advance(d, row - rest * plan.shape[d]), ...);
    row = rest;
  }
  if (plan.dims > 0) (cursor.advance(0, row), ...);
}

// All inputs of a kernel; f gets the cursors.
template <class... In>
struct Inputs {
  template <class V, class W, class F, class... C>
  KX_FN void with_cursors(F f, C... cursor) const {
    f(cursor...);
  }
};
template <class First, class... Rest>
struct Inputs<First, Rest...> {
  First first;
  Inputs<Rest...> rest;
  template <class V, class W, class F, class... C>
  KX_FN void with_cursors(F f, C... cursor) const {
    rest.template with_cursors<V, W>(f, cursor..., Cursor<First, V, W>(first));
  }
};

template <class Fn, class Team, class Done, class Out, class... X>
KX_FN void write_elements(const Fn& fn, const Team& team, const Done& done, const Out& out,
                          index first, X... x) {
  const auto step = fn.each(done, LaneRow<typename Team::Value>{}, x...);
  for (index i = team.lane; i < team.n; i += team.size) out.element(first + i, step(i));
}

// The work of two kernels, a job at a time; lane 0 of a team writes what there is one of.
// Sweep goes over every chunk. Where rows have one chunk that is all; else it leaves the chunks'
// states for Merge, after which it goes over them again and writes the elements.
template <bool writes, class W, class Fn, class To, class... In>
struct Sweep {
  static constexpr bool crowded = Resident<Fn>::blocks == 1;
  Fn fn;
  Plan plan;
  To to;
  Inputs<In...> in;

  KX_FN index jobs() const { return plan.rows * plan.chunks; }
  KX_FN void operator()(index job, Slots* slots) const {
    using State = typename Fn::template State<W>;
    using V = typename StepOf<Fn, W>::type;
    const index row = plan.row(job), first = plan.first(job);
    const auto states = static_cast<State*>(plan.states);
    const BlockTeam<V, W> team(plan.length(first), plan.size, slots);
    Writer<To, W> out(to);
    in.template with_cursors<V, W>([&](auto... cursor) {
      go_to(plan, row, out, cursor...);
      const bool merged = writes && plan.merged;
      const State state =
          merged ? states[plan.job(row, 0)] : fn.gather(team, cursor.look(first)...);
      if (!merged && plan.chunks > 1) {
        if (team.lane == 0) states[job] = state;
        return;
      }
      if (!merged && team.lane == 0) out.scalars(fn, state);
      if constexpr (writes) {
        if (!to.wants_elements()) return;
        write_elements(fn, team, fn.finish(state), out, first, cursor.look(first)...);
      }
    });
  }
};
template <class W, class Fn, class To>
struct Merge {
  Fn fn;
  Plan plan;
  To to;

  KX_FN index jobs() const { return plan.rows; }
  KX_FN void operator()(index row, Slots* slots) const {
    using State = typename Fn::template State<W>;
    const auto states = static_cast<State*>(plan.states);
    const BlockTeam<W, W> team(plan.chunks, plan.size, slots);
    Writer<To, W> out(to);
    go_to(plan, row, out);
    const State state = team.merge([&](index chunk) { return states[plan.job(row, chunk)]; },
                                   [&](const State& a, const State& b) { return fn.merge(a, b); });
    if (team.lane == 0) {
      states[plan.job(row, 0)] = state;
      out.scalars(fn, state);
    }
  }
};

// A team takes every teams-th job, so that any number of blocks does them all.
template <class Work>
__global__ void __launch_bounds__(max_block_threads, Resident<Work>::blocks)
    run(const __grid_constant__ Work work) {
  __shared__ Slots slots;
  const int teams_a_block = int(blockDim.x) / work.plan.size;
  const index first = index(blockIdx.x) * teams_a_block + int(threadIdx.x) / work.plan.size;
  const index teams = index(gridDim.x) * teams_a_block;
  for (index job = first; job < work.jobs(); job += teams) work(job, &slots);
}

}  // namespace KX_ISA
}  // namespace kexue
