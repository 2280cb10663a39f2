// Elementary functions for scalars and packs, branch-free and without the host's <cmath>: the
// same text serves every CPU level and the GPU. a * b + c is meant to be contracted where the
// machine has a fused multiply-add (-ffp-contract=fast); nothing here depends on it.
#pragma once

#include "half.h"

namespace kexue {
inline namespace KX_ISA {

constexpr double infinity = __builtin_inf();
constexpr double not_a_number = __builtin_nan("");

// How a stored type is computed with. float rows are computed in double: a sum loses nothing
// with n and a result is rounded once. 16-bit rows are computed in float. GPUs made for graphics
// have slow double arithmetic; what to do about it for them would be decided here and in `Term`.
template <class T>
struct Arithmetic {
  using Wide = double;
};
template <>
struct Arithmetic<Half> {
  using Wide = float;
};
template <>
struct Arithmetic<Bfloat16> {
  using Wide = float;
};
template <class T>
using wide_t = typename Arithmetic<T>::Wide;

// What the terms e^x of a row are computed with where there are many: float for float, twice the
// lanes of double; Exp below keeps what that would lose.
template <class T>
struct TermArithmetic {
  using Term = wide_t<T>;
};
template <>
struct TermArithmetic<float> {
  using Term = float;
};
template <class T>
using term_t = typename TermArithmetic<T>::Term;

// The layout of an IEEE type, and ln 2 with a head so short that k * ln2_head is exact.
template <class E>
struct Format;
template <>
struct Format<double> {
  static constexpr int mantissa_bits = 52, bias = 1023;
  static constexpr double round = 0x1.8p52;  // adding it rounds to an integer in the low bits
  static constexpr double ln2_head = 0x1.62e42feep-1, ln2_tail = 0x1.a39ef35793c76p-33;
  static constexpr double log2_e = 0x1.71547652b82fep0;
  static constexpr double smallest_normal = 0x1p-1022;
  static constexpr unsigned long long sqrt_half_bits = 0x3fe6a09e667f3bcdULL;
  static constexpr double integer_head = 0x1p52;
};
template <>
struct Format<float> {
  static constexpr int mantissa_bits = 23, bias = 127;
  static constexpr float round = 0x1.8p23f;
  static constexpr float ln2_head = 0x1.62ep-1f, ln2_tail = 0x1.0bfbe8p-15f;
  static constexpr float log2_e = 0x1.715476p0f;
  static constexpr float smallest_normal = 0x1p-126f;
  static constexpr unsigned sqrt_half_bits = 0x3f3504f3u;
  static constexpr float integer_head = 0x1p23f;
};

template <class V>
KX_FN V abs(V x) {
  return select(x < V{}, V(-x), V(x + V{}));
}

template <class V>
KX_FN V maximum(V a, V b) {
  return select(a > b, a, b);
}
template <class V>
KX_FN V minimum(V a, V b) {
  return select(a < b, a, b);
}

// x - m with its rounding error, exact together (Knuth's two-sum).
template <class V>
struct Two {
  V hi, lo;
};
template <class V>
KX_FN Two<V> two_sum(V a, V b) {
  const V s = a + b;
  const V t = s - a;
  return {s, (a - (s - t)) + (b - t)};
}
template <class V>
KX_FN Two<V> quick_two_sum(V a, V b) {  // |a| >= |b| or a == 0
  const V s = a + b;
  return {s, b - (s - a)};
}

// a b with its rounding error.
template <class V>
KX_FN Two<V> two_product(V a, V b) {
  const V p = a * b;
#if defined(KX_HAS_FMA)
  return {p, fused(a, b, V(-p))};
#else  // Veltkamp's split
  using E = element_t<V>;
  constexpr E splitter = sizeof(E) == 8 ? E(134217729.0) : E(4097.0);
  const V ta = a * splitter, tb = b * splitter;
  const V a_hi = ta - (ta - a), b_hi = tb - (tb - b);
  const V a_lo = a - a_hi, b_lo = b - b_hi;
  const V lo = a_lo * b_lo - (((p - a_hi * b_hi) - a_lo * b_hi) - a_hi * b_lo);
  return {p, select(lo == lo, lo, V{})};  // the split may overflow where a b does not
#endif
}

// a b + small, rounded once.
template <class V>
KX_FN V product_and(V a, V b, V small) {
#if defined(KX_HAS_FMA)
  return fused(a, b, small);
#else
  Two<V> p = two_product(a, b);
  return p.hi + (p.lo + small);
#endif
}

// e^x = p 2^k with k = rint(x / ln 2); `rounded` is k + Format::round.
template <class V>
struct Exponential {
  V r, q;  // p = 1 + r + r^2 q
  V rounded;
};

// (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2, as precise as results stored in T need it. Summed in
// pairs (Estrin): the terms' latencies overlap, which is worth more here than a multiplication.
template <class V>
KX_FN V exp_tail(double, V r) {  // 2^-55.8
  const V r2 = r * r, r4 = r2 * r2;
  const V a =
      (r * 0.16666666666666669 + 0.5) + r2 * (r * 0.008333333333330051 + 0.04166666666662399);
  const V b = (r * 0.00019841269863105968 + 0.0013888888917281794) +
              r2 * (r * 2.7557268378684192e-06 + 2.480152119021773e-05);
  const V c = r * 2.5100424157005067e-08 + 2.7620138719733994e-07;
  return a + r4 * (b + r4 * c);
}
template <class V>
KX_FN V exp_tail(float, V r) {  // 2^-32
  using E = element_t<V>;
  const V r2 = r * r;
  const V a = r * E(0.16666666681659179) + E(0.5000000013498178);
  const V b = r * E(0.008333310889582076) + E(0.04166646460202654);
  const V c = r * E(0.00019891030654370327) + E(0.0013933685862617174);
  return a + r2 * (b + r2 * c);
}
struct Leading {};  // of terms that are known beyond their type: as precise as their small part
template <class V>
KX_FN V exp_tail(Leading, V r) {  // 2^-27.6 when multiplied by r^2
  const V r2 = r * r;
  const V a = r * 0.16666509f + 0.5f;
  const V b = r * 0.00837f + 0.041666176f;
  return a + r2 * (b + r2 * 0.0013952411f);
}
template <class V>
KX_FN V exp_tail(Half, V r) {  // 2^-21
  const V a = r * 0.16666630753390102f + 0.4999974848709118f;
  const V b = r * 0.008357224056124076f + 0.041833971571802624f;
  return a + r * r * b;
}
template <class V>
KX_FN V exp_tail(Bfloat16, V r) {
  return exp_tail(Half{}, r);
}

template <class T, class V>
KX_FN Exponential<V> exp_reduce(V x, V x_lo = V{}) {
  using F = Format<element_t<V>>;
  const V rounded = x * F::log2_e + F::round;
  const V k = rounded - F::round;
  const V r = (x - k * F::ln2_head) - (k * F::ln2_tail - x_lo);
  return {r, exp_tail(T{}, r), rounded};
}

// 2^(k + raise) for normal results, from k + Format::round.
template <class V>
KX_FN V power_of_two(V rounded, int raise = 0) {
  using F = Format<element_t<V>>;
  const bits_t<V> biased = bit_cast<bits_t<V>>(rounded) + (F::bias + raise);
  return bit_cast<V>(bits_t<V>(biased << F::mantissa_bits));
}

// x, or `low` where x is below it; a NaN stays.
template <class V>
KX_FN V at_least(V x, V low) {
#if defined(__AVX512F__) && !defined(__CUDACC__)
  // The instruction returns its second operand for a NaN; written as a selection it takes two.
  if constexpr (sizeof(V) == 64 && sizeof(element_t<V>) == 8) {
    return bit_cast<V>(_mm512_max_pd(bit_cast<__m512d>(low), bit_cast<__m512d>(x)));
  }
  if constexpr (sizeof(V) == 64 && sizeof(element_t<V>) == 4) {
    return bit_cast<V>(_mm512_max_ps(bit_cast<__m512>(low), bit_cast<__m512>(x)));
  }
#endif
  return select(x < low, low, x);
}

// Powers of two between 1 and 2, for registers that can look one up in each lane: 2^(j / 2^bits) as
// the nearest number, and what that leaves out, relative to it.
#if defined(__AVX2__) && !defined(__CUDACC__)
template <class V>
constexpr int power_bits = sizeof(element_t<V>) != sizeof(float) ? 0
                           : lanes<V> == 8                       ? 3
                           : lanes<V> == 16                      ? 4
                                                                 : 0;
template <int bits>
struct Powers;
template <>
struct Powers<3> {
  alignas(32) static constexpr float near[] = {0x1p0f,        0x1.172b84p0f, 0x1.306fep0f,
                                               0x1.4bfdaep0f, 0x1.6a09e6p0f, 0x1.8ace54p0f,
                                               0x1.ae89fap0f, 0x1.d5818ep0f};
  alignas(32) static constexpr float rest[] = {0,
                                               -0x1.9c0c22p-27f,
                                               0x1.125002p-25f,
                                               -0x1.0a355p-25f,
                                               0x1.26055cp-26f,
                                               0x1.67a1cap-28f,
                                               -0x1.f9c304p-27f,
                                               -0x1.a5217cp-28f};
};
template <>
struct Powers<4> {
  alignas(64) static constexpr float near[] = {
      0x1p0f,        0x1.0b5586p0f, 0x1.172b84p0f, 0x1.2387a6p0f, 0x1.306fep0f,  0x1.3dea64p0f,
      0x1.4bfdaep0f, 0x1.5ab07ep0f, 0x1.6a09e6p0f, 0x1.7a1148p0f, 0x1.8ace54p0f, 0x1.9c4918p0f,
      0x1.ae89fap0f, 0x1.c199bep0f, 0x1.d5818ep0f, 0x1.ea4afap0f};
  alignas(64) static constexpr float rest[] = {0,
                                               0x1.8d96d4p-25f,
                                               -0x1.9c0c22p-27f,
                                               0x1.964904p-25f,
                                               0x1.125002p-25f,
                                               0x1.370be4p-25f,
                                               -0x1.0a355p-25f,
                                               -0x1.00d8acp-27f,
                                               0x1.26055cp-26f,
                                               -0x1.05cb44p-25f,
                                               0x1.67a1cap-28f,
                                               0x1.a3b5e4p-28f,
                                               -0x1.f9c304p-27f,
                                               -0x1.6961b4p-28f,
                                               -0x1.a5217cp-28f,
                                               0x1.61428ep-28f};
};
template <class V>
KX_FN V look_up(const float* table, bits_t<V> place) {
  const V all = load<V>(table);
#if defined(__AVX512F__)
  if constexpr (lanes<V> == 16) {
    return bit_cast<V>(_mm512_permutexvar_ps(bit_cast<__m512i>(place), bit_cast<__m512>(all)));
  }
#endif
  if constexpr (lanes<V> == 8) {
    return bit_cast<V>(_mm256_permutevar8x32_ps(bit_cast<__m256>(all), bit_cast<__m256i>(place)));
  }
  return V{};
}
// By the low bits of `place`.
template <class V>
KX_FN Two<V> power_between(bits_t<V> place) {
  using P = Powers<power_bits<V>>;
  return {look_up<V>(P::near, place), look_up<V>(P::rest, place)};
}
#else
template <class V>
constexpr int power_bits = 0;
template <class V>
KX_FN Two<V> power_between(bits_t<V>) {
  return {};
}
#endif
template <class V>
constexpr bool has_powers = power_bits<V> > 0;
template <int bits>
struct Fraction {};  // of ln(2), that the argument is at most half of
template <class V>
KX_FN V exp_tail(Fraction<3>, V r) {  // 2^-32 when multiplied by r^2
  return r * (r * 0.04167064f + 0.16668029f) + 0.5f;
}
template <class V>
KX_FN V exp_tail(Fraction<4>, V r) {  // 2^-29
  return r * 0.16667035f + 0.5000162f;
}

// The terms e^(x - m) of a row with maximum m, without forming x - m, whose rounding error grows
// with it: x itself is reduced to k ln 2 + r, and the term is 2^(k - K) e^r e^(K ln 2 - m) with
// K = rint(m / ln 2). The last factor is the same for the whole row and left to it (`unit`). From
// |m| = 2048 on, where x - m is exact wherever the term is not 0, the row is moved there first.
template <class V>
struct ExpBase {
  V origin, low, whole;  // K, lowered by exp_raise
  template <class Row>
  KX_FN auto of(Row row) const {
    return ExpBase<typename Row::Value>{row(origin), row(low), row(whole)};
  }
};
// A term in two parts, hi + lo; in double the first is precise enough and the second left out.
template <class V>
struct Exp {
  V hi, lo;
  static constexpr int parts = sizeof(element_t<V>) == sizeof(double) ? 1 : 2;
  // times a factor in two parts, rounded once
  KX_FN V times(V factor, V rest) const {
    V small = hi * rest;
    if constexpr (parts == 2) small = lo * factor + small;
    return product_and(hi, factor, small);
  }
};

constexpr int exp_raise = 64;  // terms are formed 2^64 too large: 2^(k - K) stays normal
constexpr double exp_lowered = 0x1p-64;

// Steps of element type E for rows of R's lanes: `unit` becomes e^(K ln 2 - m) - 1, beyond R's
// precision.
template <class E, class R>
KX_FN auto exp_base(R m, Two<R>& unit) {
  using P = Pack<E, lanes<R>>;
  using F = Format<E>;
  const R far = splat<R>(2048);
  const R origin = select((abs(m) < far) | (m == splat<R>(-infinity)), R{}, m);
  const R top = select(abs(m) < splat<R>(infinity), R(m - origin), R{});
  const P whole = convert<P>(top) * F::log2_e + F::round - F::round;
  using G = Format<element_t<R>>;
  const R k = convert<R>(whole);
  const R exact = top - k * G::ln2_head, low = k * G::ln2_tail, r = exact - low;
  unit = two_sum(R(-exact), R(r * r * exp_tail(element_t<R>{}, R(-r)) + low));
  // Below this the terms, even 1e8 of them, are nothing to a result of that type.
  const E span = sizeof(E) == 8 ? 752 : 130;
  return ExpBase<P>{convert<P>(origin), convert<P>(top) - span, whole - E(exp_raise)};
}

// What comes of x = m is of use only where m is finite; where `live` is false, the parts are 0. So
// are those of terms below base.low, before anything is multiplied by them: a second part, or what
// comes of scaling, would be subnormal, which takes CPUs far longer.
template <class T, class V, class M = Always>
KX_FN Exp<V> exp_term(V x, const ExpBase<V>& base, M live = {}) {
  using E = element_t<V>;
  using F = Format<E>;
  using B = bits_t<V>;
  const V distance = x - base.origin, y = at_least(distance, base.low);
  const auto none = distance < base.low;
  if constexpr (has_powers<V>) {
    // 2^(k - K) as a power from the table and one of two; what is left for e^r is so near 1 that
    // its small part is known beyond its type.
    constexpr int bits = power_bits<V>;
    constexpr E round = F::round / (1 << bits);  // rounds to a multiple of 2^-bits
    const V shift = round - base.whole;
    const V rounded = y * F::log2_e + shift;
    const V k = rounded - shift;
    const V r = (y - k * F::ln2_head) - k * F::ln2_tail;
    const B place = bit_cast<B>(rounded);
    const B power = (place >> bits) << F::mantissa_bits;
    const Two<V> root = power_between<V>(place);
    const V hi = select(none, V{}, bit_cast<V>(B(bit_cast<B>(root.hi) + power)));
    const V rest = r * r * exp_tail(Fraction<bits>{}, r) + (r + root.lo);
    return {select(live, hi, V{}), select(live, V(hi * rest), V{})};
  }
  const V shift = F::round - base.whole;
  const V rounded = y * F::log2_e + shift;
  const V k = rounded - shift;
  const V exact = y - k * F::ln2_head, low = k * F::ln2_tail;
  const V r = exact - low, r2 = r * r;
  const B power = bit_cast<B>(rounded) << F::mantissa_bits;
  const B one = bit_cast<B>(splat<V>(1));
  const V scale = select(none, V{}, bit_cast<V>(B(power + one)));
  if constexpr (Exp<V>::parts == 1) {
    return {select(live, V(scale + scale * (exact + (r2 * exp_tail(T{}, r) - low))), V{}), V{}};
  } else {
    // 1 + exact + small, of which the first two are added without an error.
    const V small = r2 * exp_tail(Leading{}, r) - low;
    const V sum = 1 + exact;
    const V rest = (exact - (sum - 1)) + small;
    const V hi = select(none, V{}, bit_cast<V>(B(bit_cast<B>(sum) + power)));
    return {select(live, hi, V{}), select(live, V(scale * rest), V{})};
  }
}

// e^x for x <= 0, or e^(x + x_lo) with x_lo beyond V's precision; 0 for -inf and what is far below
// T's numbers: those that round to 0 take CPUs far longer.
template <class T, class V>
KX_FN V exp_nonpositive(V x, V x_lo = V{}) {
  using E = element_t<V>;
  if constexpr (sizeof(T) == sizeof(float)) {
    // A float is 0 from e^-104 on, and so is what comes of many or of large factors from here on.
    const V low = splat<V>(-300.0);
    const auto under = x < low;
    Exponential<V> e = exp_reduce<T>(select(under, low, x));
    return select(under, V{}, V((1 + (e.r + e.r * e.r * e.q)) * power_of_two(e.rounded)));
  } else {
    // 2^k may be subnormal: form 2^(k + raise), then come down by an exact power.
    constexpr int raise = sizeof(E) == 8 ? 64 : 32;
    constexpr E down = sizeof(E) == 8 ? E(0x1p-64) : E(0x1p-32);
    const V low = splat<V>(sizeof(E) == 8 ? -745.5 : -104.5);
    const auto under = x < low;
    Exponential<V> e = exp_reduce<T>(select(under, splat<V>(-1), x), select(under, V{}, x_lo));
    const V p = 1 + (e.r + e.r * e.r * e.q);
    return select(under, V{}, V(p * power_of_two(e.rounded, raise) * down));
  }
}

// e^(x - m) for x <= m. The difference is exact where results are stored in double; in the wider
// type of the others its rounding is far below theirs.
template <class T, class V>
KX_FN V exp_difference(V x, V m) {
  if constexpr (sizeof(T) == sizeof(double)) {
    const Two<V> d = two_sum(x, V(-m));
    return exp_nonpositive<T>(d.hi, d.lo);
  } else {
    return exp_nonpositive<T>(V(x - m));
  }
}

// e^x - 1 for x <= 0, accurate near 0.
template <class T, class V>
KX_FN V expm1_nonpositive(V x) {
  const V low = splat<V>(-60.0);
  Exponential<V> e = exp_reduce<T>(select(x < low, low, x));
  const V scale = power_of_two(e.rounded);
  return (scale - 1) + scale * (e.r + e.r * e.r * e.q);
}

// log(1 + g) = g - (g^2/2 - s (g^2/2 + z P(z))), s = g / (2 + g), z = s^2, for 1 + g between
// sqrt(1/2) and sqrt(2); this is P.
template <class V>
KX_FN V log_tail(double, V z) {  // 2^-60.7
  V p = z * 0.13088034850927555 + 0.13268638369266825;
  p = p * z + 0.15386244737621665;
  p = p * z + 0.18181795547521137;
  p = p * z + 0.22222222392581045;
  p = p * z + 0.28571428570799784;
  p = p * z + 0.40000000000000885;
  return p * z + 0.6666666666666666;
}
template <class V>
KX_FN V log_tail(float, V z) {  // 2^-28
  const V p = z * 0.29580985929974424f + 0.39988757716604845f;
  return p * z + 0.6666668509542907f;
}

// x = 2^k (1 + g) with 1 + g between sqrt(1/2) and sqrt(2), for positive normal x.
template <class V>
struct Binary {
  V k, g;
};
template <class V>
KX_FN Binary<V> split_binary(V x) {
  using F = Format<element_t<V>>;
  using B = bits_t<V>;
  const V one = splat<V>(1);
  const B from_sqrt_half = bit_cast<B>(x) + (bit_cast<B>(one) - F::sqrt_half_bits);
  const B biased = from_sqrt_half >> F::mantissa_bits;  // k + bias, not negative
  const V k =
      bit_cast<V>(B(biased | bit_cast<B>(splat<V>(F::integer_head)))) - (F::integer_head + F::bias);
  const B mantissa =
      bit_cast<B>(x) - (biased << F::mantissa_bits) + ((B{} + F::bias) << F::mantissa_bits);
  return {k, bit_cast<V>(mantissa) - 1};
}

// log(x) + correction / x = k ln2_head + g + small for positive normal x, the first two exact.
template <class V>
struct LogParts {
  V k, g, small;
};
template <class V>
KX_FN LogParts<V> log_parts(V x, V correction = V{}) {
  using F = Format<element_t<V>>;
  const Binary<V> b = split_binary(x);
  const V s = b.g / (2 + b.g);
  const V z = s * s;
  const V half_square = element_t<V>(0.5) * b.g * b.g;
  const V odd = s * (half_square + z * log_tail(element_t<V>{}, z));
  const V low = b.k * F::ln2_tail + correction / x;
  return {b.k, b.g, V((odd + low) - half_square)};
}
template <class V>
KX_FN V log_normal(V x, V correction = V{}) {
  LogParts<V> p = log_parts(x, correction);
  return p.k * Format<element_t<V>>::ln2_head + (p.g + p.small);
}

// Natural logarithm: log(0) = -inf, log(inf) = inf, negative gives NaN.
template <class V>
KX_FN V log(V x) {
  using E = element_t<V>;
  constexpr int up = sizeof(E) == 8 ? 54 : 25;
  constexpr E factor = sizeof(E) == 8 ? E(0x1p54) : E(0x1p25);
  const auto tiny = x < splat<V>(Format<E>::smallest_normal);
  V y = log_normal(select(tiny, V(x * factor), x));
  y = select(tiny, V(y - E(up * 0.6931471805599453)), y);
  y = select(x == V{}, splat<V>(-infinity), y);
  y = select(x < splat<V>(infinity), y, x);
  return select(x < V{}, splat<V>(not_a_number), y);
}

// log(1 + x) for x >= -1, relative accuracy near 0.
template <class V>
KX_FN V log1p(V x) {
  const V u = 1 + x;
  const V lost = select(x > splat<V>(1), V(1 - (u - x)), V(x - (u - 1)));
  V y = log_normal(u, lost);
  y = select(x == splat<V>(-1), splat<V>(-infinity), y);
  y = select(x < splat<V>(infinity), y, x);
  return select(x < splat<V>(-1), splat<V>(not_a_number), y);
}

template <class V>
KX_FN Two<V> operator*(Two<V> a, Two<V> b) {
  Two<V> p = two_product(a.hi, b.hi);
  return quick_two_sum(p.hi, V(p.lo + (a.hi * b.lo + a.lo * b.hi)));
}
template <class V>
KX_FN Two<V> operator+(Two<V> a, Two<V> b) {
  Two<V> s = two_sum(a.hi, b.hi);
  Two<V> t = two_sum(a.lo, b.lo);
  const Two<V> u = quick_two_sum(s.hi, V(s.lo + t.hi));
  return quick_two_sum(u.hi, V(u.lo + t.lo));
}

// log(1 + x + x_lo) for finite x > -1 to about 2^-60: the large parts are exact, and added as such.
template <class V>
KX_FN Two<V> log1p_two(V x, V x_lo = V{}) {
  using F = Format<element_t<V>>;
  const V u = 1 + x;
  const V lost = select(x > splat<V>(1), V(1 - (u - x)), V(x - (u - 1))) + x_lo;
  LogParts<V> p = log_parts(u, lost);
  Two<V> sum = two_sum(V(p.k * F::ln2_head), p.g);
  return quick_two_sum(sum.hi, V(sum.lo + p.small));
}

// log(x) of a positive double to about 2^-85, for sums in which it cancels.
template <class V>
KX_FN Two<V> log_two(V x) {
  // 1 / (2 j + 1), head and tail
  constexpr double head[] = {1.0,
                             0x1.5555555555555p-2,
                             0x1.999999999999ap-3,
                             0x1.2492492492492p-3,
                             0x1.c71c71c71c71cp-4,
                             0x1.745d1745d1746p-4,
                             0x1.3b13b13b13b14p-4};
  constexpr double tail[] = {0.0,
                             0x1.5555555555555p-56,
                             -0x1.999999999999ap-57,
                             0x1.2492492492492p-57,
                             0x1.c71c71c71c71cp-58,
                             -0x1.745d1745d1746p-59,
                             -0x1.3b13b13b13b14p-58};
  const auto tiny = x < splat<V>(0x1p-1022);
  const Binary<V> b = split_binary(select(tiny, V(x * 0x1p54), x));
  const V k = select(tiny, V(b.k - 54), b.k);
  const Two<V> below = two_sum(splat<V>(2.0), b.g);  // s = g / (2 + g)
  const V s = b.g / below.hi;
  const Two<V> back = two_product(s, below.hi);
  const Two<V> s2 = quick_two_sum(s, V(((b.g - back.hi) - back.lo - s * below.lo) / below.hi));
  const Two<V> z = s2 * s2;
  V rest = splat<V>(1.0 / 29);
  for (int j = 13; j >= 7; --j) rest = rest * z.hi + 1.0 / (2 * j + 1);
  Two<V> sum = {rest, V{}};
  for (int j = 6; j >= 0; --j) sum = z * sum + Two<V>{splat<V>(head[j]), splat<V>(tail[j])};
  sum = sum * s2;
  const Two<V> scale = two_product(k, splat<V>(0x1.a39ef35793c76p-33));
  const Two<V> k_ln2 =
      Two<V>{k * 0x1.62e42feep-1, V{}} + Two<V>{scale.hi, V(scale.lo + k * 1.1612227229362532e-26)};
  return k_ln2 + Two<V>{V(2 * sum.hi), V(2 * sum.lo)};
}

}  // namespace KX_ISA
}  // namespace kexue
