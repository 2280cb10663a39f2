// Exact attention. A job works on a tile of scores at a time: keys by rows, queries by columns, so
// that whatever is done for each query runs along registers and never across them.
#include "kexue/exact.h"
#include "product.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

constexpr int tile = 64, span = 192;  // queries and keys of a tile of scores

template <class T>
struct Attention {
  using V = typename Panel<T>::V;
  static constexpr int width = Panel<T>::width;

  const Call& call;
  const Operand *q, *k, *v, *scales, *mask, *bias;
  index queries, keys, d, e;
  T scale;
  Sight sight;

  Attention(const Call& call, const Operand* op, const double* parameter)
      : call(call),
        q(op),
        k(op + 1),
        v(op + 2),
        scales(op + 3),
        mask(op + 4),
        bias(op + 5),
        queries(call['l']),
        keys(call['s']),
        d(call['d']),
        e(call['v']),
        scale(T(parameter[0])),
        sight(Sight::of(parameter[1], parameter[2])) {}
  Attention(const Attention&) = delete;
  Attention& operator=(const Attention&) = delete;

  // Scales of `count` queries from `query` on.
  void scale_of(index row, index query, int count, T* to) const {
    for (int i = 0; i < count; ++i) to[i] = scale;
    if (!scales->data) return;
    T own[tile];
    fetch(column(call, *scales, row).from(query), count, 1, own, 1);
    for (int i = 0; i < count; ++i) to[i] *= own[i];
  }
  // Keys or values of a tile, with zeros for those that are masked. Returns how many are not.
  int take(index row, const Operand& op, index key, int count, index columns, T* to,
           index pitch) const {
    fetch(matrix(call, op, row).from(key), count, columns, to, pitch);
    if (!mask->data) return count;
    const View flags = column(call, *mask, row).from(key);
    int left = 0;
    for (int j = 0; j < count; ++j) {
      const bool kept = flags.data[j * flags.pitch] != 0;
      left += kept;
      if (!kept) {
        for (index c = 0; c < pitch; ++c) to[j * pitch + c] = 0;
      }
    }
    return left;
  }
  // Whether rows of a view are a panel as they are.
  bool direct(const View& from, index columns, bool as_left) const {
    const auto multiple = [](index bytes) { return bytes % index(sizeof(T)) == 0; };
    bool plain = !mask->data && multiple(from.pitch) && multiple(from.step) &&
                 multiple(index(reinterpret_cast<unsigned long long>(from.data)));
    dispatch<T>(from.type, [&](auto stored) { plain &= sizeof stored == sizeof(T); });
    if (as_left) return plain;
    return plain && from.step == index(sizeof(T)) && columns % width == 0;
  }
  static const T* numbers(const View& from) {
    return static_cast<const T*>(static_cast<const void*>(from.data));
  }
  // The scores of a tile: products, then biases, then -inf for what is not seen.
  void score(index row, index query, int columns, index key, int count, Left<T> keys_panel,
             const T* q_turned, index pitch, T* scores) const {
    product(false, count, int(pitch), int(d), keys_panel, q_turned, pitch, scores, pitch);
    if (bias->data) {
      const View from = matrix(call, *bias, row).from(query);
      dispatch<T>(from.type, [&](auto stored) {
        using S = decltype(stored);
        for (int i = 0; i < columns; ++i) {
          const char* at = from.data + i * from.pitch + key * from.step;
          for (int j = 0; j < count; ++j) {
            scores[j * pitch + i] += load_wide<S, T>(at + j * from.step);
          }
        }
      });
    }
    if (sees_all(row, query, columns, key, count)) return;
    for (int j = 0; j < count; ++j) {
      T* const own = scores + j * pitch;
      const index first = kept(row, key + j) ? sight.first(key + j) - query : columns;
      for (index i = 0; i < first && i < columns; ++i) own[i] = T(-infinity);
      const index owner = sight.owner(key + j) - query;
      if (owner >= 0 && owner < columns) own[owner] = T(-infinity);
    }
  }
  bool kept(index row, index key) const {
    const View flags = column(call, *mask, row);
    return !flags.data || flags.data[key * flags.pitch] != 0;
  }
  bool sees(index row, index query, index key) const {
    return sight.sees(query, key) && kept(row, key);
  }
  bool sees_all(index row, index query, int columns, index key, int count) const {
    bool all = sight.all(query, columns, key, count);
    for (int j = 0; all && mask->data && j < count; ++j) all = kept(row, key + j);
    return all;
  }

