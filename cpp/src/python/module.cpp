// The Python module _core: binds the tables of kernels, knows no function by name.
#include "../cpu/pool.h"
#include "../parts.h"
#include "table.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#endif

namespace nb = nanobind;

#define KX_DECLARE(part) extern const Table part##_table;
#if defined(KX_LEVEL_V2)
namespace kexue::v2 {
KX_PARTS(KX_DECLARE)
}  // namespace kexue::v2
#endif
#if defined(KX_LEVEL_V3)
namespace kexue::v3 {
KX_PARTS(KX_DECLARE)
}  // namespace kexue::v3
#endif
#if defined(KX_LEVEL_V4)
namespace kexue::v4 {
KX_PARTS(KX_DECLARE)
}  // namespace kexue::v4
#endif
#if defined(KX_LEVEL_BASE)
namespace kexue::base {
KX_PARTS(KX_DECLARE)
}  // namespace kexue::base
#endif

#define KX_COUNT(part) +1
constexpr int parts = KX_PARTS(KX_COUNT);
namespace {

struct Level {
  const char* name;
  bool supported;
  const kexue::Table* tables[parts];
};

#if defined(__x86_64__) || defined(_M_X64)
bool has_v2() { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"); }
// The rest of v3, for which older compilers have no names.
bool has_f16c_lzcnt_movbe() {
  unsigned a, b, c, d, extended;
  return __get_cpuid(1, &a, &b, &c, &d) && __get_cpuid(0x80000001, &a, &b, &extended, &d) &&
         (c & bit_F16C) && (c & bit_MOVBE) && (extended & bit_LZCNT);
}
bool has_v3() {
  return has_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && has_f16c_lzcnt_movbe();
}
bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

#define KX_TABLE_OF_V2(part) &kexue::v2::part##_table,
#define KX_TABLE_OF_V3(part) &kexue::v3::part##_table,
#define KX_TABLE_OF_V4(part) &kexue::v4::part##_table,
#define KX_TABLE_OF_BASE(part) &kexue::base::part##_table,
const Level* levels(int& count) {
  static const Level all[] = {
#if defined(KX_LEVEL_V2)
      {"v2", has_v2(), {KX_PARTS(KX_TABLE_OF_V2)}},
#endif
#if defined(KX_LEVEL_V3)
      {"v3", has_v3(), {KX_PARTS(KX_TABLE_OF_V3)}},
#endif
#if defined(KX_LEVEL_V4)
      {"v4", has_v4(), {KX_PARTS(KX_TABLE_OF_V4)}},
#endif
#if defined(KX_LEVEL_BASE)
      {"base", true, {KX_PARTS(KX_TABLE_OF_BASE)}},
#endif
  };
  count = int(sizeof all / sizeof all[0]);
  return all;
}

// The buffers of one call, released in every way out.
struct Buffers {
  Py_buffer view[kexue::max_operands];
  int held = 0;
  ~Buffers() {
    while (held > 0) PyBuffer_Release(&view[--held]);
  }
  Py_buffer& take(PyObject* from, bool writable) {
    Py_buffer& buffer = view[held];
    const int flags = PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(from, &buffer, flags) != 0) throw nb::python_error();
    ++held;
    return buffer;
  }
};

struct Binding : kexue::BoundKernel {
  long long operator()(nb::args args) const {
    static_assert(sizeof(Py_ssize_t) == sizeof(long long), "64-bit sizes");
    Buffers buffers;
    kexue::Call call;
    const char* wrong = kexue::sort_arguments(
        *entry, signature, int(args.size()),
        [&](int position, bool output, kexue::ArrayArgument& to) {
          PyObject* arg = args[size_t(position)].ptr();
          if (arg == Py_None) return false;
          const Py_buffer& buffer = buffers.take(arg, output);
          to.layout = {buffer.buf, buffer.ndim, reinterpret_cast<const long long*>(buffer.shape),
                       reinterpret_cast<const long long*>(buffer.strides)};
          to.type = kexue::type_of(buffer.format);
          return true;
        },
        [&](int position) { return nb::cast<double>(args[size_t(position)]); }, call);
    if (wrong) refuse(wrong);
    long long invalid;
    if (signature.rows && call.rows * call.n < 4096) {
      invalid = entry->kernel[call.dtype](call);
    } else {
      nb::gil_scoped_release unlocked;
      invalid = entry->kernel[call.dtype](call);
    }
    if (invalid < 0) throw std::bad_alloc();
    return invalid;
  }
};

}  // namespace

NB_MODULE(_core, m) {
  int count = 0;
  const Level* all = levels(count);
  nb::list built, supported;
  for (int k = 0; k < count; ++k) {
    built.append(all[k].name);
    if (all[k].supported) supported.append(all[k].name);
    nb::module_ level = m.def_submodule(all[k].name);
    for (const kexue::Table* table : all[k].tables) kexue::bind_table<Binding>(level, *table);
  }
  const nb::tuple built_levels(built), supported_levels(supported);
  m.def("levels", [built_levels] { return built_levels; });
  m.def("supported", [supported_levels] { return supported_levels; });
  m.def("get_num_threads", &kexue::num_threads);
  m.def("set_num_threads", &kexue::set_num_threads, nb::arg("threads"));
  m.attr("version") = KX_VERSION;
  m.attr("compiler") = KX_COMPILER;
}
