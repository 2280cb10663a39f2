// Linear attention: its feature maps and how logarithms of features become features. One text for
// the CPU's panels and the GPU.
#pragma once

#include "math.h"

namespace kexue {
inline namespace KX_ISA {

// Feature maps, in the order of KINDS in attention/linear/reference.py.
enum FeatureKind {
  identity,
  elu1,
  relu,
  exponential,
  softmax_d,
  efficient,
  cosine,
  taylor2,
  affine,
  trigonometric,
  random_relu
};

// Whether features are handled as their logarithms.
KX_FN bool is_log(int kind) {
  return kind == elu1 || kind == exponential || kind == softmax_d || kind == efficient ||
         kind == affine;
}
// Of "efficient" queries and keys have different maps.
KX_FN int map_of(int kind, bool query) {
  return kind != efficient ? kind : query ? softmax_d : exponential;
}

// Of maps that work on each number for itself: the feature, or its logarithm.
template <class V, class E>
KX_FN V single_feature(int kind, V a, E eps) {
  if (kind == relu || kind == random_relu) return select(a < V{}, V{}, a) + eps;
  if (kind == elu1) return select(a > V{}, log1p(select(a > V{}, a, V{})), a);
  return a;
}

// How often x_a x_b stands in x x^T, over sqrt 2.
template <class T>
KX_FN T pair_weight(bool same) {
  return same ? T(0.70710678118654752440) : T(1);
}

// How far the unit of a feature may rise within a chunk: all that readers need is then above
// e^-this.
template <class T>
KX_FN T most_spread() {
  return sizeof(T) == 8 ? T(600) : T(60);
}
template <class T>
KX_FN bool spreads(T before, T after) {
  return after > before && !(after - before <= most_spread<T>());
}

// e^x for x up to 60 in float and 600 in double; 0 where it would be subnormal, which takes CPUs
// far longer and does not count beside the 1 that is in every sum.
template <class V>
KX_FN V exp_up_to(V x) {
  using E = element_t<V>;
  constexpr int raise = sizeof(E) == 8 ? 64 : 32;
  constexpr E down = sizeof(E) == 8 ? E(0x1p-64) : E(0x1p-32);
  const V least = splat<V>(sizeof(E) == 8 ? -708.0 : -87.0);
  const Exponential<V> e = exp_reduce<E>(at_least(x, least));
  const V p = 1 + (e.r + e.r * e.r * e.q);
#if defined(__AVX512F__) && !defined(__CUDACC__)
  if constexpr (sizeof(V) == 64 && sizeof(E) == 4) {  // rounds once, as the two products do
    const auto counts =
        _mm512_cmp_ps_mask(bit_cast<__m512>(x), bit_cast<__m512>(least), _CMP_NLT_UQ);
    const V k = e.rounded - Format<E>::round;
    return bit_cast<V>(_mm512_maskz_scalef_ps(counts, bit_cast<__m512>(p), bit_cast<__m512>(k)));
  }
#endif
  return select(x < least, V{}, V(p * power_of_two(e.rounded, raise) * down));
}
// e^x for any x.
template <class T>
KX_FN T exp_anywhere(T x) {
  const T most = sizeof(T) == 8 ? 1200 : 120, least = sizeof(T) == 8 ? -1400 : -200;
  if (x > most) return T(infinity);
  const T root = exp_up_to(T(T(0.5) * (x < least ? least : x)));
  return root * root;
}
// The unit e^c of what is empty is 1.
template <class T>
KX_FN T unit_of(T c) {
  return select(c == splat<T>(-infinity), T{}, c);
}

// What a key's logarithm `a` and a query's `b` become at a step that finds the unit e^before.
template <class T>
struct StepLogs {
  T c, key, fade, query;
  KX_FN StepLogs(T a, T b, T before) {
    c = select(a > before, a, before);
    key = a - unit_of(c);
    fade = before - unit_of(c);
    query = b + c;
  }
};

// What a row's sum is multiplied by: `mass` and `top` are its denominator and the logarithm of
// its unit.
template <class T>
KX_FN T row_factor(int kind, bool normalize, T mass, T top, T eps) {
  if (!normalize) return exp_anywhere(top);
  if (eps != 0) mass += eps * exp_anywhere(T(-top));
  const bool zero = kind == cosine ? mass <= 0 : mass == 0;
  return zero ? T(0) : 1 / mass;
}

}  // namespace KX_ISA
}  // namespace kexue
