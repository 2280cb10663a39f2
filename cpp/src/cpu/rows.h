// The loops that carry a row function (kexue/reductions.h) over arrays. They know three regimes and
// the algorithms none of them:
//   - rows along contiguous memory: some rows at once, one register of neighbours after the other
//     (`ByRows`);
//   - short rows, or rows across memory (axis 0): a row in each lane (`ByLanes`), through a tile
//     copied into the first-level cache;
//   - rows longer than a block: block by block, so that memory is read once, the blocks merged; and
//     where they are few, their chunks are the jobs of the threads (`RowLoop::split`).
// Blocks, chunks and the order of merging depend on the shapes alone: results have the same bits
// for any number of threads.
//
// Only what works on elements is compiled for each row function and each kind of its inputs, as a
// `Worker`; the loops are compiled once.
#pragma once

#include <cstdlib>

#include "kexue/team.h"
#include "pool.h"
#include "readers.h"

namespace kexue {
inline namespace KX_ISA {

constexpr index row_chunk = 65536;     // elements of a long row that are one job, or one block
constexpr index lane_chunk = 4096;     // core indices of a tile's long rows that are one job
constexpr index short_row = 32;        // up to here rows go by lanes
constexpr index job_elements = 32768;  // about this much work makes a job

// --- loops -------------------------------------------------------------------------------------

// Works on some rows, or a tile of them, at a time, and holds their state.
class Worker {
 public:
  long long invalid = 0;  // rows whose contents are wrong

  virtual void go(index r0, int count) = 0;     // to these rows
  virtual void gather(index i, index end) = 0;  // the state of a stretch of them
  virtual void scalars() = 0;                   // the state's results per row
  virtual void write(index i, index end) = 0;   // and per element
  virtual void save(void* state) const = 0;
  virtual void load(const void* state) = 0;
  virtual void merge(const void* state) = 0;  // with that of the stretch behind

 protected:
  ~Worker() = default;
};

// What to do with a worker.
class Task {
 public:
  template <class F>
  explicit Task(F& f)
      : call_([](void* at, Worker& worker) { (*static_cast<F*>(at))(worker); }), f_(&f) {}
  void operator()(Worker& worker) const { call_(f_, worker); }

 private:
  void (*call_)(void* f, Worker& worker);
  void* f_;
};

// How the rows of a call are shared out among threads and their workers.
class RowLoop {
 public:
  // `lead`: rows before the first whole tile; `scalars`, `writes`: whether there are results per
  // row, and per element; `size`: of a state; `most`: rows whose states are one register.
  // hire(at_once, task) does the task with a new worker for so many rows at once.
  template <class F>
  RowLoop(const Call& call, bool by_lanes, int lead, bool scalars, bool writes, index size,
          int most, const F& hire)
      : call_(call),
        by_lanes_(by_lanes),
        before_(lead > 0 ? tile_rows - lead : 0),
        scalars_(scalars),
        writes_(writes),
        size_(size),
        unit_(by_lanes ? tile_rows : most),
        at_once_(by_lanes || call.n * most <= batch_size ? unit_
                 : call.n * 2 <= batch_size              ? int(batch_size / call.n)
                                                         : 1),
        hire_([](const void* f, int at_once, Task task) {
          (*static_cast<const F*>(f))(at_once, task);
        }),
        context_(&hire) {}

  long long run() {
    if (call_.rows == 0) return 0;
    const index n = call_.n;
    if (by_lanes_ && n > lane_chunk) return split(lane_chunk);
    if (!by_lanes_ && n > row_chunk && call_.rows < 16) return split(row_chunk);
    const index rows_fit = job_elements / (n > 0 ? n : 1);
    index rows_a_job = rows_fit / unit_ * unit_;
    if (rows_a_job < 1) rows_a_job = by_lanes_ ? unit_ : rows_fit;
    if (rows_a_job < 1) rows_a_job = 1;
    const index jobs = (call_.rows + before_ + rows_a_job - 1) / rows_a_job;
    parallel(jobs, [&](index job) {
      const index begin = job * rows_a_job - before_, last = least(begin + rows_a_job, call_.rows);
      work([&](Worker& worker) {
        for (index at = begin; at < last; at += at_once_) {
          const index r0 = at > 0 ? at : 0;
          worker.go(r0, int(least(last, at + at_once_) - r0));
          worker.gather(0, n);
          if (scalars_) worker.scalars();
          if (writes_) worker.write(0, n);
        }
      });
    });
    return invalid_;
  }

 private:
  const Call& call_;
  const bool by_lanes_;
  const int before_;  // missing rows of the first tile
  const bool scalars_, writes_;
  const index size_;
  const int unit_, at_once_;  // rows of a register or a tile; rows that a worker takes at once
  void (*const hire_)(const void* context, int at_once, Task task);
  const void* const context_;
  long long invalid_ = 0;

  static index least(index a, index b) { return a < b ? a : b; }

  template <class F>
  void work(F f) {
    auto counted = [&](Worker& worker) {
      f(worker);
      if (worker.invalid) __atomic_fetch_add(&invalid_, worker.invalid, __ATOMIC_RELAXED);
    };
    hire_(context_, at_once_, Task(counted));
  }
  // Few long rows: their chunks are the jobs.
  long long split(index chunk) {
    const index n = call_.n, chunks = (n + chunk - 1) / chunk;
    const index parts = (call_.rows + at_once_ - 1) / at_once_;
    const auto bytes = size_t(size_ * parts * chunks);
    auto* const states = static_cast<char*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    if (states == nullptr) return -1;
    auto state = [&](index part, index c) { return states + (part * chunks + c) * size_; };
    const auto go = [&](Worker& worker, index part) {
      worker.go(part * at_once_, int(least(call_.rows - part * at_once_, at_once_)));
    };
    parallel(parts * chunks, [&](index job) {
      const index part = job / chunks, c = job % chunks;
      work([&](Worker& worker) {
        go(worker, part);
        worker.gather(c * chunk, least((c + 1) * chunk, n));
        worker.save(state(part, c));
      });
    });
    work([&](Worker& worker) {
      for (index part = 0; part < parts; ++part) {
        for (index apart = 1; apart < chunks; apart *= 2) {
          for (index c = 0; c + apart < chunks; c += 2 * apart) {
            worker.load(state(part, c));
            worker.merge(state(part, c + apart));
            worker.save(state(part, c));
          }
        }
        go(worker, part);
        worker.load(state(part, 0));
        if (scalars_) worker.scalars();
      }
    });
    if (writes_) {
      parallel(parts * chunks, [&](index job) {
        const index part = job / chunks, c = job % chunks;
        work([&](Worker& worker) {
          go(worker, part);
          worker.load(state(part, 0));
          worker.write(c * chunk, least((c + 1) * chunk, n));
        });
      });
    }
    std::free(states);
    return invalid_;
  }
};

// --- what the workers share --------------------------------------------------------------------

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

// The state of a stretch of rows, merged with that of the stretch behind it.
template <class Fn, class State>
KX_NOINLINE void merge_into(const Fn& fn, State& state, const State& behind) {
  state = fn.merge(state, behind);
}
// Merges states in pairs, pairs of pairs and so on as they come: rounding errors grow with the
// logarithm of their number. There must be room for that many levels.
template <class State>
struct Cascade {
  State* level;
  unsigned count = 0;

  template <class Fn>
  KX_NOINLINE void add(const Fn& fn, const State& next) {
    State s = next;
    int k = 0;
    for (; (count >> k) & 1; ++k) {
      merge_into(fn, level[k], s);
      s = level[k];
    }
    level[k] = s;
    ++count;
  }
  template <class Fn>
  KX_NOINLINE const State& total(const Fn& fn) {
    int k = 0;
    while (!((count >> k) & 1)) ++k;
    for (int last = k; count >> (k + 1);) {
      if ((count >> ++k) & 1) {
        merge_into(fn, level[k], level[last]);
        last = k;
      }
    }
    return level[k];
  }
};

// One value a row, of `count` rows from r0 on.
template <class E, class R>
KX_NOINLINE void store_scalars(const Operand& op, const Call& call, index r0, int count,
                               const R& values) {
  dispatch<E>(call.dtype, [&](auto stored) {
    using S = decltype(stored);
    if (call.dims == 1 && op.stride[0] == index(sizeof(S)) && count == lanes<R>) {
      store_wide<S>(op.data + r0 * op.stride[0], convert<Pack<E, lanes<R>>>(values));
      return;
    }
    for (int j = 0; j < count; ++j) {
      store_wide<S>(op.data + offset(op, call, r0 + j), E(lane(values, j)));
    }
  });
}

// A row function, computed in T, and its results.
template <class Fn, class E, class T, bool writes>
struct RowKernel {
  using W = wide_t<T>;
  static constexpr int most_rows = register_bytes / int(sizeof(W));
  using R = Pack<W, most_rows>;  // a value of each of some rows
  using State = typename Fn::template State<R>;
  using Term = typename TermOf<Fn, W>::type;  // of steps
  static constexpr bool writes_rows = writes;
  static constexpr int keeps = writes ? keeps_of<Fn> : 0;
  using Stored = T;

  const Fn& fn;
  const Call& call;
  const Outputs<E, T>& outputs;
  bool streams;  // results go past the caches

  bool gives_scalars() const {
    if constexpr (has_results<Fn, State>) {
      return has_invalid<decltype(fn.results(declval<State>()))> || outputs.scalars > 0;
    }
    return false;
  }
  // Of `count` rows from r0 on. Returns how many of them are invalid.
  KX_NOINLINE long long write_scalars(const State& state, index r0, int count) const {
    long long invalid = 0;
    if constexpr (has_results<Fn, State>) {
      const auto results = fn.results(state);
      if constexpr (has_scalars<decltype(fn.results(state))>) {
        for (int k = 0; k < outputs.scalars; ++k) {
          const Operand& op = *outputs.scalar[k];
          if (op.data) store_scalars<E>(op, call, r0, count, results.out[k]);
        }
      }
      if constexpr (has_invalid<decltype(fn.results(state))>) {
        for (int j = 0; j < count; ++j) invalid += lane(results.invalid, j) != 0;
      }
    }
    return invalid;
  }
};

// --- by rows -----------------------------------------------------------------------------------

// Room for what the steps of some rows keep, if there is any.
template <class Term>
struct Kept {
  Term* kept;
  index pitch;
};
template <class V, class R, class Fn, class... X>
KX_NOINLINE auto gather_block(const Fn& fn, int rows, int len, Kept<element_t<V>> keep, X... x) {
  const RowTeam<V, R> team = {len, rows, keep.kept, keep.pitch, keeps_of<Fn>};
  return typename Fn::template State<R>(fn.gather(team, x...));
}
template <int keeps, bool recalls, class T, class V, class Fn, class Done, class... X>
KX_NOINLINE void write_block(const Fn& fn, const Done& done, RowSink<T, V>& sink,
                             const index (*at)[2], int rows, int len, Kept<element_t<V>> keep,
                             X... x) {
  for (int j = 0; j < rows; ++j) {
    const RowOf<V, false, recalls> row = {j, keep.kept + j * keeps * keep.pitch, keep.pitch};
    sink.put(at[j], len, fn.each(done, row, x...));
  }
}

template <class Kernel, class... In>
class ByRows final : public Worker {
  using R = typename Kernel::R;
  using State = typename Kernel::State;
  using Term = typename Kernel::Term;
  using V = Pack<Term, register_bytes / int(sizeof(Term))>;
  static constexpr int keeps = Kernel::keeps;

 public:
  ByRows(const Kernel& kernel, int at_once, In... in)
      : kernel_(kernel),
        in_(kernel.call, in...),
        sink_(kernel.outputs.vector, kernel.outputs.second, kernel.call.dtype, kernel.streams),
        block_(in_.direct() ? row_chunk : batch_size),
        keep_{nullptr, kernel.call.n + lanes<V>} {
    if (keeps > 0 && kernel.call.n <= block_) {
      const index room = at_once * keeps * keep_.pitch * index(sizeof(Term));
      keep_.kept = static_cast<Term*>(thread_memory(static_cast<unsigned long long>(room)));
    }
  }

  void go(index r0, int count) override {
    r0_ = r0;
    count_ = count;
    in_.rows(r0, count);
  }
  void gather(index i, index end) override {
    if (end - i <= block_) {
      state_ = gathered(i, int(end - i));
      return;
    }
    State levels[24];
    Cascade<State> blocks = {levels};
    for (; i < end; i += block_) blocks.add(kernel_.fn, gathered(i, block_to(i, end)));
    state_ = blocks.total(kernel_.fn);
  }
  void scalars() override { invalid += kernel_.write_scalars(state_, r0_, count_); }
  void write(index i, index end) override {
    if constexpr (Kernel::writes_rows) {
      auto done = kernel_.fn.finish(state_);
      for (; i < end; i += block_) {
        if (keeps > 0 && keep_.kept) {
          written<(keeps > 0)>(done, i, block_to(i, end));
        } else {
          written<false>(done, i, block_to(i, end));
        }
      }
    }
  }
  void save(void* to) const override { *static_cast<State*>(to) = state_; }
  void load(const void* from) override { state_ = *static_cast<const State*>(from); }
  void merge(const void* from) override {
    merge_into(kernel_.fn, state_, *static_cast<const State*>(from));
  }

 private:
  const Kernel& kernel_;
  Readers<V, R, In...> in_;
  RowSink<typename Kernel::Stored, V> sink_;
  const index block_;
  Kept<Term> keep_;
  index r0_ = 0;
  int count_ = 0;
  State state_;

  int block_to(index i, index end) const { return int(end - i < block_ ? end - i : block_); }
  KX_NOINLINE State gathered(index i, int len) {
    return in_.with_blocks(i, len, [&](auto... x) {
      return gather_block<V, R>(kernel_.fn, count_, len, keep_, x...);
    });
  }
  template <bool recalls, class Done>
  void written(const Done& done, index i, int len) {
    index at[Kernel::most_rows][2];
    const Operand* const to[] = {kernel_.outputs.vector, kernel_.outputs.second};
    for (int k = 0; k < 2; ++k) {
      if (to[k] == nullptr) {
        for (int j = 0; j < count_; ++j) at[j][k] = 0;
        continue;
      }
      each_offset(*to[k], kernel_.call, r0_, count_,
                  [&](int j, index offset) { at[j][k] = offset + i * to[k]->step; });
    }
    in_.with_blocks(i, len, [&](auto... x) {
      write_block<keeps, recalls>(kernel_.fn, done, sink_, at, count_, len, keep_, x...);
    });
  }
};

// --- by lanes ----------------------------------------------------------------------------------

template <class V, class R, class Fn, class... X>
KX_NOINLINE auto gather_lanes(const Fn& fn, int len, V* keep, X... x) {
  return typename Fn::template State<R>(fn.gather(LaneTeam<V, R>{len, keep, short_row}, x...));
}
// To lanes of tiles, one for each of the step's results.
template <class T, class Fn, class Done, class Row, class... X>
KX_NOINLINE void write_lanes(const Fn& fn, const Done& done, Row row, T* first, T* second, int len,
                             X... x) {
  auto step = fn.each(done, row, x...);
  for (index i = 0; i < len; ++i) {
    auto value = step(i);
    if constexpr (is_pair<Plain<decltype(value)>>) {
      store_wide<T>(first + i * tile_rows, value.first);
      store_wide<T>(second + i * tile_rows, value.second);
    } else {
      store_wide<T>(first + i * tile_rows, value);
    }
  }
}

template <class Kernel, class... In>
class ByLanes final : public Worker {
  using R = typename Kernel::R;
  using State = typename Kernel::State;
  using T = typename Kernel::Stored;
  static constexpr int width = Kernel::most_rows, groups = tile_rows / width;
  static constexpr int keeps = Kernel::keeps;
  using V = Pack<typename Kernel::Term, width>;

 public:
  static constexpr index state_size = sizeof(State) * groups;

  ByLanes(const Kernel& kernel, In... in) : kernel_(kernel), in_(kernel.call, in...) {}

  void go(index r0, int count) override {
    r0_ = r0;
    count_ = count;
  }
  void gather(index i, index end) override {
    if (end - i <= tile_size) {
      read_tile(i, int(end - i));
      for (int g = 0; g < used(); ++g) state_[g] = gathered(g, int(end - i));
      return;
    }
    State levels[groups][8];
    static_assert(lane_chunk <= tile_size << 7, "levels suffice");
    Cascade<State> tiles[groups];
    for (int g = 0; g < groups; ++g) tiles[g] = {levels[g]};
    for (; i < end; i += tile_size) {
      read_tile(i, tile_to(i, end));
      for (int g = 0; g < used(); ++g) tiles[g].add(kernel_.fn, gathered(g, tile_to(i, end)));
    }
    for (int g = 0; g < used(); ++g) state_[g] = tiles[g].total(kernel_.fn);
  }
  void scalars() override {
    for (int g = 0; g < used(); ++g) {
      const int left = count_ - g * width;
      invalid += kernel_.write_scalars(state_[g], r0_ + g * width, left < width ? left : width);
    }
  }
  void write(index i, index end) override {
    if constexpr (Kernel::writes_rows) {
      const bool loaded = kernel_.call.n <= tile_size;
      for (; i < end; i += tile_size) {
        const int len = tile_to(i, end);
        if (!loaded) read_tile(i, len);
        write_tile(i, len);
      }
    }
  }
  void save(void* to) const override { copy(static_cast<State*>(to), state_); }
  void load(const void* from) override { copy(state_, static_cast<const State*>(from)); }
  void merge(const void* from) override {
    const auto* const other = static_cast<const State*>(from);
    for (int g = 0; g < groups; ++g) merge_into(kernel_.fn, state_[g], other[g]);
  }

 private:
  const Kernel& kernel_;
  Readers<V, R, In...> in_;
  index r0_ = 0;
  int count_ = 0;
  State state_[groups];
  V kept_[keeps > 0 ? keeps * groups * short_row : 1];

  int used() const { return (count_ + width - 1) / width; }  // groups
  int tile_to(index i, index end) const { return int(end - i < tile_size ? end - i : tile_size); }
  bool has_room() const { return keeps > 0 && kernel_.call.n <= short_row; }
  V* kept_of(int g) { return has_room() ? kept_ + g * keeps * short_row : nullptr; }
  static void copy(State* to, const State* from) {
    for (int g = 0; g < groups; ++g) to[g] = from[g];
  }
  KX_NOINLINE void read_tile(index i, int len) { in_.tile(r0_, count_, i, len); }
  KX_NOINLINE State gathered(int g, int len) {
    return in_.with_groups(
        g, [&](auto... x) { return gather_lanes<V, R>(kernel_.fn, len, kept_of(g), x...); });
  }
  KX_NOINLINE void write_tile(index i, int len) {
    const Operand *first = kernel_.outputs.vector, *second = kernel_.outputs.second;
    Buffer<T> out[2];
    for (int g = 0; g < used(); ++g) {
      auto done = kernel_.fn.finish(state_[g]);
      T* const to[] = {out[0].values + g * width, out[1].values + g * width};
      in_.with_groups(g, [&](auto... x) {
        if (has_room()) {
          const LaneRow<V, (keeps > 0)> row = {kept_of(g), short_row};
          write_lanes(kernel_.fn, done, row, to[0], to[1], len, x...);
        } else {
          write_lanes(kernel_.fn, done, LaneRow<V>{}, to[0], to[1], len, x...);
        }
      });
    }
    out[0].save(*first, kernel_.call, r0_, count_, i, len, kernel_.streams);
    if (second) out[1].save(*second, kernel_.call, r0_, count_, i, len, kernel_.streams);
  }
};

// --- calls -------------------------------------------------------------------------------------

// Short rows and rows across memory go by lanes, if there are rows enough to fill a register.
// The first input that has a core axis decides.
inline bool goes_by_lanes(const Call& call, const Operand& x) {
  if (call.rows < 4) return false;
  if (call.n <= short_row) return true;
  const index stride = call.dims > 0 ? x.stride[call.dims - 1] : 0;
  const auto size = [](index v) { return v < 0 ? -v : v; };
  return size(stride) < size(x.step) && size(stride) > 0;
}

// How many results of rows across memory come before one that begins a line, if that is the same
// for all elements: a tile then writes whole lines.
template <class T>
inline int rows_to_line(const Call& call, const Operand* to) {
  int rows = 0;
  dispatch<T>(call.dtype, [&](auto stored) {
    constexpr index size = sizeof stored;
    if (to == nullptr || call.dims != 1 || to->stride[0] != size || to->step % line_bytes) return;
    rows = int(to_next_line(to->data) / size);
  });
  return rows;
}

// Whether results take the place of what was read: its lines are in the cache then.
template <class T>
bool replaces(const Outputs<T, T>&, ...) {
  return false;
}
template <class T, class In, class = decltype(void(declval<const In&>().op))>
bool replaces(const Outputs<T, T>& to, const In& in) {
  const auto same = [&](const Operand* result) { return result && result->data == in.op.data; };
  return same(to.vector) || same(to.second);
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
    return run(RowKernel<Fn, E, T, false>{fn, call_, to, false}, first, in...);
  }
  template <class T, class Fn, class First, class... In>
  long long transform(const Fn& fn, Outputs<T, T> to, First first, In... in) {
    const bool streams = call_.rows * call_.n * index(sizeof(T)) >= stream_bytes &&
                         !(replaces(to, first) || ... || replaces(to, in));
    return run(RowKernel<Fn, T, T, true>{fn, call_, to, streams}, first, in...);
  }

  struct Scratch {
    void* data;
    ~Scratch() { std::free(data); }
  };
  Scratch scratch(long long bytes) { return {std::malloc(static_cast<size_t>(bytes) + 1)}; }

 private:
  const Call& call_;

  template <class Kernel, class First, class... In>
  long long run(const Kernel& kernel, First first, In... in) {
    const bool by_lanes = goes_by_lanes(call_, first.op);
    const auto hire = [&](int at_once, Task task) {
      if (by_lanes) {
        ByLanes<Kernel, First, In...> worker(kernel, first, in...);
        task(worker);
      } else {
        ByRows<Kernel, First, In...> worker(kernel, at_once, first, in...);
        task(worker);
      }
    };
    using ByLane = ByLanes<Kernel, First, In...>;
    const index size = by_lanes ? ByLane::state_size : index(sizeof(typename Kernel::State));
    const int lead =
        by_lanes ? rows_to_line<typename Kernel::Stored>(call_, kernel.outputs.vector) : 0;
    return RowLoop(call_, by_lanes, lead, kernel.gives_scalars(), Kernel::writes_rows, size,
                   Kernel::most_rows, hire)
        .run();
  }
};

}  // namespace KX_ISA
}  // namespace kexue
