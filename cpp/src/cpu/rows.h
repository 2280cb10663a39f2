// The loops that carry a row function (special.h) over arrays. They know three regimes and the
// algorithms none of them:
//   - a row along contiguous memory: one register of neighbours at a time (`by rows`);
//   - many short rows, or rows across memory (axis 0): one row per lane (`by lanes`), through a
//     tile copied into the first-level cache;
//   - a row longer than a block: block by block, so that memory is read once, the blocks merged.
// Blocks, chunks and the order of merging depend on the shapes alone: results have the same bits
// for any number of threads.
#pragma once

#include <cstdlib>

#include "../engine.h"
#include "kexue/team.h"
#include "pool.h"

namespace kexue {
inline namespace KX_ISA {

constexpr int block_size = 4096;       // elements of a row worked on while in the first-level cache
constexpr index row_chunk = 65536;     // elements of a long row that are one job
constexpr int tile_rows = 64;          // rows of a tile
constexpr int tile_size = 32;          // core indices of a tile
constexpr index lane_chunk = 2048;     // core indices of a tile's long rows that are one job
constexpr index short_row = 32;        // up to here rows go by lanes
constexpr index job_elements = 32768;  // about this much work makes a job
constexpr index kept_bytes = 24576;    // of values kept between the sweeps over a row
static_assert(tile_rows * tile_size <= block_size, "one buffer serves both");

inline index offset(const Operand& op, const Call& call, index row) {
  if (call.dims <= 1) return row * (call.dims ? op.stride[0] : 0);
  index at = 0;
  for (int d = call.dims - 1; d >= 0; --d) {
    at += row % call.shape[d] * op.stride[d];
    row /= call.shape[d];
  }
  return at;
}

template <class E>
inline void copy_element(char* to, const char* from) {
  __builtin_memcpy(to, from, sizeof(E));
}

// A reader positions itself at a row and gives views of a block of it (row, block), or loads a
// tile of rows and gives views of its lanes (tile, group).
template <class In, class V, class W>
struct Reader;

template <class E>
struct TileBuffer {
  alignas(64) char bytes[block_size * sizeof(E)];

  // bytes[i * tile_rows + lane] = element i0 + i of row r0 + lane; missing lanes repeat the first
  void load(const Operand& op, const Call& call, index r0, int count, index i0, int len) {
    const char* at = op.data + i0 * op.step;
    const bool even = call.dims <= 1;
    const index stride = call.dims == 1 ? op.stride[0] : 0;
    if (even && stride == index(sizeof(E))) {
      for (int i = 0; i < len; ++i) {
        char* to = bytes + i * tile_rows * sizeof(E);
        // The runs are too short for the hardware to foresee the next tile's.
        const char* ahead = at + r0 * stride + (i + len) * op.step;
        for (int b = 0; b < tile_rows * int(sizeof(E)); b += 64) __builtin_prefetch(ahead + b);
        __builtin_memcpy(to, at + r0 * stride + i * op.step, unsigned(count) * sizeof(E));
        for (int j = count; j < tile_rows; ++j) copy_element<E>(to + j * sizeof(E), to);
      }
      return;
    }
    for (int j = 0; j < tile_rows; ++j) {
      const index r = j < count ? r0 + j : r0;
      const char* from = at + (even ? r * stride : offset(op, call, r));
      for (int i = 0; i < len; ++i) {
        copy_element<E>(bytes + (i * tile_rows + j) * sizeof(E), from + i * op.step);
      }
    }
  }

  void save(const Operand& op, const Call& call, index r0, int count, index i0, int len) const {
    char* at = op.data + i0 * op.step;
    const bool even = call.dims <= 1;
    const index stride = call.dims == 1 ? op.stride[0] : 0;
    if (even && stride == index(sizeof(E))) {
      for (int i = 0; i < len; ++i) {
        __builtin_memcpy(at + r0 * stride + i * op.step, bytes + i * tile_rows * sizeof(E),
                         unsigned(count) * sizeof(E));
      }
      return;
    }
    for (int j = 0; j < count; ++j) {
      char* to = at + (even ? (r0 + j) * stride : offset(op, call, r0 + j));
      for (int i = 0; i < len; ++i) {
        copy_element<E>(to + i * op.step, bytes + (i * tile_rows + j) * sizeof(E));
      }
    }
  }

  const char* gather(const char* from, index step, int len) {
    for (int i = 0; i < len; ++i) copy_element<E>(bytes + i * sizeof(E), from + i * step);
    return bytes;
  }
  void scatter(char* to, index step, int len) const {
    for (int i = 0; i < len; ++i) copy_element<E>(to + i * step, bytes + i * sizeof(E));
  }
};

template <class T, class V, class W>
struct Reader<Vector<T>, V, W> {
  const Operand& op;
  const Call& call;
  const char* at = nullptr;
  TileBuffer<T> buffer;
  Reader(Vector<T> in, const Call& c) : op(in.op), call(c) {}

  void row(index r) { at = op.data + offset(op, call, r); }
  RowView<T, V> block(index i0, int len) {
    const char* from = at + i0 * op.step;
    return {op.step == index(sizeof(T)) ? from : buffer.gather(from, op.step, len)};
  }
  void tile(index r0, int count, index i0, int len) { buffer.load(op, call, r0, count, i0, len); }
  LaneView<T, V> group(int g) const {
    return {buffer.bytes + g * lanes<V> * index(sizeof(T)), tile_rows};
  }
};

template <class V, class W>
struct Reader<Flags, V, W> {
  const Operand& op;
  const Call& call;
  const char* at = nullptr;
  TileBuffer<bool> buffer;
  Reader(Flags in, const Call& c) : op(in.op), call(c) {}

  void row(index r) {
    if (op.data) at = op.data + offset(op, call, r);
  }
  RowFlags<V> block(index i0, int len) {
    if (!op.data) return {nullptr};
    const char* from = at + i0 * op.step;
    return {op.step == 1 ? from : buffer.gather(from, op.step, len)};
  }
  void tile(index r0, int count, index i0, int len) {
    if (op.data) buffer.load(op, call, r0, count, i0, len);
  }
  LaneFlags<V> group(int g) const {
    return {op.data ? buffer.bytes + g * lanes<V> : nullptr, tile_rows};
  }
};

template <class E, class V, class W>
struct Reader<PerRow<E>, V, W> {
  const Operand& op;
  const Call& call;
  W value = {};
  V values[tile_rows / lanes<V>];
  Reader(PerRow<E> in, const Call& c) : op(in.op), call(c) {}

  void row(index r) { value = load_wide<E, W>(op.data + offset(op, call, r)); }
  W block(index, int) const { return value; }
  void tile(index r0, int count, index, int) {
    for (int j = 0; j < tile_rows; ++j) {
      row(r0 + (j < count ? j : 0));
      __builtin_memcpy(reinterpret_cast<char*>(values) + j * sizeof value, &value, sizeof value);
    }
  }
  V group(int g) const { return values[g]; }
};

// What needs no memory: Given, Everything, Same.
template <class W, class V>
struct Reader<Given<W>, V, W> {
  W value;
  Reader(Given<W> in, const Call&) : value(in.value) {}
  void row(index) {}
  W block(index, int) const { return value; }
  void tile(index, int, index, int) {}
  V group(int) const { return splat<V>(value); }
};
template <class V, class W>
struct Reader<Everything, V, W> {
  Reader(Everything, const Call&) {}
  void row(index) {}
  Everything block(index, int) const { return {}; }
  void tile(index, int, index, int) {}
  Everything group(int) const { return {}; }
};
template <class W, class V>
struct Reader<Same<W>, V, W> {
  W value;
  Reader(Same<W> in, const Call&) : value(in.value) {}
  void row(index) {}
  Same<V> block(index, int) const { return {splat<V>(value)}; }
  void tile(index, int, index, int) {}
  Same<V> group(int) const { return {splat<V>(value)}; }
};

// Field f of lane j of a state of packs is field f of the state of that row.
template <class W, class PackState, class State>
inline void set_lane(PackState& packs, const State& state, int j) {
  constexpr int fields = sizeof(State) / sizeof(W);
  constexpr int width = sizeof(PackState) / sizeof(State);
  for (int f = 0; f < fields; ++f) {
    __builtin_memcpy(reinterpret_cast<char*>(&packs) + (f * width + j) * sizeof(W),
                     reinterpret_cast<const char*>(&state) + f * sizeof(W), sizeof(W));
  }
}
template <class W, class State, class PackState>
inline void get_lane(State& state, const PackState& packs, int j) {
  constexpr int fields = sizeof(State) / sizeof(W);
  constexpr int width = sizeof(PackState) / sizeof(State);
  for (int f = 0; f < fields; ++f) {
    __builtin_memcpy(reinterpret_cast<char*>(&state) + f * sizeof(W),
                     reinterpret_cast<const char*>(&packs) + (f * width + j) * sizeof(W),
                     sizeof(W));
  }
}

// What a row function may leave out: results, in them `out` or `invalid`, its type of steps, kept
// values.
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
constexpr int kept_of = 0;
template <class Fn>
constexpr int kept_of<Fn, decltype(void(Fn::kept))> = Fn::kept;

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
static_assert(row_chunk <= (block_size << 7) && lane_chunk <= (tile_size << 7), "levels suffice");

// One kernel call: fn over all rows of the inputs.
template <class Fn, class E, class T, bool writes_rows, class... In>
struct RowLoop {
  using W = wide_t<T>;
  static constexpr int width = register_bytes / int(sizeof(W));
  using V = Pack<W, width>;  // by lanes
  using Term = typename TermOf<Fn, W>::type;
  static constexpr int step = register_bytes / int(sizeof(Term));
  using Steps = Pack<Term, step>;  // by rows
  static constexpr int groups = tile_rows / width;
  static constexpr int kept = writes_rows ? kept_of<Fn> : 0;
  // Rows for whose kept values the first-level cache has room.
  static constexpr index kept_row = kept ? kept_bytes / (kept * index(sizeof(Term))) : 0;
  static constexpr index kept_size = kept_row + step;
  using State = typename Fn::template State<W>;
  using Lanes = typename Fn::template State<V>;

  const Fn& fn;
  const Call& call;
  const Outputs<E, T>& outputs;
  long long invalid = 0;

  // --- by rows ---------------------------------------------------------------------------------

  template <class... R>
  State gather_block(index i, index end, Term* keep, R&... in) const {
    const int len = int(end - i < block_size ? end - i : block_size);
    return fn.gather(RowTeam<Steps, W>{len, keep, kept_size}, in.block(i, len)...);
  }
  template <class... R>
  State gather_chunk(index i, index end, Term* keep, R&... in) const {
    Cascade<State> blocks;
    for (index at = i; at < end || at == i; at += block_size) {
      blocks.add(fn, gather_block(at, end, keep, in...));
    }
    return blocks.total(fn);
  }
  template <class Leaf>
  State merge_tree(index first, index last, const Leaf& leaf) const {
    if (last - first == 1) return leaf(first);
    const index middle = first + (last - first + 1) / 2;
    const State left = merge_tree(first, middle, leaf);
    return fn.merge(left, merge_tree(middle, last, leaf));
  }

  template <class Done, class... R>
  void write_block(const Done& done, index i0, index end, const Term* keep, index r,
                   R&... in) const {
    if constexpr (writes_rows) {
      const Operand& op = *outputs.vector;
      TileBuffer<T> strided;
      char* at = op.data + offset(op, call, r);
      for (; i0 < end; i0 += block_size) {
        const int len = int(end - i0 < block_size ? end - i0 : block_size);
        char* to = op.step == index(sizeof(T)) ? at + i0 * op.step : strided.bytes;
        if (kept > 0 && keep) {
          write_run(done, to, len, Kept<Term>{keep, kept_size}, in.block(i0, len)...);
        } else {
          write_run(done, to, len, NothingKept{}, in.block(i0, len)...);
        }
        if (to == strided.bytes) strided.scatter(at + i0 * op.step, op.step, len);
      }
    }
  }
  template <class Done, class K, class... X>
  void write_run(const Done& row, char* to, int len, K keep, X... x) const {
    const Done done = row;  // a copy that the stores below cannot alias
    index i = 0;
    for (; i + step <= len; i += step) {
      store_wide<T, Steps>(to + i * index(sizeof(T)), fn.each(done, keep, Full{i}, x...));
    }
    if (i < len) {
      const Part at = {i, int(len - i)};
      char raw[sizeof(T) * step];
      store_wide<T, Steps>(raw, fn.each(done, keep, at, x...));
      using Raw = Pack<typename Storage<T>::type, step>;
      store_part<Raw>(to + i * index(sizeof(T)), load<Raw>(raw), at.count * int(sizeof(T)));
    }
  }

  // Results of `count` rows from r0 on, whose states lie side by side.
  void write_scalars(const Lanes& state, index r0, int count) {
    if constexpr (has_results<Fn, Lanes>) {
      const auto results = fn.results(state);
      if constexpr (has_scalars<decltype(fn.results(state))>) {
        for (int k = 0; k < outputs.scalars; ++k) {
          const Operand& op = *outputs.scalar[k];
          if (op.data == nullptr) continue;
          for (int j = 0; j < count; ++j) {
            store_wide<E, W>(op.data + offset(op, call, r0 + j), lane(results.out[k], j));
          }
        }
      }
      if constexpr (has_invalid<decltype(fn.results(state))>) {
        for (int j = 0; j < count; ++j) invalid += lane(results.invalid, j) != 0;
      }
    }
  }
  bool wants_scalars() const {
    if constexpr (has_results<Fn, Lanes>) {
      return has_invalid<decltype(fn.results(declval<Lanes>()))> || outputs.scalars > 0;
    }
    return false;
  }

  void by_rows(index first, index last, In... inputs) {
    rows_with(first, last, Reader<In, Steps, W>(inputs, call)...);
  }
  template <class... R>
  void rows_with(index first, index last, R&&... in) {
    const index n = call.n, chunks = (n + row_chunk - 1) / row_chunk;
    alignas(64) Term values[kept > 0 ? kept * kept_size : 1];
    Term* const keep = n <= kept_row ? values : nullptr;
    for (index r0 = first; r0 < last; r0 += width) {
      const int count = int(last - r0 < width ? last - r0 : width);
      Lanes side{};
      for (int j = 0; j < count; ++j) {
        (in.row(r0 + j), ...);
        const State s =
            chunks <= 1 ? gather_chunk(0, n, keep, in...) : merge_tree(0, chunks, [&](index c) {
              const index end = (c + 1) * row_chunk;
              return gather_chunk(c * row_chunk, end < n ? end : n, nullptr, in...);
            });
        set_lane<W>(side, s, j);
        if constexpr (writes_rows) write_block(fn.finish(s), 0, n, keep, r0 + j, in...);
      }
      if (!wants_scalars()) continue;
      for (int j = count; j < width; ++j) {
        State s;
        get_lane<W>(s, side, 0);
        set_lane<W>(side, s, j);
      }
      write_scalars(side, r0, count);
    }
  }

  // --- by lanes --------------------------------------------------------------------------------

  template <class... R>
  void gather_tiles(Lanes* state, index r0, int count, index i0, index end, V* keep, R&... in) {
    Cascade<Lanes> tiles[groups];
    for (index i = i0; i < end || i == i0; i += tile_size) {
      const int len = int(end - i < tile_size ? end - i : tile_size);
      (in.tile(r0, count, i, len), ...);
      for (int g = 0; g * width < count; ++g) {
        V* const mine = keep ? keep + index(g) * kept * tile_size : nullptr;
        tiles[g].add(fn, fn.gather(LaneTeam<V>{len, mine, tile_size}, in.group(g)...));
      }
    }
    for (int g = 0; g * width < count; ++g) state[g] = tiles[g].total(fn);
  }
  template <class... R>
  void write_tiles(const Lanes* state, index r0, int count, index i0, index end, const V* keep,
                   bool loaded, R&... in) {
    if constexpr (writes_rows) {
      TileBuffer<T> out;
      for (index i = i0; i < end; i += tile_size) {
        const int len = int(end - i < tile_size ? end - i : tile_size);
        if (!loaded) (in.tile(r0, count, i, len), ...);
        for (int g = 0; g * width < count; ++g) {
          char* to = out.bytes + g * width * index(sizeof(T));
          const auto done = fn.finish(state[g]);
          const auto put = [&, done](auto k) {
            for (index c = 0; c < len; ++c) {
              store_wide<T, V>(to + c * tile_rows * index(sizeof(T)),
                               fn.each(done, k, c, in.group(g)...));
            }
          };
          if (kept > 0 && keep) {
            const V* mine = keep + index(g) * kept * tile_size;
            put(Kept<W>{reinterpret_cast<const W*>(mine), tile_size});
          } else {
            put(NothingKept{});
          }
        }
        out.save(*outputs.vector, call, r0, count, i, len);
      }
    }
  }
  template <class... R>
  void finish_tile(Lanes* state, index r0, int count, const V* keep, R&... in) {
    for (int g = 0; g * width < count && wants_scalars(); ++g) {
      const int here = count - g * width < width ? count - g * width : width;
      write_scalars(state[g], r0 + g * width, here);
    }
    write_tiles(state, r0, count, 0, call.n, keep, call.n <= tile_size, in...);
  }

  void by_lanes(index first, index last, In... inputs) {
    lanes_with(first, last, Reader<In, V, W>(inputs, call)...);
  }
  template <class... R>
  void lanes_with(index first, index last, R&&... in) {
    V values[kept > 0 ? kept * groups * tile_size : 1];
    V* const keep = kept > 0 && call.n <= tile_size ? values : nullptr;
    for (index r0 = first; r0 < last; r0 += tile_rows) {
      const int count = int(last - r0 < tile_rows ? last - r0 : tile_rows);
      Lanes state[groups];
      gather_tiles(state, r0, count, 0, call.n, keep, in...);
      finish_tile(state, r0, count, keep, in...);
    }
  }

  // --- few long rows: their chunks are the jobs --------------------------------------------------

  void row_chunk_state(State* states, index r, index c, In... inputs) {
    row_chunk_with(states, r, c, Reader<In, Steps, W>(inputs, call)...);
  }
  template <class... R>
  void row_chunk_with(State* states, index r, index c, R&&... in) {
    const index end = (c + 1) * row_chunk;
    (in.row(r), ...);
    *states = gather_chunk(c * row_chunk, end < call.n ? end : call.n, nullptr, in...);
  }
  template <class Done>
  void row_chunk_write(const Done& done, index r, index c, In... inputs) {
    row_write_with(done, r, c, Reader<In, Steps, W>(inputs, call)...);
  }
  template <class Done, class... R>
  void row_write_with(const Done& done, index r, index c, R&&... in) {
    const index end = (c + 1) * row_chunk;
    (in.row(r), ...);
    write_block(done, c * row_chunk, end < call.n ? end : call.n, nullptr, r, in...);
  }
  void lane_chunk_state(State* states, index chunks, index r0, int count, index c, In... inputs) {
    lane_chunk_with(states, chunks, r0, count, c, Reader<In, V, W>(inputs, call)...);
  }
  template <class... R>
  void lane_chunk_with(State* states, index chunks, index r0, int count, index c, R&&... in) {
    Lanes state[groups];
    const index end = (c + 1) * lane_chunk;
    gather_tiles(state, r0, count, c * lane_chunk, end < call.n ? end : call.n, nullptr, in...);
    for (int j = 0; j < count; ++j) {
      get_lane<W>(states[(r0 + j) * chunks + c], state[j / width], j % width);
    }
  }
  void lane_chunk_write(const Lanes* state, index r0, int count, index c, In... inputs) {
    lane_write_with(state, r0, count, c, Reader<In, V, W>(inputs, call)...);
  }
  template <class... R>
  void lane_write_with(const Lanes* state, index r0, int count, index c, R&&... in) {
    const index end = (c + 1) * lane_chunk;
    write_tiles(state, r0, count, c * lane_chunk, end < call.n ? end : call.n, nullptr, false,
                in...);
  }

  void add_invalid(const RowLoop& part) {
    if (part.invalid) __atomic_fetch_add(&invalid, part.invalid, __ATOMIC_RELAXED);
  }

  long long run_split(bool lanewise, index chunks, In... inputs) {
    const index rows = call.rows;
    auto* states = static_cast<State*>(std::malloc(sizeof(State) * size_t(rows * chunks)));
    if (states == nullptr) return -1;
    const index tiles = lanewise ? (rows + tile_rows - 1) / tile_rows : rows;
    const auto count_of = [&](index t) {
      const index left = rows - t * tile_rows;
      return int(left < tile_rows ? left : tile_rows);
    };
    parallel(tiles * chunks, [&](index job) {
      const index t = job / chunks, c = job % chunks;
      RowLoop part{fn, call, outputs};
      if (lanewise) {
        part.lane_chunk_state(states, chunks, t * tile_rows, count_of(t), c, inputs...);
      } else {
        part.row_chunk_state(states + job, t, c, inputs...);
      }
    });
    const auto row_state = [&](index r) {
      return merge_tree(0, chunks, [&](index c) { return states[r * chunks + c]; });
    };
    for (index r0 = 0; r0 < rows; r0 += width) {
      const int count = int(rows - r0 < width ? rows - r0 : width);
      Lanes side{};
      for (int j = 0; j < width; ++j) {
        const State s = row_state(r0 + (j < count ? j : 0));
        if (j < count) states[(r0 + j) * chunks] = s;
        set_lane<W>(side, s, j);
      }
      write_scalars(side, r0, count);
    }
    if constexpr (writes_rows) {
      parallel(tiles * chunks, [&](index job) {
        const index t = job / chunks, c = job % chunks;
        RowLoop part{fn, call, outputs};
        if (lanewise) {
          Lanes side[groups] = {};
          for (int row = 0; row < tile_rows; ++row) {
            const State& s = states[(t * tile_rows + (row < count_of(t) ? row : 0)) * chunks];
            set_lane<W>(side[row / width], s, row % width);
          }
          part.lane_chunk_write(side, t * tile_rows, count_of(t), c, inputs...);
        } else {
          part.row_chunk_write(fn.finish(states[t * chunks]), t, c, inputs...);
        }
      });
    }
    std::free(states);
    return invalid;
  }

  long long run(bool lanewise, In... inputs) {
    if (call.rows == 0) return 0;
    const index n = call.n;
    const index chunk = lanewise ? lane_chunk : row_chunk;
    const index chunks = (n + chunk - 1) / chunk;
    if (chunks > 1 && (lanewise || call.rows < 16)) return run_split(lanewise, chunks, inputs...);
    const index unit = lanewise ? tile_rows : width;
    index rows_a_job = job_elements / (n > 0 ? n : 1) / unit * unit;
    if (rows_a_job < 1) rows_a_job = lanewise ? unit : (job_elements / (n > 0 ? n : 1));
    if (rows_a_job < 1) rows_a_job = 1;
    const index jobs = (call.rows + rows_a_job - 1) / rows_a_job;
    parallel(jobs, [&](index job) {
      const index first = job * rows_a_job;
      const index last = first + rows_a_job < call.rows ? first + rows_a_job : call.rows;
      RowLoop part{fn, call, outputs};
      if (lanewise) {
        part.by_lanes(first, last, inputs...);
      } else {
        part.by_rows(first, last, inputs...);
      }
      add_invalid(part);
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
  explicit CpuEngine(const Call& call) : call_(call) {}

  template <class T, class E = T, class Fn, class First, class... In>
  long long reduce(const Fn& fn, Outputs<E, T> to, First first, In... in) {
    return RowLoop<Fn, E, T, false, First, In...>{fn, call_, to}.run(goes_by_lanes(call_, first.op),
                                                                     first, in...);
  }
  template <class T, class Fn, class First, class... In>
  long long transform(const Fn& fn, Outputs<T, T> to, First first, In... in) {
    return RowLoop<Fn, T, T, true, First, In...>{fn, call_, to}.run(goes_by_lanes(call_, first.op),
                                                                    first, in...);
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
