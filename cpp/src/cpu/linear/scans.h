// A scan takes sources (keys with values, or for gradients queries with their share of g) into a
// state S = sum psi v^T, z = sum psi t, and lets readers read it: forwards for results and dq, from
// the end for dk and dv, with the same text.
//
// Where readers see all sources but their own, none is taken away again: each chunk reads a state
// that was merged of the sources before its own and of those after them.
//
// "efficient" has a denominator for each feature: what a query sees is divided by its own z, so
// that results need no normaliser, and gradients for z are a number for each query and feature.
// Causal gradients keep them for a window of queries only, and come to them once more from states
// of keys along the way.
#pragma once

#include "chunks.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

// What readers do with what they read.
enum class Task { value, query_gradient, key_gradient };

struct Places {
  View out, dq, dk, dv, dweight, slope;  // slope: sums of the gradients for logarithms, double
};

template <class T>
struct Scan : Head<T> {
  using Base = Head<T>;
  using V = typename Base::V;
  using Base::maps;
  static constexpr int width = Base::width;

  Rows sources, readers;
  index offset;  // reader i sees sources j < i + offset, or all but its own, i + offset
  bool others;
  Task task;
  bool normalize;
  T eps, direction;
  Places to;
  index step = chunk;  // readers at a time

  T *rough = nullptr, *scores = nullptr, *total = nullptr, *slope = nullptr, *pulled = nullptr;
  T* masses = nullptr;  // z of each reader, where it has one for each feature
  Block<T> source{}, reader{};
  State<T> state{};
  State<T>* spare = nullptr;  // of `others`
  // What queries leave for keys where all see all: then what they have read serves for both.
  State<T> onward{};
  bool started = false;  // with a state that is not empty
  index done = 0;

  void rooms(Carver<T>& memory) {
    const index side = maps.d_pitch > maps.e_pitch ? maps.d_pitch : maps.e_pitch;
    rough = memory.take(chunk * side);
    scores = memory.take(chunk * chunk);
    total = memory.take(chunk * maps.e_pitch);
    slope = memory.take(maps.f * chunk);
    pulled = memory.take(maps.d_pitch * chunk);
    masses = memory.take(maps.per_feature() ? maps.d_pitch * chunk : 0);
    rooms(memory, source);
    source.tops = memory.take(Base::padded_features(maps));
    rooms(memory, reader);
    spare = states(memory, spare_states());
    if (maps.per_feature() && task == Task::key_gradient) {
      source.tails = memory.take(maps.d_pitch * chunk);
    } else if (maps.per_feature() && task == Task::query_gradient) {
      reader.tails = memory.take(maps.d_pitch * chunk);
    }
  }
  // States that `around` merges, in whose memory their handles stand first.
  static constexpr int children = 16;
  index spare_states() const {
    const index chunks = (readers.count + step - 1) / step;
    index count = 2 * (chunks < children ? chunks : children) + 4 * 7, size = step;
    for (; size * children < readers.count; size *= children) count += 2 * children;
    return others ? count : 0;
  }
  State<T>* states(Carver<T>& memory, index count) const {
    const index room = Base::state_room(maps);
    auto* const handles =
        reinterpret_cast<State<T>*>(memory.take(count * index(sizeof(State<T>) / sizeof(T))));
    T* const at = memory.take(count * room);
    for (index k = 0; at && k < count; ++k) handles[k] = this->state_at(at + k * room);
    return handles;
  }
  void rooms(Carver<T>& memory, Block<T>& block) const {
    block.x = memory.take(maps.d_pitch * chunk);
    block.features = memory.take(maps.f * chunk);
    block.values = memory.take(chunk * maps.e_pitch);
    block.turned = memory.take(maps.e_pitch * chunk);
  }