  // out (columns x pitch) += weight^T values, weight (keys x queries). Values that are not finite
  // must not meet the zeros of pairs that are not seen.
  void weigh(index row, index query, int columns, index key, int count, const T* weight,
             index pitch, const T* values, index v_pitch, index e_pitch, T* out) const {
    bool plain = sees_all(row, query, columns, key, count);
    if (!plain) {
      plain = true;
      for (int j = 0; plain && j < count; ++j) plain = all_finite(values + j * v_pitch, e_pitch);
    }
    if (plain) {
      product(true, columns, int(e_pitch), count, Left<T>{weight, 1, pitch}, values, v_pitch, out,
              e_pitch);
      return;
    }
    for (int j = 0; j < count; ++j) {
      for (int i = 0; i < columns; ++i) {
        if (!sees(row, query + i, key + j)) continue;
        product(true, 1, int(e_pitch), 1, Left<T>{weight + j * pitch + i, 1, 1},
                values + j * v_pitch, v_pitch, out + i * e_pitch, e_pitch);
      }
    }
  }
  // The same with keys and queries exchanged: out (count x pitch) += weight values.
  void weigh_back(index row, index query, int columns, index key, int count, const T* weight,
                  index pitch, const T* values, index e_pitch, T* out) const {
    if (sees_all(row, query, columns, key, count) || all_finite(values, columns * e_pitch)) {
      product(true, count, int(e_pitch), columns, Left<T>{weight, pitch, 1}, values, e_pitch, out,
              e_pitch);
      return;
    }
    for (int j = 0; j < count; ++j) {
      for (int i = 0; i < columns; ++i) {
        if (!sees(row, query + i, key + j)) continue;
        product(true, 1, int(e_pitch), 1, Left<T>{weight + j * pitch + i, 1, 1},
                values + i * e_pitch, e_pitch, out + j * e_pitch, e_pitch);
      }
    }
  }

  struct Room {  // of a forward job
    T *rows, *q_turned, *keys, *values, *scores, *total;
    Room(Carver<T>& memory, index d_pitch, index e_pitch, index pitch)
        : rows(memory.take(tile * d_pitch)),
          q_turned(memory.take(d_pitch * pitch)),
          keys(memory.take(span * d_pitch)),
          values(memory.take(span * e_pitch)),
          scores(memory.take(span * pitch)),
          total(memory.take(tile * e_pitch)) {}
  };

