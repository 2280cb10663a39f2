// The CPU engine without Python: every kernel over shapes, strides and offsets that end exactly at
// the end of their allocation, for the address sanitizer, and a few values for the arithmetic.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/reductions.h"
#include "rows.h"
#include "signature.h"

using namespace kexue;

namespace {

int failures = 0;

void expect(bool good, const char* what) {
  if (!good) {
    std::printf("failed: %s\n", what);
    ++failures;
  }
}

constexpr int item_size[] = {8, 4, 2, 2};

// One allocation for one operand, its last element at the end of it.
struct Array {
  std::vector<char> bytes;
  long long shape[2], stride[2];
  Layout layout;

  Array(int dtype, bool vector, bool mask, long long rows, long long n, bool across) {
    const long long size = mask ? 1 : item_size[dtype];
    shape[0] = rows;
    shape[1] = n;
    stride[0] = across && vector ? size : (vector ? n : 1) * size;
    stride[1] = across ? rows * size : size;
    bytes.resize(static_cast<size_t>(rows * (vector ? n : 1) * size));
    for (size_t k = 0; k * size_t(size) < bytes.size(); ++k) {
      const double value = mask ? k % 3 != 0 : 0.001 * double(k % 997);
      put(dtype, mask, bytes.data() + k * size_t(size), value);
    }
    layout = {bytes.data(), vector ? 2 : 1, shape, stride};
  }
  static void put(int dtype, bool mask, char* to, double value) {
    if (mask) {
      *to = value != 0;
    } else if (dtype == float64) {
      std::memcpy(to, &value, 8);
    } else if (dtype == float32) {
      const float f = static_cast<float>(value);
      std::memcpy(to, &f, 4);
    } else if (dtype == float16) {
      store_half<Half>(to, static_cast<float>(value));
    } else {
      store_half<Bfloat16>(to, static_cast<float>(value));
    }
  }
};

void every_kernel() {
  const long long shapes[][2] = {{1, 1},     {3, 7},    {5, 33},  {70, 10}, {2, 4097},
                                 {1, 70000}, {9, 2100}, {65, 40}, {4, 0}};
  for (const Entry& entry : reductions_entries<CpuEngine>) {
    const Signature signature(entry.signature);
    for (int dtype = 0; dtype < dtypes; ++dtype) {
      for (const auto& shape : shapes) {
        for (const bool across : {false, true}) {
          std::vector<Array> arrays;
          arrays.reserve(max_operands);  // layouts point into them
          Layout layouts[max_operands];
          for (int k = 0; k < signature.operands; ++k) {
            const OperandKind& kind = signature.operand[k];
            arrays.emplace_back(dtype, kind.cores > 0, kind.content == Content::flag, shape[0],
                                shape[1], across);
          }
          for (int k = 0; k < signature.operands; ++k) layouts[k] = arrays[size_t(k)].layout;
          Call call{};
          expect(arrange(signature, layouts, call) == nullptr, entry.name);
          call.dtype = static_cast<Dtype>(dtype);
          for (double& p : call.parameter) p = 1.5;
          expect(entry.kernel[dtype](call) >= 0, entry.name);
        }
      }
    }
  }
}

void values() {
  const double x[] = {1, 2, 3};
  expect(std::fabs(logsumexp(x, 3) - 3.40760596444437) < 1e-13, "logsumexp of 1, 2, 3");
  const double far[] = {0, -40};
  expect(std::fabs(logsumexp(far, 2) / 4.248354255291589e-18 - 1) < 1e-14, "a winner near 0");
  const double none[] = {-INFINITY, -INFINITY};
  expect(logsumexp(none, 2) == -INFINITY && logsumexp(none, 0) == -INFINITY, "nothing to sum");
  const float all[] = {INFINITY, 1, INFINITY};
  float p[3];
  softmax(all, 3, p);
  expect(p[0] == 0.5f && p[1] == 0 && p[2] == 0.5f, "infinities share");
  for (unsigned h = 0; h < 0x10000; ++h) {
    const float f = widen_bits<float>(Half{}, h);
    expect(f != f || narrow_bits(Half{}, f) == h, "half there and back");
  }
}

}  // namespace

int main() {
  set_num_threads(2);
  every_kernel();
  values();
  std::printf(failures ? "%d failures\n" : "all good\n", failures);
  return failures != 0;
}
