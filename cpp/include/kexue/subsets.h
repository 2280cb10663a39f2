// Cross-entropy over the k-subsets of n classes (kexue.fm 7359), one row on one thread.
//
// A subset is that of the positives with some of them swapped for as many negatives, and what it
// weighs relative to theirs is the product of the odds of these swaps: e^(level - s) for a positive
// that leaves, e^(s - level) for a negative that enters, with one level for all. The sum over
// subsets is that of a walk that goes up for a class that leaves and down for one that enters, or
// keeps its place, and ends where it began. Nothing is subtracted, and walks that moved are held
// apart from the one that stood still, so that a small loss keeps its digits.
#pragma once

#include "erf.h"
#include "ranking.h"

namespace kexue {
inline namespace KX_ISA {

// The weights of the places -reach ... reach that a walk may be at. Their sum stays below 2 by as
// many factors of 1/2 as that takes: none of them matters that leaves the range.
template <class W>
struct SwapWalk {
  W* places;  // 2 reach + 1 of them
  index reach;
  W still = 1, mass = 1;
  index halvings = 0;

  KX_FN W& at(index b) const { return places[reach + b]; }

  KX_FN void begin() {
    for (index b = -reach; b <= reach; ++b) at(b) = 0;
    still = mass = 1;
    halvings = 0;
  }
  // As far as another walk has come; it reaches as far or farther.
  KX_FN void begin(const SwapWalk& from) {
    for (index b = -reach; b <= reach; ++b) at(b) = from.at(b);
    still = from.still;
    mass = from.mass;
    halvings = from.halvings;
  }
  // One class that keeps its place or goes, up or down.
  KX_FN void step(bool up, W keep, W go) {
    mass *= keep + go;
    if (mass >= 2) {
      mass /= 2;
      keep /= 2;
      go /= 2;
      ++halvings;
    }
    if (up) {
      for (index b = reach; b > -reach; --b) at(b) = keep * at(b) + go * at(b - 1);
      at(-reach) *= keep;
      at(1) += go * still;
    } else {
      for (index b = -reach; b < reach; ++b) at(b) = keep * at(b) + go * at(b + 1);
      at(reach) *= keep;
      at(-1) += go * still;
    }
    still *= keep;
  }
};

// The k-th largest of n numbers, whose order changes.
template <class W>
KX_FN W kth_largest(W* x, index n, index k) {
  for (index first = 0, last = n - 1; first < last;) {  // Hoare's FIND
    const W pivot = x[(first + last) / 2];
    index i = first, j = last;
    while (i <= j) {
      while (x[i] > pivot) ++i;
      while (x[j] < pivot) --j;
      if (i > j) break;
      const W other = x[i];
      x[i++] = x[j];
      x[j--] = other;
    }
    if (k - 1 <= j) {
      last = j;
    } else if (k - 1 >= i) {
      first = i;
    } else {
      break;
    }
  }
  return x[k - 1];
}

// A row: its n scores and targets, which are overwritten, then room to work.
template <class T>
class SubsetCrossentropy {
 public:
  using W = wide_t<T>;

  KX_FN explicit SubsetCrossentropy(index classes) : n_(classes) {}

  // How many W a row takes.
  KX_FN index room() const {
    index places = places_of(n_ / 2);
    for (index size = 1; size < n_; size *= 2) places += places_of(least(n_ / 2, 2 * size));
    return 4 * n_ + places;
  }

  // The loss; its gradient, if it is wanted, replaces the scores.
  KX_FN W operator()(W* row, bool wants_grad, bool& invalid) const {
    W *const s = row, *const t = s + n_;
    index k = 0;
    bool undefined = false;
    for (index i = 0; i < n_; ++i) {
      invalid |= t[i] != 0 && t[i] != 1;
      undefined |= s[i] != s[i];
      k += t[i] != 0;
    }
    if (invalid || undefined || k == 0 || k == n_) {
      const W all = invalid || undefined ? W(not_a_number) : W(0);
      for (index i = 0; i < n_; ++i) s[i] = all;
      return all;
    }
    const Odds odds = {t, t + n_, t + 2 * n_};
    const W lift = set_odds(s, odds, k);
    W* const places = t + 3 * n_;
    SwapWalk<W> walk = {places, least(k, n_ - k)};
    walk.begin();
    go_on(walk, odds, 0, n_);
    const W moved = walk.at(0), still = walk.still;
    if (wants_grad) set_gradient(s, odds, walk);
    if (moved < still) return log1p(moved / still);
    return log(moved + still) + (W(walk.halvings) * W(0.6931471805599453) + lift);
  }

 private:
  index n_;

  // keep : go are 1 : odds of each class, the larger of them 1.
  struct Odds {
    const W* target;
    W *keep, *go;
    KX_FN bool up(index i) const { return target[i] != 0; }
  };

  KX_FN static index least(index a, index b) { return a < b ? a : b; }
  KX_FN static index places_of(index reach) { return 2 * reach + 1; }

  // Returns the sum of the logarithms of odds above 1.
  KX_FN W set_odds(const W* s, const Odds& odds, index k) const {
    W* const small = odds.go;  // e^-|s - pivot|
    for (index i = 0; i < n_; ++i) odds.keep[i] = s[i];
    const W pivot = kth_largest(odds.keep, n_, k);
    for (index i = 0; i < n_; ++i) {
      const Two<W> d = two_sum(s[i], -pivot);
      const W far = -abs(d.hi), error = d.hi > 0 ? -d.lo : d.lo;
      small[i] = s[i] == pivot ? W(1) : exp_decay<T>(far, error);
    }
    const W level = level_of(s, small, pivot, k), rate[] = {1 / level, level};
    const W log_rate[] = {log(rate[0]), log(rate[1])};
    Two<W> lift = {0, 0};
    for (index i = 0; i < n_; ++i) {
      const bool up = odds.up(i), right = up == (s[i] > pivot);
      const W keep = right ? W(1) : small[i], go = right ? rate[up] * small[i] : rate[up];
      const W distance = s[i] == pivot ? W(0) : abs(s[i] - pivot), larger = maximum(keep, go);
      Two<W> sum = two_sum(lift.hi, log_rate[up] + (right ? -distance : distance));
      if (go > keep) lift = {sum.hi, lift.lo + sum.lo};
      odds.keep[i] = keep / larger;
      odds.go[i] = go / larger;
    }
    return lift.hi < infinity ? lift.hi + lift.lo : lift.hi;
  }
  // e^(level - pivot) at which the number of positives that are expected to leave is within 1/2 of
  // that of negatives that enter. At 1 / (2 n) and 2 n they are on either side, or that close.
  KX_FN W level_of(const W* s, const W* small, W pivot, index k) const {
    W low = W(1) / W(2 * n_), high = W(2 * n_), level = 1;
    for (int step = 0; step < 64; ++step) {
      W excess = -W(k);
      for (index i = 0; i < n_; ++i) {
        excess += s[i] > pivot ? 1 / (1 + level * small[i]) : small[i] / (small[i] + level);
      }
      if (abs(excess) <= W(0.5)) break;
      (excess > 0 ? low : high) = level;
      level = square_root(low * high);
    }
    return level;
  }

  KX_FN void go_on(SwapWalk<W>& walk, const Odds& odds, index first, index last) const {
    for (index i = first; i < last; ++i) walk.step(odds.up(i), odds.keep[i], odds.go[i]);
  }
  // A class's share of even walks in which it goes: the walk of all others ends one step away.
  // walks[l] is that of all but a block of 2^(depth - l) classes, of which the current class is
  // one; it comes of walks[l - 1] and the other half of that block. Only as many places matter as
  // there are classes left.
  KX_FN void set_gradient(W* slope, const Odds& odds, SwapWalk<W> whole) const {
    SwapWalk<W> walks[40];  // for 2^39 classes
    int depth = 0;
    while ((index(1) << depth) < n_) ++depth;
    whole.begin();
    walks[0] = whole;
    W* places = whole.places + places_of(whole.reach);
    for (int l = 1; l <= depth; ++l) {
      walks[l] = {places, least(whole.reach, index(2) << (depth - l))};
      places += places_of(walks[l].reach);
    }
    for (index i = 0; i < n_; ++i) {
      for (int l = 1; l <= depth; ++l) {
        const index size = index(1) << (depth - l), sibling = (i / size ^ 1) * size;
        if (i % size != 0) continue;
        walks[l].begin(walks[l - 1]);
        go_on(walks[l], odds, sibling, least(sibling + size, n_));
      }
      const SwapWalk<W>& others = walks[depth];
      const bool up = odds.up(i);
      const W swaps = odds.go[i] * others.at(up ? -1 : 1);
      const W stays = odds.keep[i] * (others.still + others.at(0));
      slope[i] = (up ? -swaps : swaps) / (swaps + stays);
    }
  }
};

}  // namespace KX_ISA
}  // namespace kexue
