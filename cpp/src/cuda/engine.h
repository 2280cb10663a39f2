// The engine of kernels/*.h for a GPU: shares rows out to threads and launches the kernels
// of kexue/cuda/rows.h on the caller's stream. It never waits, copies nothing, and takes memory
// from the caller's allocator only, so calls can be captured in a graph.
//
// How rows are split depends on shapes and strides alone: results have the same bits on every run
// of one device.
#pragma once

#include "../engine.h"
#include "kexue/cuda/rows.h"

#ifndef KX_LAUNCH
#define KX_LAUNCH(kernel, blocks, threads, stream, ...) \
  kernel<<<unsigned(blocks), unsigned(threads), 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#endif

namespace kexue {
inline namespace KX_ISA {

// A host stand-in sets others, to meet every path with small arrays.
struct LaunchLimits {
  int threads = max_block_threads;  // of a block: a power of two, at least a warp
  index blocks = 0x7fffffff;        // of a grid
  index chunk = 8192;               // least elements of a chunk that a block works on
  index chunk_across = 256;         // the same for one thread
};
inline LaunchLimits launch_limits;

constexpr index elements_a_thread = 8;
constexpr index enough_blocks = 1024;    // no row is split if there are so many rows
constexpr index enough_threads = 65536;  // the same where a thread has a row
constexpr index most_chunks = 4096;      // of a row

// How many scalars a row function gives for each row; it may have none.
template <class Results, class = void>
struct Scalars {
  static constexpr int count = 0;
};
template <class Results>
struct Scalars<Results, decltype(void(declval<Results&>().out))> {
  static constexpr int count = sizeof(Results::out) / sizeof(declval<Results&>().out[0]);
};
template <class Fn, class W, class = void>
struct ScalarsOf {
  static constexpr int count = 0;
};
template <class Fn, class W>
struct ScalarsOf<Fn, W, decltype(void(declval<typename Fn::template Results<W>>()))>
    : Scalars<typename Fn::template Results<W>> {};

// Where rows lie across memory neighbouring threads take neighbouring rows; the first input that
// has a core axis decides.
inline bool lies_across(const Array& x, int dims) {
  const index stride = dims > 0 ? x.stride[dims - 1] : 0;
  const auto size = [](index v) { return v < 0 ? -v : v; };
  return size(stride) > 0 && size(stride) < size(x.step);
}
template <class T, class... In>
bool goes_across(int dims, const VectorIn<T>& first, const In&...) {
  return lies_across(first.array, dims);
}
template <class... In>
bool goes_across(int dims, const FlagsIn& first, const In&...) {
  return lies_across(first.array, dims);
}
template <class E>
bool goes_across(int, const PerRowIn<E>&) {
  return false;
}

class CudaEngine {
 public:
  // Rows are computed as what they are.
  template <class T>
  using Computed = T;
  static constexpr bool specialises = false;  // see kernels/losses.h

  explicit CudaEngine(const Call& call) : call_(call), device_(*call.device) {}

  template <class T, class E = T, class Fn, class... In>
  long long reduce(const Fn& fn, Outputs<E, T> to, In... in) {
    return run<false, T>(fn, to, in...);
  }
  template <class T, class Fn, class... In>
  long long transform(const Fn& fn, Outputs<T, T> to, In... in) {
    return run<true, T>(fn, to, in...);
  }

  struct Scratch {
    void* data;
  };
  Scratch scratch(long long bytes) { return {device_.allocate(device_.context, bytes)}; }

  const Call& call() const { return call_; }
  // An operand, absent ones included, as the kernels of the current piece get it.
  Array place(const Operand* op) const {
    Array array = {};
    if (op == nullptr || op->data == nullptr) return array;
    array.data = op->data;
    array.step = op->step;
    index left = piece_;
    for (int d = outer_ - 1; d >= 0; --d) {
      array.data += left % call_.shape[d] * op->stride[d];
      left /= call_.shape[d];
    }
    for (int d = outer_; d < call_.dims; ++d) array.stride[d - outer_] = op->stride[d];
    return array;
  }

 protected:
  const Call& call_;
  Device& device_;
  // A launch handles the last device_dims loop axes, a piece; the host goes through those before.
  int outer_ = 0;
  index piece_ = 0;

  // Calls f for each piece of the call until it fails.
  template <class F>
  bool each_piece(F f) {
    if (call_.rows == 0) return true;
    outer_ = call_.dims > device_dims ? call_.dims - device_dims : 0;
    index pieces = 1;
    for (int d = 0; d < outer_; ++d) pieces *= call_.shape[d];
    for (piece_ = 0; piece_ < pieces; ++piece_) {
      if (!f()) return false;
    }
    return true;
  }
  Plan plan(bool lanewise) const {
    Plan p = {};
    p.n = call_.n;
    p.dims = call_.dims - outer_;
    p.rows = 1;
    for (int d = 0; d < p.dims; ++d) p.rows *= p.shape[d] = call_.shape[outer_ + d];
    p.across = lanewise && p.rows >= 4;
    p.size = p.across ? 1 : team_size(p.n);
    const index least = p.across ? launch_limits.chunk_across : launch_limits.chunk;
    const index wanted = (p.across ? enough_threads : enough_blocks) / p.rows;
    p.chunks = p.n / least < wanted ? p.n / least : wanted;
    if (p.chunks > most_chunks) p.chunks = most_chunks;
    if (p.chunks < 1) p.chunks = 1;
    p.chunk = (p.n + p.chunks - 1) / p.chunks;
    if (p.chunk > 0) p.chunks = (p.n + p.chunk - 1) / p.chunk;
    if (p.chunks < 1) p.chunks = 1;
    return p;
  }
  static int team_size(index elements) {
    int size = 1;
    while (size < launch_limits.threads && elements > elements_a_thread * size) size *= 2;
    return size;
  }

  template <class Work>
  bool launch(const Work& work) {
    const int size = work.plan.size;
    return launch(work, size > warp_threads ? size : launch_limits.threads);
  }
  template <class Work>
  bool launch(const Work& work, int threads) {
    const index teams = threads / work.plan.size;
    index blocks = (work.jobs() + teams - 1) / teams;
    if (blocks > launch_limits.blocks) blocks = launch_limits.blocks;
    KX_LAUNCH(kexue::run<Work>, blocks, threads, device_.stream, work);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) device_.error = cudaGetErrorString(error);
    return error == cudaSuccess;
  }

  template <bool writes, class T, class E, class Fn, class... In>
  long long run(const Fn& fn, const Outputs<E, T>& to, In... in) {
    using W = wide_t<T>;
    using State = typename Fn::template State<W>;
    void* states = nullptr;
    const bool done = each_piece([&] {
      Plan p = plan(goes_across(call_.dims - outer_, placed(*this, in)...));
      if (p.chunks > 1) {
        if (!states) states = scratch(index(sizeof(State)) * p.rows * p.chunks).data;
        if (!states) return false;
        p.states = states;
      }
      return launch_all<writes, W>(fn, p, destination<Fn, W>(to), together(placed(*this, in)...));
    });
    return done ? 0 : -1;
  }
  template <bool writes, class W, class Fn, class To, class... In>
  bool launch_all(const Fn& fn, const Plan& p, const To& to, const Inputs<In...>& in) {
    Sweep<writes, W, Fn, To, In...> sweep = {fn, p, to, in};
    if (!launch(sweep)) return false;
    if (p.chunks == 1) return true;
    Merge<W, Fn, To> merge = {fn, p, to};
    merge.plan.size = team_size(p.chunks);
    if (!launch(merge)) return false;
    sweep.plan.merged = 1;
    return !writes || !to.wants_elements() || launch(sweep);
  }
  static Inputs<> together() { return {}; }
  template <class First, class... Rest>
  static Inputs<First, Rest...> together(const First& first, const Rest&... rest) {
    return {first, together(rest...)};
  }

  template <class Fn, class W, class E, class T>
  auto destination(const Outputs<E, T>& to) const {
    constexpr int most = ScalarsOf<Fn, W>::count;
    Destination<E, T, most> at = {};
    at.scalars = to.scalars;
    for (int k = 0; k < most && k < to.scalars; ++k) at.scalar[k] = place(to.scalar[k]);
    at.vector = place(to.vector);
    at.second = place(to.second);
    return at;
  }
};

// Inputs as a kernel gets them; targets.h has others.
template <class T>
VectorIn<T> placed(const CudaEngine& engine, Vector<T> in) {
  return {engine.place(&in.op)};
}
template <class E>
PerRowIn<E> placed(const CudaEngine& engine, PerRow<E> in) {
  return {engine.place(&in.op)};
}
inline FlagsIn placed(const CudaEngine& engine, Flags in) { return {engine.place(&in.op)}; }
inline FlagsIn placed(const CudaEngine&, Everything) { return {}; }  // one kernel less to compile
inline PositionsIn placed(const CudaEngine&, Positions) { return {}; }
template <class W>
GivenIn<W> placed(const CudaEngine&, Given<W> in) {
  return {in.value};
}
template <class W>
SameIn<W> placed(const CudaEngine&, Same<W> in) {
  return {in.value};
}

}  // namespace KX_ISA
}  // namespace kexue
