// Sums of Mitchell products on the CPU: matrix products of ordinary numbers by blocks of registers,
// everything else one sum at a time.
//
// The word of an ordinary product is the sum of two words, sign included, if one of them lacks the
// bias: with the operands so prepared a product takes one addition, and the sum another. Zeros are
// taken out by factors 0 and 1 (rows of a) and by masks (columns of b). Which numbers are ordinary
// the exponents of a panel say; a tile that is not goes the other way.
#pragma once

#include "kexue/mitchell_dot.h"
#include "readers.h"
#include "words.h"

namespace kexue {
inline namespace KX_ISA {

// How many rows and registers of columns a tile has.
#if defined(__AVX512F__)
constexpr int tile_height = 6, tile_registers = 4;
#else
constexpr int tile_height = 4, tile_registers = 2;
#endif
constexpr int depth_block = 256;  // so many products of 8 bits have an exact sum in float
constexpr int panel_group = 16;   // panels of rows that a job goes through

// What a panel of prepared words has.
struct PanelFacts {
  long long least = 0, most = 0;  // magnitudes, of those that are not 0
  bool zeros = false, ordinary = true;
};

template <class T>
struct Panels {
  using F = typename SumFormat<T>::type;
  using Word = typename F::Word;
  using V = Pack<T, register_bytes / int(sizeof(T))>;
  using B = bits_t<V>;
  static constexpr int height = tile_height;
  static constexpr int width = tile_registers * lanes<V>;

  // Fills a panel of `size` rows with words load(row, k), or copies where they lie side by side;
  // missing rows repeat the first.
  template <int size, class Load>
  static void fill(Word* words, index depth, int count, const char* beside, index step,
                   const Load& load) {
    if (beside && count == size) {
      for (index k = 0; k < depth; ++k) {
        __builtin_memcpy(words + k * size, beside + k * step, size * sizeof(Word));
      }
      return;
    }
    for (int i = 0; i < size; ++i) {
      for (index k = 0; k < depth; ++k) words[k * size + i] = load(i < count ? i : 0, k);
    }
  }
  template <class U>
  struct Scan {
    U least, most, gone;
    // Cuts words, and tells in `kept` which are not 0.
    void take(Word* words, Word* kept, Word keeps, Word cut, Word added, bool flush) {
      const U word = load<U>(words), none = U{};
      U u = word & splat<U>(Word(F::magnitude));
      u = flush ? select(u < splat<U>(Word(F::least)), none, u) : u;
      const auto zero = u == none;
      u = select(zero, u, U((u & splat<U>(cut)) | splat<U>(added)));
      least = minimum(select(zero, least, u), least);
      most = maximum(u, most);
      gone = gone | select(zero, splat<U>(Word(1)), none);
      store(words, U(u | (word & splat<U>(Word(F::sign)))));
      store(kept, select(zero, none, splat<U>(keeps)));
    }
  };
  // Prepares `size` words of a panel; `kept` has `keeps` for those that are not 0.
  static PanelFacts prepare(Word* words, Word* kept, Word keeps, index size, Word bias, Cut cut,
                            bool flush) {
    constexpr int width = lanes<B>;
    const Word masked = cut.template keep<Word, F::fraction>();
    const Word added = cut.template added<Word, F::fraction>();
    Scan<B> scan = {splat<B>(Word(F::magnitude)), B{}, B{}};
    Scan<Word> rest = {Word(F::magnitude), 0, 0};
    index j = 0;
    for (; j + width <= size; j += width) {
      scan.take(words + j, kept + j, keeps, masked, added, flush);
    }
    for (; j < size; ++j) rest.take(words + j, kept + j, keeps, masked, added, flush);
    for (int l = 0; l < width; ++l) {
      rest.least = minimum(rest.least, Word(scan.least[l]));
      rest.most = maximum(rest.most, Word(scan.most[l]));
      rest.gone |= Word(scan.gone[l]);
    }
    const bool nothing = rest.most == 0;
    PanelFacts facts;
    facts.least = static_cast<long long>(nothing ? Word(F::one) : rest.least);
    facts.most = static_cast<long long>(nothing ? Word(F::one) : rest.most);
    facts.zeros = rest.gone != 0;
    facts.ordinary = facts.least >= static_cast<long long>(F::least) &&
                     facts.most < static_cast<long long>(F::infinity);
    // Instead of a zero: a product with it is ordinary.
    const auto set = [&](auto instead, Word* to, const Word* found) {
      using U = decltype(instead);
      const U word = select(load<U>(found) == U{}, instead, load<U>(to));
      store(to, U(word - splat<U>(bias)));
    };
    const Word instead = Word(facts.most);
    for (j = 0; j + width <= size; j += width) set(splat<B>(instead), words + j, kept + j);
    for (; j < size; ++j) set(instead, words + j, kept + j);
    return facts;
  }

  // Sums over [0, depth) of a tile; `ones` has 1 or 0 for the rows' words.
  template <bool row_zeros, bool column_zeros>
  KX_NOINLINE static void tile(const Word* a, const T* ones, const Word* b, const Word* mask,
                               index depth, T* sums) {
    V sum[height][tile_registers] = {};
    for (index k = 0; k < depth; ++k) {
      B column[tile_registers], kept[tile_registers];
      KX_UNROLL
      for (int v = 0; v < tile_registers; ++v) {
        column[v] = load<B>(b + k * width + v * lanes<V>);
        if constexpr (column_zeros) kept[v] = load<B>(mask + k * width + v * lanes<V>);
      }
      KX_UNROLL
      for (int i = 0; i < height; ++i) {
        const B row = splat<B>(a[k * height + i]);
        V one{};
        if constexpr (row_zeros) one = splat<V>(ones[k * height + i]);
        KX_UNROLL
        for (int v = 0; v < tile_registers; ++v) {
          B word = B(row + column[v]);
          if constexpr (column_zeros) word = B(word & kept[v]);
          if constexpr (row_zeros) {
            sum[i][v] = V(bit_cast<V>(word) * one + sum[i][v]);
          } else {
            sum[i][v] = V(bit_cast<V>(word) + sum[i][v]);
          }
        }
      }
    }
    KX_UNROLL
    for (int i = 0; i < height; ++i) {
      KX_UNROLL
      for (int v = 0; v < tile_registers; ++v) store(sums + i * width + v * lanes<V>, sum[i][v]);
    }
  }
};

class ProductEngine {
 public:
  explicit ProductEngine(const Call& call) : call_(call), plan_(call) {}

  // Numbers of the format F, added as ones of Acc.
  template <class F, class Acc>
  long long real(const ProductOptions& o, Number result) {
    using T = Choose<Acc::width == 64, double, float>;
    const auto load_word = [](const char* at) {
      return lengthen<F, Acc>(load<typename F::Word>(at));
    };
    const auto put = [result](char* to, T sum) { store_sum(to, result, sum); };
    const auto alone = [&](const char* a, const char* b, char* to) {
      put(to, scalar_product<F, Acc>(a, b, o));
    };
    return sums<T, T, __is_same(F, Acc)>(o, load_word, put, alone);
  }

  template <class N>
  long long whole(const ProductOptions& o, bool narrow) {
    using Word = typename N::Word;
    const auto put = [narrow](char* to, Word64 sum) {
      if (narrow) {
        store(to, Word32(sum));
      } else {
        store(to, sum);
      }
    };
    const WholeProduct<N> product = {o};
    const Operand *x = call_.operand, *y = x + 1;
    const auto alone = [&](const char* a, const char* b, char* to) {
      Word64 sum = 0;
      for (index k = 0; k < plan_.k; ++k) {
        sum += product(load<Word>(a + k * x->step), load<Word>(b + k * y->step));
      }
      put(to, sum);
    };
    if constexpr (N::width <= 16) {
      using T = Choose<N::width == 8, float, double>;
      using F = typename SumFormat<T>::type;
      const auto load_word = [](const char* at) {
        return bit_cast<typename F::Word>(real_of<N, T>(load<Word>(at)));
      };
      // With an offset products are rounded to integers; cut fractions may gain half a unit.
      ProductOptions plain = o;
      if (o.offset != 0 || o.cut.bits >= 0) plain.iterations = 1;
      return sums<T, Word64, false>(plain, load_word, put, alone);
    } else {
      return one_by_one(alone);
    }
  }

 private:
  const Call& call_;
  MatrixPlan plan_;

  template <class F, class Acc>
  auto scalar_product(const char* a, const char* b, const ProductOptions& o) const {
    using W = typename Acc::Word;
    using T = Choose<Acc::width == 64, double, float>;
    constexpr int width = register_bytes / int(sizeof(T));
    using V = Pack<T, width>;
    const Operand *x = call_.operand, *y = x + 1;
    alignas(64) W first[element_block], second[element_block];
    V sum{};
    for (index k = 0; k < plan_.k; k += element_block) {
      const int count = plan_.k - k < element_block ? int(plan_.k - k) : element_block;
      const int padded = (count + width - 1) / width * width;
      for (int i = 0; i < count; ++i) {
        first[i] = lengthen<F, Acc>(load<typename F::Word>(a + (k + i) * x->step));
        second[i] = lengthen<F, Acc>(load<typename F::Word>(b + (k + i) * y->step));
      }
      for (int i = count; i < padded; ++i) first[i] = second[i] = 0;
      add_products<Acc>(first, second, padded, o, sum);
    }
    T total = 0;
    for (int i = 0; i < width; ++i) total += lane(sum, i);
    return total;
  }
  template <class Acc, class W, class V>
  static void add_products(const W* a, const W* b, int count, const ProductOptions& o, V& sum) {
    constexpr int width = lanes<V>;
    using B = bits_t<V>;
    const FloatMul<Acc> plain = {o};
    if (o.iterations == 0 && !o.ilm) {
      for (int i = 0; i < count; i += width) {
        sum = V(sum + bit_cast<V>(plain(load<B>(a + i), load<B>(b + i))));
      }
    } else if constexpr (Acc::width == 32) {
      constexpr int half = register_bytes / 8;  // numbers of double
      using H = Pack<Word32, half>;
      alignas(64) float found[width];
      const FloatIterated<Acc> iterated = {o};
      for (int i = 0; i < count; i += width) {
        for (int j = 0; j < width; j += half) {
          store(found + j, iterated(load<H>(a + i + j), load<H>(b + i + j)));
        }
        sum = V(sum + load<V>(found));
      }
    } else {
      for (int i = 0; i < count; i += width) {
        V p{};
        for (int j = 0; j < width; ++j)
          p[j] = bit_cast<double>(product_of<Acc>(a[i + j], b[i + j], o));
        sum = V(sum + p);
      }
    }
  }

  // f(a, b, out) for the places of every matrix product.
  template <class F>
  void each_matrix(const F& f) const {
    index count = 1;
    for (int d = 0; d < plan_.outer; ++d) count *= call_.shape[d];
    for (index p = 0; p < count; ++p) {
      char* at[3];
      for (int o = 0; o < 3; ++o) at[o] = call_.operand[o].data;
      index left = p;
      for (int d = plan_.outer - 1; d >= 0; --d) {
        for (int o = 0; o < 3; ++o) at[o] += left % call_.shape[d] * call_.operand[o].stride[d];
        left /= call_.shape[d];
      }
      f(at[0], at[1], at[2]);
    }
  }

  template <class Alone>
  long long one_by_one(const Alone& alone) const {
    const index rows = call_.rows, cost = plan_.k + 8;
    const index step = 16384 / cost + 1;
    parallel((rows + step - 1) / step, [&](index j) {
      const index last = (j + 1) * step < rows ? (j + 1) * step : rows;
      for (index r = j * step; r < last; ++r) {
        alone(call_.operand[0].data + offset(call_.operand[0], call_, r),
              call_.operand[1].data + offset(call_.operand[1], call_, r),
              call_.operand[2].data + offset(call_.operand[2], call_, r));
      }
    });
    return 0;
  }

  // Sum: T, or Word64 where partial sums of integers are exact in T.
  // as_they_are: words of memory are those of T.
  template <class T, class Sum, bool as_they_are, class Load, class Put, class Alone>
  long long sums(const ProductOptions& o, const Load& load_word, const Put& put,
                 const Alone& alone) const {
    const bool iterates = o.iterations > 0 || o.ilm;
    if (iterates || plan_.m < 8 || plan_.n < 2 || plan_.k == 0) return one_by_one(alone);
    bool enough = true;
    each_matrix([&](const char* a, const char* b, char* out) {
      enough = enough && matrix<T, Sum, as_they_are>(o, load_word, put, alone, a, b, out);
    });
    return enough ? 0 : -1;
  }

  template <class T, class Sum, bool as_they_are, class Load, class Put, class Alone>
  bool matrix(const ProductOptions& o, const Load& load_word, const Put& put, const Alone& alone,
              const char* a, const char* b, char* out) const {
    using P = Panels<T>;
    using Word = typename P::Word;
    using F = typename P::F;
    constexpr int height = P::height, width = P::width;
    const index depth = plan_.k, rows = (plan_.n + height - 1) / height;
    const index columns = (plan_.m + width - 1) / width;
    const index a_words = rows * height * depth, b_words = columns * width * depth;
    const index facts_words = (rows + columns) * index(sizeof(PanelFacts) / sizeof(Word));
    auto* memory = static_cast<Word*>(thread_memory(
        static_cast<unsigned long long>(2 * (a_words + b_words) + facts_words) * sizeof(Word)));
    if (memory == nullptr) return false;
    Word *const a_panels = memory, *const a_kept = a_panels + a_words;
    Word *const b_panels = a_kept + a_words, *const b_kept = b_panels + b_words;
    auto* facts = reinterpret_cast<PanelFacts*>(b_kept + b_words);
    const Operand *x = call_.operand, *y = x + 1;
    const Word bias = Word(F::one - o.offset);
    parallel(rows + columns, [&](index p) {
      if (p < rows) {
        const index first = p * height;
        const char* from = a + first * plan_.a_row;
        Word *words = a_panels + first * depth, *kept = a_kept + first * depth;
        const int count = plan_.n - first < height ? int(plan_.n - first) : height;
        P::template fill<height>(words, depth, count, nullptr, 0, [&](int i, index k) {
          return load_word(from + i * plan_.a_row + k * x->step);
        });
        facts[p] = P::prepare(words, kept, bit_cast<Word>(T(1)), depth * height, 0, o.cut, o.flush);
      } else {
        const index first = (p - rows) * width;
        const char* from = b + first * plan_.b_row;
        const int count = plan_.m - first < width ? int(plan_.m - first) : width;
        Word* const words = b_panels + first * depth;
        const bool beside = as_they_are && plan_.b_row == index(sizeof(Word));
        P::template fill<width>(
            words, depth, count, beside ? from : nullptr, y->step,
            [&](int i, index k) { return load_word(from + i * plan_.b_row + k * y->step); });
        facts[p] = P::prepare(words, b_kept + first * depth, Word(~Word(0)), depth * width, bias,
                              o.cut, o.flush);
      }
    });
    const index groups = (rows + panel_group - 1) / panel_group;
    parallel(groups * columns, [&](index job) {
      const index column = job / groups, group = job % groups;
      const index last = (group + 1) * panel_group < rows ? (group + 1) * panel_group : rows;
      const PanelFacts& right = facts[rows + column];
      alignas(64) T tile[height * width];
      alignas(64) Sum total[height * width];
      for (index row = group * panel_group; row < last; ++row) {
        const PanelFacts& left = facts[row];
        const long long shift = static_cast<long long>(F::one) - o.offset;
        const long long low = left.least - shift + right.least,
                        high = left.most - shift + right.most;
        const bool ordinary = left.ordinary && right.ordinary &&
                              low >= static_cast<long long>(F::least) &&
                              high < static_cast<long long>(F::infinity);
        const index i0 = row * height, j0 = column * width;
        const int count = plan_.n - i0 < height ? int(plan_.n - i0) : height;
        const int across = plan_.m - j0 < width ? int(plan_.m - j0) : width;
        constexpr bool plainly = __is_same(Sum, T);
        if (!plainly || !ordinary || depth == 0) {
          for (int s = 0; s < height * width; ++s) total[s] = Sum(0);
        }
        for (index k = 0; ordinary && k < depth; k += depth_block) {
          const index part = depth - k < depth_block ? depth - k : depth_block;
          const Word *ap = a_panels + i0 * depth + k * height,
                     *bp = b_panels + j0 * depth + k * width;
          const T* ones = reinterpret_cast<const T*>(a_kept + i0 * depth + k * height);
          const Word* mask = b_kept + j0 * depth + k * width;
          T* to = tile;
          if constexpr (plainly) to = k == 0 ? total : tile;
          if (right.zeros) {
            P::template tile<true, true>(ap, ones, bp, mask, part, to);
          } else if (left.zeros) {
            P::template tile<true, false>(ap, ones, bp, mask, part, to);
          } else {
            P::template tile<false, false>(ap, ones, bp, mask, part, to);
          }
          if constexpr (!plainly) {
            for (int s = 0; s < height * width; ++s) {
              total[s] += static_cast<Word64>(static_cast<long long>(tile[s]));
            }
          } else if (k > 0) {
            using V = typename P::V;
            for (int s = 0; s < height * width; s += lanes<V>) {
              store(total + s, V(load<V>(total + s) + load<V>(tile + s)));
            }
          }
        }
        for (int i = 0; i < count; ++i) {
          char* to = out + (i0 + i) * plan_.out_row + j0 * plan_.out_column;
          for (int j = 0; j < across; ++j, to += plan_.out_column) {
            if (ordinary) {
              put(to, total[i * width + j]);
            } else {
              alone(a + (i0 + i) * plan_.a_row, b + (j0 + j) * plan_.b_row, to);
            }
          }
        }
      }
    });
    return true;
  }
};

}  // namespace KX_ISA
}  // namespace kexue
