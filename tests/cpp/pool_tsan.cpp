// Many callers at once, each with many jobs: every job runs exactly once.
#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

#include "pool.h"

int main() {
  kexue::set_num_threads(4);
  std::atomic<long long> total{0};
  const auto caller = [&] {
    for (int round = 0; round < 200; ++round) {
      long long done[37] = {};
      kexue::parallel(37, [&](long long job) { done[job] += job; });
      for (int job = 0; job < 37; ++job) total += done[job] == job ? 1 : -1000000;
    }
  };
  std::vector<std::thread> callers;
  for (int k = 0; k < 4; ++k) callers.emplace_back(caller);
  for (std::thread& c : callers) c.join();
  std::printf("%lld jobs\n", total.load());
  return total.load() != 4 * 200 * 37;
}
