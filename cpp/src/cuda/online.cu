#include "../kernels/online.h"

#include "elements.h"
#include "whole_rows.h"

namespace kexue {
inline namespace KX_ISA {
namespace {

// A block's threads on a sequence, a thread to some of its assets.
template <class T>
struct Sequences {
  static constexpr bool crowded = true;
  Plan plan;
  index assets, days, first, count;
  double* memory;
  VectorIn<T> relatives, start;
  PerRowIn<T> lr;
  Array weights, last, log_wealth;

  KX_FN index jobs() const { return count; }
  KX_FN void operator()(index job, Slots* slots) const {
    const BlockTeam<double, double> team(assets, plan.size, slots);
    Cursor<VectorIn<T>, double, double> x(relatives), w(start);
    Cursor<PerRowIn<T>, double, double> rate(lr);
    ArrayCursor history(weights), end(last), wealth(log_wealth);
    go_to(plan, first + job, x, w, rate, history, end, wealth);
    double* const own = memory + job * 2 * assets;
    PortfolioRun<double> run = {{own}, {own + assets}, rate.look(0), 0, 1};
    const auto begin = w.look(0);
    kexue::each(team, [&](index i) { run.weights.set(i, begin[i]); });
    run.begin(team);
    for (index t = 0; t < days; ++t) {
      kexue::each(team, [&](index i) { store_element<T>(history.to(t * assets + i), run[i]); });
      run.day(team, x.look(t * assets));
      if (team.lane == 0) store_element<T>(wealth.to(t), run.log_wealth);
    }
    kexue::each(team, [&](index i) { store_element<T>(end.to(i), run[i]); });
  }
};

class CudaOnline : public CudaElements {
 public:
  using CudaElements::CudaElements;

  // Sequences wait for each other where all together would need too much memory.
  template <class T>
  long long portfolio(const Operand& relatives, const Operand& start, const Operand& lr, index n,
                      const Operand& weights, const Operand& last, const Operand& log_wealth) {
    constexpr index most_bytes = 1 << 28;
    const index bytes = 2 * n * index(sizeof(double)), fit = most_bytes / bytes + 1;
    const index most = fit < call_.rows ? fit : call_.rows;
    if (call_.rows == 0) return 0;
    auto* const memory = static_cast<double*>(scratch(bytes * most).data);
    if (memory == nullptr) return -1;
    const bool done = each_piece([&] {
      Plan p = plan(false);
      p.chunks = 1;
      p.size = team_size(n);
      for (index first = 0; first < p.rows; first += most) {
        Sequences<T> work = {p, n, call_.n / n, first,
                             p.rows - first < most ? p.rows - first : most};
        work.memory = memory;
        work.relatives = placed(*this, Vector<T>{relatives});
        work.start = placed(*this, Vector<T>{start});
        work.lr = placed(*this, PerRow<T>{lr});
        work.weights = place(&weights), work.last = place(&last);
        work.log_wealth = place(&log_wealth);
        if (!launch(work)) return false;
      }
      return true;
    });
    return done ? 0 : -1;
  }
};

}  // namespace
}  // namespace KX_ISA
}  // namespace kexue

KX_TABLE(online, CudaOnline)
