// The CUDA kernels as a plain C library that runs them on the CPU: the parts (cpp/src/cuda/NAME.cu)
// are compiled beside this file.
#include "cpp/src/arguments.h"
#include "cpp/src/cuda/engine.h"
#include "cpp/src/parts.h"

#include <cstring>

namespace kexue {
inline namespace KX_ISA {
#define KX_DECLARE(part) extern const Table part##_table;
KX_PARTS(KX_DECLARE)
}  // namespace KX_ISA
}  // namespace kexue

extern "C" {

// An argument: absent (kind 0), a number (1) or an array (2).
struct KxArgument {
  int kind;
  int dims;
  double number;
  void* data;
  const long long* shape;
  const long long* strides;
  char type[8];
};

static const kexue::Table* const tables[] = {
#define KX_TABLE_OF(part) &kexue::part##_table,
    KX_PARTS(KX_TABLE_OF)};

const char* kx_part(int p) {
  return p < int(sizeof tables / sizeof tables[0]) ? tables[p]->family : nullptr;
}
const char* kx_kernel(int p, int k) {
  return k < tables[p]->size ? tables[p]->entries[k].name : nullptr;
}

// 0, or 1 and a message.
int kx_call(int part, const char* name, int count, const KxArgument* arguments,
            void* (*allocate)(long long), char* message, int room) {
  const auto refuse = [&](const char* why) {
    std::snprintf(message, size_t(room), "%s", why);
    return 1;
  };
  const kexue::Table& table = *tables[part];
  const kexue::Entry* entry = nullptr;
  for (int k = 0; k < table.size; ++k) {
    if (std::strcmp(table.entries[k].name, name) == 0) entry = &table.entries[k];
  }
  if (entry == nullptr) return refuse("no such kernel");
  kexue::Device device = {nullptr,
                          [](void* context, long long bytes) {
                            return reinterpret_cast<void* (*)(long long)>(context)(bytes);
                          },
                          reinterpret_cast<void*>(allocate), nullptr};
  kexue::Call call;
  call.device = &device;
  const char* wrong = kexue::sort_arguments(
      *entry, kexue::Signature(entry->signature), count,
      [&](int position, bool, kexue::ArrayArgument& to) {
        const KxArgument& a = arguments[position];
        to = {{a.data, a.dims, a.shape, a.strides}, kexue::type_of(a.type)};
        return a.kind == 2;
      },
      [&](int position) { return arguments[position].number; }, call);
  if (wrong) return refuse(wrong);
  if (entry->kernel[call.dtype](call) < 0) return refuse(device.error ? device.error : "no memory");
  return 0;
}

void kx_limits(int threads, long long blocks, long long chunk, long long chunk_across) {
  kexue::launch_limits = {threads, blocks, chunk, chunk_across};
}
void kx_warp_by_warp(int yes) { cuda_host::Grid::self().warp_by_warp = yes != 0; }

}  // extern "C"
