// A kernel call as the bindings hand it over, and the tables that list the kernels. Plain data,
// the same for every instruction-set level.
#pragma once

namespace kexue {

constexpr int max_operands = 20;
constexpr int max_parameters = 16;
constexpr int max_cores = 2;  // core axes of an operand
constexpr int max_dims = 64;  // of NumPy

// Types of elements. Rows are computed in one of the first four; others are inputs of some kernels.
enum Dtype {
  float64,
  float32,
  float16,
  bfloat16,
  dtypes,
  flag = dtypes,
  int8,
  uint8,
  int16,
  int32,
  uint32,
  int64,
  uint64
};

// An array: core index i of the row at loop position p is at data + i step + sum(p[d] stride[d]),
// in bytes; element (i, j) of a matrix is i pitch + j step away. A null pointer is an absent
// optional operand.
struct Operand {
  char* data;
  long long step, pitch;
  long long stride[max_dims];
  Dtype type;
};

// What kernels on a GPU need besides. Memory stays the caller's; null when there is none left.
struct Device {
  void* stream;
  void* (*allocate)(void* context, long long bytes);
  void* context;
  const char* error;  // why a launch failed
};

struct Call {
  Operand operand[max_operands];
  double parameter[max_parameters];
  int dims;  // loop axes after collapsing those that every operand walks through evenly
  long long shape[max_dims];
  long long rows;      // product of shape
  long long n;         // core size
  long long size[26];  // of the other core axes, by letter
  Dtype dtype;
  Device* device = nullptr;

  long long operator[](char axis) const { return size[axis - 'a']; }
};

// Returns how many rows had invalid contents, or -1 when memory ran out or a launch failed.
using Kernel = long long (*)(const Call&);

// A signature names the operands as a generalised ufunc does: "(n),mask(n)?,()->()" reads a row, an
// optional mask and a scalar per row, and writes a scalar per row. A core axis called k is the
// operand's own; axes of other names have one size wherever they stand, and a matrix has two:
// "(l,d),(s,d)->(l,s)". `any(n)` is of any type, and `list` a flat array of int64 without rows. A
// kernel without numbers is the first of its entry.
// Scalar parameters stand in `parameters` and are passed between inputs and outputs.
struct Entry {
  const char* name;
  const char* signature;
  int parameters;
  Kernel kernel[dtypes];
};

struct Table {
  const char* family;
  const Entry* entries;
  int size;
};

}  // namespace kexue