  double place_of(index source_row) const {
    const View& sums = sources.query ? sources.place : sources.decay;
    if (!sums.data || sources.count == 0) return 0;
    const index last = sources.count - 1;
    const index i = source_row < 0 ? 0 : source_row > last ? last : source_row;
    return kexue::load<double>(sums.data + i * sums.pitch);
  }
  // Starts with none of the sources before `from`.
  void start(State<T>& memory, index from) {
    this->clear(memory);
    state = memory;
    state.place = place_of(from);
    done = from;
  }
  void load_sources(index first, int count) {
    this->load(sources, first, count, state.place, true, source, rough);
    this->find_tops(source);
  }
  // Takes sources up to `stop` in.
  void absorb_until(index stop) {
    while (done < stop) {
      const int count = int(stop - done < chunk ? stop - done : chunk);
      this->move(state, place_of(done + count - 1), direction);
      load_sources(done, count);
      this->raise_all(source, state);
      this->settle(source, state);
      this->absorb(source, state);
      done += count;
    }
  }

  index inside(index i) const { return i < 0 ? 0 : i > sources.count ? sources.count : i; }
  void go(index first, index last) {
    const index start = inside(first + offset), stop = inside(last - 1 + offset);
    absorb_until(stop - (last - first) < start ? stop - (last - first) : start);
    const bool fresh = stop > done;
    const index begin = done;
    if (fresh) {
      this->move(state, place_of(stop - 1), direction);
      load_sources(done, int(stop - done));
      if (last - first > 1 && spread(start - done)) {
        const index middle = (first + last) / 2;
        go(first, middle);
        go(middle, last);
        return;
      }
      this->raise_all(source, state);
      this->settle(source, state);
    } else {
      source.count = 0;
    }
    read(first, int(last - first), begin);
    if (fresh) {
      this->absorb(source, state);
      done = stop;
    }
  }
  // Whether units rise too far between the first reader of a chunk, which sees `seen` of the
  // block's sources, and the last.
  bool spread(index seen) const {
    const bool shifted = sources.decay.data || sources.place.data || maps.kind == trigonometric;
    if (!maps.log() && !shifted) return false;
    for (index t = 0; t < (maps.log() ? maps.f : 1); ++t) {
      const T after = source.tops[t];
      if (!spreads(state.c[t], after)) continue;
      if (spreads(this->highest(source, t, seen, state.c[t]), after)) return true;
    }
    return false;
  }
  // Takes sources from `low` to `high` into a state.
  void take(State<T>& to, index low, index high) {
    state = to;
    done = low;
    absorb_until(high);
    to = state;
  }
  // Reads for readers from `first` to `last`; `outside` holds all sources but theirs, and changes.
  void around(State<T>& outside, index first, index last, State<T>* room) {
    const index count = last - first;
    if (count <= step && alone(outside, first, last)) return;
    index each = step;
    while (each * children < count) each *= children;
    if (count <= step) each = (count + 1) / 2;
    const int parts = int((count + each - 1) / each);
    const auto start = [&](int k) { return k < parts ? first + k * each : last; };
    State<T>*const own = room, *const later = own + parts, &here = later[0];
    for (int k = 0; k < parts; ++k) {
      this->clear(own[k]);
      take(own[k], inside(start(k) + offset), inside(start(k + 1) + offset));
    }
    // later[k]: from child k on, of the last its own
    const auto from = [&](int k) -> State<T>& { return k + 1 < parts ? later[k] : own[k]; };
    for (int k = parts - 2; k > 0; --k) this->merge(own[k], from(k + 1), direction, later[k]);
    for (int k = 0; k + 1 < parts; ++k) {
      this->merge(outside, from(k + 1), direction, here);
      around(here, start(k), start(k + 1), room + 2 * parts);
      this->merge(outside, own[k], direction, outside);
    }
    around(outside, start(parts - 1), last, room + 2 * parts);
  }
  // One chunk of them, unless one of their sources is so large that its reader would lose all
  // others.
  bool alone(const State<T>& outside, index first, index last) {
    const index low = inside(first + offset), high = inside(last + offset);
    state = outside;
    source.count = 0;
    if (last - first > 1 && low < high) {
      load_sources(low, int(high - low));
      if (towers(high - low)) return false;
      this->raise_all(source, state);
      this->settle(source, state);
    }
    read(first, int(last - first), low);
    return true;
  }
  // Whether the unit of all is far above that of all but one of the block's `count` sources.
  bool towers(index count) const {
    if (!maps.log() && maps.kind != trigonometric) return false;
    for (index t = 0; t < (maps.log() ? maps.f : 1); ++t) {
      const T after = source.tops[t];
      if (!spreads(state.c[t], after)) continue;
      alignas(64) T logs[chunk];
      for (index i = 0; i < chunk; i += width) kexue::store(logs + i, this->log_of(source, i, t));
      T second = state.c[t];
      bool found = false;
      for (index i = 0; i < count; ++i) {
        if (logs[i] == after && !found) {
          found = true;
        } else if (logs[i] > second) {
          second = logs[i];
        }
      }
      if (spreads(second, after)) return true;
    }
    return false;
  }
  bool sees(index reader_row, index source_row) const {
    return others ? source_row != reader_row + offset : source_row < reader_row + offset;
  }

