#include "kexue/cuda/exact.h"

#include "cells.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

struct clean {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    return engine.rows<T>(ExactClean<T>{call['e']}, call['e']);
  }
};
struct weights {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    const double* const p = call.parameter;
    const ExactWeights<T> fn = {call['s'], T(p[0]), Sight::of(p[1], p[2])};
    return engine.rows<T>(fn, fn.keys);
  }
};
struct slopes {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    const double* const p = call.parameter;
    const ExactSlopes<T> fn = {call['s'], call['e'], T(p[0]), Sight::of(p[1], p[2])};
    return engine.rows<T>(fn, fn.keys > fn.e ? fn.keys : fn.e);
  }
};
struct mend {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    const double* const p = call.parameter;
    const ExactMend<T> fn = {call['c'], call['e'], index(p[2]), p[3] != 0, Sight::of(p[0], p[1])};
    return engine.rows<T>(fn, fn.e);
  }
};

constexpr Entry exact_entries[] = {
    KX_CELLS(clean, "(e),mask()?->(e),()", 0),
    KX_CELLS(weights, "(s),any(),()?,mask(s)?,(s)?->(s),(),()", 3),
    KX_CELLS(slopes, "(s),(s),any(),()?,mask(s)?,(s)?,(),(e),(e)->(s),(s),(s)?", 3),
    KX_CELLS(mend, "(c),(c,e),(c),mask(),any(),()?,()?->(e)", 4),
};

}  // namespace

extern const Table exact_table;
const Table exact_table = {"exact", exact_entries, sizeof exact_entries / sizeof(Entry)};

}  // namespace KX_ISA
}  // namespace kexue
