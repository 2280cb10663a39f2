#include "kexue/cuda/linear.h"

#include "cells.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

class CudaLinear : public CudaCells {
 public:
  using CudaCells::CudaCells;

  template <class E, class T>
  long long step() {
    const double* const p = call_.parameter;
    LinearStep<E, T> work = {int(p[0]), p[3] != 0, call_['d'], call_['f'], call_['v'], T(p[1]),
                             T(p[2]),   T(p[4]),   {},         {},         0,          nullptr};
    if (call_.rows == 0) return 0;
    const int threads = launch_limits.threads;
    const index room = LinearStep<E, T>::room(work.f, threads) * index(sizeof(T));
    work.memory = static_cast<T*>(scratch(room * call_.rows).data);
    if (!work.memory) return -1;
    work.pitch = call_.operand[LinearStep<E, T>::projection].pitch;
    const bool done = each_piece([&] {
      work.plan = plan(false);
      work.plan.size = threads;
      for (int k = 0; k < LinearStep<E, T>::operands; ++k) work.op[k] = place(&call_.operand[k]);
      return launch(work);
    });
    return done ? 0 : -1;
  }
};

struct features {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    const double* const p = call.parameter;
    const LinearFeatures<T> fn = {int(p[0]), call['d'], index(p[4]), T(p[1]), T(p[2]), T(p[3])};
    return engine.rows<T>(fn, fn.f > fn.d ? fn.f : fn.d);
  }
};
struct settle {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    return engine.rows<T>(LinearSettle<T>{call['f']}, call['f']);
  }
};
struct peaks {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    return engine.rows<T>(LinearPeaks<T>{call['c']}, 1);
  }
};
struct units {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    return engine.rows<T>(LinearUnits<T>{call['p']}, 1);
  }
};
struct masses {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    return engine.rows<T>(LinearMasses<T>{call['c']}, 1);
  }
};
struct marks {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    const LinearMarks<T> fn = {call['f'], call['c'], call['e']};
    return engine.rows<T>(fn, fn.f > fn.e ? fn.f : fn.e);
  }
};
struct states {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    return engine.rows<T>(LinearStates<T>{call['p'], call['e']}, 8 * call['e']);
  }
};
struct readers {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    return engine.rows<T>(LinearReaders<T>{call['f']}, call['f']);
  }
};
struct scores {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    return engine.rows<T>(LinearScores<T>{call['f'], call['c']}, call['c']);
  }
};
struct mend {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    return engine.rows<T>(LinearMend<T>{call['f'], call['e']}, call['e']);
  }
};
struct results {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    const double* const p = call.parameter;
    const LinearFinish<T> fn = {int(p[0]), p[1] != 0, index(p[3]), call['e'], T(p[2])};
    return engine.rows<T>(fn, fn.e);
  }
};
struct slopes {
  template <class T>
  long long operator()(CudaCells& engine, const Call& call, T) const {
    return engine.rows<T>(LinearSlopes<T>{call['f'], call['e']}, call['f']);
  }
};

template <class E, class T>
long long step(const Call& call) {
  return CudaLinear(call).step<E, T>();
}

constexpr Entry linear_entries[] = {
    KX_CELLS(features, "(d),(g)?,(g)?,()?,()?->(f)?,(f)?,()?", 5),
    KX_CELLS(settle, "(f),(f)?,(f)?->(f)", 0),
    KX_CELLS(peaks, "(c)->()", 0),
    KX_CELLS(units, "(),(p),(p)?->(p),(p)", 0),
    KX_CELLS(masses, "(),(),(c)?->(c)", 0),
    KX_CELLS(marks, "(f),(f),(c,f)?,(c,f),(c,e)->(),(f)", 0),
    KX_CELLS(states, "(e),(p),(p),(p)->(p,e),(e)", 0),
    KX_CELLS(readers, "(f),(f)?,(f),(f),()?,()?,(c,f)?->(f),()", 0),
    KX_CELLS(scores, "(),(f)?,(f)?,()?,(c,f)?,(c,f)?,()?->(c)", 0),
    KX_CELLS(mend, "(f),(f,e),(c),(c,e),(),()->(e)", 0),
    KX_CELLS(results, "(e),(),()?,(v)?->(v)?,()?,(e)?", 4),
    KX_CELLS(slopes, "(f),(f),(e)?,(f,e)?,(c)?,(c,f)?,(c,f)?,(c,f)?,()?,()?,()?->(f)", 0),
    {"linear_attention_step",
     "(d),(d),(v),any(f,d)?,any(f)?,any()?,any()?->any(v),any(f),any(f,v),any(f)",
     5,
     {step<double, double>, step<float, float>, step<Half, float>, step<Bfloat16, float>}},
};

}  // namespace

extern const Table linear_table;
const Table linear_table = {"linear", linear_entries, sizeof linear_entries / sizeof(Entry)};

}  // namespace KX_ISA
}  // namespace kexue
