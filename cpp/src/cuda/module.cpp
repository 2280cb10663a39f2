// The Python module _cuda: binds the table of CUDA kernels, knows no function by name. Arrays come
// as None or (pointer, shape, strides in bytes, type), so no array library takes part.
#include "../parts.h"
#include "../python/table.h"

namespace nb = nanobind;

namespace kexue::cuda {
#define KX_DECLARE(part) extern const Table part##_table;
KX_PARTS(KX_DECLARE)
}  // namespace kexue::cuda

namespace {

// Room for the numbers of all arrays of a call.
struct Sizes {
  long long value[2 * kexue::max_operands * kexue::max_dims];
  int used = 0;
  const long long* take(nb::handle from, int count) {
    const nb::tuple numbers = nb::cast<nb::tuple>(from);
    long long* to = value + used;
    for (int k = 0; k < count; ++k) to[k] = nb::cast<long long>(numbers[size_t(k)]);
    used += count;
    return to;
  }
};

// The caller's allocator; its exception waits until the kernel has returned.
struct Allocator {
  nb::handle allocate;
  bool failed = false;

  static void* call(void* self, long long bytes) {
    Allocator& allocator = *static_cast<Allocator*>(self);
    nb::gil_scoped_acquire locked;
    try {
      return reinterpret_cast<void*>(nb::cast<size_t>(allocator.allocate(bytes)));
    } catch (nb::python_error& error) {
      error.restore();
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_TypeError, error.what());
    }
    allocator.failed = true;
    return nullptr;
  }
};

struct Binding : kexue::BoundKernel {
  // kernel(allocate, stream, type, *arguments): enqueues, and returns at once.
  void operator()(nb::args args) const {
    constexpr int leading = 3;
    static char nothing;  // where arrays without elements begin
    if (args.size() < leading) refuse("wrong number of arguments");
    Sizes sizes;
    Allocator allocator = {args[0]};
    kexue::Device device = {reinterpret_cast<void*>(nb::cast<size_t>(args[1])), &Allocator::call,
                            &allocator, nullptr};
    kexue::Call call;
    call.device = &device;
    const char* wrong = kexue::sort_arguments(
        *entry, signature, int(args.size()) - leading,
        [&](int position, bool, kexue::ArrayArgument& to) {
          const nb::handle arg = args[size_t(position + leading)];
          if (arg.is_none()) return false;
          const nb::tuple array = nb::cast<nb::tuple>(arg);
          const int dims = int(nb::len(nb::cast<nb::tuple>(array[1])));
          if (dims > kexue::max_dims) refuse("too many axes");
          const size_t pointer = nb::cast<size_t>(array[0]);
          to.layout.data = pointer ? reinterpret_cast<void*>(pointer) : &nothing;
          to.layout.dims = dims;
          to.layout.shape = sizes.take(array[1], dims);
          to.layout.stride = sizes.take(array[2], dims);
          to.type = kexue::type_of(nb::cast<const char*>(array[3]));
          return true;
        },
        [&](int position) { return nb::cast<double>(args[size_t(position + leading)]); }, call);
    if (wrong) refuse(wrong);
    long long status;
    {
      nb::gil_scoped_release unlocked;  // a full queue waits for the device
      status = entry->kernel[call.dtype](call);
    }
    if (allocator.failed) throw nb::python_error();
    if (device.error) {
      throw std::runtime_error(sentence("CUDA: ") + device.error);
    }
    if (status < 0) throw std::bad_alloc();
  }
};

}  // namespace

NB_MODULE(_cuda, m) {
#define KX_BIND(part) kexue::bind_table<Binding>(m, kexue::cuda::part##_table);
  KX_PARTS(KX_BIND)
  m.attr("version") = KX_VERSION;
}
