// What a kernel tells an engine: its operands and what they hold.
#pragma once

#include "call.h"
#include "kexue/row.h"

namespace kexue {
inline namespace KX_ISA {

// Inputs. Vector: (n) of T. PerRow: () of E. Flags: mask(n)?, null for all true. Given: one value
// for all rows. Positions: the number of each element in its row. Everything and Same (row.h) stand
// for operands that are not there.
template <class T>
struct Vector {
  const Operand& op;
};
template <class E>
struct PerRow {
  const Operand& op;
};
struct Flags {
  const Operand& op;
};
template <class W>
struct Given {
  W value;
};
struct Positions {};

// Where results go: up to four scalars a row, stored as E, and one row of T or two. Operands
// without data are not wanted.
template <class E, class T>
struct Outputs {
  int scalars;
  const Operand* scalar[4];
  const Operand* vector;
  const Operand* second = nullptr;
};

// One scalar a row in C order at `data`, as an operand.
inline Operand packed_scalars(const Call& call, void* data, long long bytes) {
  Operand op{};
  op.data = static_cast<char*>(data);
  for (int d = call.dims - 1; d >= 0; --d) {
    op.stride[d] = bytes;
    bytes *= call.shape[d];
  }
  return op;
}

}  // namespace KX_ISA
}  // namespace kexue

// A kernel is a function template name<T>(engine, call); its line in a table NAME_entries<Engine>.
// Engine::Computed<T> is the type that an engine computes rows of T as.
#define KX_RUN(name, T)                                               \
  +[](const Call& call) -> long long {                                \
    Engine engine(call);                                              \
    return name<typename Engine::template Computed<T>>(engine, call); \
  }
#define KX_KERNEL(name, signature, parameters)                                              \
  {                                                                                         \
    #name, signature, parameters, {                                                         \
      KX_RUN(name, double), KX_RUN(name, float), KX_RUN(name, Half), KX_RUN(name, Bfloat16) \
    }                                                                                       \
  }

// A kernel whose operands are all `any`: it is told their types.
#define KX_WORDS(name, signature, parameters) \
  {                                           \
    #name, signature, parameters, {           \
      +[](const Call& call) -> long long {    \
        Engine engine(call);                  \
        return name(engine, call);            \
      }                                       \
    }                                         \
  }

// The table of a part, for one engine.
#define KX_TABLE(part, Engine)                                                \
  namespace kexue {                                                           \
  inline namespace KX_ISA {                                                   \
  extern const Table part##_table;                                            \
  const Table part##_table = {#part, part##_entries<Engine>,                  \
                              sizeof part##_entries<Engine> / sizeof(Entry)}; \
  }                                                                           \
  }