  void mask(index first, index begin, T* pairs) const {
    for (index i = 0; others && i < chunk; ++i) {
      const index j = first + i + offset - begin;
      if (j >= 0 && j < source.count) pairs[j * chunk + i] = 0;
    }
    for (int j = 0; !others && j < source.count; ++j) {
      const index from = begin + j - offset + 1 - first;  // the first reader that sees it
      for (index i = 0; i < from && i < chunk; ++i) pairs[j * chunk + i] = 0;
    }
  }
  // f(from, count, seen) of columns of readers, of which the last sees so many sources, the others
  // fewer.
  template <class F>
  void by_halves(index first, index begin, F f) const {
    constexpr int half = chunk / 2;
    if (others || reader.columns == width || all_seen(first, begin)) {
      f(index(0), int(reader.columns), source.count);
      return;
    }
    for (index i = 0; i < chunk; i += half) {
      const index seen = first + i + half - 1 + offset - begin;
      f(i, half, seen < 0 ? 0 : seen < source.count ? int(seen) : source.count);
    }
  }
  bool all_seen(index first, index begin) const {
    return source.count == 0 || (!others && sees(first, begin + source.count - 1));
  }
  // to (rows x columns) += left(:, j) right(j, :) over sources j, for which `pairs` are weights by
  // readers; rows of `right` that are not finite must not meet zeros.
  void add_values(index first, index begin) {
    if (source.count == 0) return;
    const bool plain =
        all_seen(first, begin) || all_finite(source.values, source.count * maps.e_pitch);
    if (plain) {
      by_halves(first, begin, [&](index from, int count, int seen) {
        const int rows = int(reader.count - from < count ? reader.count - from : count);
        product(true, rows, int(maps.e_pitch), seen, Left<T>{scores + from, 1, chunk},
                source.values, maps.e_pitch, total + from * maps.e_pitch, maps.e_pitch);
      });
      return;
    }
    for (int i = 0; i < reader.count; ++i) {
      const auto add = [&](index from, index stop) {
        from = from < 0 ? 0 : from;
        stop = stop > source.count ? source.count : stop;
        if (from >= stop) return;
        product(true, 1, int(maps.e_pitch), int(stop - from),
                Left<T>{scores + from * chunk + i, 1, chunk}, source.values + from * maps.e_pitch,
                maps.e_pitch, total + i * maps.e_pitch, maps.e_pitch);
      };
      const index seen = first + i + offset - begin;
      add(0, seen);
      if (others) add(seen + 1, source.count);
    }
  }

