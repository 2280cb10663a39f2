// Exact attention: which keys a query sees, and what a score gives. One text for the CPU's tiles
// and the GPU.
#pragma once

#include "linear.h"

namespace kexue {
inline namespace KX_ISA {

// Which keys a query sees, masks aside.
struct Sight {
  bool causal, exclude;
  index offset;

  // `mode` as in attention/_reference.py.
  KX_FN static Sight of(double mode, double offset) {
    return {(int(mode) & 1) != 0, (int(mode) & 2) != 0, index(offset)};
  }
  // Keys from `stop` on are not seen by queries up to `last`.
  KX_FN index stop(index last, index keys) const {
    const index end = causal ? last + offset + 1 : keys;
    return end < 0 ? 0 : end < keys ? end : keys;
  }
  // Queries before this do not see `key`.
  KX_FN index first(index key) const { return causal && key > offset ? key - offset : 0; }
  // The query that `key` is the own key of, or a number that is none.
  KX_FN index owner(index key) const { return exclude ? key - offset : -1; }
  KX_FN bool all(index query, index queries, index key, index keys) const {
    if (causal && key + keys - 1 > query + offset) return false;
    return !exclude || query + queries - 1 + offset < key || query + offset >= key + keys;
  }
  KX_FN bool sees(index query, index key) const { return all(query, 1, key, 1); }
};

// Of a pair with this score, -inf where it is not seen: its probability P, and the gradient for the
// score, P (dP - delta).
template <class V>
struct PairSlope {
  V weight, slope;
  KX_FN PairSlope(V score, V lse, V change, V delta) {
    const auto seen = score != splat<V>(-infinity);
    weight = select(seen, exp_up_to(V(score - lse)), V{});
    slope = select(seen, V(weight * (change - delta)), V{});
  }
};

}  // namespace KX_ISA
}  // namespace kexue
