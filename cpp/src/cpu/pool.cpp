#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace kexue {
namespace {

struct Batch {
  Job job;
  void* context;
  long long jobs;
  std::atomic<long long> next{0};

  void work() {
    for (long long j = next.fetch_add(1); j < jobs; j = next.fetch_add(1)) job(context, j);
  }
};

class Pool {
 public:
  // False when another thread is using the pool.
  bool run(Batch& batch, int threads) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (!turn) return false;
    grow(threads - 1);
    {
      std::lock_guard<std::mutex> lock(state_);
      batch_ = &batch;
      seats_ = threads - 1;
      ++generation_;
    }
    wake_.notify_all();
    batch.work();
    std::unique_lock<std::mutex> lock(state_);
    seats_ = 0;  // who has not sat down by now need not
    idle_.wait(lock, [this] { return active_ == 0; });
    batch_ = nullptr;
    return true;
  }

 private:
  void grow(int workers) {
    for (; workers_ < workers; ++workers_) {
      std::thread([this] { loop(); }).detach();
    }
  }

  void loop() {
    unsigned long long seen = 0;
    std::unique_lock<std::mutex> lock(state_);
    for (;;) {
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      if (seats_ == 0) continue;
      --seats_;
      ++active_;
      Batch* batch = batch_;
      lock.unlock();
      batch->work();
      lock.lock();
      if (--active_ == 0) idle_.notify_one();
    }
  }

  std::mutex turn_, state_;
  std::condition_variable wake_, idle_;
  Batch* batch_ = nullptr;
  int seats_ = 0, active_ = 0, workers_ = 0;
  unsigned long long generation_ = 0;
};

// Never destroyed: workers may outlive static destruction. A forked child gets a new pool, since
// the parent's threads do not exist in it and its mutexes may be held by them.
std::atomic<Pool*> current_pool{nullptr};
std::atomic<int> threads_wanted{0};

Pool& pool() {
  Pool* p = current_pool.load();
  if (p == nullptr) {
    Pool* fresh = new Pool;
    if (current_pool.compare_exchange_strong(p, fresh)) {
      p = fresh;
#if !defined(_WIN32)
      static std::once_flag registered;
      std::call_once(registered,
                     [] { pthread_atfork(nullptr, nullptr, [] { current_pool.store(nullptr); }); });
#endif
    } else {
      delete fresh;
    }
  }
  return *p;
}

int usable_cpus() {
#if defined(__linux__)
  int cpus = 0;
  for (int size = 1024; size <= 1024 * 64 && cpus == 0; size *= 4) {
    cpu_set_t* set = CPU_ALLOC(size);
    if (set != nullptr && sched_getaffinity(0, CPU_ALLOC_SIZE(size), set) == 0) {
      cpus = CPU_COUNT_S(CPU_ALLOC_SIZE(size), set);
    }
    CPU_FREE(set);
  }
  // A container's quota, in CPUs rounded up.
  long long quota = 0, period = 0;
  if (std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(file, "%lld %lld", &quota, &period) != 2) quota = 0;
    std::fclose(file);
  } else if (std::FILE* old = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
    if (std::fscanf(old, "%lld", &quota) != 1) quota = 0;
    std::fclose(old);
    if (std::FILE* rest = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r")) {
      if (std::fscanf(rest, "%lld", &period) != 1) period = 0;
      std::fclose(rest);
    }
  }
  if (cpus > 0 && quota > 0 && period > 0) {
    const long long allowed = (quota + period - 1) / period;
    if (allowed < cpus) cpus = static_cast<int>(allowed);
  }
  if (cpus > 0) return cpus;
#endif
  const unsigned hardware = std::thread::hardware_concurrency();
  return hardware > 0 ? static_cast<int>(hardware) : 1;
}

}  // namespace

int default_num_threads() {
  if (const char* text = std::getenv("KEXUE_NUM_THREADS")) {
    const int threads = std::atoi(text);
    if (threads >= 1) return threads;
  }
  return usable_cpus();
}

int num_threads() {
  int threads = threads_wanted.load(std::memory_order_relaxed);
  if (threads == 0) {
    threads = default_num_threads();
    threads_wanted.store(threads);
  }
  return threads;
}

void set_num_threads(int threads) { threads_wanted.store(threads < 1 ? 1 : threads); }

void parallel_jobs(long long jobs, Job job, void* context) {
  Batch batch{job, context, jobs, {}};
  const long long useful = jobs < num_threads() ? jobs : num_threads();
  if (useful <= 1 || !pool().run(batch, static_cast<int>(useful))) batch.work();
}

namespace {
struct ThreadMemory {
  void* data = nullptr;
  unsigned long long size = 0;
  ~ThreadMemory() { std::free(data); }
};
}  // namespace

void* thread_memory(unsigned long long bytes) {
  thread_local ThreadMemory memory;
  if (bytes > memory.size) {
    std::free(memory.data);
    memory.size = (bytes + 4095) / 4096 * 4096;
    memory.data = std::aligned_alloc(64, memory.size);
    if (memory.data == nullptr) memory.size = 0;
  }
  return memory.data;
}

}  // namespace kexue
