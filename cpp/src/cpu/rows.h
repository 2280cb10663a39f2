// The loops that carry a row function (kexue/reductions.h) over arrays. They know three regimes and
// the algorithms none of them:
//   - rows along contiguous memory: some rows at once, one register of neighbours after the other
//     (`by rows`);
//   - short rows, or rows across memory (axis 0): a row in each lane (`by lanes`), through a tile
//     copied into the first-level cache;
//   - rows longer than a block: block by block, so that memory is read once, the blocks merged.
// Blocks, chunks and the order of merging depend on the shapes alone: results have the same bits
// for any number of threads.
#pragma once

#include <cstdlib>

#include "../engine.h"
#include "kexue/team.h"
#include "pool.h"
#include "store.h"

namespace kexue {
inline namespace KX_ISA {

constexpr index batch_size = 4096;     // elements worked on at once where rows are short or copied
constexpr index row_chunk = 65536;     // elements of a long row that are one job, or one block
constexpr int tile_rows = 64;          // rows of a tile
constexpr int tile_size = 64;          // core indices of a tile
constexpr index lane_chunk = 4096;     // core indices of a tile's long rows that are one job
constexpr index short_row = 32;        // up to here rows go by lanes
constexpr index job_elements = 32768;  // about this much work makes a job
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

// Elements as they are computed with, copied together from anywhere: a tile, bytes[i * tile_rows +
// lane] = element i0 + i of row r0 + lane, or stretches of rows.
template <class T>
struct Buffer {
  alignas(64) T values[batch_size];

  // Missing lanes repeat the first.
  void load(const Operand& op, const Call& call, index r0, int count, index i0, int len) {
    dispatch<T>(call.dtype,
                [&](auto stored) { load_stored(stored, op, call, r0, count, i0, len); });
  }
  void save(const Operand& op, const Call& call, index r0, int count, index i0, int len,
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
      for (; done + square <= len; done += square) {
        for (int j = 0; j < tile_rows; j += square) {
          transpose<T>(at + (r0 + j) * stride + done * op.step, stride,
                       values + done * tile_rows + j, tile_rows * sizeof(T));
        }
      }
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
      int done = 0;
      for (; done + square <= len; done += square) {
        for (int j = 0; j < tile_rows; j += square) {
          transpose<T>(values + done * tile_rows + j, tile_rows * sizeof(T), run + j * len + done,
                       len * index(sizeof(T)));
        }
      }
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

  void go(index r0, int rows) {
    count = rows;
    for (int j = 0; j < rows; ++j) row[j] = op.data + offset(op, call, r0 + j);
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
  void look(index i0, int len, Buffer<T>& buffer) {
    const bool direct = op.step == index(sizeof(S)) && sizeof(S) == sizeof(T);
    for (int j = 0; j < count; ++j) {
      const char* from = row[j] + i0 * op.step;
      if (!direct) gather_run<S>(buffer.values + j * len, from, op.step, len);
      block[j] = direct ? from : reinterpret_cast<const char*>(buffer.values + j * len);
    }
  }
  // From here to what will be read after this block.
  index ahead(int len) const {
    return count > 1 || call.n <= len ? row[count - 1] - row[0] + call.n * op.step : len * op.step;
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
  void load_values(index r0, int count, int room) {
    dispatch<E>(call.dtype, [&](auto stored) {
      for (int j = 0; j < room; ++j) {
        const char* from = op.data + offset(op, call, r0 + (j < count ? j : 0));
        values[j] = load_wide<decltype(stored), E>(from);
      }
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

// What a row function may leave out: results, in them `out` or `invalid`, its type of steps, values
// it keeps.
template <class Fn, class State, class = void>
constexpr bool has_results = false;
template <class Fn, class State>
constexpr bool has_results<Fn, State, decltype(void(declval<Fn>().results(declval<State>())))> =
    true;
template <class Results, class = void>
constexpr bool has_scalars = false;
template <class Results>
constexpr bool has_scalars<Results, decltype(void(declval<Results&>().out))> = true;
template <class Results, class = void>
constexpr bool has_invalid = false;
template <class Results>
constexpr bool has_invalid<Results, decltype(void(declval<Results&>().invalid))> = true;
template <class Fn, class W, class = void>
struct TermOf {
  using type = W;
};
template <class Fn, class W>
struct TermOf<Fn, W, decltype(void(declval<typename Fn::Term>()))> {
  using type = typename Fn::Term;
};

template <class Fn, class = void>
constexpr int keeps_of = 0;
template <class Fn>
constexpr int keeps_of<Fn, decltype(void(Fn::keeps))> = Fn::keeps;

// Merges states in pairs, pairs of pairs and so on as they come: rounding errors grow with the
// logarithm of their number. Room for as many as a chunk has.
template <class State>
struct Cascade {
  static constexpr int levels = 8;
  State level[levels];
  unsigned count = 0;

  template <class Fn>
  void add(const Fn& fn, State s) {
    int k = 0;
    for (; (count >> k) & 1; ++k) s = fn.merge(level[k], s);
    level[k] = s;
    ++count;
  }
  template <class Fn>
  State total(const Fn& fn) const {
    int k = 0;
    while (!((count >> k) & 1)) ++k;
    State s = level[k];
    for (++k; k < levels; ++k) {
      if ((count >> k) & 1) s = fn.merge(level[k], s);
    }
    return s;
  }
};
static_assert(row_chunk <= (batch_size << 7) && lane_chunk <= (tile_size << 7), "levels suffice");

// States from many chunks of a row, merged as a tree.
template <class Fn, class Leaf>
auto merge_tree(const Fn& fn, index first, index last, const Leaf& leaf) {
  auto left = leaf(first);
  if (last - first == 1) return left;
  const index middle = first + (last - first + 1) / 2;
  left = merge_tree(fn, first, middle, leaf);
  return fn.merge(left, merge_tree(fn, middle, last, leaf));
}

// One kernel call: fn over all rows of the inputs.
template <class Fn, class E, class T, bool writes_rows, class... In>
struct RowLoop {
  using W = wide_t<T>;
  static constexpr int most_rows = register_bytes / int(sizeof(W));
  using R = Pack<W, most_rows>;  // a value of each of some rows
  using Term = typename TermOf<Fn, W>::type;
  using Steps = Pack<Term, register_bytes / int(sizeof(Term))>;  // of a step by rows
  using LaneSteps = Pack<Term, most_rows>;                       // and by lanes
  static constexpr int groups = tile_rows / most_rows;
  static constexpr int keeps = writes_rows ? keeps_of<Fn> : 0;
  using State = typename Fn::template State<R>;
  // A state of one chunk of rows that are worked on at once.
  struct TileState {
    State group[groups];
  };

  const Fn& fn;
  const Call& call;
  const Outputs<E, T>& outputs;
  bool streams;  // results go past the caches
  long long invalid = 0;

  // --- by rows ---------------------------------------------------------------------------------

  // Room for what the steps of some rows keep, if there is any.
  struct Memory {
    Term* kept;
    index pitch;
  };

  template <class... X>
  __attribute__((noinline)) State gather_block(int rows, int len, Memory keep, X... x) const {
    return fn.gather(RowTeam<Steps, R>{len, rows, keep.kept, keep.pitch, keeps}, x...);
  }
  template <class... Rd>
  State gather_chunk(int rows, index i, index end, index block, Memory keep, Rd&... in) const {
    Cascade<State> blocks;
    do {
      const int len = int(end - i < block ? end - i : block);
      blocks.add(fn, gather_block(rows, len, keep, in.block(i, len)...));
      i += block;
    } while (i < end);
    return blocks.total(fn);
  }

  using Sink = RowSink<T, Steps>;
  template <class Done, class... Rd>
  void write_rows(const Done& done, Sink& sink, index r0, int rows, index i0, index end,
                  index block, Memory keep, Rd&... in) const {
    for (; i0 < end; i0 += block) {
      const int len = int(end - i0 < block ? end - i0 : block);
      if (keeps > 0 && keep.kept) {
        write_block<(keeps > 0)>(done, sink, r0, rows, i0, len, keep, in.block(i0, len)...);
      } else {
        write_block<false>(done, sink, r0, rows, i0, len, keep, in.block(i0, len)...);
      }
    }
  }
  template <bool recalls, class Done, class... X>
  __attribute__((noinline)) void write_block(const Done& done, Sink& sink, index r0, int rows,
                                             index i0, int len, Memory keep, X... x) const {
    for (int j = 0; j < rows; ++j) {
      const index at[] = {place(outputs.vector, r0 + j, i0), place(outputs.second, r0 + j, i0)};
      const RowOf<Steps, false, recalls> row = {j, keep.kept + j * keeps * keep.pitch, keep.pitch};
      sink.put(at, len, fn.each(done, row, x...));
    }
  }
  index place(const Operand* op, index r, index i) const {
    return op ? offset(*op, call, r) + i * op->step : 0;
  }
  Sink sink() const { return {outputs.vector, outputs.second, call.dtype, streams}; }

  // Results of `count` rows from r0 on.
  void write_scalars(const State& state, index r0, int count) {
    if constexpr (has_results<Fn, State>) {
      const auto results = fn.results(state);
      if constexpr (has_scalars<decltype(fn.results(state))>) {
        for (int k = 0; k < outputs.scalars; ++k) {
          const Operand& op = *outputs.scalar[k];
          if (op.data == nullptr) continue;
          dispatch<E>(call.dtype, [&](auto stored) {
            using S = decltype(stored);
            if (call.dims == 1 && op.stride[0] == index(sizeof(S)) && count == most_rows) {
              store_wide<S>(op.data + r0 * op.stride[0],
                            convert<Pack<E, most_rows>>(results.out[k]));
              return;
            }
            for (int j = 0; j < count; ++j) {
              char* to = op.data + offset(op, call, r0 + j);
              store_wide<S>(to, E(lane(results.out[k], j)));
            }
          });
        }
      }
      if constexpr (has_invalid<decltype(fn.results(state))>) {
        for (int j = 0; j < count; ++j) invalid += lane(results.invalid, j) != 0;
      }
    }
  }
  bool wants_scalars() const {
    if constexpr (has_results<Fn, State>) {
      return has_invalid<decltype(fn.results(declval<State>()))> || outputs.scalars > 0;
    }
    return false;
  }

  void by_rows(index first, index last, In... inputs) {
    rows_with(first, last, Reader<In, Steps, R>(inputs, call)...);
  }
  template <class... Rd>
  void rows_with(index first, index last, Rd&&... in) {
    const index n = call.n, chunks = n > row_chunk ? (n + row_chunk - 1) / row_chunk : 1;
    const index block = (in.direct() && ...) ? row_chunk : batch_size;
    const int at_once = int(n * most_rows <= batch_size ? most_rows
                            : n * 2 <= batch_size       ? batch_size / n
                                                        : 1);
    Memory keep = {nullptr, n + lanes<Steps>};
    if (keeps > 0 && n <= block) {
      keep.kept = static_cast<Term*>(thread_memory(at_once * keeps * keep.pitch * sizeof(Term)));
    }
    [[maybe_unused]] Sink to = sink();
    for (index r0 = first; r0 < last; r0 += at_once) {
      const int count = int(last - r0 < at_once ? last - r0 : at_once);
      (in.rows(r0, count), ...);
      const State state = merge_tree(fn, 0, chunks, [&](index c) {
        const index end = (c + 1) * row_chunk;
        return gather_chunk(count, c * row_chunk, end < n ? end : n, block, keep, in...);
      });
      if (wants_scalars()) write_scalars(state, r0, count);
      if constexpr (writes_rows) {
        write_rows(fn.finish(state), to, r0, count, 0, n, block, keep, in...);
      }
    }
  }

  // --- by lanes --------------------------------------------------------------------------------

  template <class... X>
  __attribute__((noinline)) State gather_lanes(int len, LaneSteps* keep, X... x) const {
    return fn.gather(LaneTeam<LaneSteps, R>{len, keep, short_row}, x...);
  }
  LaneSteps* kept_of(LaneSteps* keep, int g) const {
    return keep ? keep + g * keeps * short_row : nullptr;
  }
  template <class... Rd>
  void gather_tiles(TileState& state, index r0, int count, index i0, index end, LaneSteps* keep,
                    Rd&... in) const {
    Cascade<State> tiles[groups];
    for (index i = i0; i < end || i == i0; i += tile_size) {
      const int len = int(end - i < tile_size ? end - i : tile_size);
      (in.tile(r0, count, i, len), ...);
      for (int g = 0; g * most_rows < count; ++g) {
        tiles[g].add(fn, gather_lanes(len, kept_of(keep, g), in.group(g)...));
      }
    }
    for (int g = 0; g * most_rows < count; ++g) state.group[g] = tiles[g].total(fn);
  }
  template <class... Rd>
  void write_tiles(const TileState& state, index r0, int count, index i0, index end, bool loaded,
                   LaneSteps* keep, Rd&... in) const {
    if constexpr (writes_rows) {
      for (index i = i0; i < end; i += tile_size) {
        const int len = int(end - i < tile_size ? end - i : tile_size);
        if (!loaded) (in.tile(r0, count, i, len), ...);
        write_tile(state, r0, count, i, len, keep, in...);
      }
    }
  }
  template <class... Rd>
  void write_tile(const TileState& state, index r0, int count, index i0, int len, LaneSteps* keep,
                  Rd&... in) const {
    using Done = decltype(fn.finish(state.group[0]));
    using Step = decltype(fn.each(declval<Done>(), LaneRow<LaneSteps>{}, in.group(0)...)(index(0)));
    Buffer<T> out[is_pair<Step> ? 2 : 1];
    for (int g = 0; g * most_rows < count; ++g) {
      const auto done = fn.finish(state.group[g]);
      if (keeps > 0 && keep) {
        const LaneRow<LaneSteps, (keeps > 0)> row = {kept_of(keep, g), short_row};
        write_group(done, out, g * most_rows, len, row, in.group(g)...);
      } else {
        write_group(done, out, g * most_rows, len, LaneRow<LaneSteps>{}, in.group(g)...);
      }
    }
    out[0].save(*outputs.vector, call, r0, count, i0, len, streams);
    if constexpr (is_pair<Step>) out[1].save(*outputs.second, call, r0, count, i0, len, streams);
  }
  template <class Done, class Row, class... X>
  __attribute__((noinline)) void write_group(const Done& done, Buffer<T>* out, int at, int len,
                                             Row row, X... x) const {
    const auto step = fn.each(done, row, x...);
    for (index i = 0; i < len; ++i) {
      const auto value = step(i);
      if constexpr (is_pair<Plain<decltype(value)>>) {
        store_wide<T>(out[0].values + i * tile_rows + at, value.first);
        store_wide<T>(out[1].values + i * tile_rows + at, value.second);
      } else {
        store_wide<T>(out[0].values + i * tile_rows + at, value);
      }
    }
  }
  void tile_scalars(const TileState& state, index r0, int count) {
    for (int g = 0; g * most_rows < count && wants_scalars(); ++g) {
      const int here = count - g * most_rows < most_rows ? count - g * most_rows : most_rows;
      write_scalars(state.group[g], r0 + g * most_rows, here);
    }
  }

  void by_lanes(index first, index last, In... inputs) {
    lanes_with(first, last, Reader<In, LaneSteps, R>(inputs, call)...);
  }
  template <class... Rd>
  void lanes_with(index first, index last, Rd&&... in) {
    LaneSteps values[keeps > 0 ? keeps * groups * short_row : 1];
    LaneSteps* const keep = keeps > 0 && call.n <= short_row ? values : nullptr;
    for (index r0 = first; r0 < last; r0 += tile_rows) {
      const int count = int(last - r0 < tile_rows ? last - r0 : tile_rows);
      TileState state;
      gather_tiles(state, r0, count, 0, call.n, keep, in...);
      tile_scalars(state, r0, count);
      write_tiles(state, r0, count, 0, call.n, call.n <= tile_size, keep, in...);
    }
  }

  // --- few long rows: their chunks are the jobs --------------------------------------------------

  // The job's rows and their chunk.
  struct Job {
    index r0;
    int count;
    index i, end;
  };

  template <class... Rd>
  void split_gather(TileState& state, const Job& job, Rd&&... in) const {
    gather_tiles(state, job.r0, job.count, job.i, job.end, nullptr, in...);
  }
  template <class... Rd>
  void split_gather(State& state, const Job& job, Rd&&... in) const {
    (in.rows(job.r0, job.count), ...);
    const index block = (in.direct() && ...) ? row_chunk : batch_size;
    state = gather_chunk(job.count, job.i, job.end, block, Memory{}, in...);
  }
  template <class... Rd>
  void split_write(const TileState& state, const Job& job, Rd&&... in) const {
    write_tiles(state, job.r0, job.count, job.i, job.end, false, nullptr, in...);
  }
  template <class... Rd>
  void split_write(const State& state, const Job& job, Rd&&... in) const {
    if constexpr (writes_rows) {
      (in.rows(job.r0, job.count), ...);
      Sink to = sink();
      write_rows(fn.finish(state), to, job.r0, job.count, job.i, job.end, batch_size, Memory{},
                 in...);
    }
  }
  void merge_into(TileState& a, const TileState& b) const {
    for (int g = 0; g < groups; ++g) a.group[g] = fn.merge(a.group[g], b.group[g]);
  }
  void merge_into(State& a, const State& b) const { a = fn.merge(a, b); }
  void split_scalars(const TileState& state, index r0, int count) {
    tile_scalars(state, r0, count);
  }
  void split_scalars(const State& state, index r0, int count) { write_scalars(state, r0, count); }

  template <class S, class Steps_, int unit>
  long long run_split(index chunk, In... inputs) {
    const index rows = call.rows, n = call.n, chunks = (n + chunk - 1) / chunk;
    const index parts = (rows + unit - 1) / unit;
    auto* states = static_cast<S*>(
        std::aligned_alloc(64, (sizeof(S) * size_t(parts * chunks) + 63) / 64 * 64));
    if (states == nullptr) return -1;
    const auto job_of = [&](index job) {
      const index r0 = job / chunks * unit, i = job % chunks * chunk;
      return Job{r0, int(rows - r0 < unit ? rows - r0 : unit), i, i + chunk < n ? i + chunk : n};
    };
    parallel(parts * chunks, [&](index job) {
      split_gather(states[job], job_of(job), Reader<In, Steps_, R>(inputs, call)...);
    });
    for (index p = 0; p < parts; ++p) {
      S* const own = states + p * chunks;
      for (index apart = 1; apart < chunks; apart *= 2) {
        for (index c = 0; c + apart < chunks; c += 2 * apart) merge_into(own[c], own[c + apart]);
      }
      const Job first = job_of(p * chunks);
      if (wants_scalars()) split_scalars(own[0], first.r0, first.count);
    }
    if constexpr (writes_rows) {
      parallel(parts * chunks, [&](index job) {
        split_write(states[job / chunks * chunks], job_of(job),
                    Reader<In, Steps_, R>(inputs, call)...);
      });
    }
    std::free(states);
    return invalid;
  }

  long long run(bool lanewise, In... inputs) {
    if (call.rows == 0) return 0;
    const index n = call.n;
    if (lanewise && n > lane_chunk) {
      return run_split<TileState, LaneSteps, tile_rows>(lane_chunk, inputs...);
    }
    if (!lanewise && n > row_chunk && call.rows < 16) {
      return run_split<State, Steps, 1>(row_chunk, inputs...);
    }
    const index unit = lanewise ? tile_rows : most_rows;
    const index rows_fit = job_elements / (n > 0 ? n : 1);
    index rows_a_job = rows_fit / unit * unit;
    if (rows_a_job < 1) rows_a_job = lanewise ? unit : rows_fit;
    if (rows_a_job < 1) rows_a_job = 1;
    const index jobs = (call.rows + rows_a_job - 1) / rows_a_job;
    parallel(jobs, [&](index job) {
      const index first = job * rows_a_job;
      const index last = first + rows_a_job < call.rows ? first + rows_a_job : call.rows;
      RowLoop part{fn, call, outputs, streams};
      if (lanewise) {
        part.by_lanes(first, last, inputs...);
      } else {
        part.by_rows(first, last, inputs...);
      }
      if (part.invalid) __atomic_fetch_add(&invalid, part.invalid, __ATOMIC_RELAXED);
    });
    return invalid;
  }
};

// Short rows and rows across memory go by lanes, if there are rows enough to fill a register.
// The first input that has a core axis decides.
inline bool goes_by_lanes(const Call& call, const Operand& x) {
  if (call.rows < 4) return false;
  if (call.n <= short_row) return true;
  const index stride = call.dims > 0 ? x.stride[call.dims - 1] : 0;
  const auto size = [](index v) { return v < 0 ? -v : v; };
  return size(stride) < size(x.step) && size(stride) > 0;
}

// Runs row functions for one call.
class CpuEngine {
 public:
  // Rows of 16-bit types are computed as float rows.
  template <class T>
  using Computed = typename ComputedType<T>::type;

  explicit CpuEngine(const Call& call) : call_(call) {}

  template <class T, class E = T, class Fn, class First, class... In>
  long long reduce(const Fn& fn, Outputs<E, T> to, First first, In... in) {
    return RowLoop<Fn, E, T, false, First, In...>{fn, call_, to, false}.run(
        goes_by_lanes(call_, first.op), first, in...);
  }
  template <class T, class Fn, class First, class... In>
  long long transform(const Fn& fn, Outputs<T, T> to, First first, In... in) {
    const bool streams = call_.rows * call_.n * index(sizeof(T)) >= stream_bytes;
    return RowLoop<Fn, T, T, true, First, In...>{fn, call_, to, streams}.run(
        goes_by_lanes(call_, first.op), first, in...);
  }

  struct Scratch {
    void* data;
    ~Scratch() { std::free(data); }
  };
  Scratch scratch(long long bytes) { return {std::malloc(static_cast<size_t>(bytes) + 1)}; }

 private:
  const Call& call_;
};

}  // namespace KX_ISA
}  // namespace kexue
