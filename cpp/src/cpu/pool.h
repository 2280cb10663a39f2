// The library's own thread pool. One process, one pool: workers start at the first parallel call,
// again after a fork, and sleep between calls. A call that finds the pool busy runs on its own
// thread, so many callers at once never queue behind each other.
#pragma once

namespace kexue {

using Job = void (*)(void* context, long long job);

// Runs job(context, 0 .. jobs - 1), in any order, on up to num_threads() threads, this one
// included.
void parallel_jobs(long long jobs, Job job, void* context);

int num_threads();
void set_num_threads(int threads);  // at least 1
int default_num_threads();          // KEXUE_NUM_THREADS, else the CPUs this process may use

template <class F>
void parallel(long long jobs, F&& f) {
  if (jobs <= 1) {
    if (jobs == 1) f(0);
    return;
  }
  parallel_jobs(
      jobs, [](void* context, long long job) { (*static_cast<F*>(context))(job); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// At least so many bytes, aligned to 64, that belong to the calling thread until its next call;
// null when there are no more.
void* thread_memory(unsigned long long bytes);

}  // namespace kexue
