#include "../kernels/metrics.h"

#include "elements.h"
#include "targets.h"

KX_TABLE(metrics, LossEngine)
