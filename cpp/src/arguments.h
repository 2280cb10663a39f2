// Sorts the arguments of a kernel call into operands and parameters, for every binding.
#pragma once

#include "signature.h"

namespace kexue {

// The Dtype a one-letter format names, -1 for any other; 'H' are the bits of a bfloat16. '=' and
// '@' say native byte order; NumPy writes the first for arrays that are not aligned.
inline int type_of(const char* format) {
  if (format[0] == '=' || format[0] == '@') ++format;
  switch (format[0] != '\0' && format[1] == '\0' ? format[0] : '\0') {
    case 'd':
      return float64;
    case 'f':
      return float32;
    case 'e':
      return float16;
    case 'H':
      return bfloat16;
    case '?':
      return flag;
    case 'b':
      return int8;
    case 'B':
      return uint8;
    case 'h':
      return int16;
    case 'i':
      return int32;
    case 'I':
      return uint32;
    case 'l':
      return sizeof(long) == 8 ? int64 : int32;
    case 'L':
      return sizeof(long) == 8 ? uint64 : uint32;
    case 'q':
      return int64;
    case 'Q':
      return uint64;
    default:
      return -1;
  }
}

// An array among the arguments, and its type as above.
struct ArrayArgument {
  Layout layout;
  int type = -1;
};

inline bool fits(Content content, int type) {
  switch (content) {
    case Content::number:
      return type >= 0 && type < dtypes;
    case Content::flag:
      return type == flag;
    case Content::list:
      return type == int64;
    default:
      return type >= 0;
  }
}

// Fills `call`. take(position, output, to) gives the array at a position, or false for None;
// number(position) a parameter. Null if all is well, else what is wrong.
template <class Take, class Number>
const char* sort_arguments(const Entry& entry, const Signature& signature, int count, Take take,
                           Number number, Call& call) {
  if (count != signature.operands + entry.parameters) return "wrong number of arguments";
  Layout layouts[max_operands];
  int dtype = -1;
  for (int k = 0; k < signature.operands; ++k) {
    const OperandKind& kind = signature.operand[k];
    ArrayArgument array;
    if (!take(k + (kind.output ? entry.parameters : 0), kind.output, array)) {
      if (!kind.optional && !kind.output) return "a required array is None";
      layouts[k].dims = -1;
      continue;
    }
    if (!fits(kind.content, array.type)) return "dtype not accepted";
    if (kind.content == Content::number) {
      if (dtype >= 0 && array.type != dtype) return "dtypes differ";
      dtype = array.type;
    }
    layouts[k] = array.layout;
    call.operand[k].type = static_cast<Dtype>(array.type);
  }
  for (int p = 0; p < entry.parameters; ++p) {
    call.parameter[p] = number(signature.inputs + p);
  }
  if (dtype < 0) dtype = 0;  // all are `any`
  call.dtype = static_cast<Dtype>(dtype);
  return arrange(signature, layouts, call);
}

}  // namespace kexue
