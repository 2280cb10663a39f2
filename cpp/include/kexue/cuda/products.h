// The kernels of sums of Mitchell products on a GPU: tiles of a matrix product by way of shared
// memory, and scalar products by one thread each.
#pragma once

#include "../mitchell_dot.h"
#include "elements.h"

namespace kexue {
inline namespace KX_ISA {

// Axes as MatrixPlan has them; those before them are a batch.
template <class Load, class Product, class Put>
struct ProductWork {
  Plan plan;  // of all sums
  Load load;
  Product product;
  Put put;
  Array a, b, out;
  index n, m;

  KX_FN index jobs() const { return plan.rows; }
  KX_FN void operator()(index row, Slots*) const {
    const Array op[3] = {a, b, out};
    ElementCursor<3> place = {op, {}};
    go_to(plan, row, place);
    typename Product::T sum = 0;
    for (index k = 0; k < plan.n; ++k) {
      sum += product(load(place[0] + k * a.step), load(place[1] + k * b.step));
    }
    put(place[2], sum);
  }
};

constexpr int product_threads = 256, product_tile = 32, product_depth = 16;

template <class Work>
__global__ void __launch_bounds__(product_threads)
    product_tiles(const __grid_constant__ Work work) {
  using T = decltype(work.product(work.load(nullptr), work.load(nullptr)));
  using Word = decltype(work.load(nullptr));
  constexpr int rows_a_thread = product_tile * product_tile / product_threads;
  constexpr int step = product_tile / rows_a_thread;
  __shared__ Word left[product_depth][product_tile + 1];
  __shared__ Word right[product_depth][product_tile + 1];
  const Plan& plan = work.plan;
  const index down = (work.n + product_tile - 1) / product_tile;
  const index across = (work.m + product_tile - 1) / product_tile;
  const int thread = int(threadIdx.x), column = thread % product_tile,
            first = thread / product_tile;
  const Array op[3] = {work.a, work.b, work.out};
  const int last = plan.dims - 1;
  const index a_row = last > 0 ? work.a.stride[last - 1] : 0, b_row = work.b.stride[last];
  const index jobs = plan.rows / (work.n * work.m) * down * across;
  for (index job = blockIdx.x; job < jobs; job += gridDim.x) {
    const index i0 = job / across % down * product_tile, j0 = job % across * product_tile;
    ElementCursor<3> place = {op, {}};
    go_to(plan, job / (across * down) * (work.n * work.m), place);
    T sum[rows_a_thread] = {};
    for (index k0 = 0; k0 < plan.n; k0 += product_depth) {
      __syncthreads();  // the last words were used
      for (int s = thread; s < product_depth * product_tile; s += product_threads) {
        const int k = s % product_depth, i = s / product_depth;
        const bool deep = k0 + k < plan.n;
        left[k][i] = deep && i0 + i < work.n
                         ? work.load(place[0] + (i0 + i) * a_row + (k0 + k) * work.a.step)
                         : Word(0);
        right[k][i] = deep && j0 + i < work.m
                          ? work.load(place[1] + (j0 + i) * b_row + (k0 + k) * work.b.step)
                          : Word(0);
      }
      __syncthreads();
      KX_UNROLL
      for (int k = 0; k < product_depth; ++k) {
        KX_UNROLL
        for (int r = 0; r < rows_a_thread; ++r) {
          sum[r] += work.product(left[k][first + r * step], right[k][column]);
        }
      }
    }
    KX_UNROLL
    for (int r = 0; r < rows_a_thread; ++r) {
      const index i = i0 + first + r * step, j = j0 + column;
      if (i < work.n && j < work.m) {
        work.put(
            place[2] + (last > 0 ? i * work.out.stride[last - 1] : 0) + j * work.out.stride[last],
            sum[r]);
      }
    }
  }
}

}  // namespace KX_ISA
}  // namespace kexue
