// All scans of a call: heads, and parts of a head, side by side.
#pragma once

#include "scans.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

struct Parameters {
  int kind;
  double scale, eps_of_map;
  bool causal, exclude, normalize;
  index offset;
  double eps;
  explicit Parameters(const double* p)
      : kind(int(p[0])),
        scale(p[1]),
        eps_of_map(p[2]),
        causal((int(p[3]) & 1) != 0),
        exclude((int(p[3]) & 2) != 0),
        normalize(p[5] != 0),
        offset(index(p[4])),
        eps(p[6]) {}
};

// Parts of a head that are worked on side by side, and rows of each; by the sizes alone.
inline index part_rows(index heads, index rows) {
  const index parts = heads >= 4 ? 1 : heads > 0 ? (7 + heads) / heads : 1;
  const index each = (rows + parts - 1) / parts;
  const index least = 512;
  return ((each > least ? each : least) + chunk - 1) / chunk * chunk;
}

// All scans of one kind: for each head and part of its readers the state before them, then reading.
template <class T>
class Heads {
 public:
  Heads(const Call& call, const Maps<T>& maps, index sources, index readers,
        const Parameters& options)
      : rows_(call.rows),
        sources_(sources),
        readers_(readers),
        causal_(options.causal),
        others_(options.exclude && !options.causal),
        head_{maps} {
    const index split = causal_ || others_ ? readers : sources;
    each_ = part_rows(rows_, split);
    parts_ = split > each_ ? (split + each_ - 1) / each_ : 1;
    room_ = Head<T>::state_room(maps);
    each_head_ = (others_ ? 2 * parts_ : parts_) + 1;
  }
  // Of all states. They begin there; a call asks for the memory of all its heads at once, since
  // pieces by the megabyte go back to the system one by one, and are cleared when they come again.
  index bytes() const {
    return rows_ * each_head_ * (room_ * index(sizeof(T)) + index(sizeof(State<T>))) + 64;
  }
  void begin_at(void* memory) {
    T* at = reinterpret_cast<T*>((reinterpret_cast<unsigned long long>(memory) + 63) & ~63ULL);
    state_ = reinterpret_cast<State<T>*>(at + rows_ * each_head_ * room_);
    for (index k = 0; k < rows_ * each_head_; ++k) state_[k] = head_.state_at(at + k * room_);
  }
  // The state before the first source, to be filled before `run` if scans are `started`, and that
  // after the last.
  State<T>& first(index row) { return state(row, 0); }
  State<T>& last(index row) { return state(row, single() ? 0 : parts_); }
  // All sources in one state, where that is not what readers had.
  template <class Make>
  bool gather(Make make) {
    if (!others_) return true;
    return each_of(rows_, make, [&](Scan<T>& scan, index row) {
      begin(scan, row, last(row));
      scan.take(last(row), 0, sources_);
    });
  }

  // make(row) gives the scan of a head but for its state. Readers leave for `onward` what they are
  // as its sources.
  template <class Make>
  bool run(Make make, Heads* onward = nullptr) {
    if (!single() && !filled_ && !(others_ && parts_ == 1) && !sum_parts(make, parts_)) {
      return false;
    }
    if (others_) {
      return each_of(rows_ * parts_, make, [&](Scan<T>& scan, index job) {
        const index row = job / parts_, part = job % parts_, from = part * each_;
        const index until = from + each_ < readers_ ? from + each_ : readers_;
        State<T>& outside = state(row, parts_ + 1 + part);
        begin(scan, row, outside);
        for (index other = 0; other < parts_; ++other) {
          if (other != part) head_.merge(outside, state(row, other + 1), T(1), outside);
        }
        scan.take(outside, before(scan, part), scan.inside(from + scan.offset));
        scan.take(outside, scan.inside(until + scan.offset), before(scan, part + 1));
        if (from < until) scan.around(outside, from, until, scan.spare);
      });
    }
    if (!single()) chain(make, parts_);
    const index each = onward ? onward->each_ : causal_ ? each_ : 8 * chunk;
    const index strips = onward ? onward->parts_ : causal_ ? parts_ : (readers_ + each - 1) / each;
    if (onward) onward->filled_ = true;
    return each_of(rows_ * strips, make, [&](Scan<T>& scan, index job) {
      const index row = job / strips, strip = job % strips, from = strip * each;
      const index until = from + each < readers_ ? from + each : readers_;
      State<T>& own = state(row, causal_ ? strip : parts_);  // nobody else's where it changes
      scan.state = own;
      scan.done = causal_ ? before(scan, strip) : sources_;
      if (causal_ && strip == 0 && !scan.started) scan.start(own, 0);
      if (onward) scan.go_onward(onward->state(row, strip + 1));
      for (index i = from; i < until; i += scan.step) {
        scan.go(i, i + scan.step < until ? i + scan.step : until);
      }
      if (onward) onward->state(row, strip + 1) = scan.onward;
      if (single()) {
        scan.absorb_until(sources_);
        own = scan.state;
      }
    });
  }