  bool forward_job(index row, index query, const Operand& out, const Operand& lse) const {
    const int columns = int(queries - query < tile ? queries - query : tile);
    const index d_pitch = Panel<T>::padded(d), e_pitch = Panel<T>::padded(e);
    const index pitch = Panel<T>::padded(columns);
    Carver<T> size(nullptr);
    Room(size, d_pitch, e_pitch, pitch);
    void* const block = thread_memory(static_cast<unsigned long long>(size.bytes()));
    if (!block) return false;
    Carver<T> memory(block);
    const Room room(memory, d_pitch, e_pitch, pitch);

    T factor[tile];
    scale_of(row, query, columns, factor);
    fetch(matrix(call, *q, row).from(query), columns, d, room.rows, d_pitch);
    for (index i = columns * d_pitch; i < pitch * d_pitch; ++i) room.rows[i] = 0;
    for (int i = 0; i < columns; ++i) multiply(room.rows + i * d_pitch, d_pitch, factor[i]);
    turn(room.rows, d_pitch, pitch, d_pitch, room.q_turned, pitch);
    alignas(64) T top[tile], mass[tile];
    for (int i = 0; i < tile; ++i) {
      top[i] = T(-infinity);
      mass[i] = 0;
    }
    for (index i = 0; i < columns * e_pitch; ++i) room.total[i] = 0;

    const index stop = sight.stop(query + columns - 1, keys);
    const View k_rows = matrix(call, *k, row), v_rows = matrix(call, *v, row);
    const bool k_direct = direct(k_rows, d, true), v_direct = direct(v_rows, e, false);
    for (index key = 0; key < stop; key += span) {
      const int count = int(stop - key < span ? stop - key : span);
      Left<T> keys_panel = {room.keys, d_pitch, 1};
      if (k_direct) {
        keys_panel = {numbers(k_rows.from(key)), k_rows.pitch / index(sizeof(T)),
                      k_rows.step / index(sizeof(T))};
      } else if (!take(row, *k, key, count, d, room.keys, d_pitch)) {
        continue;
      }
      const T* values = room.values;
      index v_pitch = e_pitch;
      if (v_direct) {
        values = numbers(v_rows.from(key));
        v_pitch = v_rows.pitch / index(sizeof(T));
      } else {
        take(row, *v, key, count, e, room.values, e_pitch);
      }
      score(row, query, columns, key, count, keys_panel, room.q_turned, pitch, room.scores);
      alignas(64) T fade[tile];
      for (index i = 0; i < pitch; i += width) {
        const V before = load<V>(top + i);
        V most = before, other = before;  // two, that need not wait for each other
        const T* at = room.scores + i;
        int j = 0;
        for (; j + 2 <= count; j += 2, at += 2 * pitch) {
          most = maximum(load<V>(at), most);
          other = maximum(load<V>(at + pitch), other);
        }
        if (j < count) most = maximum(load<V>(at), most);
        most = maximum(other, most);
        const V shift = select(most == splat<V>(-infinity), V{}, most);
        V sum{};
        for (j = 0; j < count; ++j) {
          const V p = exp_up_to(V(load<V>(room.scores + j * pitch + i) - shift));
          store(room.scores + j * pitch + i, p);
          sum += p;
        }
        const V down = exp_up_to(V(before - shift));
        store(fade + i, down);
        store(top + i, most);
        store(mass + i, V(load<V>(mass + i) * down + sum));
      }
      for (int i = 0; i < columns; ++i) {
        if (fade[i] != 1) multiply(room.total + i * e_pitch, e_pitch, fade[i]);
      }
      weigh(row, query, columns, key, count, room.scores, pitch, values, v_pitch, e_pitch,
            room.total);
    }
    for (int i = 0; i < columns; ++i) {
      T* const own = room.total + i * e_pitch;
      if (mass[i] == 0) {  // of a row without weight nothing is read
        for (index c = 0; c < e_pitch; ++c) own[c] = 0;
        top[i] = T(-infinity);
      } else {
        multiply(own, e_pitch, 1 / mass[i]);
        top[i] += log(mass[i]);
      }
    }
    put(matrix(call, out, row).from(query), columns, e, room.total, e_pitch);
    if (lse.data) put(column(call, lse, row).from(query), columns, 1, top, 1);
    return true;
  }

  struct Back {  // of a backward job
    T *rows, *q_panel, *q_turned, *g_panel, *g_turned, *keys, *values, *scores, *slopes, *dk, *dv;
    Back(Carver<T>& memory, index d_pitch, index e_pitch)
        : rows(memory.take(tile * (d_pitch > e_pitch ? d_pitch : e_pitch))),
          q_panel(memory.take(tile * d_pitch)),
          q_turned(memory.take(d_pitch * tile)),
          g_panel(memory.take(tile * e_pitch)),
          g_turned(memory.take(e_pitch * tile)),
          keys(memory.take(span * d_pitch)),
          values(memory.take(span * e_pitch)),
          scores(memory.take(span * tile)),
          slopes(memory.take(span * tile)),
          dk(memory.take(span * d_pitch)),
          dv(memory.take(span * e_pitch)) {}
  };

  // Keys from `first` to `last`: their gradients, and what they add to dq, in `sums` (queries x
  // d_pitch) that begins with zeros.
  bool backward_job(index row, index first, index last, const Operand* given, const Operand* to,
                    T* sums) const {
    const index d_pitch = Panel<T>::padded(d), e_pitch = Panel<T>::padded(e);
    Carver<T> size(nullptr);
    Back(size, d_pitch, e_pitch);
    void* const block = thread_memory(static_cast<unsigned long long>(size.bytes()));
    if (!block) return false;
    Carver<T> memory(block);
    const Back room(memory, d_pitch, e_pitch);
    const Operand &g = given[0], &out = given[1], &lse = given[2];

    for (index key = first; key < last; key += span) {
      const int all = int(last - key < span ? last - key : span);
      for (index i = 0; i < all * d_pitch; ++i) room.dk[i] = 0;
      for (index i = 0; i < all * e_pitch; ++i) room.dv[i] = 0;
      const int left = take(row, *k, key, all, d, room.keys, d_pitch);
      take(row, *v, key, all, e, room.values, e_pitch);
      const index from = sight.first(key) / tile * tile;
      for (index query = from; query < queries && (left || to[3].data); query += tile) {
        const int columns = int(queries - query < tile ? queries - query : tile);
        // Later keys are not seen; a gradient for biases wants their zeros.
        const index end = to[3].data ? last : sight.stop(query + columns - 1, last);
        const int count = int(end - key < all ? end - key : all);
        alignas(64) T factor[tile], level[tile] = {}, delta[tile] = {};
        scale_of(row, query, columns, factor);
        fetch(matrix(call, g, row).from(query), columns, e, room.g_panel, e_pitch);
        fetch(matrix(call, out, row).from(query), columns, e, room.rows, e_pitch);
        fetch(column(call, lse, row).from(query), columns, 1, level, 1);
        for (int i = 0; i < columns; ++i) {
          T* const own = room.g_panel + i * e_pitch;
          if (level[i] == T(-infinity)) {  // sees nothing
            for (index c = 0; c < e_pitch; ++c) own[c] = 0;
            level[i] = T(infinity);
          }
          V sum{};
          for (index c = 0; c < e_pitch; c += width) {
            sum += load<V>(own + c) * load<V>(room.rows + i * e_pitch + c);
          }
          delta[i] = sum_of_lanes(sum);
        }
        fetch(matrix(call, *q, row).from(query), columns, d, room.q_panel, d_pitch);
        for (int i = 0; i < columns; ++i) multiply(room.q_panel + i * d_pitch, d_pitch, factor[i]);
        for (index i = columns * d_pitch; i < tile * d_pitch; ++i) room.q_panel[i] = 0;
        for (index i = columns * e_pitch; i < tile * e_pitch; ++i) room.g_panel[i] = 0;
        turn(room.q_panel, d_pitch, tile, d_pitch, room.q_turned, tile);
        turn(room.g_panel, e_pitch, tile, e_pitch, room.g_turned, tile);
        score(row, query, columns, key, count, Left<T>{room.keys, d_pitch, 1}, room.q_turned, tile,
              room.scores);
        product(false, count, tile, int(e), Left<T>{room.values, e_pitch, 1}, room.g_turned, tile,
                room.slopes, tile);
        for (int j = 0; j < count; ++j) {
          for (int i = 0; i < tile; i += width) {
            T *const at = room.scores + j * tile + i, *const change = room.slopes + j * tile + i;
            const PairSlope<V> pair(load<V>(at), load<V>(level + i), load<V>(change),
                                    load<V>(delta + i));
            store(at, pair.weight);
            store(change, pair.slope);
          }
        }
        if (to[3].data)
          put_turned(matrix(call, to[3], row).from(query), key, count, columns, room.slopes);
        weigh_back(row, query, columns, key, count, room.scores, tile, room.g_panel, e_pitch,
                   room.dv);
        weigh_back(row, query, columns, key, count, room.slopes, tile, room.q_panel, d_pitch,
                   room.dk);
        weigh(row, query, columns, key, count, room.slopes, tile, room.keys, d_pitch, d_pitch,
              sums + query * d_pitch);
      }
      if (to[3].data) {  // queries before the first that sees these keys
        for (index i = 0; i < span * tile; ++i) room.slopes[i] = 0;
        for (index query = 0; query < from && query < queries; query += tile) {
          const int columns = int(queries - query < tile ? queries - query : tile);
          put_turned(matrix(call, to[3], row).from(query), key, all, columns, room.slopes);
        }
      }
      put(matrix(call, to[1], row).from(key), all, d, room.dk, d_pitch);
      put(matrix(call, to[2], row).from(key), all, e, room.dv, e_pitch);
    }
    return true;
  }
  void put_turned(View to, index key, int count, int columns, const T* from) const {
    for (int j = 0; j < count; ++j) {
      const View one = {to.data + (key + j) * to.step, to.pitch, 0, to.type};
      put(one, columns, 1, from + j * tile, 1);
    }
  }
};

