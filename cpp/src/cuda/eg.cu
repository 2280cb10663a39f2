#include "../kernels/eg.h"

#include "targets.h"

KX_TABLE(eg, CudaLosses)
