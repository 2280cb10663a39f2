// Parses the signatures of call.h, for the bindings.
#pragma once

#include "call.h"

namespace kexue {

enum class Content { number, flag, any, list };

struct OperandKind {
  int cores;  // number of core axes
  char core[max_cores];
  bool shared;  // has the core axis n of the call
  Content content;
  bool optional, output;
};

struct Signature {
  OperandKind operand[max_operands];
  int inputs = 0, operands = 0;
  bool rows = true;  // no axes but n and k

  static Content content_of(char initial) {
    switch (initial) {
      case 'm':
        return Content::flag;
      case 'a':
        return Content::any;
      case 'l':
        return Content::list;
      default:
        return Content::number;
    }
  }

  explicit Signature(const char* text) {
    bool output = false;
    for (const char* c = text; *c != '\0';) {
      if (*c == ',') {
        ++c;
      } else if (*c == '-') {  // ->
        output = true;
        inputs = operands;
        c += 2;
      } else {
        OperandKind& kind = operand[operands++];
        kind = {0, {}, false, content_of(*c), false, output};
        while (*c >= 'a' && *c <= 'z') ++c;
        if (*c == '(') {
          while (*c++ != ')') {
            if (*c < 'a' || *c > 'z') continue;
            kind.core[kind.cores++] = *c;
            rows &= *c == 'n' || *c == 'k';
          }
          kind.shared = kind.core[0] == 'n';
        }
        kind.optional = *c == '?';
        c += kind.optional;
      }
    }
  }
};

// An array before its axes are sorted into loop and core.
struct Layout {
  void* data = nullptr;
  int dims = 0;
  const long long* shape = nullptr;
  const long long* stride = nullptr;
};

// Fills a call from arrays in the signature's order: core axis last, loop axes broadcast, those
// that all operands walk through evenly joined. Null if all is well, else what is wrong.
inline const char* arrange(const Signature& signature, const Layout* array, Call& call) {
  long long shape[max_dims];
  int dims = -1;
  call.n = -1;
  for (long long& size : call.size) size = -1;
  for (int k = 0; k < signature.operands; ++k) {
    const OperandKind& kind = signature.operand[k];
    const Layout& a = array[k];
    if (a.data == nullptr && a.dims < 0) continue;
    if (a.dims < kind.cores) return "an array has fewer dimensions than the signature";
    if (kind.content == Content::list && a.dims != 1) return "a list has one axis";
    if (kind.shared) {
      const long long n = a.shape[a.dims - 1];
      if (call.n < 0 || call.n == 1) {
        call.n = n;
      } else if (n != call.n && n != 1) {
        return "core sizes differ";
      }
    }
    for (int c = 0; c < kind.cores; ++c) {
      if (kind.core[c] == 'n' || kind.core[c] == 'k') continue;
      long long& size = call.size[kind.core[c] - 'a'];
      const long long own = a.shape[a.dims - kind.cores + c];
      if (size >= 0 && size != own) return "core sizes differ";
      size = own;
    }
    if (!kind.output) continue;
    const int loop = a.dims - kind.cores;
    if (dims < 0) {
      dims = loop;
      for (int d = 0; d < loop; ++d) shape[d] = a.shape[d];
    } else {
      if (loop != dims) return "outputs differ in shape";
      for (int d = 0; d < loop; ++d) {
        if (a.shape[d] != shape[d]) return "outputs differ in shape";
      }
    }
  }
  if (call.n < 0) call.n = 1;
  for (int k = 0; k < signature.operands; ++k) {
    const OperandKind& kind = signature.operand[k];
    const Layout& a = array[k];
    Operand& op = call.operand[k];
    op.data = static_cast<char*>(a.data);
    op.step = op.pitch = 0;
    if (a.data == nullptr && a.dims < 0) {
      for (int d = 0; d < dims; ++d) op.stride[d] = 0;
      continue;
    }
    if (kind.content == Content::list) {
      for (int d = 0; d < dims; ++d) op.stride[d] = 0;
      op.step = a.stride[0];
      continue;
    }
    const int loop = a.dims - kind.cores;
    if (kind.cores && (!kind.shared || a.shape[a.dims - 1] == call.n)) {
      op.step = a.stride[a.dims - 1];
    }
    if (kind.cores == max_cores) op.pitch = a.stride[a.dims - 2];
    if (loop > dims) return "an input has more loop dimensions than the output";
    for (int d = 0; d < dims; ++d) {
      const int own = d - (dims - loop);
      if (own < 0 || (a.shape[own] == 1 && shape[d] != 1)) {
        op.stride[d] = 0;
      } else if (a.shape[own] != shape[d]) {
        return "loop sizes differ";
      } else {
        op.stride[d] = a.stride[own];
      }
    }
  }
  call.rows = 1;
  call.dims = 0;
  for (int d = 0; d < dims; ++d) {
    call.rows *= shape[d];
    if (shape[d] == 1) continue;
    const int last = call.dims - 1;
    bool joins = last >= 0;
    for (int k = 0; k < signature.operands && joins; ++k) {
      joins = call.operand[k].stride[last] == call.operand[k].stride[d] * shape[d];
    }
    const int to = joins ? last : call.dims++;
    call.shape[to] = joins ? call.shape[to] * shape[d] : shape[d];
    for (int k = 0; k < signature.operands; ++k) {
      call.operand[k].stride[to] = call.operand[k].stride[d];
    }
  }
  return nullptr;
}

}  // namespace kexue
