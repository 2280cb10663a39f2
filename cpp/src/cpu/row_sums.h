// Sums of short rows whose terms lie one behind the other.
#pragma once

#include "elements.h"
#include "readers.h"

namespace kexue {
inline namespace KX_ISA {

constexpr index flat_row = 64;  // up to here rows are short ones
static_assert(flat_row * tile_rows <= batch_size, "a tile fits a buffer");

// The sums of lanes<R> packs, one to a lane.
template <int apart, class R>
KX_FN R fold_pair(R a, R b) {
  using B = bits_t<R>;
  const B at = lane_numbers<B>(), upper = at & element_t<B>(apart), width = splat<B>(lanes<R>);
  const B first = at - upper + (upper != B{} ? width : B{});
  return __builtin_shuffle(a, b, first) + __builtin_shuffle(a, b, first + element_t<B>(apart));
}
template <int apart, class R>
KX_FN R fold_packs(R* pack) {
  KX_UNROLL
  for (int k = 0; k < apart; ++k) pack[k] = fold_pair<apart>(pack[k], pack[k + apart]);
  if constexpr (apart > 1) {
    return fold_packs<apart / 2>(pack);
  } else {
    return pack[0];
  }
}

// The sums of `rows` rows of n terms that lie one behind the other, one to a lane. No more than a
// few terms are added in their own type.
template <class R, class T>
KX_NOINLINE R sums_of_rows(const T* terms, index n, int rows) {
  constexpr int width = register_bytes / int(sizeof(T)), most_rows = lanes<R>;
  using V = Pack<T, width>;
  const int whole = int(n / width), left = int(n % width);
  auto live = lane_numbers<V>() < splat<V>(left);
  R sum[most_rows] = {};
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
      sum[j] = convert<R>(half[0]) + convert<R>(half[1]);
    }
  }
  return fold_packs<most_rows / 2>(sum);
}

}  // namespace KX_ISA
}  // namespace kexue
