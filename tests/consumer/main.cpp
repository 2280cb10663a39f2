// A C++ program with buffers of its own and no Python: log(sum(e^x)) and softmax of a row.
#include <kexue/special.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

namespace {

int failures = 0;

void check(const char* what, double got, double expected, double tolerance) {
  const bool right = got == expected || std::fabs(got - expected) <= tolerance;
  if (!right) {
    std::printf("%s: got %.17g, expected %.17g\n", what, got, expected);
    ++failures;
  }
}

// Rows whose sums are known: n equal entries; two entries, one far above the other.
template <class T>
void check_type(const char* type) {
  const double eps = std::numeric_limits<T>::epsilon();
  for (int n : {1, 2, 7, 64, 1000}) {
    std::vector<T> x(n, T(-1000)), p(n);
    const double expected = -1000 + std::log(double(n));
    check(type, double(kexue::logsumexp(x.data(), n)), expected, 1000 * eps);
    kexue::softmax(x.data(), n, p.data());
    for (T value : p) check(type, value, 1.0 / n, eps / n);
  }
  const std::vector<T> pair = {T(-3), T(0)};
  std::vector<T> p(2);
  check(type, double(kexue::logsumexp(pair.data(), 2)), std::log1p(std::exp(-3.0)), eps);
  kexue::softmax(pair.data(), 2, p.data());
  check(type, p[0], 1 / (1 + std::exp(3.0)), eps);
  check(type, p[1], 1 / (1 + std::exp(-3.0)), eps);

  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<T> nothing(3, T(-infinity));
  check(type, double(kexue::logsumexp(nothing.data(), 3)), -infinity, 0);
  check(type, double(kexue::logsumexp(nothing.data(), 0)), -infinity, 0);
}

}  // namespace

int main() {
  check_type<double>("double");
  check_type<float>("float");
  if (failures == 0) std::puts("consumer: all right");
  return failures == 0 ? 0 : 1;
}