  void read(index first, int count, index begin) {
    const double place = state.place;
    this->load(readers, first, count, place, task == Task::key_gradient, reader, rough);
    // Rows that see nothing take no part.
    bool dead[chunk];
    index live = state.live + (started ? 1 : 0);
    int next = 0;
    for (; others && next < source.count; ++next) live += source.keep[next] != 0;
    for (int i = 0; i < count; ++i) {
      while (next < source.count && sees(first + i, begin + next)) {
        live += source.keep[next++] != 0;
      }
      const index own = others ? first + i + offset - begin : -1;
      const bool one = own >= 0 && own < source.count && source.keep[own] != 0;
      dead[i] = live == index(one);
    }
    alignas(64) T top[chunk], mass[chunk];
    if (maps.per_feature() && task != Task::key_gradient) {
      to_shares(first, count, begin, top, mass);
    } else {
      to_features(top, mass);
    }
    product(false, count, int(maps.e_pitch), int(maps.f), Left<T>{reader.features, 1, chunk},
            state.s, maps.e_pitch, total, maps.e_pitch);
    if (source.count && maps.f > 0) {
      by_halves(first, begin, [&](index from, int count, int seen) {
        product(false, seen, count, int(maps.f), Left<T>{source.features, 1, chunk},
                reader.features + from, chunk, scores + from, chunk);
      });
      mask(first, begin, scores);
      for (int j = 0; j < source.count; ++j) {
        for (index i = 0; i < reader.columns; ++i) {
          mass[i] += scores[j * chunk + i] * source.tail[j];
        }
      }
      add_values(first, begin);
    }
    if (task == Task::key_gradient) {
      for (int i = 0; i < count; ++i) {
        const T unit = dead[i] || reader.keep[i] == 0 ? T(0) : exp_anywhere(top[i]);
        multiply_or_clear(total + i * maps.e_pitch, maps.e_pitch, unit);
      }
      put(to.dv.from(first), count, maps.e, total, maps.e_pitch);
    } else {
      finish(first, count, dead, top, mass);
    }
    if (task != Task::value) gradient(first, count, begin, dead, top);
    if (onward.s) this->absorb(reader, onward);
  }
  // Before queries go onward: their features are in units of e^c already.
  void go_onward(const State<T>& to) {
    onward = to;
    this->clear(onward);
    for (index t = 0; t < maps.f; ++t) {
      onward.c[t] = state.c[t] == T(-infinity) ? T(-infinity) : -state.c[t];
    }
  }
  // Results of queries and what gradients need of them.
  void finish(index first, int count, const bool* dead, const T* top, const T* mass) {
    for (int i = 0; i < count; ++i) {
      T* const own = total + i * maps.e_pitch;
      T inverse = 1, unit = 1;
      if (normalize) {
        unit = inverse = dead[i] ? T(0) : row_factor(maps.kind, true, mass[i], top[i], eps);
      } else {
        unit = dead[i] ? T(0) : exp_anywhere(top[i]);
        inverse = dead[i] ? T(0) : T(1);
      }
      multiply_or_clear(own, maps.e_pitch, unit);
      if (task == Task::value) continue;
      T* const g = reader.values + i * maps.e_pitch;
      multiply_or_clear(g, maps.e_pitch, inverse);
      V delta{};
      for (index c = 0; c < maps.e_pitch; c += width) {
        delta -= kexue::load<V>(g + c) * kexue::load<V>(own + c);
      }
      reader.tail[i] = normalize ? sum_of_lanes(delta) : T(0);
      if (onward.s && inverse == 0) {
        reader.keep[i] = 0;
        for (index t = 0; t < maps.f; ++t) reader.features[t * chunk + i] = 0;
      }
      this->store_stats(readers, first + i, {normalize ? top[i] : T(0), inverse, reader.tail[i]});
    }
    if (task == Task::value) put(to.out.from(first), count, maps.e, total, maps.e_pitch);
  }
  // Adds sum_j features_tj pairs_ji to panels of readers; what is not seen must not meet
  // infinities.
  void add_features(const T* features, index first, int count, index begin, T* to) const {
    bool plain = all_seen(first, begin);
    if (!plain) {
      plain = true;
      for (index t = 0; plain && t < maps.f; ++t) {
        plain = all_finite(features + t * chunk, source.columns);
      }
    }
    if (plain) {
      by_halves(first, begin, [&](index from, int count, int seen) {
        product(true, int(maps.f), count, seen, Left<T>{features, chunk, 1}, scores + from, chunk,
                to + from, chunk);
      });
      return;
    }
    for (index t = 0; t < maps.f; ++t) {
      for (int i = 0; i < count; ++i) {
        for (int j = 0; j < source.count; ++j) {
          if (!sees(first + i, begin + j)) continue;
          to[t * chunk + i] += features[t * chunk + j] * scores[j * chunk + i];
        }
      }
    }
  }
  // Adds sums of what is seen of panels of sources.
  void add_seen(const T* features, index first, int count, index begin, T* to) {
    for (index i = 0; i < source.count * chunk; ++i) scores[i] = 1;
    mask(first, begin, scores);
    add_features(features, first, count, begin, to);
  }
  // Queries' logarithms of shares to shares of z, a number for each query and feature.
  void to_shares(index first, int count, index begin, T* top, T* mass) {
    for (index t = 0; t < maps.f; ++t) {
      for (index i = 0; i < chunk; ++i) masses[t * chunk + i] = state.z[t];
    }
    if (source.count) add_seen(source.features, first, count, begin, masses);
    this->each_feature(reader.features, reader.columns, [&](V b, index i, index t) {
      const V z = kexue::load<V>(masses + t * chunk + i);
      return select(z == V{}, V{}, V(exp_up_to(b) / z));
    });
    for (index i = 0; i < chunk; ++i) top[i] = mass[i] = 0;
    if (task == Task::value || onward.s) return;
    for (index t = 0; t < maps.f; ++t) {
      const V c = splat<V>(state.c[t] == T(-infinity) ? T(0) : state.c[t]);
      for (index i = 0; i < chunk; i += width) {
        const V z = kexue::load<V>(masses + t * chunk + i);
        const V size = kexue::log(z) + (c + kexue::load<V>(reader.shift + i));
        kexue::store(pulled + t * chunk + i, select(z == V{}, splat<V>(infinity), size));
      }
    }
    put_masses(first, count, 0);
  }
  // A panel of readers, `pulled`, for the scan over queries.
  void put_masses(index first, int count, index part) {
    turn(pulled, chunk, maps.d_pitch, chunk, rough, maps.d_pitch);
    View to_rows = readers.masses.from(first);
    to_rows.data += part * maps.f * index(sizeof(T));
    put(to_rows, count, maps.f, rough, maps.d_pitch);
  }
  // Readers' logarithms b to e^(b + c - top) with top = max (b + c) of each, and their products
  // with z.
  void to_features(T* top, T* mass) {
    if (!maps.log()) {
      this->down(reader.features, reader.columns, maps.f, mass,
                 [&](V a, index, index t) { return a * state.z[t]; });
      for (index i = 0; i < chunk; ++i) {
        const T unit = state.c[0] == T(-infinity) ? T(0) : state.c[0];
        top[i] = reader.shift[i] == T(-infinity) ? T(0) : reader.shift[i] + unit;
      }
      return;
    }
    T *const logs = reader.features, *const shift = reader.shift;
    const T *const c = state.c, *const z = state.z, *const bias = maps.bias;
    const auto base = [=](index t) { return bias ? bias[t] + c[t] : c[t]; };
    alignas(64) T highest[chunk];
    this->folded_down(logs, reader.columns, maps.f, highest, T(-infinity),
                      [=](V most, V b, index, index t) { return maximum(V(b + base(t)), most); });
    for (index i = 0; i < chunk; ++i) {
      top[i] = highest[i] + shift[i];
      if (top[i] == T(-infinity)) top[i] = 0;
      highest[i] = shift[i] - top[i];
    }
    this->folded_down(logs, reader.columns, maps.f, mass, 0,
                      [=, &highest](V total, V b, index i, index t) {
                        const V phi = exp_up_to(V(b + base(t) + kexue::load<V>(highest + i)));
                        kexue::store(logs + t * chunk + i, phi);
                        return V(total + phi * z[t]);
                      });
  }

