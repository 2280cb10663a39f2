#include "../kernels/crossentropy.h"

#include "targets.h"

KX_TABLE(crossentropy, CudaLosses)
