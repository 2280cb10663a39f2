// The parts the package consists of, one to a line: each has a table of kernels (kernels/NAME.h),
// compiled by cpu/NAME.cpp and cuda/NAME.cu, and row functions or functors in kexue/NAME.h.
#pragma once

#define KX_PARTS(X) \
  X(activations)    \
  X(argmax)         \
  X(clipping)       \
  X(crossentropy)   \
  X(divergences)    \
  X(eg)             \
  X(exact)          \
  X(linear)         \
  X(logarithmic)    \
  X(metrics)        \
  X(multilabel)     \
  X(online)         \
  X(products)       \
  X(ranking)        \
  X(reductions)     \
  X(simplex)        \
  X(slopes)         \
  X(smooth)         \
  X(stepsize)
