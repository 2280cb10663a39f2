#include "../kernels/slopes.h"

#include "words.h"

namespace kexue {
inline namespace KX_ISA {

// A thread to a sum.
template <class F, class Acc>
struct SlopeSums {
  Plan plan;
  Array op[4];
  MulSlope<Acc> slope;
  Number result;

  KX_FN index jobs() const { return plan.rows; }
  KX_FN void operator()(index row, Slots*) const {
    using T = Choose<Acc::width == 64, double, float>;
    ElementCursor<4> place = {op, {}};
    go_to(plan, row, place);
    const auto read = [&](int k, index i) {
      return lengthen<F, Acc>(load<typename F::Word>(place[k] + i * op[k].step));
    };
    const auto a = read(0, 0);
    T sum = 0;
    for (index i = 0; i < plan.n; ++i) sum += bit_cast<T>(slope(read(2, i), a, read(1, i)));
    store_sum(place[3], result, sum);
  }
};

class CudaSlopes : public CudaWords {
 public:
  using CudaWords::CudaWords;

  template <class F, class Acc>
  long long slopes(long long offset, Number result) {
    const bool done = each_piece([&] {
      SlopeSums<F, Acc> work = {plan(true), {}, {offset}, result};
      for (int k = 0; k < 4; ++k) work.op[k] = place(&call_.operand[k]);
      work.plan.size = 1;
      return launch(work);
    });
    return done ? 0 : -1;
  }
};

}  // namespace KX_ISA
}  // namespace kexue

KX_TABLE(slopes, CudaSlopes)