  // e^b (S u + z t) for each reader, and from it the gradient of its input. Queries' logarithms
  // are relative to their top by now, so that e^(b + c) is what their features are.
  void gradient(index first, int count, index begin, const bool* dead, const T* top) {
    for (index i = count * maps.e_pitch; i < chunk * maps.e_pitch; ++i) reader.values[i] = 0;
    turn(reader.values, maps.e_pitch, chunk, maps.e_pitch, reader.turned, chunk);
    product(false, int(maps.f), int(reader.columns), int(maps.e), Left<T>{state.s, maps.e_pitch, 1},
            reader.turned, chunk, slope, chunk);
    if (source.count) {
      by_halves(first, begin, [&](index from, int count, int seen) {
        product(false, seen, count, int(maps.e), Left<T>{source.values, maps.e_pitch, 1},
                reader.turned + from, chunk, scores + from, chunk);
      });
      for (int j = 0; j < source.count && !source.tails; ++j) {
        for (index i = 0; i < chunk; ++i) {
          scores[j * chunk + i] += source.tail[j] * reader.tail[i];
        }
      }
      mask(first, begin, scores);
      add_features(source.features, first, count, begin, slope);
      if (source.tails) add_seen(source.tails, first, count, begin, slope);
    }
    if (maps.per_feature() && task == Task::query_gradient) {
      for (index i = 0; i < maps.f * chunk; i += width) {
        const V z = kexue::load<V>(masses + i), phi = kexue::load<V>(reader.features + i);
        const V own = select(z == V{}, V{}, V(-kexue::load<V>(slope + i) / z));
        kexue::store(pulled + i, own);
        kexue::store(reader.tails + i, V(own * phi));
      }
      if (!onward.s) put_masses(first, count, 1);
    }
    alignas(64) T unit[chunk], sum[chunk];
    for (index i = 0; i < chunk; ++i) {
      const bool absent = i >= count || dead[i] || reader.keep[i] == 0;
      // A query's features are in units of its top already; a key's and a sum's are not.
      const bool relative = task == Task::query_gradient && normalize;
      unit[i] = absent ? T(0) : relative ? T(1) : exp_anywhere(top[i]);
    }
    // The part of z, what logarithms or features ask for, and the sums for logarithms.
    const bool log = maps.log();
    this->folded_down(slope, reader.columns, maps.f, sum, 0, [&](V total, V own, index i, index t) {
      const index at = t * chunk + i;
      const V by = kexue::load<V>(unit + i), phi = kexue::load<V>(reader.features + at);
      own += state.z[t] * kexue::load<V>(reader.tail + i);
      own = select(by == V{}, V{}, V(own * (log ? V(by * phi) : by)));
      kexue::store(slope + at, own);
      return log ? V(total + own) : V(total + own * phi);
    });
    // Sign is weight times feature; those of angles are taken so below.
    if (!log && readers.weight.data && maps.kind != trigonometric) {
      this->each_feature(slope, reader.columns,
                         [&](V a, index i, index) { return a * kexue::load<V>(reader.keep + i); });
    }
    for (int i = 0; i < count; ++i) {
      if (to.slope.data) {
        const bool fades = !(maps.per_feature() && task == Task::query_gradient);
        kexue::store(to.slope.data + (first + i) * to.slope.pitch,
                     unit[i] == 0 || !fades ? 0.0 : double(sum[i]));
      }
    }
    if (to.dweight.data) {
      T own[chunk];
      for (int i = 0; i < count; ++i) own[i] = reader.keep[i] == 0 ? T(0) : sum[i] / reader.keep[i];
      put(to.dweight.from(first), count, 1, own, 1);
    }
    pull(sum);
    const V scale = splat<V>(maps.scale);
    for (index i = 0; i < maps.d * chunk; i += width) {
      const V by = kexue::load<V>(unit + i % chunk), own = kexue::load<V>(pulled + i);
      kexue::store(pulled + i, select(by == V{}, V{}, V(own * scale)));
    }
    turn(pulled, chunk, maps.d_pitch, chunk, rough, maps.d_pitch);
    put((task == Task::query_gradient ? to.dq : to.dk).from(first), count, maps.d, rough,
        maps.d_pitch);
  }
  // The gradient for the inputs, from that for logarithms or features; `sum` is its sum.
  void pull(const T* sum) {
    const int kind = map_of(maps.kind, task == Task::query_gradient);
    const index d = maps.d;
    const T* const x = reader.x;
    for (index i = d * chunk; i < maps.d_pitch * chunk; ++i) pulled[i] = 0;
    if (kind == random_relu) {
      this->products(x, reader.columns, reader.features);  // which have done their work
      const T root = this->random_root();
      for (index i = 0; i < maps.f * chunk; ++i) {
        slope[i] = reader.features[i] > 0 ? slope[i] * root : T(0);
      }
    }
    const bool angles = kind == trigonometric;
    const index rows = maps.weight_rows();
    if (angles) {  // cos slope_sin - sin slope_cos
      const T *const cosines = reader.features, *const sines = cosines + rows * chunk;
      for (index i = 0; i < rows * chunk; i += width) {
        const V across = kexue::load<V>(cosines + i) * kexue::load<V>(slope + rows * chunk + i) -
                         kexue::load<V>(sines + i) * kexue::load<V>(slope + i);
        kexue::store(slope + i, across);
      }
    }
    if (kind == affine || kind == random_relu || angles) {
      product(false, int(d), int(reader.columns), int(rows), Left<T>{maps.weights, 1, d}, slope,
              chunk, pulled, chunk);
      if (kind == random_relu) return;
      for (index j = 0; j < d * chunk; j += width) {
        const V part = kexue::load<V>(x + j) * kexue::load<V>(sum + j % chunk);
        const V own = kexue::load<V>(pulled + j);
        kexue::store(pulled + j, angles ? V(own + part) : V(own - part));
      }
      return;
    }
    if (kind == cosine) {
      alignas(64) T inverse[chunk], along[chunk];
      this->norms(x, reader.columns, inverse);
      for (T& own : inverse) own = own == 0 ? T(0) : 1 / own;
      const T* const from = slope + chunk;
      const auto unit = [&](index i, index j) {
        return V(kexue::load<V>(x + j * chunk + i) * kexue::load<V>(inverse + i));
      };
      this->down(from, reader.columns, d, along,
                 [&](V a, index i, index j) { return a * unit(i, j); });
      for (index j = 0; j < d; ++j) {
        for (index i = 0; i < chunk; i += width) {
          const V across =
              kexue::load<V>(from + j * chunk + i) - unit(i, j) * kexue::load<V>(along + i);
          kexue::store(pulled + j * chunk + i, V(across * kexue::load<V>(inverse + i)));
        }
      }
      return;
    }
    if (kind == taylor2) {
      const T* pair = slope + (1 + d) * chunk;
      for (index i = 0; i < d * chunk; ++i) pulled[i] = slope[chunk + i];
      for (index a = 0; a < d; ++a) {
        for (index b = a; b < d; ++b, pair += chunk) {
          const V factor = splat<V>(pair_weight<T>(a == b));
          for (index i = 0; i < chunk; i += width) {
            const V own = factor * kexue::load<V>(pair + i);
            const auto add = [&](index to, index from) {
              T* const at = pulled + to * chunk + i;
              kexue::store(at, V(kexue::load<V>(at) + own * kexue::load<V>(x + from * chunk + i)));
            };
            add(a, b);
            add(b, a);
          }
        }
      }
      return;
    }
    alignas(64) T shift[chunk];
    if (kind == softmax_d) this->log_masses(x, reader.columns, shift);
    for (index j = 0; j < d; ++j) {
      for (index i = 0; i < chunk; i += width) {
        V own = kexue::load<V>(slope + j * chunk + i);
        const V a = kexue::load<V>(x + j * chunk + i);
        if (kind == relu) own = select(a > V{}, own, V{});
        if (kind == elu1) own = select(a > V{}, V(own / (1 + a)), own);
        if (kind == softmax_d) {
          own -= exp_up_to(V(a - kexue::load<V>(shift + i))) * kexue::load<V>(sum + i);
        }
        kexue::store(pulled + j * chunk + i, own);
      }
    }
  }
};

