#include "../kernels/online.h"

#include "short_weights.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

class OnlineEngine : public WeightEngine {
 public:
  explicit OnlineEngine(const Call& call) : WeightEngine(call), call_(call) {}

  // A sequence to a lane, a register of sequences to a job. Rows are days of `n` elements each.
  template <class T>
  long long portfolio(const Operand& relatives, const Operand& first, const Operand& lr, index n,
                      const Operand& weights, const Operand& last, const Operand& log_wealth) {
    using V = Pack<double, register_bytes / int(sizeof(double))>;
    constexpr int width = lanes<V>;
    long long failed = 0;
    parallel((call_.rows + width - 1) / width, [&](index job) {
      const auto memory = scratch(index(sizeof(V)) * (3 * n + 1));
      if (memory.data == nullptr) {
        __atomic_store_n(&failed, 1, __ATOMIC_RELAXED);
        return;
      }
      const index r0 = job * width;
      const int count = int(call_.rows - r0 < width ? call_.rows - r0 : width);
      dispatch<T>(call_.dtype, [&](auto stored) {
        using S = decltype(stored);
        run<S, T>(static_cast<double*>(memory.data), r0, count, n, relatives, first, lr, weights,
                  last, log_wealth);
      });
    });
    return failed ? -1 : 0;
  }

 private:
  const Call& call_;

  template <class S, class T>
  void run(double* memory, index r0, int count, index n, const Operand& relatives,
           const Operand& first, const Operand& lr, const Operand& weights, const Operand& last,
           const Operand& log_wealth) {
    using V = Pack<double, register_bytes / int(sizeof(double))>;
    constexpr int width = lanes<V>;
    const Held<V> x = {memory + 2 * n * width};
    const auto at = [&](const Operand& op, int j, index i) {
      return op.data + offset(op, call_, r0 + (j < count ? j : 0)) + i * op.step;
    };
    const auto read = [&](const Operand& op, index begin, const Held<V>& to, index size) {
      for (int j = 0; j < width; ++j) {  // lanes without a sequence repeat the first
        const char* from = at(op, j, begin);
        for (index i = 0; i < size; ++i) {
          to.data[i * width + j] = double(load_wide<S, T>(from + i * op.step));
        }
      }
    };
    // Several sequences of one matrix share what they read.
    const bool common =
        at(relatives, 0, 0) == at(relatives, count - 1, 0) && (call_.dims < 2 || count == 1);
    const auto read_common = [&](index begin) {
      const char* from = at(relatives, 0, begin);
      index i = 0;
      V most = V{};
      if constexpr (sizeof(S) == sizeof(T)) {
        const bool even = relatives.step == index(sizeof(S));
        for (; even && i + width <= n; i += width) {
          const auto some = load<Pack<T, width>>(reinterpret_cast<const T*>(from) + i);
          const V now = as_relative(convert<V>(some));
          most = maximum(most, now);
          store(x.data + i, now);
        }
      }
      double top = fold_lanes(most, [](auto a, auto b) { return maximum(a, b); });
      for (; i < n; ++i) {
        x.data[i] = as_relative(double(load_wide<S, T>(from + i * relatives.step)));
        top = maximum(top, x.data[i]);
      }
      return Common<V>{x.data, top};
    };
    const auto write = [&](const Operand& op, index begin, const Held<V>& from, index size,
                           V unit) {
      index done = 0;
      if constexpr (sizeof(S) == sizeof(T) && width % square<T> == 0) {
        if (call_.dims == 1 && count == width && op.step == index(sizeof(S))) {
          done = each_square<T>(int(size), [&](int i) {
            T some[square<T> * width];
            for (int k = 0; k < square<T>; ++k) {
              store(some + k * width, convert<Pack<T, width>>(V(from[i + k] * unit)));
            }
            for (int j = 0; j < width; j += square<T>) {
              transpose<T>(some + j, width * index(sizeof(T)), at(op, j, begin + i), op.stride[0]);
            }
          });
        }
      }
      for (int j = 0; j < count; ++j) {
        char* to = at(op, j, begin);
        for (index i = done; i < size; ++i) {
          store_wide<S>(to + i * op.step, T(from.data[i * width + j] * lane(unit, j)));
        }
      }
    };
    PortfolioRun<V> portfolio = {{memory}, {memory + n * width}, V{}, V{}, V{}};
    const LaneTeam<V, V> team = {n};
    read(lr, 0, x, 1);
    portfolio.lr = x[0];
    read(first, 0, portfolio.weights, n);
    portfolio.begin(team);
    for (index t = 0; t < call_.n / n; ++t) {
      write(weights, t * n, portfolio.weights, n, portfolio.unit);
      if (common) {
        portfolio.day(team, read_common(t * n));
      } else {
        read(relatives, t * n, x, n);
        portfolio.day(team, x);
      }
      x.set(0, portfolio.log_wealth);
      write(log_wealth, t, x, 1, splat<V>(1));
    }
    write(last, 0, portfolio.weights, n, portfolio.unit);
  }
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue

KX_TABLE(online, OnlineEngine)
