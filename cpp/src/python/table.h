// Binds a table of kernels: each becomes a Python function by calling a Binding, which knows how
// arrays come in.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "../arguments.h"

namespace kexue {

namespace nb = nanobind;

// What every Binding begins with.
struct BoundKernel {
  const Entry* entry;
  Signature signature;

  std::string sentence(const char* what) const {
    return std::string(entry->name) + ": kernel call: " + what;
  }
  [[noreturn]] void refuse(const char* what) const { throw nb::type_error(sentence(what).c_str()); }
};

template <class Binding>
void bind_table(nb::module_& m, const Table& table) {
  nb::module_ family = m.def_submodule(table.family);
  for (int k = 0; k < table.size; ++k) {
    const Entry& entry = table.entries[k];
    auto* binding = new Binding{{&entry, Signature(entry.signature)}};  // lives with the module
    family.def(entry.name, [binding](nb::args args) { return (*binding)(args); }, entry.signature);
  }
}

}  // namespace kexue
