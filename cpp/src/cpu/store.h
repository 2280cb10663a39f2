// How elements come from memory and how results get there: other types, any distance from one to
// the next, and past the caches where there are more than these hold.
#pragma once

#include <cstddef>

#include "../engine.h"

namespace kexue {
inline namespace KX_ISA {

// From so many bytes of results on, stores go past the caches: a plain store reads the line first.
constexpr index stream_bytes = 8 << 20;
constexpr int stage_size = 1024;  // elements that are on their way
constexpr int line_bytes = 64;

// The type that rows of T are computed as.
template <class T>
struct ComputedType {
  using type = T;
};
template <>
struct ComputedType<Half> {
  using type = float;
};
template <>
struct ComputedType<Bfloat16> {
  using type = float;
};

// Calls f with a value of the type in memory: T itself, or a 16-bit one computed as float.
template <class T, class F>
KX_FN void dispatch(Dtype dtype, F f) {
  if constexpr (__is_same(T, float)) {
    if (dtype == float16) return f(Half{});
    if (dtype == bfloat16) return f(Bfloat16{});
  }
  f(T{});
}

template <class V>
constexpr bool is_pair = false;
template <class V>
constexpr bool is_pair<Pair<V>> = true;

// Writes a whole line, which nobody will read soon; `to` is aligned.
KX_FN void stream_line(char* to, const char* from) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
#elif defined(__AVX2__)
  for (int b = 0; b < line_bytes; b += 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + b),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + b)));
  }
#else
  __builtin_memcpy(to, from, line_bytes);
#endif
}
// After streaming, before anybody else is told that the results are there.
KX_FN void stream_done() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}
KX_FN index to_next_line(const char* at) {
  return -static_cast<index>(reinterpret_cast<unsigned long long>(at)) & (line_bytes - 1);
}
inline void stream_run(char* to, const char* from, index bytes) {
  const index head = to_next_line(to) < bytes ? to_next_line(to) : bytes;
  __builtin_memcpy(to, from, size_t(head));
  index at = head;
  for (; at + line_bytes <= bytes; at += line_bytes) stream_line(to + at, from + at);
  __builtin_memcpy(to + at, from + at, size_t(bytes - at));
}

template <class S, class T>
inline void widen_run(T* to, const char* from, int count) {
  if constexpr (sizeof(S) == sizeof(T)) {
    __builtin_memcpy(to, from, unsigned(count) * sizeof(T));
  } else {
    using V = Pack<T, register_bytes / int(sizeof(T))>;
    int i = 0;
    for (; i + lanes<V> <= count; i += lanes<V>) {
      store(to + i, load_wide<S, V>(from + i * index(sizeof(S))));
    }
    for (; i < count; ++i) to[i] = load_wide<S, T>(from + i * index(sizeof(S)));
  }
}
template <class S, class T>
inline void narrow_run(char* to, const T* from, int count, bool streams) {
  if constexpr (sizeof(S) == sizeof(T)) {
    const auto* bytes = reinterpret_cast<const char*>(from);
    const index size = count * index(sizeof(T));
    if (streams) {
      stream_run(to, bytes, size);
    } else {
      __builtin_memcpy(to, bytes, size_t(size));
    }
  } else {
    using V = Pack<T, register_bytes / int(sizeof(T))>;
    int i = 0;
    for (; i + lanes<V> <= count; i += lanes<V>) {
      store_wide<S>(to + i * index(sizeof(S)), load<V>(from + i));
    }
    for (; i < count; ++i) store_wide<S>(to + i * index(sizeof(S)), from[i]);
  }
}
template <class S, class T>
inline void gather_run(T* to, const char* from, index step, int count) {
  if (step == index(sizeof(S))) {
    widen_run<S>(to, from, count);
  } else {
    for (int i = 0; i < count; ++i) to[i] = load_wide<S, T>(from + i * step);
  }
}

// A square of elements, its rows a pitch apart, with rows and columns exchanged.
template <class T>
constexpr int square = register_bytes / int(sizeof(T)) < 4 ? 2 : 4;
template <class T>
KX_FN void transpose(const void* from, index from_pitch, void* to, index to_pitch) {
  constexpr int size = square<T>;
  using V = Pack<T, size>;
  using M = Pack<typename ValueTraits<T>::Bits, size>;
  V row[size];
  KX_UNROLL
  for (int j = 0; j < size; ++j) row[j] = load<V>(static_cast<const char*>(from) + j * from_pitch);
  auto* out = static_cast<char*>(to);
  if constexpr (size == 2) {
    store(out, __builtin_shuffle(row[0], row[1], M{0, 2}));
    store(out + to_pitch, __builtin_shuffle(row[0], row[1], M{1, 3}));
  } else {
    const V a = __builtin_shuffle(row[0], row[2], M{0, 4, 1, 5});
    const V b = __builtin_shuffle(row[1], row[3], M{0, 4, 1, 5});
    const V c = __builtin_shuffle(row[0], row[2], M{2, 6, 3, 7});
    const V d = __builtin_shuffle(row[1], row[3], M{2, 6, 3, 7});
    store(out, __builtin_shuffle(a, b, M{0, 4, 1, 5}));
    store(out + to_pitch, __builtin_shuffle(a, b, M{2, 6, 3, 7}));
    store(out + 2 * to_pitch, __builtin_shuffle(c, d, M{0, 4, 1, 5}));
    store(out + 3 * to_pitch, __builtin_shuffle(c, d, M{2, 6, 3, 7}));
  }
}

