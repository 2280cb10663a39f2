#include "../kernels/stepsize.h"

#include "targets.h"

KX_TABLE(stepsize, CudaLosses)