// Parts of a head that are worked on side by side; they depend on the sizes alone.
inline index parts_of(index heads, index blocks) {
  const index wanted = heads >= 4 ? 1 : (7 + heads) / (heads ? heads : 1);
  return wanted < blocks ? wanted : blocks > 0 ? blocks : 1;
}

template <class T>
long long forward(const Call& call) {
  const Attention<T> attention(call, call.operand, call.parameter);
  const index blocks = (attention.queries + tile - 1) / tile;
  long long failed = 0;
  parallel(call.rows * blocks, [&](index job) {
    // The last queries of a causal head see most keys; they come first.
    const index query = (blocks - 1 - job % blocks) * tile;
    if (!attention.forward_job(job / blocks, query, call.operand[6], call.operand[7])) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    }
  });
  return failed ? -1 : 0;
}

template <class T>
long long backward(const Call& call) {
  using V = typename Panel<T>::V;
  const Operand* op = call.operand;
  Operand inputs[6] = {op[1], op[2], op[3], op[6], op[7], op[8]};
  const Operand given[3] = {op[0], op[4], op[5]};
  const Attention<T> attention(call, inputs, call.parameter);
  const index d_pitch = Panel<T>::padded(attention.d);
  const index blocks = (attention.keys + span - 1) / span, parts = parts_of(call.rows, blocks);
  const index rows = attention.queries, each = rows * d_pitch;
  const Allocation memory(call.rows * parts * each * index(sizeof(T)));
  T* const sums = static_cast<T*>(memory.data);
  if (!sums) return -1;
  long long failed = 0;
  parallel(call.rows * parts, [&](index job) {
    T* const own = sums + job * each;
    for (index i = 0; i < each; ++i) own[i] = 0;
    const index part = job % parts;
    const index first = blocks * part / parts * span, after = blocks * (part + 1) / parts * span;
    const index last = after < attention.keys ? after : attention.keys;
    if (!attention.backward_job(job / parts, first, last, given, op + 9, own)) {
      __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
    }
  });
  if (failed) return -1;
  const index strips = (rows + tile - 1) / tile;
  parallel(call.rows * strips, [&](index job) {
    const index row = job / strips, query = job % strips * tile;
    const int count = int(rows - query < tile ? rows - query : tile);
    T* const total = sums + row * parts * each + query * d_pitch;
    T factor[tile];
    attention.scale_of(row, query, count, factor);
    for (int i = 0; i < count; ++i) {
      for (index c = 0; c < d_pitch; c += lanes<V>) {
        T* const at = total + i * d_pitch + c;
        V sum = load<V>(at);
        for (index part = 1; part < parts; ++part) sum += load<V>(at + part * each);
        store(at, V(factor[i] * sum));
      }
    }
    put(matrix(call, op[9], row).from(query), count, attention.d, total, d_pitch);
  });
  return 0;
}

constexpr Entry exact_entries[] = {
    {"softmax_attention",
     "(l,d),(s,d),(s,v),any(l)?,mask(s)?,any(l,s)?->any(l,v),any(l)?",
     3,
     {forward<double>, forward<float>, forward<float>, forward<float>}},
    {"softmax_attention_vjp",
     "(l,v),(l,d),(s,d),(s,v),any(l,v),any(l),any(l)?,mask(s)?,any(l,s)?"
     "->any(l,d),any(s,d),any(s,v),any(l,s)?",
     3,
     {backward<double>, backward<float>, backward<float>, backward<float>}},
};

}  // namespace

extern const Table exact_table;
const Table exact_table = {"exact", exact_entries, sizeof exact_entries / sizeof(Entry)};

}  // namespace KX_ISA
}  // namespace kexue
