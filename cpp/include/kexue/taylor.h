// The Taylor polynomial of e^x, for even degrees as a sum without cancellation (kexue.fm 7919).
#pragma once

#include "math.h"

namespace kexue {
inline namespace KX_ISA {

// The sum of x^k / k! for k <= n is (1 / n!) int_0^inf (x + t)^n e^-t dt, to which Gauss-Laguerre
// quadrature with n / 2 + 1 nodes t_j is exact: sum_j (c_j (x + t_j))^n, for even n of powers that
// are not negative. The same nodes serve n - 1.
struct TaylorRule {
  static constexpr int most_nodes = 33;
  int power, nodes;
  double t[most_nodes], c[most_nodes];

  // For the sum up to `power`, which is n or n - 1.
  KX_FN static TaylorRule of(int n, int power) {
    TaylorRule rule = {power, n / 2 + 1, {}, {}};
    double factorial = 1;
    for (int k = 2; k <= power; ++k) factorial *= k;
    const Two<double> log_factorial = log_two(factorial);
    for (int j = 0; j < rule.nodes; ++j) {
      double slope;
      rule.t[j] = node(rule.nodes, j, rule.t, slope);
      const Two<double> log_weight = log_two(1 / (rule.t[j] * slope * slope));
      rule.c[j] = root(log_weight + Two<double>{-log_factorial.hi, -log_factorial.lo}, power);
    }
    return rule;
  }

 private:
  // Root j of Laguerre's polynomial and the slope there, by Newton's method; `smaller` has the
  // smaller roots.
  KX_FN static double node(int degree, int j, const double* smaller, double& slope) {
    double t = 3 / (1 + 2.4 * degree);
    if (j == 1) t = smaller[0] + 15 / (1 + 2.5 * degree);
    if (j > 1) {
      const double gap = smaller[j - 1] - smaller[j - 2];
      t = smaller[j - 1] + (1 + 2.55 * (j - 1)) / (1.9 * (j - 1)) * gap;
    }
    for (int step = 0; step < 10; ++step) {
      double value = 1, before = 0;
      for (int k = 0; k < degree; ++k) {
        const double next = ((2 * k + 1 - t) * value - k * before) / (k + 1);
        before = value;
        value = next;
      }
      slope = degree * (value - before) / t;
      t -= value / slope;
    }
    return t;
  }
  // e^(y / n)
  KX_FN static double root(Two<double> y, int n) {
    const double hi = y.hi / n;
    const Two<double> back = two_product(hi, double(n));
    const double lo = ((y.hi - back.hi) - back.lo + y.lo) / n;
    Exponential<double> e = exp_reduce<double>(hi, lo);
    return (1 + (e.r + e.r * e.r * e.q)) * power_of_two(e.rounded);
  }
};

// x^n
template <class V>
KX_FN V integer_power(V x, int n) {
  V power = n & 1 ? x : splat<V>(1);
  while (n >>= 1) {
    x = x * x;
    if (n & 1) power = power * x;
  }
  return power;
}

}  // namespace KX_ISA
}  // namespace kexue
