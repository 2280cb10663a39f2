// Sine and cosine at once.
#pragma once

#include "math.h"

namespace kexue {
inline namespace KX_ISA {

// sin x and cos x for |x| up to `most`; beyond, see sincos_within. Errors are below 2 u max(1,
// |x|).
template <class V>
struct SinCos {
  V sin, cos;

  static constexpr bool wide = sizeof(element_t<V>) == 8;
  // From there on numbers of quarter turns have more bits than products with pi / 2 leave room for.
  static constexpr double most = wide ? 1e6 : 2e4;

  KX_FN explicit SinCos(V x) {
    using E = element_t<V>;
    using F = Format<E>;
    // pi / 2 in pieces, of few enough bits that products with quarter turns are exact.
    constexpr double head = wide ? 0x1.921fb544p0 : 0x1.92p0;
    constexpr double middle = wide ? 0x1.0b4611a6p-34 : 0x1.fb4p-12;
    constexpr double tail = wide ? 0x1.3198a2e037073p-69 : 0x1.4442d18p-24;
    const V rounded = x * E(0.63661977236758134308) + F::round;
    const V turns = rounded - F::round;
    const V r = ((x - turns * E(head)) - turns * E(middle)) - turns * E(tail);
    const V square = r * r;
    constexpr int terms = wide ? 8 : 5;  // of the series, r within pi / 4
    V s = splat<V>(1), c = splat<V>(1);
    KX_UNROLL
    for (int k = terms; k > 0; --k) {
      s = 1 - square * E(1.0 / ((2 * k) * (2 * k + 1))) * s;
      c = 1 - square * E(1.0 / ((2 * k - 1) * (2 * k))) * c;
    }
    s *= r;
    const bits_t<V> quarter = bit_cast<bits_t<V>>(rounded);
    const auto odd = (quarter & 1) != 0;
    sin = select(odd, c, s);
    cos = select(odd, s, c);
    sin = select((quarter & 2) != 0, V(-sin), sin);
    cos = select(((quarter + 1) & 2) != 0, V(-cos), cos);
  }
};

}  // namespace KX_ISA
}  // namespace kexue
