// The Python module _core: binds the tables of kernels, knows no function by name.
#include <nanobind/nanobind.h>

#include <cstring>
#include <string>

#include "../cpu/pool.h"
#include "../signature.h"

namespace nb = nanobind;

#define KX_FOR_TABLES(level)        \
  namespace kexue::level {          \
  extern const Table special_table; \
  }
#if defined(KX_LEVEL_V2)
KX_FOR_TABLES(v2)
#endif
#if defined(KX_LEVEL_V3)
KX_FOR_TABLES(v3)
#endif
#if defined(KX_LEVEL_V4)
KX_FOR_TABLES(v4)
#endif
#if defined(KX_LEVEL_BASE)
KX_FOR_TABLES(base)
#endif

namespace {

struct Level {
  const char* name;
  bool supported;
  const kexue::Table* tables[1];
};

#if defined(__x86_64__) || defined(_M_X64)
bool has_v2() { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"); }
bool has_v3() {
  return has_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

const Level* levels(int& count) {
  static const Level all[] = {
#if defined(KX_LEVEL_V2)
      {"v2", has_v2(), {&kexue::v2::special_table}},
#endif
#if defined(KX_LEVEL_V3)
      {"v3", has_v3(), {&kexue::v3::special_table}},
#endif
#if defined(KX_LEVEL_V4)
      {"v4", has_v4(), {&kexue::v4::special_table}},
#endif
#if defined(KX_LEVEL_BASE)
      {"base", true, {&kexue::base::special_table}},
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

int dtype_of(const char* format) {
  switch (format[0] != '\0' && format[1] == '\0' ? format[0] : '\0') {
    case 'd': return kexue::float64;
    case 'f': return kexue::float32;
    case 'e': return kexue::float16;
    case 'H': return kexue::bfloat16;
    case '?': return kexue::dtypes;
    default: return -1;
  }
}

struct Binding {
  const kexue::Entry* entry;
  kexue::Signature signature;

  [[noreturn]] void refuse(const char* what) const {
    throw nb::type_error((std::string(entry->name) + ": kernel call: " + what).c_str());
  }

  long long operator()(nb::args args) const {
    static_assert(sizeof(Py_ssize_t) == sizeof(long long), "64-bit sizes");
    const int expected = signature.operands + entry->parameters;
    if (int(args.size()) != expected) refuse("wrong number of arguments");
    Buffers buffers;
    kexue::Call call;
    kexue::Layout arrays[kexue::max_operands];
    int dtype = -1;
    for (int k = 0; k < signature.operands; ++k) {
      const kexue::OperandKind& kind = signature.operand[k];
      PyObject* arg = args[size_t(k + (kind.output ? entry->parameters : 0))].ptr();
      if (arg == Py_None) {
        if (!kind.optional && !kind.output) refuse("a required array is None");
        arrays[k].dims = -1;
        continue;
      }
      const Py_buffer& buffer = buffers.take(arg, kind.output);
      const int type = dtype_of(buffer.format);
      if (kind.mask != (type == kexue::dtypes) || type < 0) refuse("dtype not accepted");
      if (!kind.mask) {
        if (dtype >= 0 && type != dtype) refuse("dtypes differ");
        dtype = type;
      }
      arrays[k] = {buffer.buf, buffer.ndim, reinterpret_cast<const long long*>(buffer.shape),
                   reinterpret_cast<const long long*>(buffer.strides)};
    }
    for (int p = 0; p < entry->parameters; ++p) {
      call.parameter[p] = nb::cast<double>(args[size_t(signature.inputs + p)]);
    }
    if (dtype < 0) refuse("no array given");
    if (const char* wrong = kexue::arrange(signature, arrays, call)) refuse(wrong);
    long long invalid;
    if (call.rows * call.n < 4096) {
      invalid = entry->kernel[dtype](call);
    } else {
      nb::gil_scoped_release unlocked;
      invalid = entry->kernel[dtype](call);
    }
    if (invalid < 0) throw std::bad_alloc();
    return invalid;
  }
};

void bind_table(nb::module_& level, const kexue::Table& table) {
  nb::module_ family = level.def_submodule(table.family);
  for (int k = 0; k < table.size; ++k) {
    const kexue::Entry& entry = table.entries[k];
    auto* binding = new Binding{&entry, kexue::Signature(entry.signature)};  // lives with the module
    family.def(entry.name, [binding](nb::args args) { return (*binding)(args); }, entry.signature);
  }
}

}  // namespace

NB_MODULE(_core, m) {
  int count = 0;
  const Level* all = levels(count);
  nb::list built, supported;
  for (int k = 0; k < count; ++k) {
    built.append(all[k].name);
    if (all[k].supported) supported.append(all[k].name);
    nb::module_ level = m.def_submodule(all[k].name);
    for (const kexue::Table* table : all[k].tables) bind_table(level, *table);
  }
  const nb::tuple built_levels(built), supported_levels(supported);
  m.def("levels", [built_levels] { return built_levels; });
  m.def("supported", [supported_levels] { return supported_levels; });
  m.def("get_num_threads", &kexue::num_threads);
  m.def("set_num_threads", &kexue::set_num_threads, nb::arg("threads"));
  m.attr("version") = KX_VERSION;
  m.attr("compiler") = KX_COMPILER;
}
