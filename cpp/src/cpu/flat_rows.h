// Short rows that lie one behind the other: tiles of them, steps along memory, sums of their terms.
#pragma once

#include "elements.h"
#include "rows.h"

namespace kexue {
inline namespace KX_ISA {

constexpr index flat_row = 64;  // up to here rows are short ones
static_assert(flat_row * tile_rows <= batch_size, "a tile fits a buffer");

// Rows of the last axis, and how far apart an operand has them.
inline index run_of(const Call& call) { return call.dims > 0 ? call.shape[call.dims - 1] : 1; }
inline index pitch_of(const Operand& op, const Call& call) {
  return call.dims > 0 ? op.stride[call.dims - 1] : 0;
}
inline bool is_flat(const Operand& op, const Call& call) {
  return op.step > 0 && pitch_of(op, call) == call.n * op.step;
}
// work(make(), r0, count) on tiles of rows of the last axis, with something made for each job.
template <class Make, class F>
void for_tiles(const Call& call, bool streams, Make make, F work) {
  const index run = run_of(call), a_run = (run + tile_rows - 1) / tile_rows;
  const index tiles = call.rows / run * a_run;
  const index some = job_elements / (tile_rows * call.n) + 1, jobs = (tiles + some - 1) / some;
  parallel(jobs, [&](index job) {
    auto made = make();
    const index end = (job + 1) * some < tiles ? (job + 1) * some : tiles;
    for (index i = job * some; i < end; ++i) {
      const index first = i % a_run * tile_rows, left = run - first;
      work(made, i / a_run * run + first, int(left < tile_rows ? left : tile_rows));
    }
    if (streams) stream_done();
  });
}
// f(at) on registers of elements from begin to end, the last of which may be a part of one.
template <int width, class F>
KX_FN void along(index begin, index end, F f) {
  index i = begin;
  for (; i + width <= end; i += width) f(Full{i});
  if (i < end) f(Part{i, int(end - i)});
}

// The sums of `rows` rows of n terms that lie one behind the other, one to a lane. No more than a
// few terms are added in their own type.
template <class R, class T>
KX_NOINLINE R sums_of_rows(const T* terms, index n, int rows) {
  constexpr int width = register_bytes / int(sizeof(T)), most_rows = lanes<R>;
  using V = Pack<T, width>;
  const int whole = int(n / width), left = int(n % width);
  auto live = lane_numbers<V>() < splat<V>(left);
  R sum[most_rows];
  for (int j = rows; j < most_rows; ++j) sum[j] = R{};
  for (int j = 0; j < rows; ++j) {
    const T* at = terms + j * n;
    V total = whole > 0 ? load<V>(at) : V{};
    for (int k = 1; k < whole; ++k) total = total + load<V>(at + k * width);
    if (left) total = total + select(live, load<V>(at + whole * width), V{});
    if constexpr (sizeof(V) == sizeof(R) && lanes<V> == lanes<R>) {
      sum[j] = total;
    } else {
      Pack<T, width / 2> half[2];
      __builtin_memcpy(half, &total, sizeof half);
      sum[j] = convert<R>(Pack<T, width / 2>(half[0] + half[1]));
    }
  }
  return fold_packs(sum, Sum{});
}

}  // namespace KX_ISA
}  // namespace kexue