// f(i) for squares that begin at i and cover `len` elements, the last of which may cover some
// twice. Returns how many are covered: none where there is no room for a square.
template <class T, class F>
KX_FN int each_square(int len, F f) {
  if (len < square<T>) return 0;
  int i = 0;
  for (; i + square<T> <= len; i += square<T>) f(i);
  if (i < len) f(len - square<T>);
  return len;
}

// Where steps by rows write: straight to memory if it takes them as they are, else by way of a
// stage. Streamed results wait there for some lines to be full, also across rows.
template <class T, class V>
class RowSink {
 public:
  RowSink(const Operand* first, const Operand* second, Dtype dtype, bool streams)
      : operands_{first, second}, dtype_(dtype), streams_(streams) {
    direct_ = !streams;
    for (const Operand* op : operands_) {
      if (op)
        dispatch<T>(dtype, [&](auto s) {
          direct_ &= sizeof s == sizeof(T) && op->step == index(sizeof s);
        });
    }
  }
  ~RowSink() {
    if (filled_) flush();
    if (streams_) stream_done();
  }
  RowSink(const RowSink&) = delete;
  RowSink& operator=(const RowSink&) = delete;

  // A stretch of a row, `at` bytes from the beginning of either operand.
  template <class Step>
  KX_FN void put(const index (&at)[2], int len, const Step& step) {
    for (int i = 0; i < len;) {
      char* to[2];
      const int end = direct_ ? len : i + room(at, i, len - i);
      for (int k = 0; k < 2; ++k) {
        const Operand* op = operands_[k];
        T* const stage = stage_[k] + filled_ - i;
        to[k] = direct_ ? (op ? op->data + at[k] : nullptr) : reinterpret_cast<char*>(stage);
      }
      run(step, i, end, to);
      if (!direct_) filled_ += end - i;
      i = end;
    }
  }

 private:
  static constexpr int width = lanes<V>;

  index step_of(int k) const { return operands_[k] ? operands_[k]->step : 0; }
  // How many of the next elements the stage takes, emptied first if they do not belong there.
  __attribute__((noinline)) int room(const index (&at)[2], int i, int wanted) {
    if (filled_ && (!follows(at, i) || filled_ + wanted > stage_size)) flush();
    if (!filled_) {
      for (int k = 0; k < 2; ++k) at_[k] = at[k] + i * step_of(k);
    }
    return wanted < stage_size - filled_ ? wanted : stage_size - filled_;
  }
  bool follows(const index (&at)[2], int i) const {
    bool yes = true;
    for (int k = 0; k < 2; ++k) yes &= at[k] + i * step_of(k) == at_[k] + filled_ * step_of(k);
    return yes;
  }

  template <class Step>
  KX_FN void run(const Step& step, int i, int end, char* const (&to)[2]) const {
    for (; i + width <= end; i += width) {
      auto value = step(Full{i});
      if constexpr (is_pair<Plain<decltype(value)>>) {
        store_wide<T, V>(to[0] + i * index(sizeof(T)), value.first);
        store_wide<T, V>(to[1] + i * index(sizeof(T)), value.second);
      } else {
        store_wide<T, V>(to[0] + i * index(sizeof(T)), value);
      }
    }
    if (i < end) {
      const Part at = {i, end - i};
      auto value = step(at);
      if constexpr (is_pair<Plain<decltype(value)>>) {
        store_tail(to[0], at, value.first);
        store_tail(to[1], at, value.second);
      } else {
        store_tail(to[0], at, value);
      }
    }
  }
  KX_FN static void store_tail(char* to, Part at, V value) {
    using Raw = Pack<T, width>;
    store_part<Raw>(to + at.i * index(sizeof(T)), convert<Raw>(value), at.count * int(sizeof(T)));
  }

  void flush() {
    for (int k = 0; k < 2; ++k) {
      if (operands_[k] == nullptr) continue;
      const Operand& op = *operands_[k];
      dispatch<T>(dtype_, [&](auto stored) {
        using S = decltype(stored);
        char* to = op.data + at_[k];
        if (op.step == index(sizeof(S))) {
          narrow_run<S>(to, stage_[k], filled_, streams_);
        } else {
          for (int i = 0; i < filled_; ++i) store_wide<S>(to + i * op.step, stage_[k][i]);
        }
      });
    }
    filled_ = 0;
  }

  const Operand* operands_[2];
  Dtype dtype_;
  bool streams_, direct_;
  int filled_ = 0;
  index at_[2] = {};  // where the stage's first elements belong
  alignas(64) T stage_[2][stage_size + width];
};

}  // namespace KX_ISA
}  // namespace kexue
