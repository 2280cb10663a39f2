#include "../kernels/metrics.h"

#include "targets.h"

KX_TABLE(metrics, CudaLosses)
