// Compiled, never run: does this compiler offer what the native parts ask for?
#include <Python.h>

#include <atomic>
#include <cmath>
#include <thread>
#include <type_traits>

typedef float lanes __attribute__((vector_size(16)));

#if PY_VERSION_HEX < 0x030A0000
#error "Python 3.10 or newer is needed"
#endif

int main(int argc, char**) {
  std::atomic<int> total{0};
  std::thread worker([&] { total += argc; });
  worker.join();
  lanes v = {1.0f, 2.0f, 3.0f, static_cast<float>(total.load())};
  if constexpr (std::is_same_v<decltype(v[0] + 0.0f), float>) v = v * v;
  return std::isfinite(v[3]) ? 0 : 1;
}