// Causal gradients of maps with a z for each feature, from the last queries to the first.
template <class T>
struct Windows {
  static constexpr index length = 4 * chunk;  // queries whose numbers are kept
  static constexpr int children = Scan<T>::children;
  Scan<T> queries, keys;  // keys in their own order, from the last on
  index key = 0;          // of the keys, how many have read
  bool reads = true;      // or only take queries in
  T* masses = nullptr;
  State<T>* spare = nullptr;

  void rooms(Carver<T>& memory) {
    queries.rooms(memory);
    keys.rooms(memory);
    masses = memory.take(length * 2 * queries.maps.f);
    index count = 1;
    for (index each = length; each < queries.readers.count; each *= children) count += children;
    spare = queries.states(memory, count);
  }
  index turned(index query) const { return queries.readers.count - query; }
  // Keys that `query` and all after it see, but for its newest; the first has seen none.
  index seen(index query) const {
    return query == 0 ? 0 : queries.inside(query + queries.offset - 1);
  }
  // Keys, from the last on, that need no query before `query`.
  index ready(index query) const {
    const index all = keys.readers.count, last = turned(query) - keys.offset + 1;
    return query == 0 || last > all ? all : last < 0 ? 0 : last;
  }
  // Queries from `first` to `last`. What the keys' state holds are those after them; `before` has
  // the keys that all of them see, and changes.
  void go(State<T>& before, index first, index last, State<T>* room) {
    if (last - first <= length) {
      window(before, first, last);
      return;
    }
    index each = length;
    while (each * children < last - first) each *= children;
    const int parts = int((last - first + each - 1) / each);
    const auto own = [&](int part) -> State<T>& { return part ? room[part - 1] : before; };
    const auto from = [&](int part) { return first + part * each; };
    for (int part = 1; part < parts; ++part) {
      queries.copy(own(part - 1), own(part));
      queries.take(own(part), seen(from(part - 1)), seen(from(part)));
    }
    for (int part = parts - 1; part >= 0; --part) {
      go(own(part), from(part), part + 1 < parts ? from(part + 1) : last, room + parts - 1);
    }
  }
  void window(const State<T>& before, index first, index last) {
    const index pitch = 2 * queries.maps.f * index(sizeof(T));
    const View kept = {reinterpret_cast<char*>(masses) - first * pitch, pitch, index(sizeof(T)),
                       type_of<T>};
    queries.readers.masses = kept;
    keys.sources.masses = kept.turned(queries.readers.count);
    queries.state = before;
    queries.done = seen(first);
    for (index i = first; i < last; i += queries.step) {
      queries.go(i, i + queries.step < last ? i + queries.step : last);
    }
    const index all = ready(first);
    while (reads && key < all) {
      const index next = key + keys.step < all ? key + keys.step : all;
      keys.go(key, next);
      key = next;
    }
    keys.absorb_until(turned(first));
  }
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
