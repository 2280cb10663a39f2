// Mitchell's multiplication by addition, on the bits of numbers. For v = 2^n (1 + x) the logarithm
// is L(v) = n + x, and X its inverse; (n + x) 2^M is the code of v, an integer. Every operation is
// X of something linear in L, evaluated exactly and rounded once, half to even.
//
// A functor maps words (unsigned integers of a number's width) to words:
//   In, Out    the words; Lane, the widest type it works with, says how many fit a register
//   operator() of packs of In on the CPU, of In itself on the GPU
// Most go straight through all that is ordinary, and call a function for single lanes elsewhere.
#pragma once

#include "elements.h"

namespace kexue {
inline namespace KX_ISA {

using Word8 = unsigned char;
using Word16 = unsigned short;
using Word32 = unsigned;
using Word64 = unsigned long long;
using Word128 = unsigned __int128;

// Formats, numbered as in the Python package.
enum class Number {
  float64,
  float32,
  float16,
  bfloat16,
  int8,
  uint8,
  int16,
  uint16,
  int32,
  uint32,
  int64,
  uint64
};

template <class W, int M, int B>
struct FloatFormat {
  using Word = W;
  static constexpr int fraction = M, bias = B, width = 8 * int(sizeof(W));
  static constexpr W sign = W(W(1) << (width - 1)), magnitude = W(sign - 1);
  static constexpr W least = W(W(1) << M);             // 2^(1 - B)
  static constexpr W infinity = W(W(2 * B + 1) << M);  // greater words are nan
  static constexpr W nan = W(infinity | least >> 1);
  static constexpr W one = W(W(B) << M);
};
using Binary64 = FloatFormat<Word64, 52, 1023>;
using Binary32 = FloatFormat<Word32, 23, 127>;
using Binary16 = FloatFormat<Word16, 10, 15>;
using Brain16 = FloatFormat<Word16, 7, 127>;

template <class W, bool is_signed>
struct IntegerFormat {
  using Word = W;
  static constexpr bool with_sign = is_signed;
  static constexpr int width = 8 * int(sizeof(W));
};

// Fractions cut to their first bits: u & keep | half.
struct Cut {
  int bits;  // negative: not at all
  bool half;
  // Of fractions of M bits.
  template <class W, int M>
  KX_FN W keep() const {
    return bits < 0 || bits >= M ? W(~W(0)) : W(~((W(1) << (M - bits)) - 1));
  }
  template <class W, int M>
  KX_FN W added() const {
    return half && bits >= 0 && bits < M ? W(W(1) << (M - bits - 1)) : W(0);
  }
};

// The Lane of functors that take one number at a time.
struct Single {};

// f(lane number) for the lanes where a condition holds.
template <class V, class M, class F>
KX_FN V in_lanes(M mask, V value, F f) {
  if constexpr (lanes<V> == 1) {
    return mask ? V(f(0)) : value;
  } else {
    for (int i = 0; i < lanes<V>; ++i) {
      if (mask[i]) value[i] = f(i);
    }
    return value;
  }
}

KX_FN int top_bit(Word64 x) {
#if defined(__CUDA_ARCH__)
  return 63 - __clzll(static_cast<long long>(x));
#else
  return 63 - __builtin_clzll(x);
#endif
}
KX_FN int top_bit(Word128 x) {
  const Word64 high = Word64(x >> 64);
  return high ? 64 + top_bit(high) : top_bit(Word64(x));
}

// ---- One number at a time, whatever it is.

struct Parts {
  bool negative, zero, infinite, nan;
  long long code;  // of the magnitude, without the bias
  KX_FN bool regular() const { return !(zero || infinite || nan); }
};

template <class F>
KX_FN Parts split(typename F::Word word, bool flush) {
  constexpr int M = F::fraction;
  const Word64 u = word & F::magnitude;
  Parts p = {(word & F::sign) != 0, flush ? u < F::least : u == 0, u == F::infinity,
             u > F::infinity, 0};
  if (!p.regular()) return p;
  p.code = static_cast<long long>(u) - static_cast<long long>(F::one);
  if (u < F::least) {  // u 2^(1 - B - M), normalised
    const int top = top_bit(u);
    p.code = (top + 1 - F::bias - M) * (1LL << M) + static_cast<long long>((u << (M - top))) -
             (1LL << M);
  }
  return p;
}

template <class F>
KX_FN typename F::Word with_sign(bool negative, Word64 magnitude) {
  return static_cast<typename F::Word>(magnitude | (negative ? F::sign : 0));
}

// A multiple of 2^-M: the floor, whether half a unit follows, and whether more does.
struct Code {
  long long floor;
  bool half, more;
  KX_FN Code operator-() const {
    const bool inexact = half || more;
    return {inexact ? -floor - 1 : -floor, inexact && (!half || !more), more};
  }
};

// The word of X(code), rounded.
template <class F>
KX_FN typename F::Word encode(bool negative, Code code, bool flush) {
  constexpr int M = F::fraction, first = 1 - F::bias;
  const long long n = code.floor >> M;
  if (n > F::bias) return with_sign<F>(negative, F::infinity);
  if (n < first && flush) return with_sign<F>(negative, 0);
  const Word64 significand =
      ((static_cast<Word64>(code.floor) & (F::least - 1)) + F::least) * 2 + code.half;
  const long long drop = n < first ? 1 + first - n : 1;
  if (drop > 62) return with_sign<F>(negative, 0);
  Word64 kept = significand >> drop;
  const Word64 rest = significand - (kept << drop), middle = 1ULL << (drop - 1);
  kept += rest > middle || (rest == middle && (code.more || kept % 2));
  const Word64 bits = (static_cast<Word64>((n < first ? first : n) + F::bias - 1) << M) + kept;
  return with_sign<F>(negative, bits < F::infinity ? bits : F::infinity);
}

// i + j of codes; what is far out of range stays there.
template <class F>
KX_FN Code added(long long i, long long j, long long offset) {
  constexpr long long limit = 1500LL << F::fraction;
  const long long halves = (i >> 1) + (j >> 1);
  if (halves > limit / 2) return {limit, false, false};
  if (halves < -limit / 2) return {-limit, false, false};
  return {i + j + offset, false, false};
}

// The magnitude of a word: u 2^e, as it enters a product of significands.
template <class F>
KX_FN long long cut_code(long long code, Cut cut) {
  return static_cast<long long>((Word64(code) & cut.keep<Word64, F::fraction>()) |
                                cut.added<Word64, F::fraction>());
}

// 2^top (1 + fraction 2^-64), rounded half to even or down.
KX_FN Word128 antilogarithm(int top, Word64 fraction, bool rounds) {
  if (top < 0) return 0;
  const Word128 significand = (Word128(1) << 64) | fraction;
  if (top > 127) return ~Word128(0);  // with an offset only
  if (top >= 64) return significand << (top - 64);
  Word128 whole = significand >> (64 - top);
  const Word64 rest = fraction << top, middle = 1ULL << 63;
  whole += rounds && (rest > middle || (rest == middle && whole % 2));
  return whole;
}
KX_FN Word64 fraction_of(Word64 x, int top) { return top == 0 ? 0 : x << (64 - top); }

// X(L(a) + L(b) + offset 2^-64), rounded to an integer.
KX_FN Word128 integer_product(Word64 a, Word64 b, Word64 offset) {
  if (a == 0 || b == 0) return 0;
  const int ka = top_bit(a), kb = top_bit(b);
  const Word64 first = fraction_of(a, ka), sum = first + fraction_of(b, kb);
  const Word64 fraction = sum + offset;
  return antilogarithm(ka + kb + (sum < first) + (fraction < sum), fraction, true);
}
// P_j(a, b) = P_0(a, b) + P_(j-1)(the factors of the residual).
KX_SELDOM Word128 iterated_product(Word64 a, Word64 b, int iterations, bool ilm) {
  Word128 sum = 0;
  for (; a != 0 && b != 0 && iterations >= 0; --iterations) {
    const int ka = top_bit(a), kb = top_bit(b);
    const Word64 first = 1ULL << ka, second = 1ULL << kb;
    const Word64 ra = a - first, rb = b - second;
    if (ilm) {
      sum += (Word128(a) << kb) + (Word128(rb) << ka);
      a = ra;
      b = rb;
    } else {
      sum += integer_product(a, b, 0);
      const Word64 fraction = fraction_of(a, ka);
      const bool carry = Word64(fraction + fraction_of(b, kb)) < fraction;
      a = carry ? first - ra : ra;
      b = carry ? second - rb : rb;
    }
  }
  return sum;
}
// The magnitude of an integer whose fraction is cut.
KX_FN Word64 cut_integer(Word64 a, Cut cut) {
  if (a == 0 || cut.bits < 0) return a;
  const int drop = top_bit(a) - cut.bits;
  if (drop <= 0) return a;
  return (a >> drop << drop) | (cut.half ? 1ULL << (drop - 1) : 0);
}

// What a product is besides its operands.
struct ProductOptions {
  long long offset;  // in units in the last place
  int iterations;
  bool ilm;
  Cut cut;
  bool flush, wrap;
};

template <class F>
KX_SELDOM typename F::Word product_of(typename F::Word a, typename F::Word b,
                                      const ProductOptions& o) {
  constexpr int M = F::fraction;
  Parts x = split<F>(a, o.flush), y = split<F>(b, o.flush);
  const bool negative = x.negative != y.negative;
  if (x.nan || y.nan || (x.zero && y.infinite) || (x.infinite && y.zero)) return F::nan;
  if (x.infinite || y.infinite) return with_sign<F>(negative, F::infinity);
  if (x.zero || y.zero) return with_sign<F>(negative, 0);
  const long long i = cut_code<F>(x.code, o.cut), j = cut_code<F>(y.code, o.cut);
  if (o.iterations == 0 && !o.ilm) return encode<F>(negative, added<F>(i, j, o.offset), o.flush);
  const Word64 mask = F::least - 1;
  const Word128 p = iterated_product((Word64(i) & mask) + F::least, (Word64(j) & mask) + F::least,
                                     o.iterations, o.ilm);
  const int top = top_bit(p);
  const long long sum = top + (i >> M) + (j >> M) - 2 * M;
  const long long n = sum < -1500 ? -1500 : sum > 1500 ? 1500 : sum;  // beyond every exponent
  const Word128 rest = p << (127 - top) << 1;
  const Word128 below = rest << M;
  const Code code = {n * (1LL << M) + static_cast<long long>(rest >> (128 - M)),
                     (below >> 127) != 0, (below << 1) != 0};
  return encode<F>(negative, code, o.flush);
}

template <class F>
KX_SELDOM typename F::Word quotient_of(typename F::Word a, typename F::Word b, long long offset,
                                       bool flush) {
  Parts x = split<F>(a, flush), y = split<F>(b, flush);
  const bool negative = x.negative != y.negative;
  if (x.nan || y.nan || (x.zero && y.zero) || (x.infinite && y.infinite)) return F::nan;
  if (x.infinite || y.zero) return with_sign<F>(negative, F::infinity);
  if (x.zero || y.infinite) return with_sign<F>(negative, 0);
  return encode<F>(negative, added<F>(x.code, -y.code, offset), flush);
}

// A real exponent |p| = m 2^e, m below 2^53.
struct Exponent {
  Word64 m;
  int e;
  bool negative, whole, odd;
};

template <class F>
KX_FN Code scaled(long long code, const Exponent& p) {
  constexpr Word64 limit = 2000ULL << F::fraction;
  const Word128 wide = Word128(p.m) * Word64(code < 0 ? -code : code);
  Code c = {0, false, false};
  if (wide != 0) {
    const int down = p.e < -120 ? 120 : p.e < 0 ? -p.e : 0, up = p.e > 64 ? 64 : p.e > 0 ? p.e : 0;
    const bool lost = up > 0 && top_bit(wide) + up > 100;
    const Word128 whole = lost ? limit : (wide >> down) << up;
    const Word128 rest = down ? wide << (128 - down) : 0;
    c.floor = static_cast<long long>(whole < limit ? Word64(whole) : limit);
    c.half = (rest >> 127) != 0;
    c.more = (rest << 1) != 0;
  }
  return (code < 0) != p.negative ? -c : c;
}

template <class F>
KX_SELDOM typename F::Word power_of(typename F::Word word, const Exponent& p, bool flush) {
  if (p.m == 0) return F::one;
  Parts x = split<F>(word, flush);
  if (x.nan || (x.negative && !x.zero && !p.whole)) return F::nan;
  const bool negative = x.negative && p.odd;
  if (x.zero || x.infinite) {
    return with_sign<F>(negative, x.zero == p.negative ? F::infinity : 0);
  }
  return encode<F>(negative, scaled<F>(x.code, p), flush);
}

// ---- Many at a time.

// Words of the format outside [least, infinity).
template <class F, class V>
KX_FN auto irregular(V u) {
  return V(u - splat<V>(F::least)) >= splat<V>(typename F::Word(F::infinity - F::least));
}
template <class F, class V>
KX_FN V cut_words(V u, Cut cut) {
  return V(V(u & splat<V>(cut.keep<typename F::Word, F::fraction>())) |
           splat<V>(cut.added<typename F::Word, F::fraction>()));
}

template <class F>
struct FloatMul {
  using In = typename F::Word;
  using Out = In;
  using Lane = In;
  ProductOptions options;

  template <class V>
  KX_FN V operator()(V a, V b) const {
    const V sign = V((a ^ b) & splat<V>(F::sign)), magnitude = splat<V>(F::magnitude);
    const V u = V(a & magnitude), w = V(b & magnitude);
    const V shift = splat<V>(In(options.offset - F::one));
    const V t = V(cut_words<F>(u, options.cut) + cut_words<F>(w, options.cut) + shift);
    if (!any_of(irregular<F>(u) | irregular<F>(w) | irregular<F>(t))) return V(t | sign);
    return rare(a, b, t);
  }

 private:
  template <class V>
  KX_SELDOM V rare(V a, V b, V t) const {
    const V zero = V{}, magnitude = splat<V>(F::magnitude), infinity = splat<V>(F::infinity);
    const V least = splat<V>(options.flush ? F::least : In(1));
    const V sign = V((a ^ b) & splat<V>(F::sign)), u = V(a & magnitude), w = V(b & magnitude);
    const auto nothing = (u < least) | (w < least);
    const auto huge = (u >= infinity) | (w >= infinity);
    const auto none = (u > infinity) | (w > infinity) | (nothing & huge);
    // Sums that are negative come out above all others.
    const auto below = (t < splat<V>(F::least)) | (t >= splat<V>(In(3 * (F::sign >> 1))));
    V r = select(t >= infinity, infinity, t);
    r = select(below | nothing, zero, r);
    r = select(huge, infinity, r);
    r = select(none, splat<V>(F::nan), V(r | sign));
    if (options.flush) return r;
    const V first = splat<V>(F::least);
    const auto subnormal = ((u < first) | (w < first) | below) & !(nothing | huge);
    return in_lanes(subnormal, r,
                    [&](int i) { return product_of<F>(lane(a, i), lane(b, i), options); });
  }
};

template <class F>
struct FloatDiv {
  using In = typename F::Word;
  using Out = In;
  using Lane = In;
  long long offset;
  bool flush;

  template <class V>
  KX_FN V operator()(V a, V b) const {
    const V sign = V((a ^ b) & splat<V>(F::sign)), magnitude = splat<V>(F::magnitude);
    const V u = V(a & magnitude), w = V(b & magnitude);
    const V t = V(u - w + splat<V>(In(offset + F::one)));
    if (!any_of(irregular<F>(u) | irregular<F>(w) | irregular<F>(t))) return V(t | sign);
    return rare(a, b, t);
  }

 private:
  template <class V>
  KX_SELDOM V rare(V a, V b, V t) const {
    const V zero = V{}, magnitude = splat<V>(F::magnitude), infinity = splat<V>(F::infinity);
    const V least = splat<V>(flush ? F::least : In(1));
    const V sign = V((a ^ b) & splat<V>(F::sign)), u = V(a & magnitude), w = V(b & magnitude);
    const auto nothing = (u < least) | (w >= infinity), huge = (u >= infinity) | (w < least);
    const auto none = (u > infinity) | (w > infinity) | (nothing & huge);
    const auto below = (t < splat<V>(F::least)) | (t >= splat<V>(In(3 * (F::sign >> 1))));
    V r = select(t >= infinity, infinity, t);
    r = select(below | nothing, zero, r);
    r = select(huge, infinity, r);
    r = select(none, splat<V>(F::nan), V(r | sign));
    if (flush) return r;
    const V first = splat<V>(F::least);
    const auto subnormal = ((u < first) | (w < first) | below) & !(nothing | huge);
    return in_lanes(subnormal, r,
                    [&](int i) { return quotient_of<F>(lane(a, i), lane(b, i), offset, false); });
  }
};

// X(p L(x)) for p = 2, 1/2, -1/2 and -1.
struct Square {
  static constexpr bool keeps_sign = false, of_negative = true, inverts = false;
  KX_FN static Exponent p() { return {1, 1, false, true, false}; }
  template <class F, class V>
  KX_FN static V word(V u) {
    return V(u + u - splat<V>(F::one));
  }
};
struct Sqrt {
  static constexpr bool keeps_sign = true, of_negative = false, inverts = false;
  KX_FN static Exponent p() { return {1, -1, false, false, false}; }
  template <class F, class V>
  KX_FN static V word(V u) {  // the half of an odd code goes to the even neighbour
    const V r = V(V(u + splat<V>(F::one)) >> 1);
    return V(r + (u & r & splat<V>(typename F::Word(1))));
  }
};
struct Rsqrt {
  static constexpr bool keeps_sign = true, of_negative = false, inverts = true;
  KX_FN static Exponent p() { return {1, -1, true, false, false}; }
  template <class F, class V>
  KX_FN static V word(V u) {
    const V r = V(V(splat<V>(typename F::Word(3 * F::one)) - u) >> 1);
    return V(r + (u & r & splat<V>(typename F::Word(1))));
  }
};
struct Reciprocal {
  static constexpr bool keeps_sign = true, of_negative = true, inverts = true;
  KX_FN static Exponent p() { return {1, 0, true, true, true}; }
  template <class F, class V>
  KX_FN static V word(V u) {
    return V(splat<V>(typename F::Word(2 * F::one)) - u);
  }
};

template <class F, class Op>
struct FloatPower {
  using In = typename F::Word;
  using Out = In;
  using Lane = In;
  bool flush;

  template <class V>
  KX_FN V operator()(V x) const {
    const V u = V(x & splat<V>(F::magnitude)), t = Op::template word<F>(u);
    const V sign = Op::keeps_sign ? V(x & splat<V>(F::sign)) : V{};
    if constexpr (Op::of_negative) {
      if (!any_of(irregular<F>(u) | irregular<F>(t))) return V(t | sign);
    } else {
      if (!any_of(irregular<F>(x))) return t;
    }
    return rare(x, t);
  }

 private:
  template <class V>
  KX_SELDOM V rare(V x, V t) const {
    const V zero = V{}, u = V(x & splat<V>(F::magnitude)), infinity = splat<V>(F::infinity);
    const V sign = Op::keeps_sign ? V(x & splat<V>(F::sign)) : zero;
    const auto nothing = u < splat<V>(flush ? F::least : In(1)), huge = u >= infinity;
    const auto below = (t < splat<V>(F::least)) | (t >= splat<V>(In(3 * (F::sign >> 1))));
    V r = select(t >= infinity, infinity, t);
    r = select(below, zero, r);
    r = select(nothing, Op::inverts ? infinity : zero, r);
    r = V(select(huge, Op::inverts ? zero : infinity, r) | sign);
    const auto negative = (u != x) & !nothing;
    const auto none = Op::of_negative ? u > infinity : (u > infinity) | negative;
    r = select(none, splat<V>(F::nan), r);
    if (flush) return r;
    const auto subnormal = ((u < splat<V>(F::least)) | below) & !(nothing | huge | none);
    return in_lanes(subnormal, r, [&](int i) {
      return In(power_of<F>(In(lane(u, i)), Op::p(), false) | lane(sign, i));
    });
  }
};

// X(p L(x)) for any p. For integers p the word is p u + shift where u is in [low, low + span].
template <class F>
struct FloatPow {
  using In = typename F::Word;
  using Out = In;
  using Lane = In;
  Exponent p;
  bool flush;
  In factor, shift, low, span;

  FloatPow(double real, bool flushes) : flush(flushes), factor(0), shift(0), low(0), span(0) {
    const Word64 bits = bit_cast<Word64>(real < 0 ? -real : real);
    const int exponent = int(bits >> 52);
    p = {(bits & ((1ULL << 52) - 1)) | (exponent ? 1ULL << 52 : 0),
         (exponent ? exponent : 1) - 1075, real < 0, false, false};
    const int down = p.e >= 0 ? 0 : p.e < -63 ? 63 : -p.e;
    p.whole = (p.m >> down) << down == p.m;
    p.odd = p.whole && p.e <= 0 && (p.m >> down) % 2 != 0;
    constexpr long long most = F::infinity - 1 - F::one, least = F::one - F::least;
    const long long n = p.whole && real > -64 && real < 64 ? static_cast<long long>(real) : 0;
    if (n == 0) return;
    const long long size = n < 0 ? -n : n;
    const long long below = (n > 0 ? least : most) / size, above = (n > 0 ? most : least) / size;
    const long long first = below < least ? below : least, last = above < most ? above : most;
    factor = In(n);
    shift = In(F::one - Word64(n) * F::one);
    low = In(F::one - Word64(first));
    span = In(first + last);
  }

  template <class V>
  KX_FN V operator()(V x) const {
    const V u = V(x & splat<V>(F::magnitude));
    const V t = V(u * splat<V>(factor) + splat<V>(shift));
    const V r = V(t | (x & splat<V>(p.odd ? F::sign : In(0))));
    // Without a factor all are outside; negative numbers are regular for integers p.
    const auto outside = V(u - splat<V>(low)) >= splat<V>(factor != 0 ? In(span + 1) : In(0));
    if (!any_of(outside)) return r;
    return in_lanes(outside, r, [&](int i) { return power_of<F>(In(lane(x, i)), p, flush); });
  }
};

// ---- Logarithm and antilogarithm, by way of float and double.

template <class T>
struct Precision;
template <>
struct Precision<float> {
  using Format = Binary32;
  using Signed = int;
  static constexpr float unit = 0x1p-23f, lift = 0x1p32f, far = 200, round = 0x1p23f;
  static constexpr int lifted = 32;
};
template <>
struct Precision<double> {
  using Format = Binary64;
  using Signed = long long;
  static constexpr double unit = 0x1p-52, lift = 0x1p64, far = 2000, round = 0x1p52;
  static constexpr int lifted = 64;
};
// What numbers of a format are computed as.
template <class F>
struct ComputedAs {
  using type = float;
};
template <>
struct ComputedAs<Binary64> {
  using type = double;
};

template <class H, class V, class W>
KX_FN V widen_words(W words) {
#if defined(__F16C__) && !defined(__CUDACC__)
  if constexpr (__is_same(H, Half) && lanes<V> == 8) {
    return widen_bits(Half{}, bit_cast<__m128i>(words));
  } else
#if defined(__AVX512F__)
      if constexpr (__is_same(H, Half) && lanes<V> == 16) {
    return widen_bits(Half{}, bit_cast<__m256i>(words));
  } else
#endif
#endif
    return widen_bits<V>(H{}, convert<bits_t<V>>(words));
}
template <class H, class W, class V>
KX_FN W narrow_words(V value) {
#if defined(__F16C__) && !defined(__CUDACC__)
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  if constexpr (__is_same(H, Half) && lanes<V> == 8) {
    return bit_cast<W>(_mm256_cvtps_ph(bit_cast<__m256>(value), nearest));
  } else
#if defined(__AVX512F__)
      if constexpr (__is_same(H, Half) && lanes<V> == 16) {
    return bit_cast<W>(_mm512_cvtps_ph(bit_cast<__m512>(value), nearest));
  } else
#endif
#endif
    return convert<W>(narrow_bits(H{}, value));
}
// Words as numbers of float or double, and back.
template <class F, class V, class W>
KX_FN V number_of(W words) {
  if constexpr (__is_same(F, Binary16)) {
    return widen_words<Half, V>(words);
  } else if constexpr (__is_same(F, Brain16)) {
    return widen_words<Bfloat16, V>(words);
  } else {
    return bit_cast<V>(words);
  }
}
template <class F, class W, class V>
KX_FN W words_of(V value) {
  if constexpr (__is_same(F, Binary16)) {
    return narrow_words<Half, W>(value);
  } else if constexpr (__is_same(F, Brain16)) {
    return narrow_words<Bfloat16, W>(value);
  } else {
    return bit_cast<W>(value);
  }
}

// L(x) in the type that computes; below `least` in magnitude x is 0.
template <class V>
KX_FN V logarithm(V x, element_t<V> least) {
  using T = element_t<V>;
  using P = Precision<T>;
  using F = typename P::Format;
  using B = bits_t<V>;
  const V size = bit_cast<V>(B(bit_cast<B>(x) & splat<B>(F::magnitude)));
  const auto tiny = size < splat<V>(bit_cast<T>(F::least));
  const B u = bit_cast<B>(select(tiny, V(size * P::lift), size)), one = splat<B>(F::one);
  const B lifted = B(one + splat<B>(typename F::Word(typename F::Word(P::lifted) << F::fraction)));
  const B code = B(u - select(tiny, lifted, one));
  V r = V(convert<V>(bit_cast<Pack<typename P::Signed, lanes<V>>>(code)) * P::unit);
  const V infinity = splat<V>(bit_cast<T>(F::infinity));
  r = select(size == infinity, infinity, r);
  r = select((x < V{}) | (x != x), splat<V>(bit_cast<T>(F::nan)), r);
  return select(size < splat<V>(least), V(-infinity), r);
}

// X(x) in the type that computes. Only 1 + f is rounded: where 2^n makes it subnormal, x is so
// large that 1 + f was exact.
template <class V>
KX_FN V antilogarithm_of(V x) {
  using T = element_t<V>;
  using P = Precision<T>;
  using F = typename P::Format;
  using B = bits_t<V>;
  const V zero = V{}, one = splat<V>(T(1)), far = splat<V>(P::far), round = splat<V>(P::round);
  const auto negative = x < zero;
  V y = bit_cast<V>(B(bit_cast<B>(x) & splat<B>(F::magnitude)));
  y = select(y < far, y, far);
  V whole = V((y + round) - round);
  whole = select(whole > y, V(whole - one), whole);
  const V f = V(y - whole);
  const auto more = f > zero;
  const V n = select(negative, V(select(more, V(-one), zero) - whole), whole);
  const V of_negative = select(more, V(splat<V>(T(2)) - f), one);
  const V s = select(negative, of_negative, V(one + f));
  const V middle = splat<V>(T(P::round * T(1.5)));
  using W = typename F::Word;
  const B k = B(bit_cast<B>(V(n + middle)) - bit_cast<B>(middle));
  const B half = B(B(B(k + splat<B>(W(4096))) >> 1) - splat<B>(W(2048))), rest = B(k - half);
  const V first = bit_cast<V>(B(B(half + splat<B>(W(F::bias))) << F::fraction));
  const V second = bit_cast<V>(B(B(rest + splat<B>(W(F::bias))) << F::fraction));
  return select(x != x, x, V(V(s * first) * second));
}

template <class F>
struct FloatLog2 {
  using In = typename F::Word;
  using Out = In;
  using Lane = typename ComputedAs<F>::type;
  bool flush;
  template <class W>
  KX_FN W operator()(W x) const {
    if constexpr (F::width == 16) {  // straight where all are ordinary
      using V = Pack<float, lanes<W>>;
      using B = bits_t<V>;
      using I = Pack<int, lanes<W>>;
      const B u = convert<B>(x);
      const auto unusual = B(u - Word32(F::least)) >= splat<B>(Word32(F::infinity - F::least));
      if (!any_of(unusual)) {
        const V r = V(convert<V>(bit_cast<I>(B(u - Word32(F::one)))) * (1.0f / F::least));
        if constexpr (__is_same(F, Binary16)) return words_of<F, W>(r);
        const B bits = bit_cast<B>(r);  // finite
        return convert<W>(B(B(bits + B(0x7fff + ((bits >> 16) & 1))) >> 16));
      }
      return rare(x);
    } else {
      return general(x);
    }
  }

 private:
  template <class W>
  KX_SELDOM W rare(W x) const {
    return general(x);
  }
  template <class W>
  KX_FN W general(W x) const {
    using V = Pack<Lane, lanes<W>>;
    const Lane smallest = number_of<F, Lane>(flush ? F::least : In(1));
    return words_of<F, W>(logarithm(number_of<F, V>(x), smallest));
  }
};

template <class F>
struct FloatExp2 {
  using In = typename F::Word;
  using Out = In;
  using Lane = typename ComputedAs<F>::type;
  bool flush;
  template <class W>
  KX_FN W operator()(W words) const {
    if constexpr (F::width == 16) {
      // The code is x 2^M, rounded by where the last bit of a sum is.
      using V = Pack<float, lanes<W>>;
      using B = bits_t<V>;
      constexpr float middle = 0x1.8p23f;
      const V t = V(number_of<F, V>(words) * float(F::least) + (middle + F::one));
      const B code = B(bit_cast<B>(t) - bit_cast<Word32>(middle));
      const auto beyond = B(code - Word32(F::least)) > splat<B>(Word32(F::infinity - F::least));
      if (!any_of(beyond)) return convert<W>(code);
      return rare(words);
    } else {
      return general(words);
    }
  }

 private:
  template <class W>
  KX_SELDOM W rare(W words) const {
    return general(words);
  }
  template <class W>
  KX_FN W general(W words) const {
    using V = Pack<Lane, lanes<W>>;
    const V x = number_of<F, V>(words);
    V r = antilogarithm_of(x);
    if (flush) r = select(x < splat<V>(Lane(1 - F::bias)), V{}, r);
    return words_of<F, W>(r);
  }
};

// ---- The iterated product of numbers that have few bits: all its sums are exact in double.

// |a| and |b| are finite; P_j in the exponents they have.
template <class V>
KX_FN V iterated(V a, V b, int iterations, bool ilm) {
  using F = Binary64;
  using B = bits_t<V>;
  const B exponents = splat<B>(F::infinity), fractions = splat<B>(F::least - 1);
  const V zero = V{};
  V sum = zero;
  for (int j = 0; j <= iterations; ++j) {
    const auto nothing = (a == zero) | (b == zero);
    const B u = bit_cast<B>(a), w = bit_cast<B>(b);
    const V first = bit_cast<V>(B(u & exponents)), second = bit_cast<V>(B(w & exponents));
    const V ra = V(a - first), rb = V(b - second);
    V p;
    if (ilm) {
      p = V(a * second + rb * first);
      a = ra;
      b = rb;
    } else {
      p = bit_cast<V>(B(u + w - splat<B>(F::one)));
      const auto carry = B((u & fractions) + (w & fractions)) >= splat<B>(F::least);
      a = select(carry, V(first - ra), ra);
      b = select(carry, V(second - rb), rb);
    }
    sum = V(sum + select(nothing, zero, p));
    a = select(nothing, zero, a);
  }
  return sum;
}

template <class F>
struct FloatIterated {
  using In = typename F::Word;
  using Out = In;
  using Lane = double;
  ProductOptions options;

  template <class W>
  KX_FN W operator()(W x, W y) const {
    using V = Pack<double, lanes<W>>;
    using N = Pack<float, lanes<W>>;
    using B = bits_t<V>;
    using G = Binary64;
    V a = convert<V>(number_of<F, N>(x)), b = convert<V>(number_of<F, N>(y));
    const B sign = B((bit_cast<B>(a) ^ bit_cast<B>(b)) & splat<B>(G::sign));
    B u = B(bit_cast<B>(a) & splat<B>(G::magnitude)),
      w = B(bit_cast<B>(b) & splat<B>(G::magnitude));
    const double least = pow2(1 - F::bias);
    if (options.flush) {
      u = select(bit_cast<V>(u) < splat<V>(least), B{}, u);
      w = select(bit_cast<V>(w) < splat<V>(least), B{}, w);
    }
    const auto special =
        (u == B{}) | (w == B{}) | (u >= splat<B>(G::infinity)) | (w >= splat<B>(G::infinity));
    const V plain = V(bit_cast<V>(u) * bit_cast<V>(w));
    u = cut_words<G>(u, options.cut);
    w = cut_words<G>(w, options.cut);
    V r = iterated(bit_cast<V>(u), bit_cast<V>(w), options.iterations, options.ilm);
    if (options.flush) r = select(r < splat<V>(least), V{}, r);
    r = select(special, plain, r);
    r = bit_cast<V>(B(bit_cast<B>(r) | sign));
    return words_of<F, W>(convert<N>(r));
  }

 private:
  KX_FN static double pow2(int n) { return bit_cast<double>(Word64(1023 + n) << 52); }
};
// Others, one by one.
template <class F>
struct EachProduct {
  using In = typename F::Word;
  using Out = In;
  using Lane = Single;
  ProductOptions options;
  KX_FN In operator()(In a, In b) const { return product_of<F>(a, b, options); }
};

// ---- Integers. Those of 8 and 16 bits are numbers of float, those of 32 bits of double: both have
// room for the sum of two fractions.

template <bool condition, class A, class B>
struct ChooseType {
  using type = A;
};
template <class A, class B>
struct ChooseType<false, A, B> {
  using type = B;
};
template <bool condition, class A, class B>
using Choose = typename ChooseType<condition, A, B>::type;

template <class N>
using SmallReal = Choose<(N::width <= 16), float, double>;
template <class N>
using WiderWord = Choose<N::width == 8, Word16, Choose<N::width == 16, Word32, Word64>>;

// Integers of up to 32 bits as numbers of float or double.
template <class N, class V, class W>
KX_FN V real_of(W words) {
  constexpr int count = lanes<V>;
  if constexpr (N::width == 32) {
    if constexpr (N::with_sign) {
      return convert<V>(bit_cast<Pack<int, count>>(words));
    } else {
      return convert<V>(words);
    }
  } else {
    using I = Pack<int, count>;
    I x = convert<I>(words);
    if constexpr (N::with_sign) {
      const I sign = splat<I>(1 << (N::width - 1));
      x = I((x ^ sign) - sign);
    }
    return convert<V>(x);
  }
}
// |x| with its fraction cut, as bits of a real number.
template <class T, class B>
KX_FN B cut_real(B u, Cut cut) {
  using F = typename Precision<T>::Format;
  if (cut.bits < 0) return u;
  using W = typename F::Word;
  const B kept = B(u & splat<B>(cut.keep<W, F::fraction>()));
  const B shorter = splat<B>(W(W(F::bias + cut.bits + 1) << F::fraction));
  return select(u >= shorter, B(kept | splat<B>(cut.added<W, F::fraction>())), u);
}
// Integers of unsigned words with a sign, all ones in `minus` for negative ones.
template <class B>
KX_FN B negated_where(B minus, B x) {
  return B((x ^ minus) - minus);
}

template <class N>
struct SmallMul {
  using In = typename N::Word;
  using Out = WiderWord<N>;
  using Lane = SmallReal<N>;
  ProductOptions options;

  template <class W>
  KX_FN auto operator()(W a, W b) const {
    using V = Pack<Lane, lanes<W>>;
    using B = bits_t<V>;
    using F = typename Precision<Lane>::Format;
    const B x = bit_cast<B>(real_of<N, V>(a)), y = bit_cast<B>(real_of<N, V>(b));
    const B magnitude = splat<B>(F::magnitude);
    const B u = B(x & magnitude), w = B(y & magnitude);
    const B shift = splat<B>(typename F::Word(options.offset - F::one));
    const B t = B(cut_real<Lane>(u, options.cut) + cut_real<Lane>(w, options.cut) + shift);
    V r = bit_cast<V>(select((u == B{}) | (w == B{}), B{}, t));
    const V round = splat<V>(Precision<Lane>::round);
    r = select(r < round, V((r + round) - round), r);
    return integers(r, B(x ^ y));
  }

 private:
  template <class V, class B>
  KX_FN auto integers(V r, B signs) const {
    constexpr int count = lanes<V>;
    using To = Pack<Out, count>;
    if constexpr (N::width == 8) {
      using I = Pack<Word32, count>;
      using S = Pack<int, count>;
      I whole = bit_cast<I>(convert<S>(r));
      if constexpr (N::with_sign) {
        whole = negated_where(bit_cast<I>(S(bit_cast<S>(signs) >> 31)), whole);
      } else if (!options.wrap) {
        const I most = splat<I>(0xffffu);
        whole = select(whole > most, most, whole);
      }
      return convert<To>(whole);
    } else if constexpr (N::with_sign) {
      using S = Pack<typename Precision<Lane>::Signed, count>;
      const S whole = convert<S>(r);
      return negated_where(bit_cast<To>(S(bit_cast<S>(signs) >> (2 * N::width - 1))),
                           bit_cast<To>(whole));
    } else {
      const V above = splat<V>(Lane(N::width == 16 ? 0x1p32 : 0x1p64));
      const auto over = r >= above;
      const To whole = convert<To>(select(over, V(r - above), r));
      return options.wrap ? whole : select(over, To(~To{}), whole);
    }
  }
};

template <class N>
struct SmallDiv {
  using In = typename N::Word;
  using Out = In;
  using Lane = SmallReal<N>;
  long long offset;

  template <class W>
  KX_FN W operator()(W a, W b) const {
    constexpr int count = lanes<W>;
    using V = Pack<Lane, count>;
    using B = bits_t<V>;
    using P = Precision<Lane>;
    using F = typename P::Format;
    using S = Pack<typename P::Signed, count>;
    const B x = bit_cast<B>(real_of<N, V>(a)), y = bit_cast<B>(real_of<N, V>(b));
    const B magnitude = splat<B>(F::magnitude);
    const B u = B(x & magnitude), w = B(y & magnitude);
    const B t = B(u - w + splat<B>(typename F::Word(offset + F::one)));
    const V r = bit_cast<V>(select((u == B{}) | (w == B{}), B{}, t));
    B whole = bit_cast<B>(convert<S>(r));
    if constexpr (N::with_sign) {
      using Word = typename F::Word;
      const B minus = bit_cast<B>(S(bit_cast<S>(B(x ^ y)) >> (F::width - 1)));
      const B most = B(splat<B>(Word((Word(1) << (N::width - 1)) - 1)) - minus);
      whole = negated_where(minus, select(whole > most, most, whole));
    }
    return convert<W>(whole);
  }
};

template <class N>
struct SmallLog2 {
  using In = typename N::Word;
  using Out = Word64;
  using Lane = double;
  template <class W>
  KX_FN auto operator()(W x) const {
    using V = Pack<double, lanes<W>>;
    return bit_cast<bits_t<V>>(
        logarithm(convert<V>(real_of<N, Pack<SmallReal<N>, lanes<W>>>(x)), 0x1p-1074));
  }
};

// Integers of 64 bits: fractions are left-aligned, and the sum of the positions is the exponent.
template <class V>
KX_FN V leading_zeros(V x) {
#if defined(__AVX512CD__) && !defined(__CUDACC__)
  if constexpr (sizeof(V) == 64) return bit_cast<V>(_mm512_lzcnt_epi64(bit_cast<__m512i>(x)));
#endif
  if constexpr (lanes<V> == 1) {
    return x == 0 ? 64 : Word64(63 - top_bit(Word64(x)));
  } else {
    V r{};
    KX_UNROLL
    for (int i = 0; i < lanes<V>; ++i) r[i] = x[i] == 0 ? 64 : Word64(63 - top_bit(Word64(x[i])));
    return r;
  }
}
template <class V>
struct Taken {  // an integer apart
  V minus, magnitude, top, fraction;
};
template <class N, class V>
KX_FN Taken<V> take(V x, Cut cut) {
  const V none = V{}, one = splat<V>(1ULL);
  V minus = none;
  if constexpr (N::with_sign) minus = V(none - (x >> 63));
  V u = negated_where(minus, x);
  V zeros = leading_zeros(V(u | one));
  if (cut.bits >= 0) {
    const V top = V(splat<V>(63ULL) - zeros), bits = splat<V>(Word64(cut.bits));
    const auto longer = top > bits;
    const V drop = select(longer, V(top - bits), none);
    const V half = cut.half ? V(V(one << drop) >> 1) : none;
    u = select(longer, V(V(V(u >> drop) << drop) | half), u);
  }
  return {minus, u, V(splat<V>(63ULL) - zeros), V(V(u << zeros) << 1)};
}
// x 2^by and x 2^-by for by < 128, 0 when all bits are out.
template <class V>
KX_FN V up(V x, V by) {
  return select(by > splat<V>(63ULL), V{}, V(x << V(by & splat<V>(63ULL))));
}
template <class V>
KX_FN V down(V x, V by) {
  return select(by > splat<V>(63ULL), V{}, V(x >> V(by & splat<V>(63ULL))));
}

template <class N, bool both>
struct WideMul {
  using In = Word64;
  using Out = Word64;
  using Lane = Word64;
  ProductOptions options;

  template <class V>
  KX_FN auto operator()(V a, V b) const {
    const V one = splat<V>(1ULL), none = V{};
    Taken<V> x = take<N>(a, options.cut), y = take<N>(b, options.cut);
    const V sum = V(x.fraction + y.fraction), offset = splat<V>(Word64(options.offset) << 12);
    const V fraction = V(sum + offset);
    const V carries = V(select(sum < x.fraction, one, none) + select(fraction < sum, one, none));
    const V top = V(x.top + y.top + carries), far = V(top - splat<V>(64ULL));
    const auto wide = top > splat<V>(63ULL);
    const V below = select(wide, none, V(splat<V>(63ULL) - top));
    V low = select(wide, up(fraction, far), V(up(one, top) | down(V(fraction >> 1), below)));
    V high =
        select(wide, V(up(one, far) | down(V(fraction >> 1), V(splat<V>(127ULL) - top))), none);
    const V rest = select(wide, none, up(fraction, top)), middle = splat<V>(1ULL << 63);
    const auto odd = V(low & one) == one;
    const auto rounds = (rest > middle) | ((rest == middle) & odd);
    low = select(rounds, V(low + one), low);
    high = select(rounds & (low == none), V(high + one), high);
    const auto beyond = top > splat<V>(127ULL);  // with an offset only
    high = select(beyond, V(~none), high);
    low = select(beyond, V(~none), low);
    const auto zero = (x.magnitude == none) | (y.magnitude == none);
    low = select(zero, none, low);
    high = select(zero, none, high);
    const V minus = V(x.minus ^ y.minus);
    if constexpr (both) {
      const V carry = select(low == none, V(none - minus), none);
      return Values<V, 2>{{V(V(high ^ minus) + carry), negated_where(minus, low)}};
    } else {
      if (!options.wrap) {
        const V most = N::with_sign ? V(splat<V>(~0ULL >> 1) - minus) : V(~none);
        low = select((high != none) | (low > most), most, low);
      }
      return negated_where(minus, low);
    }
  }
};

template <class N>
struct WideDiv {
  using In = Word64;
  using Out = Word64;
  using Lane = Word64;
  long long offset;

  template <class V>
  KX_FN V operator()(V a, V b) const {
    const V one = splat<V>(1ULL), none = V{};
    Taken<V> x = take<N>(a, Cut{-1, false}), y = take<N>(b, Cut{-1, false});
    const V difference = V(x.fraction - y.fraction);
    const V fraction = V(difference - splat<V>(Word64(-offset) << 12));
    const V borrows =
        V(select(difference > x.fraction, one, none) + select(fraction > difference, one, none));
    const V top = V(x.top - y.top - borrows);
    const auto nothing = (top > splat<V>(63ULL)) | (x.magnitude == none) | (y.magnitude == none);
    const V below = select(nothing, none, V(splat<V>(63ULL) - top));
    V r = V(up(one, top) | down(V(fraction >> 1), below));
    r = select(nothing, none, r);
    const V minus = V(x.minus ^ y.minus);
    if constexpr (N::with_sign) {
      const V most = V(splat<V>(~0ULL >> 1) - minus);
      r = select(r > most, most, r);
    }
    return negated_where(minus, r);
  }
};

template <class N>
struct WideLog2 {
  using In = Word64;
  using Out = Word64;
  using Lane = Word64;

  template <class V>
  KX_FN V operator()(V a) const {
    using R = Pack<double, lanes<V>>;
    const V none = V{}, one = splat<V>(1ULL);
    Taken<V> x = take<N>(a, Cut{-1, false});
    // Position and fraction in 64 bits, the last of which says whether there are more.
    const auto more = V(x.fraction & splat<V>(63ULL)) != none;
    const V fixed = V(V(x.top << 58) | (x.fraction >> 6) | select(more, one, none));
    R r = R(convert<R>(fixed) * 0x1p-58);
    r = select(x.magnitude == none, splat<R>(bit_cast<double>(Binary64::sign | Binary64::infinity)),
               r);
    return bit_cast<V>(select(x.minus != none, splat<R>(bit_cast<double>(Binary64::nan)), r));
  }
};

// Iterated products, one by one.
template <class N, bool both>
struct IntegerIterated {
  using In = typename N::Word;
  using Out = Choose<N::width == 64, Word64, WiderWord<N>>;
  using Lane = Single;
  ProductOptions options;

  KX_FN auto operator()(In a, In b) const {
    constexpr In sign = In(N::with_sign ? In(1) << (N::width - 1) : 0);
    const bool na = (a & sign) != 0, nb = (b & sign) != 0, negative = na != nb;
    In x = na ? In(-a) : a, y = nb ? In(-b) : b;
    Word128 p = iterated_product(cut_integer(x, options.cut), cut_integer(y, options.cut),
                                 options.iterations, options.ilm);
    if constexpr (both) {
      p = negative ? -p : p;
      return Values<Word64, 2>{{Word64(p >> 64), Word64(p)}};
    } else {
      if (!options.wrap) {
        const Word128 most =
            N::with_sign ? Word128(Out(Out(~Out(0)) >> 1)) + negative : Out(~Out(0));
        p = p > most ? most : p;
      }
      return Out(negative ? -p : p);
    }
  }
};

}  // namespace KX_ISA
}  // namespace kexue
