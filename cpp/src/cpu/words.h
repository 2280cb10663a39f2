// The loop that carries a functor on words (kexue/mitchell.h) over arrays: straight from memory to
// memory where words lie side by side, past the caches where there are many; else by way of blocks.
#pragma once

#include "elements.h"

namespace kexue {
inline namespace KX_ISA {

template <class Lane>
constexpr int words_at_once = register_bytes / int(sizeof(Lane));
template <>
constexpr int words_at_once<Single> = 1;

// Writes a pack to where it is aligned to its size.
template <class V>
KX_FN void stream(void* to, V v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) {
    return _mm512_stream_si512(static_cast<__m512i*>(to), bit_cast<__m512i>(v));
  }
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32) {
    return _mm256_stream_si256(static_cast<__m256i*>(to), bit_cast<__m256i>(v));
  } else if constexpr (sizeof(V) == 16) {
    return _mm_stream_si128(static_cast<__m128i*>(to), bit_cast<__m128i>(v));
  }
#endif
  store(to, v);
}

template <class W>
inline void gather_words(W* to, const char* from, index step, int count) {
  for (int i = 0; i < count; ++i) to[i] = load<W>(from + i * step);
}
template <class W>
inline void scatter_words(char* to, index step, const W* from, int count) {
  for (int i = 0; i < count; ++i) store(to + i * step, from[i]);
}

template <class Fn, int inputs, int outputs>
struct WordLoop {
  using In = typename Fn::In;
  using Out = typename Fn::Out;
  static constexpr int operands = inputs + outputs;
  static constexpr int width = words_at_once<typename Fn::Lane>;
  using V = Pack<In, width>;
  using R = Pack<Out, width>;

  const Fn& fn;
  const Call& call;
  const Operand* op[operands];  // inputs, then outputs

  template <bool streams>
  KX_FN void whole(const In* const* from, Out* const* to, index i) const {
    V x[inputs];
    KX_UNROLL
    for (int k = 0; k < inputs; ++k) x[k] = load<V>(from[k] + i);
    const auto r = apply<inputs>(fn, x);
    KX_UNROLL
    for (int k = 0; k < outputs; ++k) {
      if constexpr (streams) {
        stream(to[k] + i, R(result_of(r, k)));
      } else {
        store(to[k] + i, R(result_of(r, k)));
      }
    }
  }
  void part(const In* const* from, Out* const* to, index i, int count) const {
    V x[inputs];
    for (int k = 0; k < inputs; ++k) {
      x[k] = load_part<V>(from[k] + i, count * int(sizeof(In)));
    }
    const auto r = apply<inputs>(fn, x);
    for (int k = 0; k < outputs; ++k) {
      store_part(to[k] + i, R(result_of(r, k)), count * int(sizeof(Out)));
    }
  }
  void run(const In* const* from, Out* const* to, index count, bool streams) const {
    index i = 0;
    if constexpr (outputs == 1 && width > 1) {
      if (streams) {
        const index head = to_next_line(reinterpret_cast<const char*>(to[0])) / index(sizeof(Out));
        for (; i < head && i < count; i += width) {
          part(from, to, i, int(head - i < width ? head - i : width));
        }
        if (i > head) i = head;
        for (; i + width <= count; i += width) whole<true>(from, to, i);
      }
    }
    for (; i + width <= count; i += width) whole<false>(from, to, i);
    if (i < count) part(from, to, i, int(count - i));
  }

  void block(const Walk<operands>& at, index count, const bool* direct, bool streams) const {
    alignas(64) In in[inputs][element_block];
    alignas(64) Out out[outputs][element_block];
    const In* from[inputs];
    Out* to[outputs];
    for (int k = 0; k < inputs; ++k) {
      from[k] = direct[k] ? reinterpret_cast<const In*>(at.at(k)) : in[k];
      if (!direct[k]) gather_words(in[k], at.at(k), at.step(k), int(count));
    }
    for (int k = 0; k < outputs; ++k) {
      const int o = inputs + k;
      to[k] = direct[o] ? reinterpret_cast<Out*>(at.at(o)) : out[k];
    }
    run(from, to, count, streams && direct[inputs]);
    for (int k = 0; k < outputs; ++k) {
      const int o = inputs + k;
      if (!direct[o]) scatter_words(at.at(o), at.step(o), out[k], int(count));
    }
  }
  void job(index first, index last, bool streams) const {
    Walk<operands> at(call, op, first);
    bool direct[operands], all = true;
    for (int k = 0; k < operands; ++k) {
      const index size = k < inputs ? sizeof(In) : sizeof(Out);
      direct[k] = at.step(k) == size;
      if (k >= inputs && reinterpret_cast<Word64>(op[k]->data) % size != 0) streams = false;
      all &= direct[k];
    }
    while (first < last) {
      index count = at.left() < last - first ? at.left() : last - first;
      if (!all && count > element_block) count = element_block;
      block(at, count, direct, streams);
      at.advance(count);
      first += count;
    }
    if (streams) stream_done();
  }
  void all() const {
    const bool streams = call.rows * index(sizeof(Out)) >= stream_bytes;
    parallel((call.rows + elements_a_job - 1) / elements_a_job, [&](index j) {
      const index first = j * elements_a_job, last = first + elements_a_job;
      job(first, last < call.rows ? last : call.rows, streams);
    });
  }
};

class WordEngine {
 public:
  explicit WordEngine(const Call& call) : call_(call) {}

  // fn over all elements of the first `inputs` operands, to the `outputs` after them.
  template <int inputs, int outputs, class Fn>
  long long map(const Fn& fn) {
    WordLoop<Fn, inputs, outputs> loop = {fn, call_, {}};
    for (int k = 0; k < inputs + outputs; ++k) loop.op[k] = &call_.operand[k];
    loop.all();
    return 0;
  }

 private:
  const Call& call_;
};

}  // namespace KX_ISA
}  // namespace kexue
