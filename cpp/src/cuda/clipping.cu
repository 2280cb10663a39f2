#include "../kernels/clipping.h"

#include "targets.h"

KX_TABLE(clipping, CudaLosses)
