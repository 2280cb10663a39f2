#include "../kernels/products.h"

#include "engine.h"
#include "kexue/cuda/products.h"

namespace kexue {
inline namespace KX_ISA {

template <class F, class Acc>
struct LoadLonger {
  KX_FN typename Acc::Word operator()(const char* at) const {
    return lengthen<F, Acc>(load<typename F::Word>(at));
  }
};
template <class N>
struct LoadWhole {
  KX_FN typename N::Word operator()(const char* at) const { return load<typename N::Word>(at); }
};
template <class T>
struct PutReal {
  Number result;
  KX_FN void operator()(char* to, T sum) const { store_sum(to, result, sum); }
};
struct PutWhole {
  bool narrow;
  KX_FN void operator()(char* to, Word64 sum) const {
    if (narrow) {
      store(to, Word32(sum));
    } else {
      store(to, sum);
    }
  }
};

class CudaProducts : public CudaEngine {
 public:
  using CudaEngine::CudaEngine;

  template <class F, class Acc>
  long long real(const ProductOptions& o, Number result) {
    using Product = RealProduct<Acc>;
    return sums(LoadLonger<F, Acc>{}, Product{{o}}, PutReal<typename Product::T>{result});
  }
  template <class N>
  long long whole(const ProductOptions& o, bool narrow) {
    return sums(LoadWhole<N>{}, WholeProduct<N>{o}, PutWhole{narrow});
  }

 private:
  template <class Load, class Product, class Put>
  long long sums(const Load& load, const Product& product, const Put& put) {
    const MatrixPlan matrix(call_);
    const bool tiles = matrix.m >= 8 && matrix.n >= 2;
    const bool done = each_piece([&] {
      ProductWork<Load, Product, Put> work = {plan(true),
                                              load,
                                              product,
                                              put,
                                              place(&call_.operand[0]),
                                              place(&call_.operand[1]),
                                              place(&call_.operand[2]),
                                              matrix.n,
                                              matrix.m};
      work.plan.size = 1;
      return tiles ? launch_tiles(work) : launch(work);
    });
    return done ? 0 : -1;
  }
  template <class Work>
  bool launch_tiles(const Work& work) {
    const auto tiles = [](index size) { return (size + product_tile - 1) / product_tile; };
    index blocks = work.plan.rows / (work.n * work.m) * tiles(work.n) * tiles(work.m);
    if (blocks > launch_limits.blocks) blocks = launch_limits.blocks;
    KX_LAUNCH(kexue::product_tiles<Work>, blocks, product_threads, device_.stream, work);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) device_.error = cudaGetErrorString(error);
    return error == cudaSuccess;
  }
};

}  // namespace KX_ISA
}  // namespace kexue

KX_TABLE(products, CudaProducts)