  // The same by windows, make(row); parts are those of queries. What keys read in a part begins
  // with the sums, in `back`, of the queries after it: for these, parts are gone through once
  // before.
  template <class Make>
  bool run_windows(Make make, Heads& back) {
    const auto of_queries = [&](index row) { return make(row).queries; };
    const auto of_keys = [&](index row) { return make(row).keys; };
    const auto go = [&](Windows<T>& own, index row, index part) {
      const index last = (part + 1) * each_;
      head_.copy(state(row, part), own.spare[0]);
      own.go(own.spare[0], part * each_, last < readers_ ? last : readers_, own.spare + 1);
      return own.keys.state;
    };
    // Of the part, where queries are taken in from the last on.
    const auto from = [&](index part) {
      return part + 1 < parts_ ? readers_ - (part + 1) * each_ : 0;
    };
    if (!single()) {
      if (!sum_parts(of_queries, parts_ - 1)) return false;
      chain(of_queries, parts_ - 1);
    }
    for (index row = 0; row < rows_; ++row) {
      if (!make(row).queries.started) head_.clear(state(row, 0));
    }
    const index others = parts_ - 1;
    if (others > 0) {
      const bool done = each_of(rows_ * others, make, [&](Windows<T>& own, index job) {
        const index row = job / others, part = others - job % others;
        State<T>& sum = back.state(row, parts_ - part);
        own.reads = false;
        own.keys.start(sum, from(part));
        sum = go(own, row, part);
      });
      if (!done) return false;
      back.chain(of_keys, others);
    }
    return each_of(rows_ * parts_, make, [&](Windows<T>& own, index job) {
      const index row = job / parts_, part = others - job % parts_;
      State<T>& after = back.state(row, others - part);
      if (part == others) {
        own.keys.start(after, 0);
      } else {
        own.keys.state = after;
        own.keys.done = from(part);
        own.key = own.ready((part + 1) * each_);
      }
      (part ? after : back.last(row)) = go(own, row, part);
    });
  }

 private:
  // The state before the first source.
  void begin(const Scan<T>& scan, index row, State<T>& to) {
    if (scan.started) {
      head_.copy(state(row, 0), to);
    } else {
      head_.clear(to);
    }
  }
  // f(scan, job) for jobs, as many of which belong to each head, with working memory; or windows.
  template <class Make, class F>
  bool each_of(index jobs, Make make, F f) {
    long long failed = 0;
    parallel(jobs, [&](index job) {
      auto scan = make(job / (jobs / rows_));
      Carver<T> size(nullptr);
      scan.rooms(size);
      void* const block = thread_memory(static_cast<unsigned long long>(size.bytes()));
      if (!block) {
        __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        return;
      }
      Carver<T> memory(block);
      scan.rooms(memory);
      f(scan, job);
    });
    return !failed;
  }
  bool single() const { return causal_ && parts_ == 1; }
  // What the sources of each of the first `count` parts add up to.
  template <class Make>
  bool sum_parts(Make make, index count) {
    return each_of(rows_ * count, make, [&](Scan<T>& scan, index job) {
      const index row = job / count, part = job % count;
      scan.start(state(row, part + 1), before(scan, part));
      scan.absorb_until(before(scan, part + 1));
      state(row, part + 1) = scan.state;
    });
  }
  // The first `count` of these sums to those of all parts so far.
  template <class Make>
  void chain(Make make, index count) {
    parallel(rows_, [&](index row) {
      const Scan<T> scan = make(row);
      for (index part = scan.started ? 1 : 2; part <= count; ++part) {
        State<T>& own = state(row, part);
        head_.merge(own, state(row, part - 1), scan.direction, own);
      }
    });
  }
  State<T>& state(index row, index part) { return state_[row * each_head_ + part]; }
  // Sources before those that only the readers of `part`, or later ones, take in.
  index before(const Scan<T>& scan, index part) const {
    if (part >= parts_) return sources_;
    if (part == 0) return 0;
    const index by = causal_ ? scan.offset - 1 : others_ ? scan.offset : 0;
    return scan.inside(part * each_ + by);
  }

  index rows_, sources_, readers_, each_, parts_, room_, each_head_;
  bool causal_, others_, filled_ = false;
  Head<T> head_;
  State<T>* state_ = nullptr;
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue
