#include "../kernels/slopes.h"

#include "readers.h"
#include "words.h"

namespace kexue {
inline namespace KX_ISA {

class SlopeEngine : public WordEngine {
 public:
  explicit SlopeEngine(const Call& call) : WordEngine(call), call_(call) {}

  // sum_j g_j times the slope of a b_j in a.
  template <class F, class Acc>
  long long slopes(long long shift, Number result) {
    const index cost = call_.n + 8, step = 16384 / cost + 1;
    parallel((call_.rows + step - 1) / step, [&](index j) {
      const index last = (j + 1) * step < call_.rows ? (j + 1) * step : call_.rows;
      for (index r = j * step; r < last; ++r) one<F, Acc>(shift, result, r);
    });
    return 0;
  }

 private:
  const Call& call_;

  template <class F, class Acc>
  void one(long long shift, Number result, index row) const {
    using T = Choose<Acc::width == 64, double, float>;
    using W = typename Acc::Word;
    constexpr int width = register_bytes / int(sizeof(T));
    using V = Pack<T, width>;
    using B = bits_t<V>;
    const MulSlope<Acc> slope = {shift};
    const char* at[3];
    for (int o = 0; o < 3; ++o)
      at[o] = call_.operand[o].data + offset(call_.operand[o], call_, row);
    const auto read = [](const char* from) {
      return lengthen<F, Acc>(load<typename F::Word>(from));
    };
    const B a = splat<B>(read(at[0]));
    alignas(64) W b[element_block], g[element_block];
    V sum{};
    for (index k = 0; k < call_.n; k += element_block) {
      const int count = call_.n - k < element_block ? int(call_.n - k) : element_block;
      const int padded = (count + width - 1) / width * width;
      for (int i = 0; i < count; ++i) {
        b[i] = read(at[1] + (k + i) * call_.operand[1].step);
        g[i] = read(at[2] + (k + i) * call_.operand[2].step);
      }
      for (int i = count; i < padded; ++i) b[i] = Acc::one, g[i] = 0;
      for (int i = 0; i < padded; i += width) {
        sum = V(sum + bit_cast<V>(slope(load<B>(g + i), a, load<B>(b + i))));
      }
    }
    T total = 0;
    for (int i = 0; i < width; ++i) total += lane(sum, i);
    store_sum(call_.operand[3].data + offset(call_.operand[3], call_, row), result, total);
  }
};

}  // namespace KX_ISA
}  // namespace kexue

KX_TABLE(slopes, SlopeEngine)
